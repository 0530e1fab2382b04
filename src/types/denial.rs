//! The closed list of reasons for which a known pod gets no credentials. The audit log, metrics, Events, `explain` and the
//! documentation all use the names and texts of the table in this file.

use super::{BadAnnotation, RoleArn, closed_set};

closed_set! {
    /// The reason of an Event. The reasons are few and stable, so that Events can be grouped and selected by them.
    pub enum DenialClass {
        /// Policy denies the role, or the caller is not identified beyond doubt.
        RoleDenied = "RoleDenied",
        /// A value that a user wrote is invalid.
        RoleInvalid = "RoleInvalid",
        /// AWS denies the role.
        AssumeRoleFailed = "AssumeRoleFailed",
    }
}

/// Declares [`Denial`] and [`DenialReason`] from one table. Each row has:
///
/// - the data that the message needs, if any;
/// - `class`: the reason of its Event;
/// - `outcome`: the label of a request with this denial in `podrole_http_requests_total`;
/// - `why`: one sentence about one denial, made from the data;
/// - `meaning`: what happened in general, in one to three sentences;
/// - `fix`: what to do about it.
macro_rules! denials {
    ($(
        $(#[$doc:meta])*
        $variant:ident $({ $($(#[$field_doc:meta])* $field:ident: $type:ty),+ $(,)? })? => {
            class: $class:ident,
            outcome: $outcome:literal,
            why: $why:literal,
            meaning: $meaning:literal,
            fix: $fix:literal $(,)?
        }
    )+) => {
        /// Why a pod that podrole knows is denied credentials.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Denial {
            $($(#[$doc])* $variant),+
        }

        /// A [`Denial`] with the data of one case. `Display` writes one sentence for people, which says what happened, why, and
        /// what to do.
        #[derive(Clone, Debug, PartialEq, Eq)]
        pub enum DenialReason {
            $($(#[$doc])* $variant $({ $($(#[$field_doc])* $field: $type),+ })?),+
        }

        impl Denial {
            /// Every denial, in the order of the documentation.
            pub const ALL: [Self; [$($outcome),+].len()] = [$(Self::$variant),+];

            /// The names, in the same order.
            pub const NAMES: [&'static str; Self::ALL.len()] = [$(stringify!($variant)),+];

            /// The stable name.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => stringify!($variant)),+
                }
            }

            /// The class of the denial.
            pub const fn class(self) -> DenialClass {
                match self {
                    $(Self::$variant => DenialClass::$class),+
                }
            }

            /// The outcome of a request with this denial in `podrole_http_requests_total`.
            pub const fn outcome(self) -> &'static str {
                match self {
                    $(Self::$variant => $outcome),+
                }
            }

            /// A general description of the denial.
            pub const fn meaning(self) -> &'static str {
                match self {
                    $(Self::$variant => $meaning),+
                }
            }

            /// General advice on what to do about the denial.
            pub const fn fix(self) -> &'static str {
                match self {
                    $(Self::$variant => $fix),+
                }
            }
        }

        impl DenialReason {
            /// The reason without its data.
            pub const fn denial(&self) -> Denial {
                match self {
                    $(Self::$variant { .. } => Denial::$variant),+
                }
            }
        }

        impl std::fmt::Display for DenialReason {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                match self {
                    $(Self::$variant $({ $($field),+ })? => write!(f, $why)),+
                }
            }
        }
    };
}

denials! {
    /// The role is outside `--role-ceiling`.
    AboveCeiling {
        /// The role that the pod asks for.
        role: RoleArn,
    } => {
        class: RoleDenied,
        outcome: "denied",
        why: "role {role} is outside --role-ceiling; ask the cluster's administrator",
        meaning: "The role that the pod asks for matches none of the patterns of --role-ceiling, which limits the roles that any pod of \
                  the cluster can get, no matter what its namespace allows. The default ceiling is all roles of podrole's own account.",
        fix: "Ask for a role within the ceiling, or have the cluster's administrator add a pattern for the role to --role-ceiling.",
    }
    /// Several network namespaces have the address, and none of them belongs to the pod whose status publishes the address.
    AddressConflict => {
        class: RoleDenied,
        outcome: "address_conflict",
        why: "several network namespaces hold the caller's address, and none of them belongs to the pod that has published it",
        meaning: "Several network namespaces of the node hold the address that the request came from, and according to the API server \
                  none of them belongs to the pod with that address.",
        fix: "Find the pod that added an address that is not its own (it has NET_ADMIN) and stop it.",
    }
    /// Two pods claim one cgroup or, with `--identity=ip`, one address.
    Ambiguous => {
        class: RoleDenied,
        outcome: "ambiguous",
        why: "two pods claim to be the caller",
        meaning: "Two pods in the API claim to be the caller: both name the same cgroup or, with --identity=ip, the same address. podrole \
                  does not guess.",
        fix: "Look for a pod object that was created by hand with another pod's annotations (kubernetes.io/config.hash, \
              kubernetes.io/config.mirror), or for an address that two running pods share, and delete the wrong one.",
    }
    /// STS does not let podrole assume this role.
    AssumeRoleRefused {
        /// The role that podrole tried to assume.
        role: RoleArn,
        /// STS's error code.
        code: &'static str,
        /// What the code usually means.
        hint: &'static str,
    } => {
        class: AssumeRoleFailed,
        outcome: "issuer_denied",
        why: "STS denies podrole the role {role} ({code}): {hint}",
        meaning: "STS denied podrole this role. AWS sends the same error if the role does not exist, if its trust policy does \
                  not name podrole's own role, and if podrole's role may not call sts:AssumeRole.",
        fix: "Check that the role exists in the account of its ARN, that its trust policy allows sts:AssumeRole to podrole's role, that \
              podrole's role may assume it, and that the external id is the one that the trust policy requires.",
    }
    /// The namespace's list of roles is invalid, and no other list allows the role.
    BadAllowList {
        /// The invalid list.
        bad: BadAnnotation,
    } => {
        class: RoleInvalid,
        outcome: "denied",
        why: "the namespace's list of roles is invalid: {bad}",
        meaning: "The namespace's list of allowed roles is invalid, and no other list allows the role. An invalid list allows nothing, \
                  because its author meant to restrict the namespace.",
        fix: "Make iam.amazonaws.com/allowed-roles a JSON array of patterns, as in [\"web-*\"], or iam.amazonaws.com/permitted a regular \
              expression; the message says what is wrong with the current value.",
    }
    /// The external id is invalid.
    BadExternalId {
        /// The invalid external id.
        bad: BadAnnotation,
    } => {
        class: RoleInvalid,
        outcome: "denied",
        why: "the external id is invalid: {bad}",
        meaning: "The external id of the pod or of its namespace is not one that STS accepts.",
        fix: "Use 2 to 1224 characters of letters, digits and +=,.@:/_- for iam.amazonaws.com/external-id.",
    }
    /// The annotation that names the role is invalid.
    BadRole {
        /// The invalid annotation.
        bad: BadAnnotation,
    } => {
        class: RoleInvalid,
        outcome: "denied",
        why: "the role is invalid: {bad}",
        meaning: "The annotation that names the role holds neither a role's name or path nor a role's ARN.",
        fix: "Write a role's name (web), its path and name (team/web) or its ARN (arn:aws:iam::111122223333:role/web).",
    }
    /// The session name is invalid.
    BadSessionName {
        /// The invalid session name.
        bad: BadAnnotation,
    } => {
        class: RoleInvalid,
        outcome: "denied",
        why: "the session name is invalid: {bad}",
        meaning: "The session name that the pod asks for is not one that STS accepts, or it is too long: the whole name, \
                  NAMESPACE.NAME.UID with the first 8 characters of the UID, has at most 64 characters. podrole never shortens it.",
        fix: "Use letters, digits and +=,.@_- for iam.amazonaws.com/session-name: at least 2 characters, and with the name of the \
              namespace at most 54.",
    }
    /// `--container-roles=strict` is set, and a container of the pod can read its siblings' credentials.
    ContainerRolesRefused => {
        class: RoleDenied,
        outcome: "denied",
        why: "--container-roles=strict: a container of this pod may read its siblings' credentials; drop NET_RAW in every container, \
              share no process namespace, or use one role for the pod",
        meaning: "The pod gives a container its own role, the cluster runs with --container-roles=strict, and a container of the pod \
                  could read its siblings' credentials: it has NET_RAW or NET_ADMIN and reads them from the network that they share, or \
                  it shares a process namespace with them (shareProcessNamespace, hostPID, the target of an ephemeral container) and \
                  takes their sockets.",
        fix: "Drop NET_RAW, spelled without CAP_, in every container of the pod (securityContext.capabilities.drop), set neither \
              shareProcessNamespace nor hostPID, or use one role for the whole pod.",
    }
    /// A process of the pod sent the request from a network namespace or an address that is not the pod's.
    ForeignNamespace => {
        class: RoleDenied,
        outcome: "foreign_namespace",
        why: "a process of this pod sent the request from a network namespace or an address that is not the pod's own: a mesh proxy, a \
              CNI agent, or an attack",
        meaning: "A process of this pod sent the request from a network namespace, or from an address, that is not the pod's own: a mesh \
                  proxy, a CNI agent, or an attack. podrole gives the pod's role only inside the pod's own network namespace.",
        fix: "Let the application send its requests directly instead of through the proxy, or run the agent in a separate pod with a \
              separate role. If this is not intended, treat it as an attack.",
    }
    /// No list allows the role in the pod's namespace.
    NamespaceNotPermitted {
        /// The role that the pod asks for.
        role: RoleArn,
    } => {
        class: RoleDenied,
        outcome: "denied",
        why: "no list allows role {role} in this namespace; add it to the namespace's annotation iam.amazonaws.com/allowed-roles",
        meaning: "Neither the namespace's annotations nor --allow permit the role in the pod's namespace. Nothing is permitted by default.",
        fix: "Annotate the namespace: kubectl annotate namespace NAMESPACE 'iam.amazonaws.com/allowed-roles=[\"ROLE\"]'.",
    }
    /// The pod asks for no role.
    NoRole => {
        class: RoleDenied,
        outcome: "denied",
        why: "the pod asks for no role; annotate it with iam.amazonaws.com/role",
        meaning: "Neither the pod nor its container asks for a role, so there is nothing to give. There is no default role.",
        fix: "Annotate the pod, in its template, with iam.amazonaws.com/role. If the pod does not need AWS, do nothing.",
    }
    /// The role is podrole's own role, the role of the first hop, or the node's role.
    OwnRole {
        /// The role that the pod asks for.
        role: RoleArn,
    } => {
        class: RoleDenied,
        outcome: "denied",
        why: "role {role} is podrole's own or the node's, and no pod may have it; choose another",
        meaning: "The role is the one that podrole itself works with, its first hop, or the node's. No pod gets any of these, whatever a \
                  list allows.",
        fix: "Create a role for the pod that has only the permissions that the pod needs.",
    }
    /// The pod has ended.
    PodFinished => {
        class: RoleDenied,
        outcome: "denied",
        why: "the pod has finished",
        meaning: "The pod has finished. Its remaining processes get no credentials.",
        fix: "Nothing, unless the pod still runs: then the phase that the API shows is wrong.",
    }
    /// The pod asked for a role other than its own.
    WrongRole {
        /// The name of the pod's own role.
        own: String,
    } => {
        class: RoleDenied,
        outcome: "wrong_role",
        why: "the pod asked for another role's name than its own, {own}",
        meaning: "The pod asked for the credentials of another role's name than its own. Clients first ask for the list of roles and take \
                  the name from it; a name that is written into the client's configuration must be the pod's.",
        fix: "Remove the name from the client's configuration, or change it to the name of the pod's own role.",
    }
}

impl std::fmt::Display for Denial {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_distinct_and_in_order() {
        assert!(Denial::ALL.map(Denial::name).is_sorted_by(|a, b| a < b), "{:?}", Denial::ALL);
    }

    #[test]
    fn a_reason_is_put_into_words_with_its_data() {
        let role = RoleArn::parse("arn:aws:iam::111122223333:role/web").unwrap();
        let reason = DenialReason::AssumeRoleRefused { role, code: "AccessDenied", hint: "look there" };
        assert_eq!(
            reason.to_string(),
            "STS denies podrole the role arn:aws:iam::111122223333:role/web (AccessDenied): look there"
        );
        assert_eq!((reason.denial(), DenialReason::NoRole.denial()), (Denial::AssumeRoleRefused, Denial::NoRole));
    }
}
