//! Pods and namespaces as the API server sends them, with arbitrary annotations.
#![no_main]

use libfuzzer_sys::{Corpus, fuzz_target};
use podrole::pods::convert::{SlimMeta, SlimPod, namespace_entry, pod_entry, service_account_entry};
use podrole::types::BadAnnotation;

fuzz_target!(|data: &[u8]| -> Corpus {
    let pod = serde_json::from_slice::<SlimPod>(data).ok();
    let meta = serde_json::from_slice::<SlimMeta>(data).ok();
    if pod.is_none() && meta.is_none() {
        return Corpus::Reject;
    }
    if let Some(entry) = pod.as_ref().and_then(pod_entry) {
        assert!(!entry.uid.as_str().is_empty());
        let errors = [entry.role.and_then(Result::err), entry.external_id.and_then(Result::err)];
        errors.into_iter().flatten().chain(entry.session_name.and_then(Result::err)).for_each(|error| one_line(&error));
    }
    if let Some(entry) = meta.as_ref().and_then(namespace_entry) {
        let errors = [entry.allowed_roles.and_then(Result::err), entry.permitted.and_then(Result::err)];
        errors.into_iter().flatten().chain(entry.external_id.and_then(Result::err)).for_each(|error| one_line(&error));
    }
    if let Some(error) =
        meta.as_ref().and_then(service_account_entry).and_then(|entry| entry.role).and_then(Result::err)
    {
        one_line(&error);
    }
    Corpus::Keep
});

/// The error text goes into logs and audit lines.
fn one_line(error: &BadAnnotation) {
    let text = error.to_string();
    assert!(text.len() < 1024 && !text.contains(char::is_control), "{text:?}");
}
