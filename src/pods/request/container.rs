//! Container → `CreateContainer`.

use k8s_openapi::api::core::v1 as api;

use super::expand::expand_all;
use super::input::ContainerInput;
use super::log_paths::container_log_path;
use super::mounts::{devices, mounts};
use super::resources::linux_resources;
use super::security::container_security;
use super::{SpecError, annotations};
use crate::cri::v1::{
    CdiDevice, ContainerConfig, ContainerMetadata, Device, ImageSpec, KeyValue,
    LinuxContainerConfig, Signal,
};

/// Makes the request for a container.
pub fn container_config(input: &ContainerInput<'_>) -> Result<ContainerConfig, SpecError> {
    let (pod, container) = (input.pod, input.container);
    let mut devices = devices(input)?;
    let mounts = mounts(input)?;
    let security = container_security(input)?;
    let resources = linux_resources(pod, container, input.oom_score_adj, input.settings)?;
    let variable = |name: &str, value: &str| KeyValue {
        key: name.to_owned(),
        value: value.as_bytes().to_vec(),
    };
    // What comes with devices goes first: of two that have one name the runtime takes the last.
    let device_envs = input.devices.envs.iter().map(|(name, value)| variable(name, value));
    let envs =
        device_envs.chain(input.env.iter().map(|var| variable(&var.name, &var.value))).collect();
    let mut annotations = annotations::container_annotations(pod, container, input.restart_count);
    annotations.extend(input.devices.annotations.clone());
    let device = |(path, (host_path, permissions)): (&String, &(String, String))| Device {
        container_path: path.clone(),
        host_path: host_path.clone(),
        permissions: permissions.clone(),
    };
    devices.extend(input.devices.devices.iter().map(device));
    Ok(ContainerConfig {
        metadata: Some(ContainerMetadata {
            name: container.name.clone(),
            attempt: input.restart_count,
        }),
        image: Some(ImageSpec {
            image: input.image_ref.to_owned(),
            user_specified_image: container.image.clone().unwrap_or_default(),
            ..ImageSpec::default()
        }),
        command: expand_all(container.command.as_ref(), input.env),
        args: expand_all(container.args.as_ref(), input.env),
        working_dir: container.working_dir.clone().unwrap_or_default(),
        envs,
        mounts,
        labels: annotations::container_labels(pod, container),
        annotations,
        devices,
        cdi_devices: input
            .devices
            .cdi
            .iter()
            .map(|name| CdiDevice { name: name.clone() })
            .collect(),
        log_path: container_log_path(&container.name, input.restart_count),
        stdin: container.stdin.unwrap_or(false),
        stdin_once: container.stdin_once.unwrap_or(false),
        tty: container.tty.unwrap_or(false),
        linux: Some(LinuxContainerConfig {
            resources: Some(resources),
            security_context: Some(security),
        }),
        stop_signal: if input.settings.stop_signals { stop_signal(container) } else { 0 },
        ..ContainerConfig::default()
    })
}

/// `lifecycle.stopSignal` as the runtime numbers it; the image's own when it is not given.
fn stop_signal(container: &api::Container) -> i32 {
    let name = container
        .lifecycle
        .as_ref()
        .and_then(|lifecycle| lifecycle.stop_signal.as_deref())
        .unwrap_or_default();
    let name = name.replace('+', "PLUS").replace('-', "MINUS");
    Signal::from_str_name(&name).unwrap_or(Signal::RuntimeDefault).into()
}

