//! Names of cgroup directories: a container that may make its own can call them what it likes.
#![no_main]

use libfuzzer_sys::fuzz_target;
use podrole::caller::cgroup_path::{container_id, is_kubepods_root, is_qos_class, pod_uid};

fuzz_target!(|data: &str| {
    for name in data.split('/') {
        let (class, pod, container) = (is_qos_class(name), pod_uid(name), container_id(name));
        // What is looked for side by side. A root is looked for at the top alone, and may be called like a pod there.
        assert!(!(class && pod.is_some()), "{name} is a class and a pod");
        assert!(pod.is_none() || container.is_none(), "{name} is a pod and a container");
        assert!(!(is_kubepods_root(name) && container.is_some()), "{name} is a root and a container");
        if let Some(id) = container {
            assert!(id.as_str().len() == 64 && name.contains(id.as_str()), "{name}");
        }
        if let Some(uid) = pod {
            let uid = uid.as_str();
            assert!(!uid.is_empty() && !uid.contains(['/', '\0', '\n']), "{name}");
            assert!(name.contains(uid) || name.replace('_', "-").contains(uid), "{name}");
        }
    }
});
