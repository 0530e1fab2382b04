//! What `podrole check` asks the API server: whether it answers, what we may do there, whether our node has pods. Never a write: an
//! access review is a question that happens to be a POST.

use anyhow::Context as _;
use k8s_openapi::api::authorization::v1::{
    ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec, SubjectAccessReviewStatus,
};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{ListParams, PostParams};
use kube::{Api, Client};

/// A right, as RBAC names it; in every namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Right {
    /// The API group; empty for the core group.
    pub group: &'static str,
    /// The plural.
    pub resource: &'static str,
    /// The verb.
    pub verb: &'static str,
}

/// An API server to ask.
#[derive(Clone)]
pub struct Access {
    client: Client,
}

// === impl Access ===

impl Access {
    /// By a client that [`super::client::client`] made.
    pub fn new(client: Client) -> Self {
        Self { client }
    }

    /// The server's version: it answers, and knows who we are.
    pub async fn version(&self) -> anyhow::Result<String> {
        Ok(self.client.apiserver_version().await?.git_version)
    }

    /// Whether we have `right`, by the server's own authorizers.
    pub async fn allows(&self, right: Right) -> anyhow::Result<bool> {
        let attributes = ResourceAttributes {
            group: Some(right.group.into()),
            resource: Some(right.resource.into()),
            verb: Some(right.verb.into()),
            ..ResourceAttributes::default()
        };
        let spec = SelfSubjectAccessReviewSpec {
            resource_attributes: Some(attributes),
            ..SelfSubjectAccessReviewSpec::default()
        };
        let review = SelfSubjectAccessReview { spec, ..SelfSubjectAccessReview::default() };
        let reviews = Api::<SelfSubjectAccessReview>::all(self.client.clone());
        let answer = reviews.create(&PostParams::default(), &review).await?;
        let SubjectAccessReviewStatus { allowed, .. } = answer.status.context("the review has no status")?;
        Ok(allowed)
    }

    /// Whether any pod has this `spec.nodeName`. Asked of the server's cache, and as metadata only.
    pub async fn has_pods(&self, node: &str) -> anyhow::Result<bool> {
        let pods = Api::<Pod>::all(self.client.clone());
        let of_node = ListParams::default().fields(&format!("spec.nodeName={node}")).match_any();
        Ok(!pods.list_metadata(&of_node).await?.items.is_empty())
    }
}

impl std::fmt::Debug for Access {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Access")
    }
}

impl std::fmt::Display for Right {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let dot = if self.group.is_empty() { "" } else { "." };
        write!(f, "{} {}{dot}{}", self.verb, self.resource, self.group)
    }
}
