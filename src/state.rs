//! The state that survives a restart: the keys that seal session tokens.
//!
//! The keys are in a file that only root can read, in a directory that only root can enter, on a file system that is empty after a
//! boot (`/run`). A problem with the file invalidates session tokens but does not stop the daemon: a client whose token is rejected
//! requests a new one.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{FlockOperation, OFlags, flock};
use thiserror::Error;
use zeroize::{Zeroize as _, Zeroizing};

use crate::imds::{KEY_LIFE, Key, KeyRing, MAX_TTL};

const MAGIC: &[u8] = b"podrole-keys-1\n";
const BOOT_ID: usize = 36;
const KEY: usize = 4 + 8 + 32;
/// The most keys in a file: the current key and those whose tokens may still be valid. A file with more keys counts as damaged.
const MAX_KEYS: usize = 8;

/// Why keys cannot be read or persisted.
#[derive(Debug, Error)]
pub enum StateError {
    /// A file operation failed.
    #[error("cannot {what} {path}: {error}")]
    Io {
        /// The attempted operation.
        what: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// The system's error.
        error: io::Error,
    },
    /// The file is not in the form that podrole writes.
    #[error("{path} is damaged: it is replaced by new keys, and tokens sealed with its keys are invalid")]
    Damaged {
        /// The file.
        path: PathBuf,
    },
    /// Another user could read or replace the files in the directory.
    #[error(
        "{path} is not a directory that only podrole's user can enter (wrong owner, or mode other than 0700); remove it or set \
         another --state-dir"
    )]
    NotPrivate {
        /// The directory.
        path: PathBuf,
    },
    /// The random number generator failed.
    #[error("the random number generator failed")]
    Random,
}

/// Returns the key ring to use from now on, and the problem with the persisted keys, if any. The ring has the keys of the file and
/// those in `held`, so that the tokens of a running daemon stay valid even if the file is lost or damaged. Expired keys are
/// dropped, and a new key is made once the newest has been used for a day. `now` is boot time; keys of another boot are ignored.
pub fn load(
    directory: &Path,
    boot_id: &str,
    now: Duration,
    held: &[Key],
) -> Result<(KeyRing, Option<StateError>), StateError> {
    let mut keys = held.to_vec();
    let problem = share(directory, boot_id, now, &mut keys).err();
    renew(&mut keys, now)?;
    Ok((KeyRing::new(keys), problem))
}

/// Whether `directory` exists. Returns an error if it or its key file is not as private as [`load`] requires. Changes nothing.
pub fn inspect(directory: &Path) -> Result<bool, StateError> {
    match fs::symlink_metadata(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Ok(_) | Err(_) => private(directory)?,
    }
    let path = directory.join("keys");
    match private_file(&path, OpenOptions::new().read(true)) {
        Err(StateError::Io { error, .. }) if error.kind() == io::ErrorKind::NotFound => Ok(true),
        other => other.map(|_| true),
    }
}

/// The kernel's id of this boot.
pub fn boot_id() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").map(|id| id.trim().to_owned()).unwrap_or_default()
}

/// A fresh nonce for a token.
pub fn nonce() -> [u8; 12] {
    let mut nonce = [0; 12];
    // AWS-LC's generator cannot fail once it is seeded, and making the first key has seeded it.
    aws_lc_rs::rand::fill(&mut nonce).expect("a seeded generator does not fail");
    nonce
}

/// Adds the file's keys to `keys`, then writes all of them to the file.
fn share(directory: &Path, boot_id: &str, now: Duration, keys: &mut Vec<Key>) -> Result<(), StateError> {
    prepare(directory)?;
    let lock_path = directory.join("lock");
    let lock = private_file(&lock_path, OpenOptions::new().write(true).create(true))?;
    // During an upgrade two instances share the file; one waits a few milliseconds for the other.
    flock(&lock, FlockOperation::LockExclusive).map_err(|error| failed("lock", &lock_path)(error.into()))?;

    let path = directory.join("keys");
    let (stored, damaged) = match private_file(&path, OpenOptions::new().read(true)) {
        Ok(file) => match parse_keys(&read(file).map_err(failed("read", &path))?, boot_id) {
            Some(stored) => (stored, Ok(())),
            None => (Vec::new(), Err(StateError::Damaged { path: path.clone() })),
        },
        Err(StateError::Io { error, .. }) if error.kind() == io::ErrorKind::NotFound => (Vec::new(), Ok(())),
        Err(error) => return Err(error),
    };
    keys.extend(stored.iter().filter(|key| !has(&*keys, key)).cloned().collect::<Vec<_>>());
    renew(keys, now)?;
    if !keys.iter().all(|key| has(&stored, key)) {
        write_keys(directory, &path, boot_id, keys)?;
    }
    damaged
}

