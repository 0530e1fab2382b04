//! Session tokens: only a sealed token opens, and only for the caller that it was sealed for.
#![no_main]

use std::time::Duration;

use libfuzzer_sys::fuzz_target;
use podrole::imds::{Key, KeyRing, TokenBinding};
use podrole::types::{ContainerId, KernelIdentity, PodUid};
use zeroize::Zeroizing;

const NOW: Duration = Duration::from_secs(1000);

fuzz_target!(|data: &[u8]| {
    let ring = KeyRing::new(vec![Key { id: [1; 4], secret: Zeroizing::new([2; 32]), made: Duration::ZERO }]);
    let caller = KernelIdentity {
        pod: PodUid::parse("3f0c9a52-1111-2222-3333-444455556666").expect("a UID"),
        container: ContainerId::parse(&"8f".repeat(32)).expect("an id"),
    };
    let binding = TokenBinding::Kernel(&caller);
    let token = ring.issue(binding, 60, NOW, [3; 12]).into_bytes();
    assert_eq!(ring.verify(&token, binding, NOW), Ok(60));
    // Test the input itself, and as changes to a valid token: pairs of a position and a value.
    let mut damaged = token.clone();
    for pair in data.chunks_exact(2) {
        if let Some(byte) = damaged.get_mut(usize::from(pair[0])) {
            *byte = pair[1];
        }
    }
    for text in [data, damaged.as_slice()] {
        assert!(ring.verify(text, binding, NOW).is_err() || text == token);
        assert!(ring.verify(text, TokenBinding::Address([10, 0, 0, 1].into()), NOW).is_err());
    }
});
