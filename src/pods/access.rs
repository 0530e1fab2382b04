//! The requests of `podrole check` to the API server. They find out whether the server answers, which rights podrole has, and
//! whether the node has pods. This module writes nothing: an access review is only a question, although it is sent by POST.

use anyhow::Context as _;
use k8s_openapi::api::authorization::v1::{
    ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec, SubjectAccessReviewStatus,
};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{ListParams, PostParams};
use kube::{Api, Client};

/// A right in every namespace, in RBAC's terms.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Right {
    /// The API group; empty for the core group.
    pub group: &'static str,
    /// The plural name of the resource.
    pub resource: &'static str,
    /// The verb.
    pub verb: &'static str,
}

/// Sends the questions of `podrole check` to one API server.
#[derive(Clone)]
pub struct Access {
    client: Client,
}

// === impl Access ===

impl Access {
    /// Uses a client that [`super::client::client`] made.
    pub fn new(client: Client) -> Self {
        Self { client }
    }

    /// The server's version. An answer shows that the server is reachable and accepts the client's credentials.
    pub async fn version(&self) -> anyhow::Result<String> {
        Ok(self.client.apiserver_version().await?.git_version)
    }

    /// Whether the client has `right`, according to the server.
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
        let SubjectAccessReviewStatus { allowed, .. } =
            answer.status.context("the API server's access review has no status")?;
        Ok(allowed)
    }

    /// Whether any pod has this `spec.nodeName`. Asks the server's cache, for metadata only.
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
