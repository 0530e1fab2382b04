//! The closed list of reasons for which a known pod gets no credentials: one name each in the audit log, in metrics, in Events, in
//! `explain` and in the documentation.

/// Why a pod that podrole knows is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Denial {
    /// The role is above `--role-ceiling`.
    AboveCeiling,
    /// Several network namespaces hold the address, and none of them is its published owner.
    AddressConflict,
    /// Two pods claim one cgroup, or in address mode one address.
    Ambiguous,
    /// STS will not give this role to podrole.
    AssumeRoleRefused,
    /// The namespace's list of roles cannot be read.
    BadAllowList,
    /// The external id cannot be used.
    BadExternalId,
    /// The role cannot be read.
    BadRole,
    /// The session name cannot be used.
    BadSessionName,
    /// `--container-roles=strict`, and a container of the pod may sniff.
    ContainerRolesRefused,
    /// A process of the pod asked from a network namespace or an address that is not the pod's.
    ForeignNamespace,
    /// No list allows the role in the pod's namespace.
    NamespaceNotPermitted,
    /// The pod asks for no role.
    NoRole,
    /// The role is podrole's own, its first hop's, or the node's.
    OwnRole,
    /// The pod has ended.
    PodFinished,
    /// The pod asked for another role's name than its own.
    WrongRole,
}

/// What an Event's reason can be: few and stable, so that Events group and can be selected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DenialClass {
    /// Policy, or who is asking, says no.
    RoleDenied,
    /// Something that was written cannot be read.
    RoleInvalid,
    /// AWS says no.
    AssumeRoleFailed,
}

// === impl Denial ===

impl Denial {
    /// Every reason, in the order of the documentation.
    pub const ALL: [Self; 15] = [
        Self::AboveCeiling,
        Self::AddressConflict,
        Self::Ambiguous,
        Self::AssumeRoleRefused,
        Self::BadAllowList,
        Self::BadExternalId,
        Self::BadRole,
        Self::BadSessionName,
        Self::ContainerRolesRefused,
        Self::ForeignNamespace,
        Self::NamespaceNotPermitted,
        Self::NoRole,
        Self::OwnRole,
        Self::PodFinished,
        Self::WrongRole,
    ];

