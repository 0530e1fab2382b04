//! ARNs, and the identities of access keys.

/// The identity of an access key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// The ARN that GetCallerIdentity returns.
    pub arn: String,
    /// The account.
    pub account: String,
    /// The unique id that GetCallerIdentity returns.
    pub user_id: String,
    /// For a session, the ARN of its role, including the path.
    pub role_arn: Option<String>,
}

impl Caller {
    /// An IAM user.
    pub fn user(account: &str, name: &str) -> Self {
        Self {
            arn: format!("arn:aws:iam::{account}:user/{name}"),
            account: account.to_owned(),
            user_id: unique_id("AIDA", name),
            role_arn: None,
        }
    }

    /// A session of a role: a node's instance profile (the session name is the instance id), or any assumed role.
    pub fn assumed_role(account: &str, role: &str, session: &str) -> Self {
        Self {
            arn: format!("arn:aws:sts::{account}:assumed-role/{role}/{session}"),
            account: account.to_owned(),
            user_id: format!("{}:{session}", unique_id("AROA", role)),
            role_arn: Some(format!("arn:aws:iam::{account}:role/{role}")),
        }
    }

    /// Whether assuming a role with this identity is role chaining, which limits sessions to an hour.
    pub fn chains(&self) -> bool {
        self.arn.contains(":assumed-role/")
    }

    /// Whether a principal of a trust policy matches this caller.
    pub fn is(&self, principal: &str) -> bool {
        self.arn == principal || self.role_arn.as_deref() == Some(principal)
    }
}

/// A parsed role ARN.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct RoleArn<'a> {
    pub(super) partition: &'a str,
    pub(super) account: &'a str,
    pub(super) name: &'a str,
}

impl<'a> RoleArn<'a> {
    /// Parses `arn:<partition>:iam::<account>:role/<path/>name`.
    pub(super) fn parse(arn: &'a str) -> Option<Self> {
        let mut parts = arn.splitn(6, ':');
        let mut next = || parts.next();
        let (Some("arn"), Some(partition), Some("iam"), Some(""), Some(account), Some(resource)) =
            (next(), next(), next(), next(), next(), next())
        else {
            return None;
        };
        let (path, name) = resource
            .strip_prefix("role/")?
            .rsplit_once('/')
            .map_or_else(|| ("", resource.trim_start_matches("role/")), |(path, name)| (path, name));
        let word = |text: &str| text.chars().all(|c| c.is_ascii_alphanumeric() || "_+=,.@-".contains(c));
        let good = partition.starts_with("aws")
            && account.len() == 12
            && account.bytes().all(|byte| byte.is_ascii_digit())
            && (1..=64).contains(&name.len())
            && word(name)
            && path.len() <= 510
            && path.bytes().all(|byte| (0x21..=0x7e).contains(&byte));
        good.then_some(Self { partition, account, name })
    }

    /// The ARN of a session of this role. It does not contain the role's path.
    pub(super) fn session(&self, session: &str) -> String {
        format!("arn:{}:sts::{}:assumed-role/{}/{session}", self.partition, self.account, self.name)
    }
}

/// A stable id in AWS's format: the same name always gets the same id, as a role keeps its id.
pub(super) fn unique_id(prefix: &str, name: &str) -> String {
    const ALPHABET: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";
    // FNV-1a: it only needs to spread names over ids.
    let mut hash = name
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    let tail: String = (0..17)
        .map(|_| {
            let letter = ALPHABET[(hash & 31) as usize];
            hash = hash.rotate_right(5).wrapping_mul(0x0100_0000_01b3);
            char::from(letter)
        })
        .collect();
    format!("{prefix}{tail}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_role_arns_apart() {
        let plain = RoleArn::parse("arn:aws:iam::123456789012:role/app").unwrap();
        assert_eq!(plain, RoleArn { partition: "aws", account: "123456789012", name: "app" });
        let deep = RoleArn::parse("arn:aws-cn:iam::123456789012:role/team/a/app").unwrap();
        assert_eq!(deep.session("s1"), "arn:aws-cn:sts::123456789012:assumed-role/app/s1");
        for bad in [
            "app",
            "arn:aws:iam::123456789012:role/",
            "arn:aws:iam::123456789012:role/a b",
            "arn:aws:iam::1234:role/app",
            "arn:aws:iam::123456789012:user/app",
            "arn:aws:sts::123456789012:role/app",
            "arn:gcp:iam::123456789012:role/app",
        ] {
            assert_eq!(RoleArn::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_principal_is_a_session_or_the_role_behind_it() {
        let node = Caller::assumed_role("123456789012", "node", "i-0abc");
        assert!(node.chains() && node.is("arn:aws:iam::123456789012:role/node") && node.is(&node.arn));
        assert!(!node.is("arn:aws:iam::123456789012:role/other"));
        let user = Caller::user("123456789012", "ada");
        assert!(!user.chains() && user.is("arn:aws:iam::123456789012:user/ada"));
        assert_eq!(user.user_id.len(), 21);
    }
}
