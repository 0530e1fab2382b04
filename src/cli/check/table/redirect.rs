//! The checks of nftables and routing.

use super::{About, Area, error, warning};

pub(super) const NFT_RUNS: About = error(
    Area::Redirect,
    "PR-R01",
    "nft runs and supports JSON",
    "podrole sets its rules with the nft program, which must be at one of the usual paths and be built with JSON support. Without it \
     only the routing guard keeps pods from the node's metadata service.",
    "Install the nftables package (1.0 or later) on the node, or use podrole's image, which contains it.",
);
pub(super) const NFT_ACCEPTS: About = error(
    Area::Redirect,
    "PR-R02",
    "nft and the kernel accept podrole's rules",
    "nft and the kernel validated podrole's table without setting it, and rejected it: the kernel lacks a part of nf_tables (nat, ct, \
     fib), or another program owns a table of this name.",
    "Read nft's message. Load nf_tables, nft_chain_nat, nft_ct and nft_fib_inet if they are modules. Find the program that owns the \
     table inet podrole.",
);
pub(super) const TABLE_GUARD: About = error(
    Area::Redirect,
    "PR-R03",
    "the table guard is as podrole wrote it",
    "The table inet podrole guards the metadata address: it drops packets that would be forwarded to it and packets with a forged \
     source. It is missing, another program has changed it, or an interface that leads out of the node was added after podrole's start.",
    "Restart podrole, which writes the table again, and find the program that changed it: nft monitor shows changes.",
);
pub(super) const REDIRECTED: About = error(
    Area::Redirect,
    "PR-R04",
    "pods' requests are redirected to podrole",
    "The table has no redirect to a port of --port-range. That is so while only podrole guard has run; pods then get no answer.",
    "Start podrole run. If it is running, compare its --port-range with this command's.",
);
pub(super) const COUNTING: About = warning(
    Area::Redirect,
    "PR-R05",
    "the redirect has counted requests from pods",
    "The redirect has counted no packet since it was set. If pods of this node request roles, their packets bypass netfilter, as with \
     Cilium's eBPF host routing, or never reach the node. On a quiet node it means nothing.",
    "Send a request from a pod: curl -X PUT -H 'X-aws-ec2-metadata-token-ttl-seconds: 60' http://169.254.169.254/latest/api/token. \
     If the counter stays at 0, see PR-R09.",
);
pub(super) const ROUTING_GUARD: About = error(
    Area::Redirect,
    "PR-R06",
    "the routing guard is complete",
    "Two routing rules and a local route for each metadata address keep pods from the node's metadata service even if every nftables \
     table is flushed. Some of them are missing.",
    "Run podrole guard, which adds the missing ones, and find the program that removed them: often a network daemon that flushes rules \
     it does not know (systemd-networkd: set ManageForeignRoutingPolicyRules=no).",
);
pub(super) const FOREIGN_BEFORE: About = error(
    Area::Redirect,
    "PR-R07",
    "no other program rewrites metadata requests before podrole",
    "A rule of another program rewrites the destination of packets for the metadata address before podrole's rule sees them: pods' \
     requests go to that destination.",
    "Find out which program made the rule, then remove it with the command that the check prints.",
);
pub(super) const FOREIGN_BEHIND: About = warning(
    Area::Redirect,
    "PR-R08",
    "no leftover rule rewrites metadata requests behind podrole",
    "A rule of another program for the metadata address comes after podrole's, such as those that kube2iam and kiam leave behind. It \
     has no effect while podrole's table exists; without the table it sends pods' requests to its own destination. The check cannot \
     read the rules of iptables-legacy: if iptables-legacy has a nat table, the check does not pass but says so.",
    "Remove the rule with the command that the check prints. For iptables-legacy, list the rules: iptables-legacy -t nat -S.",
);
pub(super) const EBPF_DATAPATH: About = warning(
    Area::Redirect,
    "PR-R09",
    "no datapath bypasses netfilter",
    "The node has an interface of Cilium. With Cilium's eBPF host routing, pods' packets bypass netfilter and policy routing, and so \
     both of podrole's guards.",
    "Set bpf.hostLegacyRouting=true in Cilium's values. Then send a request from a pod and see that PR-R05 passes.",
);
