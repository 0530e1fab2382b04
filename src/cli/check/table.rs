//! Every check there is: code, title, severity, what it means, what to do. The one source of what `podrole check` prints and of the
//! pages in `docs/checks`.

/// A check. The letter of its code says what it looks at, see [`Area`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[expect(missing_docs, reason = "`Check::about` has the words")]
pub enum Check {
    Kernel,
    CgroupMount,
    SocketIdentity,
    Capabilities,
    KubepodsTree,
    NetnsDir,
    StateDir,
    IdentityMode,
    NftRuns,
    NftAccepts,
    Table,
    Redirected,
    Counting,
    RoutingLock,
    ForeignBefore,
    ForeignBehind,
    EbpfDatapath,
    ApiServer,
    PodsAccess,
    NamespacesAccess,
    ServiceAccountsAccess,
    EventsAccess,
    NodePods,
    Metadata,
    ForeignCloud,
    ImdsV1,
    StsReachable,
    BaseCredentials,
    FirstHop,
    ClockSkew,
    Admin,
    Ready,
}

/// What a check looks at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Area {
    /// N: kernel, cgroups, directories.
    Node,
    /// R: nftables and routing.
    Redirect,
    /// K: the API server and our rights.
    Kubernetes,
    /// A: metadata service and STS.
    Aws,
    /// D: the daemon that runs here.
    Daemon,
}

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// It works, and somebody should know.
    Warning,
    /// Pods are not served, or not safely.
    Error,
}

/// What there is to say about a check.
#[derive(Clone, Copy, Debug)]
pub struct About {
    /// Stable.
    pub code: &'static str,
    /// What is looked at; the code's letter.
    pub area: Area,
    /// What holds when it is silent, in a few words.
    pub title: &'static str,
    /// How bad it is when it does not hold.
    pub severity: Severity,
    /// Why it is looked at, and what it means when it does not hold.
    pub meaning: &'static str,
    /// What to do.
    pub fix: &'static str,
}

// === impl Check ===

impl Check {
    /// All, in the order of their codes within an area.
    pub const ALL: [Self; 32] = [
        Self::Kernel,
        Self::CgroupMount,
        Self::SocketIdentity,
        Self::Capabilities,
        Self::KubepodsTree,
        Self::NetnsDir,
        Self::StateDir,
        Self::IdentityMode,
        Self::NftRuns,
        Self::NftAccepts,
        Self::Table,
        Self::Redirected,
        Self::Counting,
        Self::RoutingLock,
        Self::ForeignBefore,
        Self::ForeignBehind,
        Self::EbpfDatapath,
        Self::ApiServer,
        Self::PodsAccess,
        Self::NamespacesAccess,
        Self::ServiceAccountsAccess,
        Self::EventsAccess,
        Self::NodePods,
        Self::Metadata,
        Self::ForeignCloud,
        Self::ImdsV1,
        Self::StsReachable,
        Self::BaseCredentials,
        Self::FirstHop,
        Self::ClockSkew,
        Self::Admin,
        Self::Ready,
    ];

