//! The checks of the node's metadata service and of STS.

use super::{About, Area, error, warning};

pub(super) const METADATA: About = error(
    Area::Aws,
    "PR-A01",
    "the node's metadata service answers",
    "podrole learns the region, and usually gets its base credentials, from EC2's metadata service. Without it pods wait.",
    "Enable the instance's metadata service (HttpEndpoint). Outside EC2 set --platform=none and --region. If the service does not know \
     the region, set --region.",
);
pub(super) const FOREIGN_CLOUD: About = error(
    Area::Aws,
    "PR-A02",
    "the metadata address does not belong to another cloud",
    "Another cloud's metadata service has the same address. podrole would cut the node's pods off from it, so it refuses to run and \
     changes nothing.",
    "Run podrole only on AWS, or where nothing answers at the metadata address.",
);
pub(super) const IMDS_V1: About = warning(
    Area::Aws,
    "PR-A03",
    "the node's metadata service requires a session token",
    "The instance still answers requests without a session token (IMDSv1). A request that reaches the metadata service without going \
     through podrole, such as one from a program on the host network that can be made to fetch a URL, then gets the node's credentials. \
     The hop limit, which should be 1, cannot be read from the node itself.",
    "aws ec2 modify-instance-metadata-options --http-tokens required --http-put-response-hop-limit 1 --instance-id ID; and \
     the same in the launch template.",
);
pub(super) const STS_REACHABLE: About = error(
    Area::Aws,
    "PR-A04",
    "STS answers",
    "podrole assumes roles through STS in the node's region. STS does not answer, or throttles podrole. Credentials that pods have stay \
     valid until they expire; podrole cannot get new ones.",
    "Check that the node can reach sts.REGION.amazonaws.com (VPC endpoint, proxy, security group, DNS), AWS_ENDPOINT_URL_STS, and \
     AWS_CA_BUNDLE.",
);
pub(super) const BASE_CREDENTIALS: About = error(
    Area::Aws,
    "PR-A05",
    "podrole has valid base credentials",
    "podrole signs its calls with base credentials from the usual AWS chain, most often the node's instance profile. There are none, or \
     STS rejects them.",
    "Give the node an instance profile, or give podrole other credentials. If STS says that they are expired or invalid, check the \
     node's clock too (PR-A07).",
);
pub(super) const FIRST_HOP: About = error(
    Area::Aws,
    "PR-A06",
    "podrole can assume the role of --assume-role-arn",
    "podrole first assumes the role of --assume-role-arn (the first hop), and pods' roles with that. STS denies podrole the first hop.",
    "Check that the role exists, that its trust policy names the role of podrole's base credentials, and that this role may call \
     sts:AssumeRole on it.",
);
pub(super) const CLOCK_SKEW: About = warning(
    Area::Aws,
    "PR-A07",
    "the node's clock agrees with STS's",
    "The clocks differ by more than a minute. STS rejects requests whose signature is more than five minutes off.",
    "Synchronize the node's clock with 169.254.169.123 or another time server (chronyd, systemd-timesyncd).",
);
