//! What survives a restart: the key ring that session tokens are sealed with.
//!
//! The file is root's alone in a directory that is root's alone, on a file system that does not outlive the boot (`/run`). Whatever
//! is wrong with it costs its tokens, not the daemon: clients that present an unknown one ask for a new one.

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
/// A day's key and those that may still have tokens out; more is a damaged file.
const MAX_KEYS: usize = 8;

/// Why the ring is not persisted.
#[derive(Debug, Error)]
pub enum StateError {
    /// A file operation failed.
    #[error("{what} {path}: {error}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// The file is not one that we have written.
    #[error("{path} is damaged: what was sealed with its keys is lost, and new keys take their place")]
    Damaged {
        /// The file.
        path: PathBuf,
    },
    /// Somebody else could read or replace what is in it.
    #[error(
        "{path} is not a directory of this user alone (owner, or mode not 0700); remove it or choose another --state-dir"
    )]
    NotPrivate {
        /// The directory.
        path: PathBuf,
    },
    /// No randomness.
    #[error("the kernel gave no random bytes")]
    Random,
}

/// The ring to use from now on, and what is wrong with the persisted one, if anything is. It has the keys of the file and those
/// already `held`, so that nothing that happens to the file costs a running daemon its tokens. Expired keys are dropped; a new one
/// is made where the newest has sealed for a day. `now` is boot time; a ring of another boot is worth nothing.
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

/// Whether `directory` is there, and whether it and the ring in it are private, as [`load`] demands. Changes nothing.
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

/// This boot's id, as the kernel gives it.
pub fn boot_id() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").map(|id| id.trim().to_owned()).unwrap_or_default()
}

/// A fresh nonce for a token.
pub fn nonce() -> [u8; 12] {
    let mut nonce = [0; 12];
    // AWS-LC's generator does not fail once it was seeded, which making the first key has shown.
    aws_lc_rs::rand::fill(&mut nonce).expect("a seeded generator gives bytes");
    nonce
}

/// Adds the file's keys to `keys`, and all of them to the file.
fn share(directory: &Path, boot_id: &str, now: Duration, keys: &mut Vec<Key>) -> Result<(), StateError> {
    prepare(directory)?;
    let lock_path = directory.join("lock");
    let lock = private_file(&lock_path, OpenOptions::new().write(true).create(true))?;
    // Two instances of an upgrade share the ring; the second waits for the first's few milliseconds.
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

/// Leaves the keys that may still have tokens out, oldest first, and at least one that seals.
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
    let meta = fs::symlink_metadata(directory).map_err(failed("look at", directory))?;
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

/// `None`: damaged. Another boot's keys are none.
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

/// Written beside and renamed over: a reader sees the old ring or the new one, whole.
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
