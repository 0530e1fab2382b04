//! All checks, with code, title, severity, meaning and fix. `podrole check` prints these texts, and the pages in `docs/checks` are made
//! from them.

mod aws;
mod daemon;
mod kubernetes;
mod node;
mod redirect;

/// Declares an enum together with `ALL`, the list of its variants, and a function that gives each variant its value. Every variant
/// must be declared with a value, and every declared variant is in the list.
macro_rules! enum_with_table {
    (
        $(#[$enum_attribute:meta])* enum $name:ident;
        $(#[$table_attribute:meta])* table $table:ident: $value:ty;
        $($(#[$attribute:meta])* $variant:ident => $entry:expr,)+
    ) => {
        $(#[$enum_attribute])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum $name { $($(#[$attribute])* $variant,)+ }

        impl $name {
            /// All variants, in the order of the report.
            pub const ALL: [Self; [$(stringify!($variant)),+].len()] = [$(Self::$variant),+];

            $(#[$table_attribute])*
            pub fn $table(self) -> $value {
                match self { $(Self::$variant => $entry,)+ }
            }
        }
    };
}

enum_with_table! {
    /// A check of `podrole check`.
    #[expect(missing_docs, reason = "`Check::about` describes each one")]
    enum Check;
    /// The texts about the check.
    table about: About;
    Kernel => node::KERNEL,
    CgroupMount => node::CGROUP_MOUNT,
    SocketIdentity => node::SOCKET_IDENTITY,
    Capabilities => node::CAPABILITIES,
    KubepodsTree => node::KUBEPODS_TREE,
    NetnsDir => node::NETNS_DIR,
    StateDir => node::STATE_DIR,
    IdentityMode => node::IDENTITY_MODE,
    NftRuns => redirect::NFT_RUNS,
    NftAccepts => redirect::NFT_ACCEPTS,
    TableGuard => redirect::TABLE_GUARD,
    Redirected => redirect::REDIRECTED,
    Counting => redirect::COUNTING,
    RoutingGuard => redirect::ROUTING_GUARD,
    ForeignBefore => redirect::FOREIGN_BEFORE,
    ForeignBehind => redirect::FOREIGN_BEHIND,
    EbpfDatapath => redirect::EBPF_DATAPATH,
    ApiServer => kubernetes::API_SERVER,
    PodsAccess => kubernetes::PODS_ACCESS,
    NamespacesAccess => kubernetes::NAMESPACES_ACCESS,
    ServiceAccountsAccess => kubernetes::SERVICE_ACCOUNTS_ACCESS,
    EventsAccess => kubernetes::EVENTS_ACCESS,
    NodePods => kubernetes::NODE_PODS,
    Metadata => aws::METADATA,
    ForeignCloud => aws::FOREIGN_CLOUD,
    ImdsV1 => aws::IMDS_V1,
    StsReachable => aws::STS_REACHABLE,
    BaseCredentials => aws::BASE_CREDENTIALS,
    FirstHop => aws::FIRST_HOP,
    ClockSkew => aws::CLOCK_SKEW,
    Admin => daemon::ADMIN,
    Ready => daemon::READY,
}

enum_with_table! {
    /// What a check examines. The letter in the check's code stands for the area.
    enum Area;
    /// The heading in the report.
    table name: &'static str;
    /// N: kernel, cgroups, capabilities, directories.
    Node => "node",
    /// R: nftables and routing.
    Redirect => "redirect",
    /// K: the API server and podrole's rights there.
    Kubernetes => "kubernetes",
    /// A: the metadata service and STS.
    Aws => "aws",
    /// D: the daemon on this node.
    Daemon => "daemon",
}

/// The severity of a failed check.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// podrole works, but an operator should know.
    Warning,
    /// podrole does not serve pods, or does not serve them safely.
    Error,
}

/// The texts about a check.
#[derive(Clone, Copy, Debug)]
pub struct About {
    /// The code of the check, which never changes.
    pub code: &'static str,
    /// What the check examines.
    pub area: Area,
    /// A few words that are true if the check passes.
    pub title: &'static str,
    /// The severity of a failure of the check.
    pub severity: Severity,
    /// The reason for the check, and the meaning of a failure.
    pub meaning: &'static str,
    /// What to do if the check fails.
    pub fix: &'static str,
}

// === impl Check ===

impl Check {
    /// The code of the check, which never changes.
    pub fn code(self) -> &'static str {
        self.about().code
    }

    /// What the check examines.
    pub fn area(self) -> Area {
        self.about().area
    }
}

// === impl Severity ===

impl Severity {
    /// The word for the severity in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Warning => "warning",
            Self::Error => "error",
        }
    }
}

const fn error(area: Area, code: &'static str, title: &'static str, meaning: &'static str, fix: &'static str) -> About {
    About { code, area, title, severity: Severity::Error, meaning, fix }
}

const fn warning(
    area: Area,
    code: &'static str,
    title: &'static str,
    meaning: &'static str,
    fix: &'static str,
) -> About {
    About { code, area, title, severity: Severity::Warning, meaning, fix }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_distinct_and_say_their_area() {
        let codes: Vec<&str> = Check::ALL.iter().map(|check| check.code()).collect();
        let distinct: std::collections::BTreeSet<&str> = codes.iter().copied().collect();
        assert_eq!(distinct.len(), codes.len());
        for area in Area::ALL {
            let of_area: Vec<Check> = Check::ALL.into_iter().filter(|check| check.area() == area).collect();
            for (number, check) in of_area.iter().enumerate() {
                let letter = area.name().to_uppercase().chars().next().unwrap();
                assert_eq!(check.code(), format!("PR-{letter}{:02}", number + 1));
            }
        }
    }
}
