//! Allow lists of roles: globs, as in kube2iam, and anchored regular expressions, as in kiam.

use std::fmt;

use regex::{Regex, RegexBuilder};
use serde::de::{IgnoredAny, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use thiserror::Error;

use super::{BaseArn, RoleArn};

/// The largest number of patterns in a list, far more than any real list has. A longer list is a mistake or an attempt to make
/// matching slow.
const MAX_PATTERNS: usize = 4096;
/// The largest compiled regular expression, in bytes, so that one namespace cannot use up the node's memory.
const REGEX_SIZE_LIMIT: usize = 256 * 1024;
/// The longest text of a regular expression, in bytes. The parser's syntax tree can be a few thousand times as large as the text
/// (`\pL` is three characters and five kilobytes), and it is built before the size of the result is known.
const MAX_REGEX: usize = 4096;

/// A pattern over role ARNs. `*` stands for any run of characters, including `/`; no other character is special.
///
/// A pattern that does not start with `arn:` is completed with the base ARN before it is matched, so it never matches a role of
/// another account.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Glob(Box<str>);

/// The roles that a namespace, or the cluster's administrator, allows.
#[derive(Clone)]
pub enum AllowList {
    /// A role must match one of these globs.
    Globs(Vec<Glob>),
    /// A regular expression that must match the whole ARN or the whole `path/name` of a role in the base account.
    Regex(Regex),
}

/// Why a list is invalid.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum AllowListError {
    /// The list is not a JSON array of strings.
    #[error("is not a JSON array of strings, such as [\"web-*\"]")]
    NotJson,
    /// The list has more patterns than any real list.
    #[error("has more than {MAX_PATTERNS} patterns")]
    TooMany,
    /// The list has an empty pattern, or one with characters that no role has.
    #[error("has an empty pattern, or one with characters that no role ARN has")]
    Pattern,
    /// The text is not a regular expression, or the expression is too large.
    #[error("is not a valid regular expression, or has more than {MAX_REGEX} characters")]
    Regex,
}

// === impl Glob ===

impl Glob {
    /// Parses a pattern. Fails if no role could match `text`.
    pub fn parse(text: &str) -> Result<Self, AllowListError> {
        let text = text.trim();
        if text.is_empty() || !text.bytes().all(|b| b.is_ascii_graphic()) {
            return Err(AllowListError::Pattern);
        }
        Ok(Self(text.trim_start_matches('/').into()))
    }

    /// The pattern.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether the pattern matches the whole of `role`. A pattern that is not an ARN is first completed with `base`.
    pub fn matches(&self, role: &RoleArn, base: &BaseArn) -> bool {
        if self.0.starts_with("arn:") {
            return glob(self.0.as_bytes(), role.as_str().as_bytes());
        }
        role.as_str().strip_prefix(base.as_str()).is_some_and(|rest| glob(self.0.as_bytes(), rest.as_bytes()))
    }
}

/// Matches with two cursors. On a mismatch, the function goes back to the last star. Its time is linear in practice, and it is
/// never recursive.
fn glob(pattern: &[u8], text: &[u8]) -> bool {
    let (mut p, mut t) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while t < text.len() {
        if pattern.get(p) == Some(&b'*') {
            star = Some((p, t));
            p += 1;
        } else if pattern.get(p) == Some(&text[t]) {
            p += 1;
            t += 1;
        } else if let Some((star_p, star_t)) = star {
            p = star_p + 1;
            t = star_t + 1;
            star = Some((star_p, star_t + 1));
        } else {
            return false;
        }
    }
    pattern[p..].iter().all(|&b| b == b'*')
}

// === impl AllowList ===

impl AllowList {
    /// Parses kube2iam's form: a JSON array of globs.
    pub fn from_json(text: &str) -> Result<Self, AllowListError> {
        let patterns: FirstPatterns = serde_json::from_str(text).map_err(|_| AllowListError::NotJson)?;
        Self::from_globs(patterns.0.iter().map(String::as_str))
    }

    /// Parses the administrator's form: single patterns.
    pub fn from_globs<'a>(patterns: impl Iterator<Item = &'a str>) -> Result<Self, AllowListError> {
        let globs: Vec<Glob> = patterns.take(MAX_PATTERNS + 1).map(Glob::parse).collect::<Result<_, _>>()?;
        if globs.len() > MAX_PATTERNS { Err(AllowListError::TooMany) } else { Ok(Self::Globs(globs)) }
    }

    /// Parses kiam's form: one regular expression. The expression must match the whole text.
    pub fn from_regex(text: &str) -> Result<Self, AllowListError> {
        if text.len() > MAX_REGEX {
            return Err(AllowListError::Regex);
        }
        // First compile it without the anchors: `a)(b` is not a valid expression but would become one inside the anchoring group.
        let build = |text: &str| RegexBuilder::new(text).size_limit(REGEX_SIZE_LIMIT).build();
        build(text).map_err(|_| AllowListError::Regex)?;
        build(&format!("^(?:{text})$")).map(Self::Regex).map_err(|_| AllowListError::Regex)
    }

    /// Whether `role` is on the list.
    pub fn allows(&self, role: &RoleArn, base: &BaseArn) -> bool {
        match self {
            Self::Globs(globs) => globs.iter().any(|glob| glob.matches(role, base)),
            Self::Regex(regex) => {
                regex.is_match(role.as_str())
                    || role.as_str().strip_prefix(base.as_str()).is_some_and(|rest| regex.is_match(rest))
            }
        }
    }
}

