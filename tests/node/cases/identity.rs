//! Who a pod is on the node: users of its own, the runtime handler of its class, what it may see of
//! the kernel; and what is said where the node cannot give it.

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::bed::{Bed, has_line, same, shows};
use crate::look::text;
use crate::{Case, case};

pub(crate) fn cases() -> Vec<Case> {
    vec![
        case(users_of_its_own),
        case(volumes_of_a_pod_with_users_of_its_own),
        case(users_survive_the_container),
        case(unmasked_proc),
        case(runtime_class_with_overhead),
        case(runtime_class_that_is_missing),
        case(strict_supplementary_groups),
        case(seccomp_profile_of_the_node),
        case(seccomp_profile_that_is_missing),
        case(recursively_read_only),
        case(command_that_is_missing),
    ]
}

async fn run(bed: &Bed, spec: &str) -> Result<String> {
    bed.pod("p", &format!("restartPolicy: Never\n{spec}")).await?;
    bed.until("p", &["phase=Succeeded"]).await?;
    bed.logs("p", "main").await
}

/// The node's id of root in the pod, as the pod's kernel says it.
fn root_on_the_node(id_map: &str) -> Result<u32> {
    let line = id_map.lines().next().context("an empty uid_map")?;
    let [inside, outside, length] = line.split_whitespace().collect::<Vec<_>>()[..] else {
        anyhow::bail!("uid_map is {id_map:?}");
    };
    ensure!(inside == "0" && length == "65536", "uid_map is {id_map:?}");
    Ok(outside.parse()?)
}

async fn users_of_its_own(bed: Bed) -> Result<()> {
    let spec = |name: &str| {
        format!(
            "{{hostUsers: false, terminationGracePeriodSeconds: 1, containers: [{{name: {name}, image: busybox, command: [sleep, '1000']}}]}}"
        )
    };
    bed.pod("one", &spec("main")).await?;
    bed.pod("two", &spec("main")).await?;
    let mut roots = Vec::new();
    for name in ["one", "two"] {
        let pod = bed.until(name, &["cond[Ready]=True"]).await?;
        let map =
            bed.exec(name, "main", &["cat", "/proc/self/uid_map", "/proc/self/gid_map"]).await?;
        let lines: Vec<_> = map.lines().collect();
        same("users and groups", lines.first(), lines.last())?;
        let root = root_on_the_node(&map)?;
        ensure!(root >= 65_536 && root.is_multiple_of(65_536), "root is {root} on the node");
        same("the user in the pod", bed.exec(name, "main", &["id", "-u"]).await?.as_str(), "0\n")?;
        let file = bed
            .cluster
            .on_node(&format!("/var/lib/kubelet/pods/{}/userns", text(&pod, "metadata.uid")));
        let written: Value = serde_json::from_str(&std::fs::read_to_string(&file)?)?;
        shows(&written, &[&format!("uidMappings.0.hostId={root}"), "gidMappings.0.length=65536"])?;
        roots.push((root, file));
    }
    ensure!(roots[0].0 != roots[1].0, "two pods have the same users: {roots:?}");
    bed.delete("one", None).await?;
    bed.until_gone("Pod", "one").await?;
    ensure!(!roots[0].1.exists(), "{} is still there", roots[0].1.display());
    Ok(())
}

async fn volumes_of_a_pod_with_users_of_its_own(bed: Bed) -> Result<()> {
    bed.create("{apiVersion: v1, kind: ConfigMap, metadata: {name: map}, data: {key: value}}")
        .await?;
    let spec = "
hostUsers: false
securityContext: {fsGroup: 3000}
volumes:
- {name: data, emptyDir: {}}
- {name: map, configMap: {name: map}}
- {name: all, projected: {sources: [{serviceAccountToken: {path: token}}]}}
containers:
- name: main
  image: busybox
  command: [sh, -c, 'touch /data/mine; stat -c \"%u %g\" /data /data/mine /etc/hosts /map/..data/key; cat /map/key; test -s /all/token && echo token; echo done > /dev/termination-log']
  volumeMounts: [{name: data, mountPath: /data}, {name: map, mountPath: /map}, {name: all, mountPath: /all}]
";
    let seen = run(&bed, spec).await?;
    let lines: Vec<_> = seen.lines().collect();
    same("owners", lines.get(..4), Some(&["0 3000", "0 3000", "0 0", "0 3000"][..]))?;
    same("contents", lines.get(4..), Some(&["valuetoken"][..]))?;
    bed.until("p", &["c[main].state.terminated.message=done*"]).await?;
    Ok(())
}