    /// The stable name.
    pub fn name(self) -> &'static str {
        match self {
            Self::AboveCeiling => "AboveCeiling",
            Self::Ambiguous => "Ambiguous",
            Self::AssumeRoleRefused => "AssumeRoleRefused",
            Self::BadAllowList => "BadAllowList",
            Self::BadExternalId => "BadExternalId",
            Self::BadRole => "BadRole",
            Self::BadSessionName => "BadSessionName",
            Self::ContainerRolesRefused => "ContainerRolesRefused",
            Self::ForeignNamespace => "ForeignNamespace",
            Self::NamespaceNotPermitted => "NamespaceNotPermitted",
            Self::NoRole => "NoRole",
            Self::OwnRole => "OwnRole",
            Self::PodFinished => "PodFinished",
            Self::AddressConflict => "AddressConflict",
            Self::WrongRole => "WrongRole",
        }
    }

    /// What kind of refusal it is.
    pub fn class(self) -> DenialClass {
        match self {
            Self::BadAllowList | Self::BadExternalId | Self::BadRole | Self::BadSessionName => DenialClass::RoleInvalid,
            Self::AssumeRoleRefused => DenialClass::AssumeRoleFailed,
            Self::AboveCeiling
            | Self::Ambiguous
            | Self::ContainerRolesRefused
            | Self::ForeignNamespace
            | Self::NamespaceNotPermitted
            | Self::NoRole
            | Self::OwnRole
            | Self::PodFinished
            | Self::AddressConflict
            | Self::WrongRole => DenialClass::RoleDenied,
        }
    }

    /// What has happened, in general: one or two sentences.
    pub fn meaning(self) -> &'static str {
        match self {
            Self::AboveCeiling => {
                "The role that the pod asks for matches none of the patterns of --role-ceiling, which bounds what any pod of the \
                 cluster can get, whatever its namespace allows. By default these are the roles of the base account."
            }
            Self::Ambiguous => {
                "Two pods in the API claim to be the one that calls: both name the same cgroup, or, with --identity=ip, the same \
                 address. podrole does not guess."
            }
            Self::AssumeRoleRefused => {
                "STS refused to give podrole this role. AWS answers the same where the role does not exist, where its trust policy \
                 does not name podrole's own role, and where podrole's role may not call sts:AssumeRole."
            }
            Self::BadAllowList => {
                "The namespace's list of allowed roles cannot be read, and no other list allows the role. A list that cannot be read \
                 allows nothing: whoever wrote it meant to restrict."
            }
            Self::BadExternalId => "The external id of the pod or of its namespace is not one that STS takes.",
            Self::BadRole => {
                "The annotation that names the role holds something that is neither a role's name or path nor a role's ARN."
            }
            Self::BadSessionName => "The session name that the pod asks for is not one that STS takes.",
            Self::ContainerRolesRefused => {
                "The pod gives a container a role of its own, the cluster runs with --container-roles=strict, and a container of the \
                 pod has NET_RAW: it could read its siblings' credentials off the network that they share."
            }
            Self::ForeignNamespace => {
                "A process of this pod asked from a network namespace, or from an address, that is not the pod's own: a mesh proxy, \
                 a CNI agent, or an attack. The role of the pod is given only inside its own network namespace."
            }
            Self::NamespaceNotPermitted => {
                "Neither the namespace's annotations nor --allow permit the role in the pod's namespace. Nothing is permitted by \
                 default."
            }
            Self::NoRole => {
                "Neither the pod nor its container asks for a role, so there is nothing to give. There is no default role."
            }
            Self::OwnRole => {
                "The role is the one that podrole itself works with, its first hop's, or the node's. No pod is given any of these, \
                 whatever a list allows."
            }
            Self::PodFinished => "The pod has ended; what is left of it is given nothing.",
            Self::AddressConflict => {
                "Several network namespaces of the node own the address that the request came from, and the API server says of none \
                 that it is that pod's address."
            }
            Self::WrongRole => {
                "The pod asked for the credentials of another role's name than its own. Clients ask for the list first and take the \
                 name from there; a name that was written into the client's configuration must be the pod's."
            }
        }
    }

    /// What to do about it, in general.
    pub fn fix(self) -> &'static str {
        match self {
            Self::AboveCeiling => {
                "Ask for a role within the ceiling, or have the cluster's administrator add a pattern for it to --role-ceiling."
            }
            Self::Ambiguous => {
                "Look for a pod object that was created by hand with another pod's annotations (kubernetes.io/config.hash, \
                 kubernetes.io/config.mirror), or for an address that two running pods share, and delete the false one."
            }
            Self::AssumeRoleRefused => {
                "Check that the role exists in the account of its ARN, that its trust policy allows sts:AssumeRole to podrole's role, \
                 that podrole's role may assume it, and that the external id is the one that the trust policy asks for."
            }
            Self::BadAllowList => {
                "Make iam.amazonaws.com/allowed-roles a JSON array of patterns, as in [\"web-*\"], or iam.amazonaws.com/permitted a \
                 regular expression; the message says what is wrong with the one that is there."
            }
            Self::BadExternalId => {
                "Use 2 to 1224 characters of letters, digits and +=,.@:/_- for iam.amazonaws.com/external-id."
            }
            Self::BadRole => {
                "Write a role's name (web), its path and name (team/web) or its ARN (arn:aws:iam::111122223333:role/web)."
            }
            Self::BadSessionName => {
                "Use 2 to 55 characters of letters, digits and +=,.@_- for iam.amazonaws.com/session-name."
            }
            Self::ContainerRolesRefused => {
                "Drop NET_RAW in every container of the pod (securityContext.capabilities.drop), or use one role for the whole pod."
            }
            Self::ForeignNamespace => {
                "Let the application ask by itself instead of through the proxy, or run the agent with a role of its own in a pod of \
                 its own. If nobody does this on purpose, treat it as an attack."
            }
            Self::NamespaceNotPermitted => {
                "Annotate the namespace: kubectl annotate namespace NAMESPACE 'iam.amazonaws.com/allowed-roles=[\"ROLE\"]'."
            }
            Self::NoRole => {
                "Annotate the pod, in its template, with iam.amazonaws.com/role; or leave it, if it needs no AWS."
            }
            Self::OwnRole => "Make a role for the pod that has only what the pod needs.",
            Self::PodFinished => "Nothing, unless the pod still runs: then the API shows a phase that is not true.",
            Self::AddressConflict => {
                "Find the pod that added an address which is not its own (it has NET_ADMIN) and stop it."
            }
            Self::WrongRole => {
                "Take the name out of the client's configuration, or make it the name of the pod's own role."
            }
        }
    }
}

impl std::fmt::Display for Denial {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

// === impl DenialClass ===

impl DenialClass {
    /// The stable name: an Event's `reason`.
    pub fn name(self) -> &'static str {
        match self {
            Self::RoleDenied => "RoleDenied",
            Self::RoleInvalid => "RoleInvalid",
            Self::AssumeRoleFailed => "AssumeRoleFailed",
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn names_are_distinct_and_in_order() {
        let names: Vec<_> = Denial::ALL.iter().map(|denial| denial.name()).collect();
        let distinct: BTreeSet<_> = names.iter().copied().collect();
        assert_eq!(names, distinct.into_iter().collect::<Vec<_>>());
    }
}