/// The first strings of a JSON array, at most one more than a list may have. The rest is parsed but not kept.
struct FirstPatterns(Vec<String>);

impl<'de> Deserialize<'de> for FirstPatterns {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct First;
        impl<'de> Visitor<'de> for First {
            type Value = FirstPatterns;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an array of strings")
            }

            fn visit_seq<S: SeqAccess<'de>>(self, mut seq: S) -> Result<Self::Value, S::Error> {
                let mut patterns = Vec::new();
                while patterns.len() <= MAX_PATTERNS {
                    let Some(pattern) = seq.next_element()? else { break };
                    patterns.push(pattern);
                }
                while seq.next_element::<IgnoredAny>()?.is_some() {}
                Ok(FirstPatterns(patterns))
            }
        }
        deserializer.deserialize_seq(First)
    }
}

impl fmt::Debug for AllowList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Globs(globs) => f.debug_list().entries(globs.iter().map(|g| &g.0)).finish(),
            Self::Regex(regex) => write!(f, "/{regex}/"),
        }
    }
}

impl PartialEq for AllowList {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Globs(a), Self::Globs(b)) => a == b,
            (Self::Regex(a), Self::Regex(b)) => a.as_str() == b.as_str(),
            (Self::Globs(_), Self::Regex(_)) | (Self::Regex(_), Self::Globs(_)) => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn base() -> BaseArn {
        BaseArn::parse("arn:aws:iam::111122223333:role/").unwrap()
    }

    fn role(text: &str) -> RoleArn {
        RoleArn::parse(text).unwrap()
    }

    #[test]
    fn globs() {
        for (pattern, name, expected) in [
            ("web", "web", true),
            ("web", "web-admin", false),
            ("web-*", "web-admin", true),
            ("*", "team/web", true),
            ("team/*", "team/web", true),
            ("*-ro", "web-ro", true),
            ("*-ro", "web-ro-not", false),
            ("a*b*c", "aXbYbZc", true),
            ("a*b*c", "aXbYbZ", false),
            ("arn:aws:iam::111122223333:role/web", "web", true),
            ("/web", "web", true),
        ] {
            let glob = Glob::parse(pattern).unwrap();
            let arn = role(&format!("arn:aws:iam::111122223333:role/{name}"));
            assert_eq!(glob.matches(&arn, &base()), expected, "{pattern} {name}");
        }
    }

    #[test]
    fn a_pattern_without_arn_never_reaches_another_account() {
        let foreign = role("arn:aws:iam::444455556666:role/web");
        assert!(!Glob::parse("*").unwrap().matches(&foreign, &base()));
        assert!(Glob::parse("arn:aws:iam::444455556666:role/*").unwrap().matches(&foreign, &base()));
        assert!(!AllowList::from_regex("web").unwrap().allows(&foreign, &base()));
        assert!(AllowList::from_regex("arn:aws:iam::4444.*:role/web").unwrap().allows(&foreign, &base()));
    }

    #[test]
    fn regular_expressions_are_anchored() {
        let admin = role("arn:aws:iam::111122223333:role/web-admin");
        assert!(!AllowList::from_regex("web").unwrap().allows(&admin, &base()));
        assert!(!AllowList::from_regex("a|web").unwrap().allows(&admin, &base()));
        assert!(AllowList::from_regex("web.*").unwrap().allows(&admin, &base()));
        assert_eq!(AllowList::from_regex("a)(b"), Err(AllowListError::Regex));
        assert_eq!(AllowList::from_regex("(a{500}){500}"), Err(AllowListError::Regex));
        assert!(AllowList::from_regex(&"a".repeat(MAX_REGEX)).is_ok());
        assert_eq!(AllowList::from_regex(&"a".repeat(MAX_REGEX + 1)), Err(AllowListError::Regex));
    }

    #[test]
    fn bad_lists() {
        assert_eq!(AllowList::from_json("web"), Err(AllowListError::NotJson));
        assert_eq!(AllowList::from_json("[1]"), Err(AllowListError::NotJson));
        assert_eq!(AllowList::from_json(r#"[""]"#), Err(AllowListError::Pattern));
        let many = serde_json::to_string(&vec!["a"; MAX_PATTERNS + 1]).unwrap();
        assert_eq!(AllowList::from_json(&many), Err(AllowListError::TooMany));
        let most = serde_json::to_string(&vec!["a"; MAX_PATTERNS]).unwrap();
        assert!(AllowList::from_json(&most).is_ok());
        // The part of the text that is not kept must also be valid JSON.
        assert_eq!(AllowList::from_json(many.trim_end_matches(']')), Err(AllowListError::NotJson));
        assert!(!AllowList::from_json("[]").unwrap().allows(&role("arn:aws:iam::111122223333:role/a"), &base()));
    }

    proptest::proptest! {
        #[test]
        fn glob_agrees_with_the_regular_expression(pattern in "[ab*]{0,8}", text in "[ab]{0,10}") {
            let expected = Regex::new(&format!("^{}$", pattern.replace('*', ".*"))).unwrap().is_match(&text);
            proptest::prop_assert_eq!(glob(pattern.as_bytes(), text.as_bytes()), expected);
        }
    }
}
