//! Static facts about the node that pods may read.

use std::sync::Arc;

use super::Fact;

/// The facts, which are read once at start. podrole answers requests for a fact that is `None` with 404, because a wrong region
/// is worse than no region.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// The region, such as `us-west-2`.
    pub region: Option<Arc<str>>,
    /// The availability zone, such as `us-west-2b`.
    pub zone: Option<Arc<str>>,
    /// The id of the availability zone, such as `usw2-az2`.
    pub zone_id: Option<Arc<str>>,
    /// The instance type, such as `m5.large`.
    pub instance_type: Option<Arc<str>>,
    /// The domain of AWS's services, such as `amazonaws.com`.
    pub domain: Option<Arc<str>>,
    /// The partition, such as `aws`.
    pub partition: Option<Arc<str>>,
    /// The node's account, twelve digits.
    pub account: Option<Arc<str>>,
}

// === impl Facts ===

impl Facts {
    /// The value of `fact`, if it is known.
    pub fn get(&self, fact: Fact) -> Option<&str> {
        match fact {
            Fact::Region => self.region.as_deref(),
            Fact::Zone => self.zone.as_deref(),
            Fact::ZoneId => self.zone_id.as_deref(),
            Fact::InstanceType => self.instance_type.as_deref(),
            Fact::Domain => self.domain.as_deref(),
            Fact::Partition => self.partition.as_deref(),
        }
    }
}
