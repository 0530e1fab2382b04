//! Unique identifiers for the doubles, from the standard library and without errors. Not for secrets.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};

/// A number that differs at each call: the standard library's hasher keys are random.
pub fn number() -> u64 {
    RandomState::new().build_hasher().finish()
}

/// A text of `len` characters from `alphabet`, which must not be empty.
pub fn text(alphabet: &[u8], len: usize) -> String {
    let mut pool = 0u64;
    (0..len)
        .map(|at| {
            if at % 8 == 0 {
                pool = number();
            }
            let byte = (pool & 0xff) as usize;
            pool >>= 8;
            char::from(alphabet[byte % alphabet.len()])
        })
        .collect()
}

/// A random UUID in its usual notation.
pub fn uuid() -> String {
    let (high, low) = (number(), number());
    let (version, variant) = (0x4000 | (high & 0x0fff), 0x8000 | (low >> 48 & 0x3fff));
    let (head, middle, tail) = (high >> 32, high >> 16 & 0xffff, low & 0xffff_ffff_ffff);
    format!("{head:08x}-{middle:04x}-{version:04x}-{variant:04x}-{tail:012x}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn makes_well_formed_unique_ids() {
        let uuid = uuid();
        let lengths: Vec<usize> = uuid.split('-').map(str::len).collect();
        assert_eq!(lengths, [8, 4, 4, 4, 12]);
        assert_eq!(uuid.as_bytes()[14], b'4');
        let all: std::collections::HashSet<String> = (0..10_000).map(|_| text(b"ABCDEFGH234567", 16)).collect();
        assert_eq!(all.len(), 10_000);
    }
}
