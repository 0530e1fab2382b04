//! Session names and external ids. CloudTrail shows the session name as the caller, so a name must identify one pod, and no pod may
//! have the name of another.

use std::fmt;
use std::sync::Arc;

use aws_lc_rs::digest;
use thiserror::Error;

use super::PodUid;

/// STS's limit for `RoleSessionName`.
const MAX: usize = 64;
/// The number of characters of the pod's UID at the end of a session name.
const UID_CHARS: usize = 8;
/// The shortest text a user may choose. This number is also STS's minimum for a whole session name.
const MIN: usize = 2;

/// A valid `RoleSessionName`: 2 to 64 characters of `[A-Za-z0-9_+=,.@-]`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SessionName(Arc<str>);

/// A valid `ExternalId`: 2 to 1224 characters of `[A-Za-z0-9_+=,.@:/-]`.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct ExternalId(Arc<str>);

/// Why a text is not a valid session name or external id.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum SessionNameError {
    /// The text is too short or too long.
    #[error("has a length that STS does not allow (session name at least {MIN}, external id {MIN} to 1224 characters)")]
    Length,
    /// The text is too long for a session name, which also contains the namespace and a part of the UID.
    #[error("is too long: STS allows {MAX} characters, of which the namespace and the pod's UID leave {left} here")]
    NameTooLong {
        /// The number of characters that fit.
        left: usize,
    },
    /// The text has a character that STS does not allow.
    #[error("has a character that STS does not allow")]
    Character,
}

// === impl SessionName ===

impl SessionName {
    /// `<namespace>.<service account>.<uid8>`. If that is too long, the middle is cut and replaced by `=` and a hash of the whole
    /// name. No Kubernetes name contains `=`, so a shortened name never equals a complete one.
    pub fn of_pod(namespace: &str, service_account: &str, uid: &PodUid) -> Self {
        Self::fit(namespace, service_account, Some(uid))
    }

    /// `<namespace>.<service account>`: one session for all pods of a service account on a node.
    pub fn of_service_account(namespace: &str, service_account: &str) -> Self {
        Self::fit(namespace, service_account, None)
    }

    /// `podrole.<node>`: one session of a role for the whole node.
    pub fn of_node(node: &str) -> Self {
        Self::fit("podrole", node, None)
    }

    /// Joins the parts, and shortens the name if needed. The function runs often, so it builds a name that fits in one
    /// allocation.
    fn fit(first: &str, second: &str, uid: Option<&PodUid>) -> Self {
        let (dot, last) = uid.map_or(("", ""), |uid| (".", uid8(uid)));
        let whole = [first, ".", second, dot, last].concat();
        if whole.len() <= MAX {
            return Self(whole.into());
        }
        let (name, suffix) = whole.split_at(first.len() + 1 + second.len());
        let also = uid.map_or("", PodUid::as_str);
        let hash = digest::digest(&digest::SHA256, format!("{name}\0{also}").as_bytes());
        let hash: String = hash.as_ref()[..8].iter().map(|b| format!("{b:02x}")).collect();
        let keep = MAX - hash.len() - suffix.len() - 1;
        Self(format!("{}={hash}{suffix}", &name[..keep]).into())
    }

