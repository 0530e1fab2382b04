use std::os::unix::fs::PermissionsExt as _;

use super::*;

struct Dir(PathBuf);

impl Dir {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("podrole-state-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        Self(path)
    }
    fn ids(&self, boot: &str, now: u64) -> (Vec<[u8; 4]>, bool) {
        let (keys, problem) = self.load(boot, now, &[]);
        (ids(&keys), problem.is_none())
    }
    fn load(&self, boot: &str, now: u64, held: &[Key]) -> (Vec<Key>, Option<StateError>) {
        let (ring, problem) = load(&self.0, boot, Duration::from_secs(now), held).unwrap();
        (ring.keys().cloned().collect(), problem)
    }
    fn keys(&self) -> PathBuf {
        self.0.join("keys")
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn ids(keys: &[Key]) -> Vec<[u8; 4]> {
    keys.iter().map(|key| key.id).collect()
}

const BOOT: &str = "11111111-2222-3333-4444-555555555555";
const DAY: u64 = 24 * 3600;

#[test]
fn survives_a_restart_and_not_a_boot() {
    let dir = Dir::new("restart");
    let first = dir.ids(BOOT, 10);
    assert_eq!((first.0.len(), first.1), (1, true));
    assert_eq!(dir.ids(BOOT, 20), first);
    let other = dir.ids("99999999-2222-3333-4444-555555555555", 30);
    assert!(
        other.0.len() == 1 && other.0 != first.0 && other.1,
        "keys of another boot are ignored and not reported as damage"
    );
    assert_eq!(fs::metadata(dir.0.join("keys")).unwrap().permissions().mode() & 0o777, 0o600);
}

#[test]
fn rotates_daily_and_keeps_what_tokens_need() {
    let dir = Dir::new("rotate");
    let first = dir.ids(BOOT, 0).0[0];
    let second = dir.ids(BOOT, DAY + 1).0;
    assert_eq!((second.len(), second[0]), (2, first));
    let later = dir.ids(BOOT, DAY + 6 * 3600 + 1).0;
    assert_eq!(later, second[1..], "the last token of the first key has expired");
}

#[test]
fn damage_only_invalidates_tokens_and_is_reported_once() {
    let dir = Dir::new("damage");
    let mut last = dir.ids(BOOT, 0).0;
    let good = fs::read(dir.keys()).unwrap();
    let scribbled = [&good[..MAGIC.len() + 3], b"?", &good[MAGIC.len() + 4..]].concat();
    for bad in [&good[..good.len() - 1], b"", b"nonsense", &[good.as_slice(), &[0; 1]].concat(), &scribbled] {
        fs::write(dir.keys(), bad).unwrap();
        let (keys, problem) = dir.load(BOOT, 1, &[]);
        assert!(matches!(problem, Some(StateError::Damaged { .. })), "{problem:?}");
        let new = ids(&keys);
        assert!(new.len() == 1 && new != last);
        assert_eq!(dir.ids(BOOT, 2), (new.clone(), true), "the new keys are persisted");
        last = new;
    }
}

#[test]
fn a_running_daemon_keeps_its_keys_whatever_happens_to_the_file() {
    let dir = Dir::new("held");
    let (held, _) = dir.load(BOOT, 0, &[]);
    let whole = fs::read(dir.keys()).unwrap();

    fs::remove_file(dir.keys()).unwrap();
    let (keys, problem) = dir.load(BOOT, 1, &held);
    assert!(ids(&keys) == ids(&held) && problem.is_none());
    assert_eq!(fs::read(dir.keys()).unwrap(), whole, "the keys are written again");

    fs::write(dir.keys(), b"nonsense").unwrap();
    let (keys, problem) = dir.load(BOOT, 2, &held);
    assert!(ids(&keys) == ids(&held) && problem.is_some());
    assert_eq!(fs::read(dir.keys()).unwrap(), whole);

    fs::remove_file(dir.keys()).unwrap();
    let another = dir.ids(BOOT, 3).0;
    let (keys, _) = dir.load(BOOT, 4, &held);
    assert_eq!(ids(&keys), [ids(&held), another].concat(), "two instances end up with the same keys");
    assert_eq!(dir.ids(BOOT, 5).0, ids(&keys));

    fs::set_permissions(&dir.0, fs::Permissions::from_mode(0o755)).unwrap();
    let (keys, problem) = dir.load(BOOT, DAY + 1, &held);
    assert!(keys.len() == 2 && keys[0].id == held[0].id && problem.is_some(), "rotation works without the file");
    let (keys, _) = dir.load(BOOT, DAY + 6 * 3600 + 2, &keys);
    assert!(keys.len() == 1 && keys[0].id != held[0].id, "an expired key is dropped");
}

#[test]
fn files_that_others_could_change_are_not_used() {
    let dir = Dir::new("private");
    dir.ids(BOOT, 0);
    fs::set_permissions(&dir.0, fs::Permissions::from_mode(0o755)).unwrap();
    assert!(!dir.ids(BOOT, 1).1);
    fs::set_permissions(&dir.0, fs::Permissions::from_mode(0o700)).unwrap();
    let path = dir.0.join("keys");
    fs::rename(&path, dir.0.join("elsewhere")).unwrap();
    std::os::unix::fs::symlink(dir.0.join("elsewhere"), &path).unwrap();
    assert!(!dir.ids(BOOT, 2).1, "symbolic links are not followed");
}
