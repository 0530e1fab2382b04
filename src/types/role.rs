//! IAM roles as users write them, and as parsed ARNs, which is the only form that the rest of podrole uses.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use thiserror::Error;

/// IAM's limit for an ARN (`RoleArn` in the STS API model: 20 to 2048 characters).
const MAX_ARN: usize = 2048;
/// IAM's limits for a role's name and path.
const MAX_NAME: usize = 64;
const MAX_PATH: usize = 512;

/// A well-formed IAM role ARN: `arn:<partition>:iam::<12 digits>:role/[path/]name`.
///
/// Two ARNs are equal if their texts are equal. IAM ignores case when it checks whether a role's name is taken, but STS requires
/// the exact spelling. So podrole treats two spellings as two roles, and STS refuses the wrong spelling.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct RoleArn {
    text: Arc<str>,
    partition: Range<u16>,
    account: Range<u16>,
    name: u16,
}

/// A role as a user wrote it: an ARN, or a name with or without a path, which a [`BaseArn`] completes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RoleRef {
    /// A complete ARN.
    Arn(RoleArn),
    /// `name` or `path/name`, without a leading slash.
    Name(Arc<str>),
}

/// The prefix that completes a bare role name, with partition, account and path: `arn:aws:iam::111122223333:role/` or
/// `…:role/some/path/`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BaseArn {
    prefix: Arc<str>,
}

/// Why a text is not a role. The message does not repeat the text; callers add the source of the text.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum RoleError {
    /// The text is empty or blank.
    #[error("is empty")]
    Empty,
    /// The text is longer than IAM allows.
    #[error("is longer than IAM allows (name 64, path 512, ARN 2048 characters)")]
    TooLong,
    /// The text starts with `arn:` but does not have the six fields of a role's ARN.
    #[error("is not a role ARN (arn:PARTITION:iam::ACCOUNT:role/NAME)")]
    NotARoleArn,
    /// The account is not twelve digits.
    #[error("has an account that is not twelve digits")]
    Account,
    /// The text has a character that IAM does not allow in a role's name or path.
    #[error("has a character that IAM does not allow in a role's name or path")]
    Character,
}

// === impl RoleArn ===

impl RoleArn {
    /// Parses `text` and checks every field against IAM's rules, so that no unchecked text of a pod reaches STS.
    pub fn parse(text: &str) -> Result<Self, RoleError> {
        if text.len() > MAX_ARN {
            return Err(RoleError::TooLong);
        }
        let mut fields = text.splitn(6, ':');
        let mut field = || fields.next().ok_or(RoleError::NotARoleArn);
        let (arn, partition, service, region, account, resource) =
            (field()?, field()?, field()?, field()?, field()?, field()?);
        if arn != "arn" || service != "iam" || !region.is_empty() || !is_partition(partition) {
            return Err(RoleError::NotARoleArn);
        }
        if account.len() != 12 || !account.bytes().all(|b| b.is_ascii_digit()) {
            return Err(RoleError::Account);
        }
        let path = resource.strip_prefix("role/").ok_or(RoleError::NotARoleArn)?;
        check_path_and_name(path)?;
        let partition = at(4)..at(4 + partition.len());
        let account = partition.end + 6..partition.end + 18;
        let name = text.len() - path.rsplit('/').next().map_or(0, str::len);
        Ok(Self { name: at(name), partition, account, text: text.into() })
    }

    /// The whole ARN.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// `aws`, `aws-cn`, `aws-us-gov`, …
    pub fn partition(&self) -> &str {
        &self.text[self.partition.start.into()..self.partition.end.into()]
    }

    /// The twelve digits of the account.
    pub fn account(&self) -> &str {
        &self.text[self.account.start.into()..self.account.end.into()]
    }

    /// The role's name without its path, as the metadata service lists it.
    pub fn name(&self) -> &str {
        &self.text[self.name.into()..]
    }

    /// `path/name`, without a leading slash.
    #[cfg(test)]
    pub(crate) fn path_and_name(&self) -> &str {
        self.text.split_once(":role/").map_or("", |(_, rest)| rest)
    }

    /// Whether this ARN and `other` have the same account and the same role name, ignoring case and path. The ARN of an assumed
    /// role has no path, and IAM does not allow two roles in one account whose names differ only in case or path.
    pub fn is_same_role(&self, other: &Self) -> bool {
        self.account() == other.account() && self.name().eq_ignore_ascii_case(other.name())
    }
}

impl fmt::Display for RoleArn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for RoleArn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

// === impl RoleRef ===

impl RoleRef {
    /// Parses the value of an annotation or a flag. Leading slashes of a name are dropped, because users of kube2iam and kiam write
    /// them.
    pub fn parse(text: &str) -> Result<Self, RoleError> {
        let text = text.trim();
        if text.len() > MAX_ARN {
            return Err(RoleError::TooLong);
        }
        if text.starts_with("arn:") {
            return RoleArn::parse(text).map(Self::Arn);
        }
        let name = text.trim_start_matches('/');
        if name.is_empty() {
            return Err(RoleError::Empty);
        }
        check_path_and_name(name)?;
        Ok(Self::Name(name.into()))
    }

    /// The ARN of the role. A name is completed with `base`.
    pub fn resolve(&self, base: &BaseArn) -> Result<RoleArn, RoleError> {
        match self {
            Self::Arn(arn) => Ok(arn.clone()),
            Self::Name(name) => RoleArn::parse(&[&*base.prefix, name].concat()),
        }
    }
}

