//! Finds mount points inside volumes: where a container mounts one volume beneath another, the
//! outer one needs a directory. Pure.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{Container, VolumeMount};

use crate::model::{Pod, pod};

/// A mount point that the runtime cannot create because it lies in a volume that the container
/// mounts read-only.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Nested {
    /// The outer volume's name.
    pub outer: String,
    /// The mount point, relative to the outer volume.
    pub path: String,
    /// The index of the container's volumeMount that is mounted there.
    pub index: usize,
}

/// Returns the mount points that a container needs inside volumes which it mounts read-only.
pub fn in_read_only_mounts(container: &Container) -> Vec<Nested> {
    let mounts = container.volume_mounts.as_deref().unwrap_or_default();
    let paths: Vec<String> = mounts.iter().map(|mount| clean(&mount.mount_path)).collect();
    let mut found = Vec::new();

    for (index, path) in paths.iter().enumerate() {
        let inside = |outer: &String| {
            path.strip_prefix(outer.trim_end_matches('/'))
                .and_then(|rest| rest.strip_prefix('/'))
                .filter(|rest| !rest.is_empty())
        };
        let outer = paths
            .iter()
            .zip(mounts)
            .filter_map(|(outer, mount)| Some((outer.len(), inside(outer)?, mount)))
            .max_by_key(|(length, _, _)| *length);
        if let Some((_, relative, mount)) = outer
            && mount.read_only == Some(true)
            && is_whole(mount)
        {
            let outer = mount.name.clone();
            let path = relative.to_owned();
            found.push(Nested { outer, path, index });
        }
    }

    found
}

/// Returns true if the volume is mounted as a whole, without a subPath.
fn is_whole(mount: &VolumeMount) -> bool {
    [&mount.sub_path, &mount.sub_path_expr]
        .into_iter()
        .all(|path| path.as_deref().unwrap_or_default().is_empty())
}

/// A mount point that leaves the container's root. The text is upstream's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid container mount point {0}")]
pub struct MountPointError(String);

/// Returns the directories that volume `name` needs, relative to it. Those beneath a further volume
/// are left to that volume.
pub fn mount_points(pod: &Pod, name: &str) -> Result<BTreeSet<String>, MountPointError> {
    let mut needed = BTreeSet::new();
    for mounts in all_mounts(pod) {
        let mut all: Vec<String> = mounts.iter().map(|mount| clean(&mount.mount_path)).collect();
        all.sort_unstable();
        for own in
            mounts.iter().filter(|mount| mount.name == name).map(|mount| clean(&mount.mount_path))
        {
            if own.starts_with("../") {
                return Err(MountPointError(own));
            }

            let prefix = format!("{}/", own.trim_end_matches('/'));

            let mut nested: Vec<String> = Vec::new();
            for other in all.iter().filter(|other| other.starts_with(&prefix)) {
                if !nested.iter().any(|outer| other.starts_with(outer)) {
                    needed.insert(other[prefix.len()..].to_owned());
                    nested.push(format!("{other}/"));
                }
            }
        }
    }

    needed.remove("");
    Ok(needed)
}

/// Returns the names of the volumes that any container mounts, or has as a device.
pub fn used(pod: &Pod) -> BTreeSet<&str> {
    let devices = |devices: &'_ Option<Vec<k8s_openapi::api::core::v1::VolumeDevice>>| {
        devices.iter().flatten().map(|device| device.name.clone()).collect::<Vec<_>>()
    };
    let names: BTreeSet<String> = pod::init_containers(pod)
        .iter()
        .chain(pod::main_containers(pod))
        .flat_map(|container| devices(&container.volume_devices))
        .chain(
            pod::ephemeral_containers(pod)
                .iter()
                .flat_map(|container| devices(&container.volume_devices)),
        )
        .chain(all_mounts(pod).flatten().map(|mount| mount.name.clone()))
        .collect();
    let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());

    volumes.map(|volume| volume.name.as_str()).filter(|name| names.contains(*name)).collect()
}

fn all_mounts(pod: &Pod) -> impl Iterator<Item = &[VolumeMount]> {
    let containers = pod::init_containers(pod).iter().chain(pod::main_containers(pod));
    let ephemeral = pod::ephemeral_containers(pod).iter().map(|container| &container.volume_mounts);
    containers
        .map(|container| &container.volume_mounts)
        .chain(ephemeral)
        .map(|mounts| mounts.as_deref().unwrap_or_default())
}