async fn users_survive_the_container(bed: Bed) -> Result<()> {
    let spec = "
hostUsers: false
terminationGracePeriodSeconds: 1
volumes: [{name: data, emptyDir: {}}]
containers:
- name: main
  image: busybox
  command: [sh, -c, 'cat /proc/self/uid_map >> /data/maps; test $(wc -l < /data/maps) = 2 && exec sleep 1000; sleep 1']
  volumeMounts: [{name: data, mountPath: /data}]
";
    bed.pod("p", spec).await?;
    bed.until("p", &["cond[Ready]=True", "c[main].restartCount=1"]).await?;
    let both = "test $(wc -l < /data/maps) = 2 && cat /data/maps";
    let maps = bed.until_exec("p", "main", &["sh", "-c", both]).await?;
    let lines: Vec<_> = maps.lines().collect();
    same("the users of the second container", lines.get(1), lines.first())
}

async fn unmasked_proc(bed: Bed) -> Result<()> {
    let spec = "
hostUsers: false
containers:
- name: main
  image: busybox
  command: [sh, -c, 'grep -cE \" /proc/(kcore|keys|sys) \" /proc/mounts; true']
  securityContext: {procMount: Unmasked}
";
    same("mounts over /proc", run(&bed, spec).await?.as_str(), "0\n")
}

async fn runtime_class_with_overhead(bed: Bed) -> Result<()> {
    let class = format!("runc-{}", bed.name);
    bed.create(&format!(
        "{{apiVersion: node.k8s.io/v1, kind: RuntimeClass, metadata: {{name: {class}}}, handler: runc, overhead: {{podFixed: {{cpu: 50m, memory: 32Mi}}}}}}"
    ))
    .await?;
    let spec = format!(
        "{{runtimeClassName: {class}, terminationGracePeriodSeconds: 1, containers: [{{name: main, image: busybox, command: [sleep, '1000'], resources: {{limits: {{cpu: 100m, memory: 64Mi}}}}}}]}}"
    );
    bed.pod("p", &spec).await?;
    let pod = bed.until("p", &["cond[Ready]=True", "spec.overhead.memory=32Mi"]).await?;
    let folder = format!("pod{}", text(&pod, "metadata.uid"));
    let memory =
        super::security::cgroup(&bed, &folder, ("memory", "memory.limit_in_bytes"), "memory.max")?;
    same("the pod's memory", memory.as_str(), "100663296")?;
    bed.delete_kind("RuntimeClass", &class).await
}

async fn runtime_class_that_is_missing(bed: Bed) -> Result<()> {
    let class = format!("late-{}", bed.name);
    let made = |handler: &str| {
        format!(
            "{{apiVersion: node.k8s.io/v1, kind: RuntimeClass, metadata: {{name: {class}}}, handler: {handler}}}"
        )
    };
    bed.create(&made("none-such")).await?;
    let spec = format!(
        "{{runtimeClassName: {class}, containers: [{{name: main, image: busybox, command: [sleep, '1000']}}]}}"
    );
    bed.pod("p", &spec).await?;
    bed.event(
        "p",
        "FailedCreatePodSandBox",
        "Failed to create pod sandbox: rpc error: code = *none-such*",
    )
    .await?;
    bed.delete_kind("RuntimeClass", &class).await?;
    // The tenth of its kind is told as one of many.
    let gone =
        format!("*Failed to create pod sandbox: runtimeclass.node.k8s.io \"{class}\" not found");
    bed.event("p", "FailedCreatePodSandBox", &gone).await?;
    bed.create(&made("runc")).await?;
    bed.until("p", &["cond[Ready]=True"]).await?;
    bed.delete_kind("RuntimeClass", &class).await
}

