//! What a container's environment refers to, so that the executor can fetch it before the request
//! is made.

use k8s_openapi::api::core::v1 as api;

use crate::model::Pod;

/// One thing that a container's environment needs.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ObjectRef {
    /// A ConfigMap of the pod's namespace.
    ConfigMap {
        /// Its name.
        name: String,
        /// Whether every use of it is optional: then nobody waits for it.
        optional: bool,
    },
    /// A Secret of the pod's namespace.
    Secret {
        /// Its name.
        name: String,
        /// Whether every use of it is optional.
        optional: bool,
    },
    /// A file in a volume of the pod; to be opened without following a link out of the volume.
    File {
        /// The volume.
        volume: String,
        /// The path in the volume.
        path: String,
    },
}

/// What the container's environment refers to, each once, in order of first use. All objects are of
/// the pod's namespace.
pub fn references(_pod: &Pod, container: &api::Container) -> Vec<ObjectRef> {
    let mut all = Vec::new();
    for source in container.env_from.iter().flatten() {
        if let Some(map) = &source.config_map_ref {
            add(&mut all, config_map(&map.name, map.optional));
        } else if let Some(secret) = &source.secret_ref {
            add(&mut all, self::secret(&secret.name, secret.optional));
        }
    }
    for source in container
        .env
        .iter()
        .flatten()
        .filter(|var| var.value.as_deref().unwrap_or_default().is_empty())
    {
        let Some(source) = &source.value_from else { continue };
        if let Some(map) = &source.config_map_key_ref {
            add(&mut all, config_map(&map.name, map.optional));
        } else if let Some(secret) = &source.secret_key_ref {
            add(&mut all, self::secret(&secret.name, secret.optional));
        } else if let Some(file) = &source.file_key_ref {
            add(
                &mut all,
                ObjectRef::File { volume: file.volume_name.clone(), path: file.path.clone() },
            );
        }
    }
    all
}

fn config_map(name: &str, optional: Option<bool>) -> ObjectRef {
    ObjectRef::ConfigMap { name: name.to_owned(), optional: optional.unwrap_or(false) }
}

fn secret(name: &str, optional: Option<bool>) -> ObjectRef {
    ObjectRef::Secret { name: name.to_owned(), optional: optional.unwrap_or(false) }
}

fn add(all: &mut Vec<ObjectRef>, new: ObjectRef) {
    use ObjectRef::{ConfigMap, File, Secret};
    for known in all.iter_mut() {
        match (known, &new) {
            (ConfigMap { name, optional }, ConfigMap { name: other, optional: also })
            | (Secret { name, optional }, Secret { name: other, optional: also })
                if name == other =>
            {
                *optional &= also;
                return;
            }
            (File { volume, path }, File { volume: other, path: at })
                if volume == other && path == at =>
            {
                return;
            }
            (ConfigMap { .. } | Secret { .. } | File { .. }, _) => {}
        }
    }
    all.push(new);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pods::request::testing::pod;
    use serde_json::json;

    #[test]
    fn lists_each_object_once() {
        let pod = pod(json!({"containers": [{
            "name": "c",
            "envFrom": [{"configMapRef": {"name": "a", "optional": true}}, {"secretRef": {"name": "a"}}],
            "env": [
                {"name": "X", "valueFrom": {"configMapKeyRef": {"name": "a", "key": "k"}}},
                {"name": "Y", "valueFrom": {"secretKeyRef": {"name": "b", "key": "k", "optional": true}}},
                {"name": "Z", "value": "set", "valueFrom": {"secretKeyRef": {"name": "unused", "key": "k"}}},
                {"name": "F", "valueFrom": {"fileKeyRef": {"volumeName": "v", "path": "p", "key": "k"}}},
                {"name": "G", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
            ],
        }]}));
        let container = &pod.spec.as_ref().expect("spec").containers[0];
        assert_eq!(
            references(&pod, container),
            [
                ObjectRef::ConfigMap { name: "a".into(), optional: false },
                ObjectRef::Secret { name: "a".into(), optional: false },
                ObjectRef::Secret { name: "b".into(), optional: true },
                ObjectRef::File { volume: "v".into(), path: "p".into() },
            ]
        );
    }
}