// === impl BaseArn ===

impl BaseArn {
    /// Parses a prefix that ends in `role/` or in a path. A missing slash at the end is added.
    pub fn parse(text: &str) -> Result<Self, RoleError> {
        let text = text.trim();
        let slash = if text.ends_with('/') { "" } else { "/" };
        let prefix = format!("{text}{slash}");
        // A prefix is valid if it becomes a valid role ARN when a name is appended.
        RoleArn::parse(&format!("{prefix}x"))?;
        Ok(Self { prefix: prefix.into() })
    }

    /// The base of an account: `arn:<partition>:iam::<account>:role/`.
    pub fn of_account(partition: &str, account: &str) -> Result<Self, RoleError> {
        Self::parse(&format!("arn:{partition}:iam::{account}:role/"))
    }

    /// The prefix text, ending in a slash.
    pub fn as_str(&self) -> &str {
        &self.prefix
    }

    /// `arn:<partition>:iam::<account>:role/`, without this base's own path.
    pub fn account_prefix(&self) -> &str {
        let end = self.prefix.find(":role/").map_or(self.prefix.len(), |i| i + ":role/".len());
        &self.prefix[..end]
    }
}

fn is_partition(text: &str) -> bool {
    text.len() <= 32
        && text.split('-').next() == Some("aws")
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
}

fn check_path_and_name(text: &str) -> Result<(), RoleError> {
    let (path, name) = text.rsplit_once('/').unwrap_or(("", text));
    if name.is_empty() {
        return Err(RoleError::Empty);
    }
    if name.len() > MAX_NAME || path.len() > MAX_PATH {
        return Err(RoleError::TooLong);
    }
    // IAM allows any printable ASCII in a path. `*` and `?` would act as patterns in policies, so they are not accepted here.
    let path_ok = |b: u8| b.is_ascii_graphic() && !matches!(b, b'*' | b'?' | b'"' | b'\\');
    let name_ok = |b: u8| b.is_ascii_alphanumeric() || b"_+=,.@-".contains(&b);
    if !path.bytes().all(path_ok) || !name.bytes().all(name_ok) {
        return Err(RoleError::Character);
    }
    Ok(())
}

/// An offset into a text of at most [`MAX_ARN`] bytes.
fn at(offset: usize) -> u16 {
    u16::try_from(offset).expect("an ARN has at most 2048 bytes")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arn_fields() {
        let role = RoleArn::parse("arn:aws-us-gov:iam::111122223333:role/team/a/web").unwrap();
        assert_eq!(
            (role.partition(), role.account(), role.path_and_name(), role.name()),
            ("aws-us-gov", "111122223333", "team/a/web", "web")
        );
    }

    #[test]
    fn what_is_not_a_role() {
        for (text, why) in [
            ("", RoleError::Empty),
            ("  ", RoleError::Empty),
            ("/", RoleError::Empty),
            ("team/", RoleError::Empty),
            ("arn:x", RoleError::NotARoleArn),
            ("arn:aws:iam::1234:role/x", RoleError::Account),
            ("arn:aws:iam::11112222333a:role/x", RoleError::Account),
            ("arn:aws:iam::111122223333:user/x", RoleError::NotARoleArn),
            ("arn:aws:iam:us-west-2:111122223333:role/x", RoleError::NotARoleArn),
            ("arn:aws:iam::111122223333:role/", RoleError::Empty),
            ("arn:azure:iam::111122223333:role/x", RoleError::NotARoleArn),
            ("web role", RoleError::Character),
            ("we*b", RoleError::Character),
            ("we\nb", RoleError::Character),
            ("wéb", RoleError::Character),
        ] {
            assert_eq!(RoleRef::parse(text), Err(why), "{text:?}");
        }
        assert_eq!(RoleRef::parse(&"a".repeat(65)), Err(RoleError::TooLong));
        assert_eq!(
            RoleArn::parse(&format!("arn:aws:iam::111122223333:role/{}", "a/".repeat(1200))),
            Err(RoleError::TooLong)
        );
    }

    #[test]
    fn names_are_completed_with_the_base() {
        let base = BaseArn::parse("arn:aws:iam::111122223333:role/k8s").unwrap();
        let role = |text: &str| RoleRef::parse(text).unwrap().resolve(&base).unwrap().to_string();
        assert_eq!(role("web"), "arn:aws:iam::111122223333:role/k8s/web");
        assert_eq!(role("/team/web"), "arn:aws:iam::111122223333:role/k8s/team/web");
        assert_eq!(role("arn:aws:iam::444455556666:role/x"), "arn:aws:iam::444455556666:role/x");
        assert_eq!(base.account_prefix(), "arn:aws:iam::111122223333:role/");
    }

    proptest::proptest! {
        #[test]
        fn parsing_is_total_and_faithful(text in "\\PC{0,80}|arn:aws:iam::[0-9]{12}:role/[a-z/]{0,20}") {
            if let Ok(role) = RoleArn::parse(&text) {
                proptest::prop_assert_eq!(role.as_str(), text.as_str());
                proptest::prop_assert!(role.path_and_name().ends_with(role.name()));
            }
            let _ = RoleRef::parse(&text);
        }
    }
}
