//! Random identifiers in the formats of Kubernetes and container runtimes, from `/dev/urandom`.

use std::fmt::Write as _;
use std::fs::File;
use std::io::Read as _;

use anyhow::{Context as _, Result};

/// `bytes` random bytes as lower-case hexadecimal digits.
pub(crate) fn hex(bytes: usize) -> Result<String> {
    let mut raw = vec![0; bytes];
    File::open("/dev/urandom").and_then(|mut source| source.read_exact(&mut raw)).context("read /dev/urandom")?;
    Ok(raw.iter().fold(String::with_capacity(bytes * 2), |mut text, byte| {
        write!(text, "{byte:02x}").expect("writing to a String cannot fail");
        text
    }))
}

/// A random (version 4) UUID.
pub(crate) fn uuid() -> Result<String> {
    let digits = hex(16)?;
    let variant = match digits.as_bytes()[16] & 3 {
        0 => '8',
        1 => '9',
        2 => 'a',
        _ => 'b',
    };
    Ok(format!(
        "{}-{}-4{}-{variant}{}-{}",
        &digits[..8],
        &digits[8..12],
        &digits[13..16],
        &digits[17..20],
        &digits[20..]
    ))
}

/// A container id as containerd generates it: 64 hexadecimal digits.
pub(crate) fn container() -> Result<String> {
    hex(32)
}

#[cfg(test)]
mod tests {
    #[test]
    fn uuids_have_the_form_of_version_4() {
        let uuid = super::uuid().expect("the kernel has random bytes");
        let parts: Vec<usize> = uuid.split('-').map(str::len).collect();
        assert_eq!(parts, [8, 4, 4, 4, 12], "{uuid}");
        assert_eq!(uuid.as_bytes()[14], b'4', "{uuid}");
        assert!("89ab".contains(uuid.as_bytes()[19] as char), "{uuid}");
    }
}
