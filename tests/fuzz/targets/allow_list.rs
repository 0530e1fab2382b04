//! A namespace's allow list, in both forms, and a role: no pattern allows a role of another account unless it contains an ARN.
#![no_main]

use libfuzzer_sys::{Corpus, fuzz_target};
use podrole::types::{AllowList, BaseArn, RoleArn, RoleRef};

const ACCOUNT: &str = "111122223333";

fuzz_target!(|data: &str| -> Corpus {
    // The first line is the role, the rest is the list.
    let Some((role, list)) = data.split_once('\n') else { return Corpus::Reject };
    let base = BaseArn::of_account("aws", ACCOUNT).expect("a partition and twelve digits");
    let role = RoleArn::parse(role).or_else(|_| RoleRef::parse(role)?.resolve(&base));
    let Ok(role) = role else { return Corpus::Reject };
    let foreign = role.account() != ACCOUNT;
    if let Ok(globs) = AllowList::from_json(list) {
        let allowed = globs.allows(&role, &base);
        assert!(!(allowed && foreign) || list.contains("arn:"), "{list} allows {}", role.as_str());
        // The list allows a role if and only if one of its items alone does.
        let parts: Vec<String> = serde_json::from_str(list).expect("it was an array of strings");
        let apart = parts.iter().filter_map(|part| AllowList::from_globs(std::iter::once(part.as_str())).ok());
        assert_eq!(allowed, apart.into_iter().any(|part| part.allows(&role, &base)));
    }
    if let Ok(regex) = AllowList::from_regex(list) {
        // The expression is anchored at both ends.
        if regex.allows(&role, &base) && list.bytes().all(|b| b.is_ascii_alphanumeric()) {
            assert_eq!(role.as_str().split_once(":role/").map(|(_, path)| path), Some(list));
        }
    }
    Corpus::Keep
});
