//! The checks of the API server.

use super::{About, Area, error, warning};

pub(super) const API_SERVER: About = error(
    Area::Kubernetes,
    "PR-K01",
    "the API server answers",
    "podrole learns from the API server which pods are on its node and which roles they request. Without it new pods wait.",
    "Check --kubeconfig, or the service account of podrole's pod, and that the API server can be reached from this node.",
);
pub(super) const PODS_ACCESS: About = error(
    Area::Kubernetes,
    "PR-K02",
    "podrole may list and watch pods",
    "Without this right podrole knows no pod and serves none.",
    "Give podrole's service account list and watch on pods, with a ClusterRole.",
);
pub(super) const NAMESPACES_ACCESS: About = error(
    Area::Kubernetes,
    "PR-K03",
    "podrole may list and watch namespaces",
    "The annotations of a namespace say which roles its pods may have. Without this right every pod waits for an answer.",
    "Give podrole's service account list and watch on namespaces, with a ClusterRole.",
);
pub(super) const SERVICE_ACCOUNTS_ACCESS: About = error(
    Area::Kubernetes,
    "PR-K04",
    "podrole may list and watch service accounts",
    "With --service-account-roles=true the annotation eks.amazonaws.com/role-arn of a service account is a source of roles. Without \
     this right podrole never becomes ready.",
    "Give podrole's service account list and watch on serviceaccounts, or set --service-account-roles=false.",
);
pub(super) const EVENTS_ACCESS: About = warning(
    Area::Kubernetes,
    "PR-K05",
    "podrole may write Events",
    "podrole reports denials as Events on the pod, so that its owner sees them. Without these rights they are only in the audit log and \
     in the metrics.",
    "Give podrole's service account create and patch on events of the group events.k8s.io, with a ClusterRole.",
);
pub(super) const NODE_PODS: About = warning(
    Area::Kubernetes,
    "PR-K06",
    "the API server has pods of this node",
    "No pod has --node-name as its spec.nodeName. If podrole itself runs as a pod, the name is wrong, and no pod of this node will be \
     served.",
    "Set --node-name to the node's name in kubectl get nodes; in a DaemonSet take it from spec.nodeName with the downward API.",
);
