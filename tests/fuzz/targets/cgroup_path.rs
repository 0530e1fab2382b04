//! Names of cgroup directories. A container that may create cgroups chooses their names.
#![no_main]

use libfuzzer_sys::fuzz_target;
use podrole::caller::cgroup_path::{container_id, is_kubepods_root, is_qos_class, pod_uid};

fuzz_target!(|data: &str| {
    for name in data.split('/') {
        let (class, pod, container) = (is_qos_class(name), pod_uid(name), container_id(name));
        // Names that are looked up on the same level. A root is looked up only at the top, so it may be named like a pod.
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
