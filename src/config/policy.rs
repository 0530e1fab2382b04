//! The policy settings. `run` and `explain` both read them with this code, so that they make the same decisions.

use std::collections::HashMap;
use std::sync::Arc;

use clap::Args;

use super::parse::Problems;
use crate::policy::{ContainerRoles, Rules, SessionScope};
use crate::types::{AllowList, AllowListError, BaseArn, Glob, RoleArn};

/// The flags that decide which pod may have which role.
#[derive(Args, Clone, Debug)]
pub struct PolicyArgs {
    /// ARN prefix that completes role names without arn:, such as arn:aws:iam::111122223333:role/ [default: podrole's own account]
    #[arg(long, env = "PODROLE_BASE_ROLE_ARN")]
    pub base_role_arn: Option<String>,
    /// Glob over full ARNs that every role must match; can be repeated or comma-separated [default: all roles of the base account]
    #[arg(long, env = "PODROLE_ROLE_CEILING", value_delimiter = ',')]
    pub role_ceiling: Vec<String>,
    /// First hop: role that podrole assumes first, and with which it then assumes the pods' roles [default: none]
    #[arg(long, env = "PODROLE_ASSUME_ROLE_ARN")]
    pub assume_role_arn: Option<String>,
    /// Scope of an STS session: pod | service-account | role (one for each role and node)
    #[arg(long, env = "PODROLE_SESSION_SCOPE", default_value = "pod")]
    pub session_scope: String,
    /// Roles that a namespace may use in addition to those in its annotations: NAMESPACE=GLOB[,GLOB]; can be repeated
    #[arg(long, env = "PODROLE_ALLOW", value_delimiter = ';')]
    pub allow: Vec<String>,
    /// Roles of a namespace without an allow list: true (none) | false (all within the ceiling)
    #[arg(long, env = "PODROLE_REQUIRE_ALLOW", default_value = "true")]
    pub require_allow: String,
    /// Per-container roles in pods with a container that can read its siblings' credentials: shared (allowed) | strict (denied)
    #[arg(long, env = "PODROLE_CONTAINER_ROLES", default_value = "shared")]
    pub container_roles: String,
    /// Whether to use the service account's annotation eks.amazonaws.com/role-arn as a source of roles: true | false
    #[arg(long, env = "PODROLE_SERVICE_ACCOUNT_ROLES", default_value = "false")]
    pub service_account_roles: String,
}

/// The parsed policy flags.
#[derive(Clone, Debug)]
pub struct PolicySettings {
    /// The ARN prefix that completes bare role names; `None` for the daemon's own account.
    pub base: Option<BaseArn>,
    /// Every role must match at least one of these patterns. An empty list stands for all roles of the base account.
    pub ceiling: Vec<Glob>,
    /// The first hop.
    pub assume_role: Option<RoleArn>,
    /// Which requests share an STS session.
    pub session_scope: SessionScope,
    /// The administrator's allow lists, by namespace.
    pub allow: HashMap<Arc<str>, AllowList>,
    /// Whether a namespace without an allow list allows no roles.
    pub require_allow: bool,
    /// Which pods may have per-container roles.
    pub container_roles: ContainerRoles,
    /// Whether the IRSA annotation of service accounts is a source of roles.
    pub service_account_roles: bool,
}

// === impl PolicySettings ===

impl PolicySettings {
    /// Parses `args`. `environment` is the process's environment. On failure, returns one message for each mistake.
    pub fn new(args: PolicyArgs, environment: &HashMap<String, String>) -> Result<Self, Vec<String>> {
        let mut problems = Problems::default();
        problems.unknown_variables(environment);
        let settings = Self::read(args, &mut problems);
        problems.into_result(settings)
    }

    pub(super) fn read(args: PolicyArgs, p: &mut Problems) -> Self {
        // The pattern has no `..`, so a flag that is not read here is a compile error.
        let PolicyArgs {
            base_role_arn,
            role_ceiling,
            assume_role_arn,
            session_scope,
            allow,
            require_allow,
            container_roles,
            service_account_roles,
        } = args;
        let scopes = [
            ("pod", SessionScope::Pod),
            ("service-account", SessionScope::ServiceAccount),
            ("role", SessionScope::Role),
        ];
        let container_choices = [("shared", ContainerRoles::Shared), ("strict", ContainerRoles::Strict)];
        Self {
            base: base_role_arn.and_then(|text| p.parsed("--base-role-arn", &text, BaseArn::parse)),
            ceiling: p.globs("--role-ceiling", &role_ceiling),
            assume_role: assume_role_arn.and_then(|text| p.parsed("--assume-role-arn", &text, RoleArn::parse)),
            session_scope: p.choice("--session-scope", &session_scope, &scopes).unwrap_or(SessionScope::Pod),
            allow: p.allow("--allow", &allow),
            require_allow: p.boolean("--require-allow", &require_allow),
            container_roles: p
                .choice("--container-roles", &container_roles, &container_choices)
                .unwrap_or(ContainerRoles::Strict),
            service_account_roles: p.boolean("--service-account-roles", &service_account_roles),
        }
    }

    /// The policy rules for these settings. `account` is the base if the settings name no base. No pod may have any of
    /// `own_roles` or the first hop's role. Fails if the default ceiling is not a valid pattern.
    pub fn rules(
        &self,
        account: BaseArn,
        own_roles: impl IntoIterator<Item = RoleArn>,
        node: Arc<str>,
    ) -> Result<Rules, AllowListError> {
        let base = self.base.clone().unwrap_or(account);
        let ceiling = match self.ceiling.as_slice() {
            [] => vec![Glob::parse(&format!("{}*", base.account_prefix()))?],
            ceiling => ceiling.to_vec(),
        };
        Ok(Rules {
            base,
            ceiling,
            own_roles: own_roles.into_iter().chain(self.assume_role.clone()).collect(),
            require_allow: self.require_allow,
            allow: self.allow.clone(),
            container_roles: self.container_roles,
            session_scope: self.session_scope,
            node,
        })
    }
}