/// Cleans a path as Go's `filepath.Clean` does.
fn clean(path: &str) -> String {
    let absolute = path.starts_with('/');

    let mut names: Vec<&str> = Vec::new();
    for name in path.split('/').filter(|name| !name.is_empty() && *name != ".") {
        match (name, names.last()) {
            ("..", Some(last)) if *last != ".." => drop(names.pop()),
            ("..", None) if absolute => {}
            _ => names.push(name),
        }
    }

    let joined = names.join("/");
    match (absolute, joined.is_empty()) {
        (true, _) => format!("/{joined}"),
        (false, true) => ".".to_owned(),
        (false, false) => joined,
    }
}

#[cfg(test)]
mod tests {
    use super::{in_read_only_mounts, mount_points, used};
    use crate::model::Pod;

    #[test]
    fn mount_points_in_a_read_only_volume() {
        let pod: Pod = serde_json::from_value(serde_json::json!({"spec": {
            "volumes": [{"name": "e", "emptyDir": {}}, {"name": "h", "hostPath": {"path": "/x"}}],
            "containers": [{"name": "a", "volumeMounts": [
                {"name": "e", "mountPath": "/var/my/", "readOnly": true},
                {"name": "h", "mountPath": "/var/my/conf.d"},
                {"name": "h", "mountPath": "/var/my/conf.d/deeper"},
                {"name": "h", "mountPath": "/var/my-own"},
                {"name": "e", "mountPath": "/rw"},
                {"name": "h", "mountPath": "/rw/x"},
                {"name": "e", "mountPath": "/part", "readOnly": true, "subPath": "p"},
                {"name": "h", "mountPath": "/part/x"},
            ]}],
        }}))
        .expect("a pod");
        let found = in_read_only_mounts(&pod.spec.as_ref().expect("a spec").containers[0]);
        let seen: Vec<_> = found
            .iter()
            .map(|nested| (nested.outer.as_str(), nested.path.as_str(), nested.index))
            .collect();
        assert_eq!(
            seen,
            [("e", "conf.d", 1)],
            "the rest can be made by the runtime, or is a hostPath's"
        );
    }

    fn pod(mounts: &[(&str, &str)]) -> Pod {
        let mounts: Vec<_> = mounts
            .iter()
            .map(|(name, path)| serde_json::json!({"name": name, "mountPath": path}))
            .collect();
        let pod = serde_json::json!({"spec": {
            "volumes": [{"name": "v"}, {"name": "w"}, {"name": "idle"}],
            "containers": [{"name": "a", "volumeMounts": mounts}],
        }});
        serde_json::from_value(pod).expect("a pod")
    }

    #[track_caller]
    fn check(mounts: &[(&str, &str)], expected: &[&str]) {
        let found = mount_points(&pod(mounts), "v").expect("mount points");
        assert_eq!(found.iter().map(String::as_str).collect::<Vec<_>>(), expected, "{mounts:?}");
    }

    #[test]
    fn directories_for_what_is_mounted_inside() {
        check(&[("v", "/dir"), ("w", "/dir/nested"), ("x", "/dir/nested/other")], &["nested"]);
        check(
            &[("v", "/dir"), ("w", "/dir-2"), ("x", "/dir/a/b"), ("y", "/dir/a-b")],
            &["a-b", "a/b"],
        );
        check(&[("v", "/dir/"), ("w", "/dir//n/../m")], &["m"]);
        check(&[("w", "/dir"), ("v", "/dir/nested")], &[]);
        check(&[("v", "/"), ("w", "/data")], &["data"]);
    }

    #[test]
    fn a_path_that_leads_out_is_refused() {
        assert!(mount_points(&pod(&[("v", "../x"), ("w", "../x/y")]), "v").is_err());
    }

    #[test]
    fn volumes_that_nobody_mounts_are_not_used() {
        assert_eq!(
            used(&pod(&[("v", "/a"), ("unknown", "/b")])).into_iter().collect::<Vec<_>>(),
            ["v"]
        );
    }
}
