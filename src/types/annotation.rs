//! Every annotation key that podrole reads, in one table. Annotations with other keys are dropped while objects are parsed, and
//! only a key of this table can be looked up, so every new annotation must be added to this table.

use super::closed_set;

closed_set! {
    /// An annotation that podrole reads. Its name is the key.
    pub enum AnnotationKey {
        /// The pod's role. kube2iam and kiam use the same key.
        Role = "iam.amazonaws.com/role",
        /// The role of one container of the pod; the container's name follows the key.
        ContainerRole = "podrole.dev/role.",
        /// The external id to assume the role with, on a pod or a namespace.
        ExternalId = "iam.amazonaws.com/external-id",
        /// The session name that the pod's owner chose.
        SessionName = "iam.amazonaws.com/session-name",
        /// The service account's role. IRSA uses the same key.
        ServiceAccountRole = "eks.amazonaws.com/role-arn",
        /// The namespace's list of globs. kube2iam uses the same key.
        AllowedRoles = "iam.amazonaws.com/allowed-roles",
        /// The namespace's regular expression. kiam uses the same key.
        Permitted = "iam.amazonaws.com/permitted",
        /// `allow` permits the namespace's pods to send requests without a session token.
        ImdsV1 = "podrole.dev/imds-v1",
        /// The UID in the cgroup names of a static pod; the kubelet sets it.
        ConfigHash = "kubernetes.io/config.hash",
        /// The UID in the cgroup names of a static pod, on its mirror object in the API server.
        ConfigMirror = "kubernetes.io/config.mirror",
        /// Marks the bookmark that ends a streamed first list. A watcher that does not see it never becomes ready.
        InitialEventsEnd = "k8s.io/initial-events-end",
    }
}

/// Who sets an annotation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SetBy {
    /// People set it, so the documentation describes it.
    People,
    /// Kubernetes sets it.
    Kubernetes,
}

// === impl AnnotationKey ===

impl AnnotationKey {
    /// The annotation whose key is `text`, if podrole reads it.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|key| match key.is_prefix() {
            true => text.starts_with(key.name()),
            false => text == key.name(),
        })
    }

    /// Whether the name is only the beginning of the annotation's key.
    pub const fn is_prefix(self) -> bool {
        matches!(self, Self::ContainerRole)
    }

    /// Who sets the annotation.
    pub const fn set_by(self) -> SetBy {
        match self {
            Self::Role
            | Self::ContainerRole
            | Self::ExternalId
            | Self::SessionName
            | Self::ServiceAccountRole
            | Self::AllowedRoles
            | Self::Permitted
            | Self::ImdsV1 => SetBy::People,
            Self::ConfigHash | Self::ConfigMirror | Self::InitialEventsEnd => SetBy::Kubernetes,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_recognized() {
        for key in AnnotationKey::ALL {
            assert_eq!(AnnotationKey::parse(key.name()), Some(key));
            assert_eq!(AnnotationKey::parse(&format!("{key}x")), key.is_prefix().then_some(key));
        }
        assert_eq!(AnnotationKey::parse("example.com/role"), None);
    }
}
