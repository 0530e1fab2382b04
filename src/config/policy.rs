//! The policy part of the settings. `run` decides by it and `explain` explains by it, so both read it with this one code.

use std::collections::HashMap;
use std::sync::Arc;

use clap::Args;

use super::parse::Problems;
use crate::policy::{ContainerRoles, Rules, SessionScope};
use crate::types::{AllowList, AllowListError, BaseArn, Glob, RoleArn};

/// Flags that decide who may have which role.
#[derive(Args, Clone, Debug)]
pub struct PolicyArgs {
    /// What role names without arn: are completed with, such as arn:aws:iam::111122223333:role/ [default: podrole's own account]
    #[arg(long, env = "PODROLE_BASE_ROLE_ARN")]
    pub base_role_arn: Option<String>,
    /// Glob over full ARNs that every role must match; repeat or separate by commas [default: every role of the base account]
    #[arg(long, env = "PODROLE_ROLE_CEILING", value_delimiter = ',')]
    pub role_ceiling: Vec<String>,
    /// Role to assume first; pods' roles are then assumed by it
    #[arg(long, env = "PODROLE_ASSUME_ROLE_ARN")]
    pub assume_role_arn: Option<String>,
    /// Who shares an STS session: pod | service-account | role
    #[arg(long, env = "PODROLE_SESSION_SCOPE", default_value = "pod")]
    pub session_scope: String,
    /// Roles a namespace may use besides its own annotation: NS=GLOB[,GLOB]; repeat for more
    #[arg(long, env = "PODROLE_ALLOW", value_delimiter = ';')]
    pub allow: Vec<String>,
    /// Whether a namespace without any list allows nothing: true | false
    #[arg(long, env = "PODROLE_REQUIRE_ALLOW", default_value = "true")]
    pub require_allow: String,
    /// Per-container roles in pods where a container may read its siblings' packets: shared (work) | strict (refused)
    #[arg(long, env = "PODROLE_CONTAINER_ROLES", default_value = "shared")]
    pub container_roles: String,
    /// Whether eks.amazonaws.com/role-arn of the service account is a source of roles: true | false
    #[arg(long, env = "PODROLE_SERVICE_ACCOUNT_ROLES", default_value = "false")]
    pub service_account_roles: String,
}

/// The same, parsed.
#[derive(Clone, Debug)]
pub struct PolicySettings {
    /// What bare role names are completed with; `None`: the daemon's own account.
    pub base: Option<BaseArn>,
    /// Patterns every role must match; empty: the base account.
    pub ceiling: Vec<Glob>,
    /// A role between the daemon's own and the pods'.
    pub assume_role: Option<RoleArn>,
    /// Who shares a session.
    pub session_scope: SessionScope,
    /// What the administrator allows, by namespace.
    pub allow: HashMap<Arc<str>, AllowList>,
    /// Whether a namespace needs a list.
    pub require_allow: bool,
    /// Whether per-container roles need pods that cannot sniff.
    pub container_roles: ContainerRoles,
    /// Whether service accounts' IRSA annotation is a source of roles.
    pub service_account_roles: bool,
}

// === impl PolicySettings ===

impl PolicySettings {
    /// Reads `args`; all errors at once. `environment` is the process's, handed in.
    pub fn new(args: PolicyArgs, environment: &HashMap<String, String>) -> Result<Self, Vec<String>> {
        let mut problems = Problems::default();
        problems.unknown_variables(environment);
        let settings = Self::read(args, &mut problems);
        problems.into_result(settings)
    }

    pub(super) fn read(args: PolicyArgs, p: &mut Problems) -> Self {
        // Named one by one: a flag that nothing reads does not compile.
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

    /// The rules that these settings make. `account` is the base where none was set, `own_roles` what no pod may have besides the
    /// first hop's role.
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
