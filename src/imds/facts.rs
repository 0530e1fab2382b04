//! Static facts about the node that pods may know.

use std::sync::Arc;

use super::Fact;

/// A snapshot taken once at start. What is `None` is not known here and is answered 404: a wrong region is worse than none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// `us-west-2`.
    pub region: Option<Arc<str>>,
    /// `us-west-2b`.
    pub zone: Option<Arc<str>>,
    /// `usw2-az2`.
    pub zone_id: Option<Arc<str>>,
    /// `m5.large`.
    pub instance_type: Option<Arc<str>>,
    /// `amazonaws.com`.
    pub domain: Option<Arc<str>>,
    /// `aws`.
    pub partition: Option<Arc<str>>,
    /// The node's account, twelve digits.
    pub account: Option<Arc<str>>,
}

// === impl Facts ===

impl Facts {
    /// One of those that have a path of their own, as far as it is known.
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