    /// A name that the pod's owner chose, between the pod's namespace and its UID: `<namespace>.<custom>.<uid8>`. No namespace
    /// contains a dot, so the text before the first dot is the namespace, and trust policies may rely on it. A custom name is
    /// never shortened; a name that is too long is an error.
    pub fn custom(namespace: &str, text: &str, uid: &PodUid) -> Result<Self, SessionNameError> {
        check(text, MIN..=usize::MAX, b"_+=,.@-")?;
        let uid = uid8(uid);
        let left = MAX.saturating_sub(namespace.len() + uid.len() + 2);
        if text.len() > left {
            return Err(SessionNameError::NameTooLong { left });
        }
        Ok(Self([namespace, ".", text, ".", uid].concat().into()))
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

// === impl ExternalId ===

impl ExternalId {
    /// Checks `text` against STS's rules.
    pub fn parse(text: &str) -> Result<Self, SessionNameError> {
        check(text, MIN..=1224, b"_+=,.@:/-")?;
        Ok(Self(text.into()))
    }

    /// The id.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// AWS does not consider external ids secret, but users do, so they stay out of logs.
impl fmt::Debug for ExternalId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ExternalId(…)")
    }
}

fn uid8(uid: &PodUid) -> &str {
    let uid = uid.as_str();
    &uid[..uid.len().min(UID_CHARS)]
}

fn check(text: &str, length: std::ops::RangeInclusive<usize>, also: &[u8]) -> Result<(), SessionNameError> {
    if !length.contains(&text.len()) {
        return Err(SessionNameError::Length);
    }
    let allowed = |b: u8| b.is_ascii_alphanumeric() || also.contains(&b);
    if text.bytes().all(allowed) { Ok(()) } else { Err(SessionNameError::Character) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn uid(text: &str) -> PodUid {
        PodUid::parse(text).unwrap()
    }

    #[test]
    fn names_the_pod() {
        let name = SessionName::of_pod("shop", "web", &uid("3f0c9a52-1111-2222-3333-444455556666"));
        assert_eq!(name.as_str(), "shop.web.3f0c9a52");
        assert_eq!(SessionName::of_service_account("shop", "web").as_str(), "shop.web");
        assert_eq!(SessionName::of_node("node-1").as_str(), "podrole.node-1");
    }

    /// Session names appear in audit logs and trust policies, so they must not change between versions.
    #[test]
    fn a_long_name_is_cut_the_same_way_for_ever() {
        let account = "a".repeat(60);
        let name = SessionName::of_pod("shop", &account, &uid("3f0c9a52-1111-2222-3333-444455556666"));
        assert_eq!(name.as_str(), "shop.aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa=5c32f106a8bfa4ff.3f0c9a52");
        assert_eq!(
            SessionName::of_service_account("shop", &account).as_str(),
            "shop.aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa=ed614a641f35503b"
        );
        assert_eq!(
            SessionName::of_node(&account).as_str(),
            "podrole.aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa=d68f1e2b8af388d0"
        );
    }

    #[test]
    fn a_custom_name_begins_with_its_namespace() {
        let own = uid("aaaaaaaa-1111-2222-3333-444455556666");
        let custom = |text: &str| SessionName::custom("evil", text, &own);
        assert_eq!(custom("shop.web.3f0c9a52").unwrap().as_str(), "evil.shop.web.3f0c9a52.aaaaaaaa");
        for (text, why) in [
            ("", SessionNameError::Length),
            ("a", SessionNameError::Length),
            ("a b", SessionNameError::Character),
            ("a/b", SessionNameError::Character),
        ] {
            assert_eq!(custom(text), Err(why));
        }
    }

    #[test]
    fn a_custom_name_is_never_cut() {
        let own = uid("aaaaaaaa-1111-2222-3333-444455556666");
        for (namespace, left) in [("n", 53), ("shop", 50), (&*"n".repeat(52), 2)] {
            let fits = SessionName::custom(namespace, &"x".repeat(left), &own).unwrap();
            assert_eq!(fits.as_str().len(), MAX);
            let too_long = SessionName::custom(namespace, &"x".repeat(left + 1), &own);
            assert_eq!(too_long, Err(SessionNameError::NameTooLong { left }));
        }
        for (length, left) in [(53, 1), (54, 0), (63, 0)] {
            let none = SessionName::custom(&"n".repeat(length), "xx", &own);
            assert_eq!(none, Err(SessionNameError::NameTooLong { left }), "{length}");
        }
    }

    /// Tries texts that a pod in `evil` could choose to look like a pod of `shop`, or like another pod of its own namespace.
    #[test]
    fn a_custom_name_is_never_another_pods() {
        let (own, other) = (uid("aaaaaaaa-1111-2222-3333-444455556666"), uid("3f0c9a52-1111-2222-3333-444455556666"));
        let long = "a".repeat(60);
        for account in ["web", "web.aaaaaaaa", long.as_str()] {
            for victim in ["shop", "evil"] {
                let theirs = SessionName::of_pod(victim, account, &other);
                let beginning = theirs.as_str().strip_suffix(".3f0c9a52").unwrap();
                let without_namespace = beginning.strip_prefix(&format!("{victim}.")).unwrap();
                for text in [account, theirs.as_str(), beginning, without_namespace] {
                    let forged = SessionName::custom("evil", text, &own);
                    assert!(forged.as_ref() != Ok(&theirs), "{text}");
                    assert!(forged.is_ok_and(|name| !name.as_str().starts_with("shop.")) || text.len() > 50, "{text}");
                }
            }
        }
    }

    /// The name of a service account's session ends with its name or, if shortened, with sixteen digits of a hash. A custom name ends
    /// with the pod's UID, which its owner cannot choose.
    #[test]
    fn a_custom_name_is_never_a_service_accounts() {
        let own = uid("aaaaaaaa-1111-2222-3333-444455556666");
        let long = "a".repeat(60);
        for account in ["web", "web.api", "web.3f0c9a52", long.as_str()] {
            for victim in ["shop", "evil"] {
                let theirs = SessionName::of_service_account(victim, account);
                let without_namespace = theirs.as_str().strip_prefix(&format!("{victim}.")).unwrap();
                let cut = theirs.as_str().len().saturating_sub(".aaaaaaaa".len());
                for text in [account, theirs.as_str(), without_namespace, &theirs.as_str()[..cut]] {
                    assert!(SessionName::custom("evil", text, &own).as_ref() != Ok(&theirs), "{text}");
                }
            }
        }
    }

    /// The name of a node's session begins with `podrole`, so only a pod in a namespace of this name could imitate it. The UID at
    /// the end of the pod's session name tells the two apart.
    #[test]
    fn a_custom_name_is_never_a_nodes() {
        let own = uid("aaaaaaaa-1111-2222-3333-444455556666");
        let long = "a".repeat(60);
        for node in ["node-1", "ip-10-0-0-1.ec2.internal", long.as_str()] {
            let theirs = SessionName::of_node(node);
            for namespace in ["podrole", "podrole-system", "evil"] {
                for text in [node, theirs.as_str(), theirs.as_str().strip_prefix("podrole.").unwrap()] {
                    assert!(SessionName::custom(namespace, text, &own).as_ref() != Ok(&theirs), "{namespace} {text}");
                }
            }
        }
    }

    proptest! {
        #[test]
        fn injective_and_valid(
            ns in proptest::collection::vec("[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", 2),
            sa in proptest::collection::vec("[a-z0-9]([a-z0-9.-]{0,120}[a-z0-9])?", 2),
            ids in proptest::collection::vec("[0-9a-f]{8}-0000-4000-8000-[0-9a-f]{12}", 2),
        ) {
            let of = |i: usize, j: usize, k: usize| SessionName::of_pod(&ns[i], &sa[j], &uid(&ids[k]));
            let all = [of(0, 0, 0), of(1, 0, 0), of(0, 1, 0), of(0, 0, 1), of(1, 1, 1)];
            let whole = |i: usize, j: usize, k: usize| (ns[i].clone(), sa[j].clone(), ids[k].clone());
            let inputs = [whole(0, 0, 0), whole(1, 0, 0), whole(0, 1, 0), whole(0, 0, 1), whole(1, 1, 1)];
            for a in 0..all.len() {
                prop_assert!((2..=MAX).contains(&all[a].as_str().len()));
                prop_assert!(all[a].as_str().bytes().all(|b| b.is_ascii_alphanumeric() || b"_+=,.@-".contains(&b)));
                for b in 0..a {
                    // A name has only the first eight digits of the UID. Pods of one service account whose UIDs have the same eight
                    // digits have the same name.
                    let same_pod = inputs[a].0 == inputs[b].0
                        && inputs[a].1 == inputs[b].1
                        && inputs[a].2[..UID_CHARS] == inputs[b].2[..UID_CHARS];
                    prop_assert!(all[a] != all[b] || same_pod, "{:?} {:?}", inputs[a], inputs[b]);
                }
            }
        }

        /// No session name of a namespace, in any form, begins with another namespace and a dot, and custom names are injective.
        #[test]
        fn only_a_namespace_itself_begins_with_its_name(
            ns in proptest::collection::vec("[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", 2),
            sa in "[a-z0-9]([a-z0-9.-]{0,120}[a-z0-9])?",
            text in proptest::collection::vec("[A-Za-z0-9_+=,.@-]{2,60}", 2),
            ids in proptest::collection::vec("[0-9a-f]{8}-0000-4000-8000-[0-9a-f]{12}", 2),
        ) {
            prop_assume!(ns[0] != ns[1]);
            let custom = |i: usize, j: usize, k: usize| SessionName::custom(&ns[i], &text[j], &uid(&ids[k])).ok();
            let own = [
                Some(SessionName::of_pod(&ns[0], &sa, &uid(&ids[0]))),
                Some(SessionName::of_service_account(&ns[0], &sa)),
                custom(0, 0, 0),
                custom(0, 1, 0),
                custom(0, 0, 1),
            ];
            let beginning = format!("{}.", ns[1]);
            for name in own.iter().flatten() {
                prop_assert!((MIN..=MAX).contains(&name.as_str().len()));
                prop_assert!(!name.as_str().starts_with(&beginning), "{:?}", name);
            }
            if let [_, _, Some(name), Some(other_text), Some(other_pod)] = &own {
                prop_assert_eq!(name == other_text, text[0] == text[1]);
                prop_assert_eq!(name == other_pod, ids[0][..UID_CHARS] == ids[1][..UID_CHARS]);
            }
        }
    }
}