async fn strict_supplementary_groups(bed: Bed) -> Result<()> {
    let spec = "
securityContext: {runAsUser: 1000, supplementalGroups: [4000], supplementalGroupsPolicy: Strict}
containers:
- {name: main, image: busybox, command: [id, -G]}
";
    let seen = run(&bed, spec).await?;
    let mut groups: Vec<&str> = seen.split_whitespace().collect();
    groups.sort_unstable();
    same("the groups", groups, vec!["0", "4000"])?;
    bed.until("p", &["c[main].user.linux.uid=1000"]).await?;
    Ok(())
}

async fn seccomp_profile_of_the_node(bed: Bed) -> Result<()> {
    let folder = bed.cluster.on_node("/var/lib/kubelet/seccomp/cases");
    std::fs::create_dir_all(&folder)?;
    let profile = r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO"}]}"#;
    std::fs::write(folder.join("no-mkdir.json"), profile)?;
    let spec = "
containers:
- name: main
  image: busybox
  command: [sh, -c, 'mkdir /x 2>/dev/null || echo refused']
  securityContext: {seccompProfile: {type: Localhost, localhostProfile: cases/no-mkdir.json}}
";
    has_line("the log", &run(&bed, spec).await?, "refused")
}

async fn seccomp_profile_that_is_missing(bed: Bed) -> Result<()> {
    let spec = "{containers: [{name: main, image: busybox, command: [id], securityContext: {seccompProfile: {type: Localhost, localhostProfile: none.json}}}]}";
    bed.pod("p", spec).await?;
    let message = "*cannot load seccomp profile \"/var/lib/kubelet/seccomp/none.json\"*";
    let waiting = format!("c[main].state.waiting.message={message}");
    bed.until("p", &["c[main].state.waiting.reason=CreateContainerError", &waiting]).await?;
    bed.event("p", "Failed", &format!("Error: {message}")).await?;
    Ok(())
}

async fn recursively_read_only(bed: Bed) -> Result<()> {
    let spec = "
volumes: [{name: below, emptyDir: {medium: Memory}}, {name: all, hostPath: {path: /var/lib/kubelet/pods}}]
containers:
- name: main
  image: busybox
  command: [sh, -c, 'cd /all/$UID/volumes/kubernetes.io~empty-dir/below && touch x 2>/dev/null || echo refused']
  env: [{name: UID, valueFrom: {fieldRef: {fieldPath: metadata.uid}}}]
  volumeMounts:
  - {name: below, mountPath: /below}
  - {name: all, mountPath: /all, readOnly: true, recursiveReadOnly: Enabled}
";
    has_line("the log", &run(&bed, spec).await?, "refused")?;
    let pod = bed.get("Pod", "p").await?;
    let mounts = pod["status"]["containerStatuses"][0]["volumeMounts"].to_string();
    ensure!(
        mounts.contains(r#""mountPath":"/all""#)
            && mounts.contains(r#""recursiveReadOnly":"Enabled""#),
        "{mounts}"
    );
    Ok(())
}

async fn command_that_is_missing(bed: Bed) -> Result<()> {
    bed.pod("p", "{containers: [{name: main, image: busybox, command: [/none/such]}]}").await?;
    let reason = "c[main].lastState.terminated.reason=StartError";
    bed.until("p", &[reason, "c[main].state.waiting.reason=*"]).await?;
    let event = bed
        .event(
            "p",
            "Failed",
            "Error: failed to create containerd task: *no such file or directory*",
        )
        .await?;
    let pod = bed.get("Pod", "p").await?;
    let id = text(&pod, "c[main].containerID").replace("containerd://", "");
    ensure!(
        !id.is_empty() && !text(&event, "message").contains(&id),
        "the event names {id}: {event}"
    );
    Ok(())
}
