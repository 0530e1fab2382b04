//! Reads single objects from the API server, for `explain`. The daemon's own decisions use only its watches.

use std::time::Duration;

use anyhow::Context as _;
use kube::Client;
use serde_json::{Value, json};
use thiserror::Error;

use super::client::{Reach, finish};
use crate::types::causes;

/// Time limit of one request, including the login program that a kubeconfig may name.
const PATIENCE: Duration = Duration::from_secs(30);

/// Reads objects.
pub struct Reader {
    client: Client,
    default_namespace: String,
}

/// An object that a caller can request.
#[derive(Clone, Copy, Debug)]
pub enum Object<'a> {
    /// A pod: namespace and name.
    Pod(&'a str, &'a str),
    /// A namespace.
    Namespace(&'a str),
    /// A service account: namespace and name.
    ServiceAccount(&'a str, &'a str),
}

/// Why an object cannot be read.
#[derive(Debug, Error)]
pub enum ReadError {
    /// The object does not exist.
    #[error("there is no {0}")]
    NotFound(String),
    /// The user has no right to read the object.
    #[error(
        "not allowed to read {what}: {said}; this needs the right to get or list pods and namespaces, and serviceaccounts if they are \
         a source of roles"
    )]
    Forbidden {
        /// The requested object.
        what: String,
        /// The API server's message.
        said: String,
    },
    /// The API server does not accept the user's credentials.
    #[error(
        "the API server does not accept these credentials ({0}); log in again, or choose another --context or --kubeconfig"
    )]
    Unauthorized(String),
    /// No object can have this name.
    #[error("{0:?} is not a valid name of a Kubernetes object")]
    Name(String),
    /// The API server did not answer, or its answer is not the requested object.
    #[error("{}", causes(.0.as_ref()))]
    Failed(#[from] anyhow::Error),
}

// === impl Reader ===

impl Reader {
    /// Creates a reader that connects with the settings in `reach`.
    pub async fn connect(reach: &Reach) -> Result<Self, ReadError> {
        let nowhere = "no --kubeconfig, no KUBECONFIG, no ~/.kube/config, and not in a pod with a service account";
        let config = reach.config(nowhere).await?;
        let default_namespace = config.default_namespace.clone();
        let client = finish(config).context("cannot set up the Kubernetes client")?;
        Ok(Self { client, default_namespace })
    }

    /// The namespace to use if the user names none.
    pub fn default_namespace(&self) -> &str {
        &self.default_namespace
    }

    /// Reads an object. The user needs only the right to get the object or the right to list such objects. The daemon has only
    /// the right to list.
    pub async fn read(&self, object: Object<'_>) -> Result<Value, ReadError> {
        object.check()?;
        match self.request(object, &object.path()).await {
            Err(forbidden @ ReadError::Forbidden { .. }) => match self.request(object, &object.listed()).await {
                Ok(mut list) => {
                    let first = list["items"].as_array_mut().and_then(|items| items.drain(..).next());
                    first.ok_or_else(|| ReadError::NotFound(object.to_string())).map(|found| object.typed(found))
                }
                Err(ReadError::Forbidden { .. }) => Err(forbidden),
                Err(other) => Err(other),
            },
            result => result.map(|found| object.typed(found)),
        }
    }

    async fn request(&self, object: Object<'_>, path: &str) -> Result<Value, ReadError> {
        let request = http::Request::get(path).header(http::header::ACCEPT, "application/json").body(Vec::new());
        let request = request.context("cannot build the request to the API server")?;
        let answer = tokio::time::timeout(PATIENCE, self.client.request::<Value>(request)).await;
        let answer = answer.map_err(|_| anyhow::anyhow!("the API server gave no answer within {PATIENCE:?}"))?;
        answer.map_err(|error| {
            let kube::Error::Api(status) = error else {
                return anyhow::Error::new(error)
                    .context("cannot ask the API server (is this the right --context, and can its server be reached from here?)")
                    .into();
            };
            match status.code {
                401 => ReadError::Unauthorized(status.message),
                403 => ReadError::Forbidden { what: object.to_string(), said: status.message },
                404 => ReadError::NotFound(object.to_string()),
                code => anyhow::anyhow!("the API server answers {code} for {object}: {}", status.message).into(),
            }
        })
    }
}

impl std::fmt::Debug for Reader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Reader({})", self.default_namespace)
    }
}

// === impl Object ===

impl Object<'_> {
    /// Checks the names, which become part of a path.
    fn check(self) -> Result<(), ReadError> {
        match self {
            Self::Namespace(name) => check_name(name),
            Self::Pod(namespace, name) | Self::ServiceAccount(namespace, name) => {
                check_name(namespace).and_then(|()| check_name(name))
            }
        }
    }

    fn collection(self) -> String {
        match self {
            Self::Pod(namespace, _) => format!("/api/v1/namespaces/{namespace}/pods"),
            Self::Namespace(_) => "/api/v1/namespaces".into(),
            Self::ServiceAccount(namespace, _) => format!("/api/v1/namespaces/{namespace}/serviceaccounts"),
        }
    }

    fn name(&self) -> &str {
        match self {
            Self::Pod(_, name) | Self::Namespace(name) | Self::ServiceAccount(_, name) => name,
        }
    }

    fn path(self) -> String {
        format!("{}/{}", self.collection(), self.name())
    }

    fn listed(self) -> String {
        format!("{}?fieldSelector=metadata.name%3D{}", self.collection(), self.name())
    }

    /// Adds version and kind, which the items of a list lack.
    fn typed(self, mut object: Value) -> Value {
        let kind = match self {
            Self::Pod(..) => "Pod",
            Self::Namespace(_) => "Namespace",
            Self::ServiceAccount(..) => "ServiceAccount",
        };
        if let Some(fields) = object.as_object_mut() {
            fields.insert("apiVersion".into(), json!("v1"));
            fields.insert("kind".into(), json!(kind));
        }
        object
    }
}

impl std::fmt::Display for Object<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Pod(namespace, name) => write!(f, "pod {name} in namespace {namespace}"),
            Self::Namespace(name) => write!(f, "namespace {name}"),
            Self::ServiceAccount(namespace, name) => write!(f, "service account {name} in namespace {namespace}"),
        }
    }
}

fn check_name(name: &str) -> Result<(), ReadError> {
    let fits = (1..=253).contains(&name.len())
        && !name.starts_with(['.', '-'])
        && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'.');
    if fits { Ok(()) } else { Err(ReadError::Name(name.into())) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_names_and_paths_are_those_of_the_api() {
        assert_eq!(Object::Pod("shop", "web-1").path(), "/api/v1/namespaces/shop/pods/web-1");
        assert_eq!(Object::Namespace("shop").listed(), "/api/v1/namespaces?fieldSelector=metadata.name%3Dshop");
        for bad in ["", "..", "../secrets", "a/b", "a?b", "A", "-a", "a%2f"] {
            assert!(Object::Namespace(bad).check().is_err(), "{bad}");
            assert!(Object::Pod(bad, "a").check().is_err() && Object::Pod("a", bad).check().is_err(), "{bad}");
        }
    }
}