    /// The stable code.
    pub fn code(self) -> &'static str {
        self.about().code
    }

    /// What it looks at.
    pub fn area(self) -> Area {
        self.about().area
    }

    /// Everything about it.
    pub fn about(self) -> About {
        match self {
            Self::Kernel => error(
                Area::Node,
                "PR-N01",
                "the kernel is new enough",
                "podrole asks the kernel which cgroup a socket belongs to. Linux tells that since 5.7.",
                "Run the node on Linux 5.7 or newer, or accept the weaker --identity=ip.",
            ),
            Self::CgroupMount => error(
                Area::Node,
                "PR-N02",
                "cgroup v2 is mounted at --cgroup-root",
                "A pod's containers are told apart by their cgroups of version 2. On a node with version 1, or where the host's \
                 hierarchy is not mounted into podrole's container, there is nothing to tell them apart by, and podrole refuses to \
                 start. A hybrid node has version 2 too, in a directory of its own.",
                "Boot the node with systemd.unified_cgroup_hierarchy=1; on a hybrid node set --cgroup-root to the directory that the \
                 check names; in a container mount the host's /sys/fs/cgroup, read-only. Or accept the weaker --identity=ip.",
            ),
            Self::SocketIdentity => error(
                Area::Node,
                "PR-N03",
                "the kernel tells whose a socket is",
                "The check opens a connection to itself and asks the kernel, as podrole does for each request, which cgroup made the \
                 socket; that cgroup must be in the tree at --cgroup-root. A container that sees only its own part of the tree fails \
                 here, and so does a kernel without CONFIG_INET_DIAG or CONFIG_SOCK_CGROUP_DATA.",
                "Mount the host's whole /sys/fs/cgroup at --cgroup-root, not the container's own view of it; load inet_diag and \
                 tcp_diag where they are modules.",
            ),
            Self::Capabilities => error(
                Area::Node,
                "PR-N04",
                "podrole has the capabilities it needs",
                "CAP_NET_ADMIN for nftables, routes and other processes' sockets; CAP_SYS_ADMIN to enter pods' network namespaces; \
                 CAP_NET_BIND_SERVICE to listen on port 80 of the metadata address. No others are needed.",
                "Add the missing ones to securityContext.capabilities.add of podrole's container, or run podrole check as root.",
            ),
            Self::KubepodsTree => error(
                Area::Node,
                "PR-N05",
                "the kubelet's cgroups are there",
                "Pods' cgroups are looked for below a directory named kubepods, kubepods.slice or kubelet-kubepods.slice at most three \
                 levels below --cgroup-root. There is none, so no request can be told to come from any pod.",
                "Check the kubelet's --cgroup-root and cgroup driver, and that podrole sees the host's hierarchy.",
            ),
            Self::NetnsDir => error(
                Area::Node,
                "PR-N06",
                "pods' network namespaces can be seen",
                "podrole enters pods' network namespaces by the names that the container runtime gives them in --netns-dir. Names that \
                 are no namespaces are mounts that podrole's container does not see.",
                "Mount the host's /run/netns into podrole's container with mountPropagation: HostToContainer, or correct --netns-dir.",
            ),
            Self::StateDir => error(
                Area::Node,
                "PR-N07",
                "the state directory is podrole's alone",
                "The keys of session tokens are kept in --state-dir, so that a restart costs no client its token. podrole does not use \
                 a directory that others could read or replace: it goes on without, and every restart then makes clients start over.",
                "Remove the directory, so that podrole makes it anew, or give --state-dir one that belongs to podrole's user with mode \
                 0700 and is no symbolic link.",
            ),
            Self::IdentityMode => warning(
                Area::Node,
                "PR-N08",
                "pods are told apart by the kernel",
                "With --identity=ip a pod is whoever has its address. A pod that can take another's address (NET_RAW, NET_ADMIN, reuse \
                 before the API server knows) can take its role.",
                "Use --identity=kernel, which needs cgroup v2.",
            ),
            Self::NftRuns => error(
                Area::Redirect,
                "PR-R01",
                "nft runs and speaks JSON",
                "podrole sets its rules by the nft program, which must be where distributions put it and be built with JSON. Without \
                 it the routing lock alone keeps pods from the node's metadata.",
                "Install the nftables package (1.0 or newer) on the node, or use podrole's image, which has it.",
            ),
            Self::NftAccepts => error(
                Area::Redirect,
                "PR-R02",
                "the kernel takes podrole's rules",
                "nft and the kernel were asked whether they would take podrole's table, without setting it, and said no: the kernel \
                 lacks a part of nf_tables (nat, ct, fib), or another program owns a table of this name.",
                "Read what nft said. Load nf_tables, nft_chain_nat, nft_ct and nft_fib_inet where they are modules; find who owns the \
                 table inet podrole.",
            ),
            Self::Table => error(
                Area::Redirect,
                "PR-R03",
                "the table inet podrole is as podrole wrote it",
                "The table guards the metadata address: it drops what must not be forwarded and what is not from where it says. It is \
                 missing, or somebody changed it, or an interface that leads out of the node came after podrole's start.",
                "Restart podrole, which writes the table anew, and find out who changed it: nft monitor shows that.",
            ),
            Self::Redirected => error(
                Area::Redirect,
                "PR-R04",
                "pods' requests are led to podrole",
                "The table has no redirect to a port of --port-range. After podrole guard alone that is so, and pods are refused.",
                "Start podrole run; if it runs, compare its --port-range with the one of this command.",
            ),
            Self::Counting => warning(
                Area::Redirect,
                "PR-R05",
                "pods' requests have come by the redirect",
                "The redirect has counted no packet since it was set. On a node whose pods ask for roles that means that their packets \
                 pass by netfilter, as with Cilium's eBPF host routing, or never reach the node. On a quiet node it means nothing.",
                "Ask from a pod: curl -X PUT -H 'X-aws-ec2-metadata-token-ttl-seconds: 60' http://169.254.169.254/latest/api/token. \
                 If the counter still stands at 0, see PR-R09.",
            ),
            Self::RoutingLock => error(
                Area::Redirect,
                "PR-R06",
                "the routing lock stands",
                "Two routing rules and a local route for each metadata address keep pods from the node's metadata service even when \
                 every nftables table is flushed. Some of it is missing.",
                "Run podrole guard, which sets what is missing, and find out what removed it: often a network daemon that flushes \
                 rules it does not know (systemd-networkd: ManageForeignRoutingPolicyRules=no).",
            ),
            Self::ForeignBefore => error(
                Area::Redirect,
                "PR-R07",
                "nobody takes the metadata address before podrole",
                "Another program's rule rewrites the destination of what is sent to the metadata address, and comes before podrole's: \
                 pods' requests go where it says.",
                "Remove the rule by the command that the check prints, once you know whose it is.",
            ),
            Self::ForeignBehind => warning(
                Area::Redirect,
                "PR-R08",
                "no left-over rule waits for the metadata address",
                "Another program's rule for the metadata address stands behind podrole's, as kube2iam and kiam leave theirs behind. It \
                 does nothing while podrole's table stands, and leads pods to where it says when that is away. Rules of \
                 iptables-legacy cannot be read here: where it has a nat table, the check does not pass but says so.",
                "Remove the rule by the command that the check prints. For iptables-legacy, look at: iptables-legacy -t nat -S.",
            ),
            Self::EbpfDatapath => warning(
                Area::Redirect,
                "PR-R09",
                "no datapath that passes by netfilter is here",
                "An interface of Cilium's is on this node. With its eBPF host routing, packets of pods pass by netfilter and policy \
                 routing, and so by both of podrole's locks.",
                "Set bpf.hostLegacyRouting=true in Cilium's values, then see that PR-R05 is silent after a request from a pod.",
            ),
            Self::ApiServer => error(
                Area::Kubernetes,
                "PR-K01",
                "the API server answers",
                "podrole learns from the API server which pods are on its node and what they ask for. Without it new pods wait.",
                "Check --kubeconfig, or the service account of podrole's pod, and the way to the API server's address.",
            ),
            Self::PodsAccess => error(
                Area::Kubernetes,
                "PR-K02",
                "podrole may list and watch pods",
                "Without this right no pod is known, and none is served.",
                "Give podrole's service account list and watch on pods, by a ClusterRole.",
            ),
            Self::NamespacesAccess => error(
                Area::Kubernetes,
                "PR-K03",
                "podrole may list and watch namespaces",
                "The namespace's annotations say which roles its pods may have. Without this right every pod waits for an answer.",
                "Give podrole's service account list and watch on namespaces, by a ClusterRole.",
            ),
            Self::ServiceAccountsAccess => error(
                Area::Kubernetes,
                "PR-K04",
                "podrole may list and watch service accounts",
                "With --service-account-roles=true the annotation eks.amazonaws.com/role-arn of a service account is a source of roles. \
                 Without this right podrole is never ready.",
                "Give podrole's service account list and watch on serviceaccounts, or set --service-account-roles=false.",
            ),
            Self::EventsAccess => warning(
                Area::Kubernetes,
                "PR-K05",
                "podrole may write Events",
                "Denials are shown as Events on the pod, where its owner looks. Without these rights they stand in the audit log and \
                 in the metrics only.",
                "Give podrole's service account create and patch on events of the group events.k8s.io, by a ClusterRole.",
            ),
            Self::NodePods => warning(
                Area::Kubernetes,
                "PR-K06",
                "the API server knows pods of this node",
                "No pod's spec.nodeName is --node-name. Where podrole itself runs as a pod, that cannot be: the name is wrong, and no \
                 pod of this node will be served.",
                "Set --node-name to the node's name in kubectl get nodes; in a DaemonSet take it from spec.nodeName by the downward API.",
            ),
            Self::Metadata => error(
                Area::Aws,
                "PR-A01",
                "the node reaches its own metadata service",
                "podrole learns the region, and usually its own credentials, from EC2's metadata service. Without it pods wait.",
                "Enable the instance's metadata service (HttpEndpoint). Outside EC2 set --platform=none and --region. Where it knows no \
                 region, set --region.",
            ),
            Self::ForeignCloud => error(
                Area::Aws,
                "PR-A02",
                "the metadata address is not another cloud's",
                "Another cloud's metadata service has the same address. podrole would cut the node's pods off from it, so it refuses to \
                 run, and changes nothing.",
                "Run podrole on AWS only, or where nothing answers at the metadata address.",
            ),
            Self::ImdsV1 => warning(
                Area::Aws,
                "PR-A03",
                "the node's metadata service asks for a session token",
                "The instance still answers without a session token (IMDSv1). What reaches the metadata service past podrole, such as a \
                 program on the host network that can be made to fetch a URL, then gets the node's credentials. The hop limit, which \
                 should be 1, cannot be seen from the node itself.",
                "aws ec2 modify-instance-metadata-options --http-tokens required --http-put-response-hop-limit 1 --instance-id ID; and \
                 the same in the launch template.",
            ),
            Self::StsReachable => error(
                Area::Aws,
                "PR-A04",
                "STS answers",
                "Roles are assumed through STS in the node's region. It does not answer, or asks for fewer calls. Credentials that pods \
                 have stay good until they expire; new ones cannot be had.",
                "Check the way to sts.REGION.amazonaws.com (VPC endpoint, proxy, security group, DNS), AWS_ENDPOINT_URL_STS, and \
                 AWS_CA_BUNDLE.",
            ),
            Self::BaseCredentials => error(
                Area::Aws,
                "PR-A05",
                "podrole has credentials of its own",
                "podrole signs its calls with credentials from the usual chain, most often the node's instance profile. There are none, \
                 or STS refuses them.",
                "Give the node an instance profile, or podrole credentials of its own. Where STS says that they are expired or invalid, \
                 look at the node's clock too (PR-A07).",
            ),
            Self::FirstHop => error(
                Area::Aws,
                "PR-A06",
                "the role of --assume-role-arn can be assumed",
                "Pods' roles are assumed by the role of --assume-role-arn, and STS does not give podrole that one.",
                "Check that the role exists, that its trust policy names podrole's own role, and that this role may call \
                 sts:AssumeRole on it.",
            ),
            Self::ClockSkew => warning(
                Area::Aws,
                "PR-A07",
                "the node's clock agrees with STS's",
                "The clocks differ by more than a minute. STS refuses what is signed five minutes off.",
                "Let the node take its time from 169.254.169.123 or another time server (chronyd, systemd-timesyncd).",
            ),
            Self::Admin => error(
                Area::Daemon,
                "PR-D01",
                "podrole runs here",
                "Nobody answers at --admin-addr: podrole does not run on this node, or with another --admin-addr.",
                "Look at podrole's log, or at kubectl logs of its pod on this node: it says why a start fails.",
            ),
            Self::Ready => error(
                Area::Daemon,
                "PR-D02",
                "podrole is ready",
                "The daemon runs and says that it is not ready. What it waits for is named: listener, redirect, routing, pods, \
                 namespaces, identity, and service_accounts with --service-account-roles=true.",
                "See the other checks: identity waits for the metadata service and STS, pods, namespaces and service_accounts for the \
                 API server, routing for the routing lock.",
            ),
        }
    }
}

// === impl Area ===

impl Area {
    /// All, in the order of the report.
    pub const ALL: [Self; 5] = [Self::Node, Self::Redirect, Self::Kubernetes, Self::Aws, Self::Daemon];

    /// Its heading.
    pub fn name(self) -> &'static str {
        match self {
            Self::Node => "node",
            Self::Redirect => "redirect",
            Self::Kubernetes => "kubernetes",
            Self::Aws => "aws",
            Self::Daemon => "daemon",
        }
    }
}

// === impl Severity ===

impl Severity {
    /// The word for it.
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

    /// The last one's number is the count of all: none can be left out of the list, and by that out of report, pages and cases.
    #[test]
    fn the_list_is_whole() {
        assert_eq!(Check::ALL.len(), Check::Ready as usize + 1);
        assert!(Check::ALL.iter().enumerate().all(|(number, check)| *check as usize == number));
    }

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
