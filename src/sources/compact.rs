//! Makes a decoded pod as small as it is. Decoding does not know how long a list will be and makes
//! room as it goes: a quarter of a pod with volumes is room that nothing will ever be put in. Pure;
//! changes nothing that can be seen.

use k8s_openapi::api::core::v1 as api;

use crate::model::Pod;

/// Drops managedFields (a fifth of an object, never read here) and frees unused capacity.
pub(super) fn compact(mut pod: Pod) -> Pod {
    pod.metadata.managed_fields = None;
    if let Some(spec) = &mut pod.spec {
        shrink(&mut spec.volumes);
        for volume in spec.volumes.iter_mut().flatten() {
            if let Some(projected) = &mut volume.projected {
                shrink(&mut projected.sources);
            }
        }
        shrink(&mut spec.init_containers);
        spec.containers.shrink_to_fit();
        for container in spec.containers.iter_mut().chain(spec.init_containers.iter_mut().flatten())
        {
            compact_container(container);
        }
        shrink(&mut spec.tolerations);
    }
    if let Some(status) = &mut pod.status {
        shrink(&mut status.conditions);
        shrink(&mut status.container_statuses);
        shrink(&mut status.init_container_statuses);
        for container in status.container_statuses.iter_mut().flatten() {
            shrink(&mut container.volume_mounts);
        }
    }
    pod
}

fn compact_container(container: &mut api::Container) {
    shrink(&mut container.volume_mounts);
    shrink(&mut container.env);
    shrink(&mut container.env_from);
    shrink(&mut container.ports);
}

fn shrink<T>(list: &mut Option<Vec<T>>) {
    if let Some(list) = list {
        list.shrink_to_fit();
    }
}

#[cfg(test)]
mod tests {
    use super::compact;
    use crate::model::Pod;

    #[test]
    fn a_pod_is_the_same_and_has_no_room_left() {
        let pod: Pod = serde_json::from_value(serde_json::json!({
            "metadata": {"name": "p", "managedFields": [{"manager": "x"}]},
            "spec": {
                "volumes": [
                    {"name": "a", "emptyDir": {}}, {"name": "b", "emptyDir": {}}, {"name": "c", "emptyDir": {}},
                    {"name": "d", "emptyDir": {}}, {"name": "e", "projected": {"sources": [{}]}},
                ],
                "containers": [{"name": "c", "volumeMounts": [{"name": "a", "mountPath": "/a"}]}],
            },
        }))
        .expect("a pod");
        let mut expected = pod.clone();
        expected.metadata.managed_fields = None;
        let compact = compact(pod);
        assert_eq!(compact, expected);
        let volumes = compact.spec.and_then(|spec| spec.volumes).expect("volumes");
        assert_eq!(volumes.capacity(), volumes.len());
    }
}