#[cfg(test)]
mod tests {
    #![expect(
        clippy::needless_pass_by_value,
        reason = "JSON reads better at the calls without a borrow"
    )]

    use std::collections::BTreeMap;

    use super::*;
    use crate::cri::v1::{LinuxContainerSecurityContext, NamespaceMode};
    use crate::model::{ContainerId, Pod};
    use crate::pods::request::{EnvVar, IdRange, ImageUser, Settings, VolumeSource, testing};
    use crate::resources::devices::DeviceOptions;
    use serde_json::json;

    struct World {
        pod: Pod,
        env: Vec<EnvVar>,
        volumes: BTreeMap<String, VolumeSource>,
        sub_paths: BTreeMap<usize, String>,
        user: ImageUser,
        settings: Settings,
        target: Option<ContainerId>,
        user_ids: Option<IdRange>,
        devices: DeviceOptions,
    }

    fn world(pod_security: serde_json::Value, container: serde_json::Value) -> World {
        let mut container = container;
        container["name"] = json!("c");
        let pod = testing::pod(json!({
            "terminationGracePeriodSeconds": 30, "securityContext": pod_security, "containers": [container],
        }));
        let path = |path: &str, read_only| VolumeSource::Path {
            path: path.into(),
            read_only,
            relabel: true,
        };
        World {
            pod,
            env: vec![EnvVar::new("A", "one")],
            volumes: [
                ("data".to_owned(), path("/var/lib/data", false)),
                ("secret".to_owned(), path("/var/lib/secret", true)),
                (
                    "image".to_owned(),
                    VolumeSource::Image {
                        image_ref: "sha256:1".into(),
                        image: "tools".into(),
                        runtime_handler: String::new(),
                    },
                ),
                (
                    "disk".to_owned(),
                    VolumeSource::Device { path: "/pods/u1/disk".into(), read_only: true },
                ),
            ]
            .into(),
            sub_paths: [(1, "/prepared/1".to_owned())].into(),
            user: ImageUser::Uid(0),
            settings: Settings::default(),
            target: None,
            user_ids: None,
            devices: DeviceOptions::default(),
        }
    }

    impl World {
        fn make(&self) -> Result<ContainerConfig, String> {
            container_config(&ContainerInput {
                pod: &self.pod,
                container: &self.pod.spec.as_ref().expect("spec").containers[0],
                restart_count: 3,
                image_ref: "sha256:abc",
                image_user: &self.user,
                env: &self.env,
                devices: &self.devices,
                volumes: &self.volumes,
                sub_paths: &self.sub_paths,
                etc_hosts: Some("/pods/u1/etc-hosts"),
                termination_log: Some("/pods/u1/containers/c/0a"),
                pid_target: self.target.as_ref(),
                oom_score_adj: 2,
                extra_groups: &[5],
                user_ids: self.user_ids,
                recursive_read_only: true,
                settings: &self.settings,
            })
            .map_err(|error| error.message)
        }

        fn security(&self) -> Result<LinuxContainerSecurityContext, String> {
            Ok(self.make()?.linux.expect("linux").security_context.expect("security"))
        }
    }

    #[test]
    fn makes_the_whole_request() {
        let mut world = world(
            json!({}),
            json!({
                "image": "busybox", "command": ["sh", "$(A)"], "args": ["$(B)"], "workingDir": "/w", "stdin": true, "tty": true,
                "terminationMessagePath": "/dev/termination-log", "terminationMessagePolicy": "File",
                "lifecycle": {"preStop": {"exec": {"command": ["bye"]}}},
                "ports": [{"containerPort": 80, "protocol": "TCP"}],
            }),
        );
        world.pod.metadata.deletion_grace_period_seconds = Some(7);
        let config = world.make().expect("a request");
        assert_eq!(config.command, ["sh", "one"]);
        assert_eq!(config.args, ["$(B)"]);
        assert_eq!(config.log_path, "c/3.log");
        assert_eq!((config.stdin, config.stdin_once, config.tty), (true, false, true));
        let image = config.image.expect("image");
        assert_eq!(
            (image.image.as_str(), image.user_specified_image.as_str()),
            ("sha256:abc", "busybox")
        );
        assert_eq!(
            (config.envs[0].key.as_str(), config.envs[0].value.as_slice()),
            ("A", b"one".as_slice())
        );
        let mut annotations: Vec<_> =
            config.annotations.iter().map(|(key, value)| format!("{key}={value}")).collect();
        annotations.sort();
        assert_eq!(
            annotations,
            [
                "io.kubernetes.container.hash=ad819b5c",
                "io.kubernetes.container.ports=[{\"containerPort\":80,\"protocol\":\"TCP\"}]",
                "io.kubernetes.container.preStopHandler={\"exec\":{\"command\":[\"bye\"]}}",
                "io.kubernetes.container.restartCount=3",
                "io.kubernetes.container.terminationMessagePath=/dev/termination-log",
                "io.kubernetes.container.terminationMessagePolicy=File",
                "io.kubernetes.pod.deletionGracePeriod=7",
                "io.kubernetes.pod.terminationGracePeriod=30",
            ]
        );
        let mut labels: Vec<_> =
            config.labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
        labels.sort();
        assert_eq!(
            labels,
            [
                "io.kubernetes.container.name=c",
                "io.kubernetes.pod.name=web",
                "io.kubernetes.pod.namespace=prod",
                "io.kubernetes.pod.uid=u1"
            ]
        );
        let mounts: Vec<_> = config
            .mounts
            .iter()
            .map(|mount| (mount.container_path.as_str(), mount.host_path.as_str()))
            .collect();
        assert_eq!(
            mounts,
            [
                ("/etc/hosts", "/pods/u1/etc-hosts"),
                ("/dev/termination-log", "/pods/u1/containers/c/0a")
            ]
        );
    }

    #[test]
    fn what_comes_with_devices_goes_first() {
        let mut world = world(json!({}), json!({}));
        world.devices = DeviceOptions {
            envs: [("A".to_owned(), "device".to_owned())].into(),
            mounts: [("/lib/gpu".to_owned(), ("/usr/lib/gpu".to_owned(), true))].into(),
            devices: [("/dev/gpu".to_owned(), ("/dev/gpu0".to_owned(), "rw".to_owned()))].into(),
            annotations: [("vendor.com/x".to_owned(), "y".to_owned())].into(),
            cdi: vec!["vendor.com/gpu=0".to_owned()],
        };
        let config = world.make().expect("a request");
        let envs: Vec<_> =
            config.envs.iter().map(|var| (var.key.as_str(), var.value.as_slice())).collect();
        assert_eq!(envs, [("A", b"device".as_slice()), ("A", b"one".as_slice())]);
        let first = &config.mounts[0];
        assert_eq!((first.container_path.as_str(), first.readonly), ("/lib/gpu", true));
        assert_eq!(
            (config.devices[0].host_path.as_str(), config.devices[0].permissions.as_str()),
            ("/dev/gpu0", "rw")
        );
        assert_eq!(config.annotations["vendor.com/x"], "y");
        assert_eq!(config.cdi_devices[0].name, "vendor.com/gpu=0");
    }

    #[test]
    fn mounts_volumes() {
        let world = world(
            json!({}),
            json!({"volumeMounts": [
                {"name": "data", "mountPath": "/data", "mountPropagation": "HostToContainer"},
                {"name": "data", "mountPath": "/etc/hosts", "subPath": "hosts", "readOnly": true, "recursiveReadOnly": "Enabled"},
                {"name": "secret", "mountPath": "s"},
                {"name": "image", "mountPath": "/tools", "subPath": "bin"},
            ]}),
        );
        let mounts = world.make().expect("a request").mounts;
        let lines: Vec<_> = mounts
            .iter()
            .map(|mount| {
                let image =
                    mount.image.as_ref().map(|image| image.image.as_str()).unwrap_or_default();
                format!(
                    "{} {}{image}{} ro={} rro={} p={}",
                    mount.container_path,
                    mount.host_path,
                    mount.image_sub_path,
                    mount.readonly,
                    mount.recursive_read_only,
                    mount.propagation
                )
            })
            .collect();
        assert_eq!(
            lines,
            [
                "/data /var/lib/data ro=false rro=false p=1",
                "/etc/hosts /prepared/1 ro=true rro=true p=0",
                "/s /var/lib/secret ro=true rro=false p=0",
                "/tools sha256:1bin ro=true rro=false p=0",
            ]
        );
    }

    #[test]
    fn what_is_mounted_shows_the_pods_own_users() {
        let mut world =
            world(json!({}), json!({"volumeMounts": [{"name": "data", "mountPath": "/data"}]}));
        assert!(
            world
                .make()
                .expect("a request")
                .mounts
                .iter()
                .all(|mount| mount.uid_mappings.is_empty())
        );
        world.user_ids = Some(IdRange { first: 65_536, length: 65_536 });
        let mounts = world.make().expect("a request").mounts;
        let expected =
            crate::cri::v1::IdMapping { host_id: 65_536, container_id: 0, length: 65_536 };
        assert_eq!(mounts.len(), 2, "also the node's own files are mapped");
        assert!(
            mounts
                .iter()
                .all(|mount| mount.uid_mappings == [expected] && mount.gid_mappings == [expected])
        );
        let users = world
            .security()
            .expect("security")
            .namespace_options
            .and_then(|all| all.userns_options);
        assert_eq!(users.expect("user namespace").mode, i32::from(NamespaceMode::Pod));
    }

    #[test]
    fn refuses_mounts_that_cannot_be_made() {
        let refusal = |mount: serde_json::Value| {
            world(json!({}), json!({"volumeMounts": [mount]})).make().expect_err("refused")
        };
        assert_eq!(
            refusal(json!({"name": "nope", "mountPath": "/x"})),
            "cannot find volume \"nope\" to mount into container \"c\""
        );
        let device = |path: &str| {
            let devices = json!({"volumeDevices": [{"name": "raw", "devicePath": path}]});
            world(json!({}), devices).make().expect_err("refused")
        };
        assert_eq!(device("/dev/x"), "cannot find volume \"raw\" to pass into container \"c\"");
        assert_eq!(device("x"), "error DevicePath `x` must be an absolute path");
        let disk = json!({"volumeDevices": [{"name": "disk", "devicePath": "/dev/x"}]});
        let made = world(json!({}), disk).make().expect("a request").devices.remove(0);
        let seen =
            (made.host_path.as_str(), made.container_path.as_str(), made.permissions.as_str());
        assert_eq!(seen, ("/pods/u1/disk", "/dev/x", "r"));
        assert_eq!(
            refusal(json!({"name": "data", "mountPath": "/x", "subPath": "a"})),
            "failed to prepare subPath for volumeMount \"data\" of container \"c\""
        );
        assert_eq!(
            refusal(json!({"name": "data", "mountPath": "/x", "recursiveReadOnly": "Enabled"})),
            "failed to resolve recursive read-only mode: volume \"data\" requested recursive read-only mode, but it is not read-only"
        );
    }

    #[test]
    fn merges_security_contexts() {
        let world = world(
            json!({
                "runAsUser": 1, "runAsGroup": 2, "fsGroup": 3, "supplementalGroups": [4],
                "seccompProfile": {"type": "Localhost", "localhostProfile": "p/x.json"},
                "appArmorProfile": {"type": "RuntimeDefault"},
            }),
            json!({"securityContext": {
                "runAsUser": 10, "privileged": true, "readOnlyRootFilesystem": true, "allowPrivilegeEscalation": false,
                "capabilities": {"add": ["NET_ADMIN"], "drop": ["ALL"]}, "procMount": "Unmasked",
            }}),
        );
        let security = world.security().expect("security");
        assert_eq!(security.run_as_user.expect("user").value, 10);
        assert_eq!(security.run_as_group.expect("group").value, 2);
        assert_eq!(security.supplemental_groups, [3, 4, 5]);
        assert!(security.privileged && security.readonly_rootfs && security.no_new_privs);
        assert!(security.masked_paths.is_empty() && security.readonly_paths.is_empty());
        let capabilities = security.capabilities.expect("capabilities");
        assert_eq!(
            (capabilities.add_capabilities, capabilities.drop_capabilities),
            (vec!["NET_ADMIN".into()], vec!["ALL".into()])
        );
        assert_eq!(
            security.seccomp.expect("seccomp").localhost_ref,
            "/var/lib/kubelet/seccomp/p/x.json"
        );
        assert_eq!(security.apparmor.expect("apparmor").profile_type, 0);
    }

    #[test]
    fn defaults_are_upstreams() {
        let mut world = world(json!({}), json!({}));
        world.pod.metadata.annotations = Some(
            [(
                "container.apparmor.security.beta.kubernetes.io/c".to_owned(),
                "localhost/mine".to_owned(),
            )]
            .into(),
        );
        world.target = Some(ContainerId::from("t1"));
        let security = world.security().expect("security");
        assert_eq!(security.run_as_user.as_ref().expect("the image's user").value, 0);
        assert_eq!((security.masked_paths.len(), security.readonly_paths.len()), (12, 5));
        assert_eq!(security.seccomp.as_ref().expect("seccomp").profile_type, 1);
        assert_eq!(security.apparmor.as_ref().expect("apparmor").localhost_ref, "mine");
        let namespaces = security.namespace_options.expect("namespaces");
        assert_eq!(
            (namespaces.pid, namespaces.target_id.as_str()),
            (i32::from(NamespaceMode::Target), "t1")
        );
        world.settings.seccomp_default = true;
        world.user = ImageUser::Name("app".into());
        let security = world.security().expect("security");
        assert_eq!(security.seccomp.expect("seccomp").profile_type, 0);
        assert_eq!((security.run_as_user, security.run_as_username.as_str()), (None, "app"));
    }

    #[test]
    fn passes_the_stop_signal_on_when_the_gate_is_open() {
        let mut world = world(json!({}), json!({"lifecycle": {"stopSignal": "SIGRTMAX-3"}}));
        assert_eq!(world.make().expect("a request").stop_signal, 0);
        world.settings.stop_signals = true;
        assert_eq!(world.make().expect("a request").stop_signal, i32::from(Signal::Sigrtmaxminus3));
    }

    #[track_caller]
    fn check_user(pod_security: serde_json::Value, user: ImageUser, expected: Result<(), &str>) {
        let world = World { user, ..world(pod_security, json!({})) };
        let whose = "(pod: \"web_prod(u1)\", container: c)";
        let expected = expected.map_err(|problem| format!("{problem} {whose}"));
        assert_eq!(world.make().map(|_| ()), expected);
    }

    #[test]
    fn verifies_that_no_one_runs_as_root() {
        let non_root = json!({"runAsNonRoot": true});
        check_user(json!({}), ImageUser::Uid(0), Ok(()));
        check_user(non_root.clone(), ImageUser::Uid(7), Ok(()));
        check_user(
            non_root.clone(),
            ImageUser::Uid(0),
            Err("container has runAsNonRoot and image will run as root"),
        );
        check_user(
            non_root.clone(),
            ImageUser::Name("app".into()),
            Err(
                "container has runAsNonRoot and image has non-numeric user (app), cannot verify user is non-root",
            ),
        );
        check_user(
            non_root,
            ImageUser::Uid(1 << 40),
            Err(
                "container has runAsNonRoot and image has an invalid user id (1099511627776). (Must be 1-(2147483647)): \
                 must be between 0 and 2147483647, inclusive",
            ),
        );
        check_user(
            json!({"runAsNonRoot": true, "runAsUser": 0}),
            ImageUser::Uid(7),
            Err("container's runAsUser breaks non-root policy"),
        );
        check_user(json!({"runAsNonRoot": true, "runAsUser": 5}), ImageUser::Uid(0), Ok(()));
    }
}
