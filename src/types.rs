//! The types that every layer shares. podrole parses external text into these types once, when the text enters the program.

mod allow;
mod annotation;
mod causes;
mod closed_set;
mod credentials;
mod denial;
mod pod;
mod role;
mod session;

pub use allow::{AllowList, AllowListError, Glob};
pub use annotation::{AnnotationKey, SetBy};
pub use causes::causes;
pub(crate) use closed_set::closed_set;
pub use credentials::{Credentials, Secret};
pub use denial::{Denial, DenialClass, DenialReason};
pub use pod::{
    Annotation, BadAnnotation, ContainerId, ContainerRole, KernelIdentity, NamespaceEntry, PodEntry, PodUid,
    ServiceAccountEntry,
};
pub use role::{BaseArn, RoleArn, RoleError, RoleRef};
pub use session::{ExternalId, SessionName, SessionNameError};

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The address at which AWS SDKs look for instance metadata over IPv4.
pub const METADATA_V4: Ipv4Addr = Ipv4Addr::new(169, 254, 169, 254);
/// The address at which AWS SDKs look for instance metadata over IPv6 (`fd00:ec2::254`).
pub const METADATA_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254);
/// The only port of the metadata service.
pub const METADATA_PORT: u16 = 80;

/// Whether `ip` is one of the two metadata addresses.
pub fn is_metadata(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(v4) => v4 == METADATA_V4,
        IpAddr::V6(v6) => v6 == METADATA_V6,
    }
}