/// Drops keys whose tokens have all expired, adds a key if none is young enough to seal, and sorts the oldest first.
fn renew(keys: &mut Vec<Key>, now: Duration) -> Result<(), StateError> {
    let old_enough = KEY_LIFE + Duration::from_secs(MAX_TTL.into());
    keys.retain(|key| key.made <= now && now - key.made < old_enough);
    if !keys.iter().any(|key| now - key.made < KEY_LIFE) {
        keys.push(new_key(now)?);
    }
    keys.sort_by_key(|key| key.made);
    Ok(())
}

fn has(keys: &[Key], key: &Key) -> bool {
    keys.iter().any(|other| other.id == key.id)
}

fn prepare(directory: &Path) -> Result<(), StateError> {
    match DirBuilder::new().mode(0o700).create(directory) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(failed("create", directory)(error)),
        Ok(()) | Err(_) => {}
    }
    private(directory)
}

fn private(directory: &Path) -> Result<(), StateError> {
    let meta = fs::symlink_metadata(directory).map_err(failed("inspect", directory))?;
    let own = rustix::process::geteuid().as_raw();
    if !meta.is_dir() || meta.uid() != own || meta.mode() & 0o077 != 0 {
        return Err(StateError::NotPrivate { path: directory.into() });
    }
    Ok(())
}

fn private_file(path: &Path, options: &mut OpenOptions) -> Result<File, StateError> {
    let nofollow = i32::try_from(OFlags::NOFOLLOW.bits()).unwrap_or(0);
    options.mode(0o600).custom_flags(nofollow).open(path).map_err(failed("open", path))
}

fn new_key(now: Duration) -> Result<Key, StateError> {
    let mut key = Key { id: [0; 4], secret: Zeroizing::new([0; 32]), made: now };
    let filled = aws_lc_rs::rand::fill(&mut key.id).and_then(|()| aws_lc_rs::rand::fill(key.secret.as_mut_slice()));
    filled.map_err(|_| StateError::Random)?;
    Ok(key)
}

fn read(file: File) -> io::Result<Zeroizing<Vec<u8>>> {
    const MOST: usize = MAGIC.len() + BOOT_ID + KEY * MAX_KEYS + 1;
    let mut bytes = Zeroizing::new(Vec::with_capacity(MOST));
    file.take(MOST as u64).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Parses the key file; `None` if it is damaged. Keys of another boot are ignored, so the list is then empty.
fn parse_keys(bytes: &[u8], boot_id: &str) -> Option<Vec<Key>> {
    let (boot, rest) = bytes.strip_prefix(MAGIC)?.split_at_checked(BOOT_ID)?;
    let is_boot_id = boot.iter().all(|b| b.is_ascii_hexdigit() || *b == b'-');
    if !is_boot_id || rest.is_empty() || rest.len() % KEY != 0 || rest.len() / KEY > MAX_KEYS {
        return None;
    }
    if boot != boot_id.as_bytes() {
        return Some(Vec::new());
    }
    let key = |bytes: &[u8]| {
        Some(Key {
            id: bytes[..4].try_into().ok()?,
            made: Duration::from_secs(u64::from_be_bytes(bytes[4..12].try_into().ok()?)),
            secret: Zeroizing::new(bytes[12..].try_into().ok()?),
        })
    };
    rest.chunks_exact(KEY).map(key).collect()
}

/// Writes a new file and renames it over the old one, so that a reader never sees a partial file.
fn write_keys(directory: &Path, path: &Path, boot_id: &str, keys: &[Key]) -> Result<(), StateError> {
    let mut bytes = Zeroizing::new(Vec::with_capacity(MAGIC.len() + BOOT_ID + KEY * keys.len()));
    bytes.extend_from_slice(MAGIC);
    bytes.extend_from_slice(boot_id.as_bytes());
    for key in &keys[keys.len().saturating_sub(MAX_KEYS)..] {
        bytes.extend_from_slice(&key.id);
        bytes.extend_from_slice(&key.made.as_secs().to_be_bytes());
        bytes.extend_from_slice(key.secret.as_ref());
    }
    let temporary = directory.join("keys.new");
    let _ = fs::remove_file(&temporary);
    let mut file = private_file(&temporary, OpenOptions::new().write(true).create_new(true))?;
    let written = file.write_all(&bytes).and_then(|()| file.sync_all());
    bytes.zeroize();
    written.map_err(failed("write", &temporary))?;
    fs::rename(&temporary, path).map_err(failed("rename", &temporary))
}

fn failed(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> StateError {
    let path = path.to_owned();
    move |error| StateError::Io { what, path, error }
}

#[cfg(test)]
mod tests;
