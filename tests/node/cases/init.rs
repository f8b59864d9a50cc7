//! Init containers, sidecars and ephemeral containers.

use anyhow::{Result, ensure};
use serde_json::json;

use crate::bed::{Bed, shows};
use crate::look::text;
use crate::{Case, case, slow};

pub(crate) fn cases() -> Vec<Case> {
    vec![
        case(init_containers_run_in_order),
        slow(failing_init_is_tried_again),
        case(failing_init_of_a_never_pod),
        case(sidecar_starts_before_the_others),
        case(sidecar_startup_probe_holds_the_others_back),
        slow(sidecar_is_started_again),
        case(sidecars_end_after_the_main_container_in_reverse),
        case(sidecar_does_not_keep_a_pod_from_succeeding),
        case(ephemeral_container),
    ]
}

pub(crate) async fn init_containers_run_in_order(bed: Bed) -> Result<()> {
    let spec = "
restartPolicy: Never
volumes: [{name: state, emptyDir: {}}]
initContainers:
- {name: one, image: busybox, command: [sh, -c, 'sleep 1; echo one >> /state/order'], volumeMounts: [{name: state, mountPath: /state}]}
- {name: two, image: busybox, command: [sh, -c, 'echo two >> /state/order'], volumeMounts: [{name: state, mountPath: /state}]}
containers:
- {name: main, image: busybox, command: [cat, /state/order], volumeMounts: [{name: state, mountPath: /state}]}
";
    bed.pod("p", spec).await?;
    bed.until(
        "p",
        &[
            "phase=Pending",
            "c[one].state.running.startedAt=?*",
            "c[two].state.waiting.reason=PodInitializing",
            "c[main].state.waiting.reason=PodInitializing",
            "cond[Initialized]=False",
            "cond[Initialized].reason=ContainersNotInitialized",
            "cond[Initialized].message=containers with incomplete status: [one two]",
        ],
    )
    .await?;
    bed.until(
        "p",
        &[
            "phase=Succeeded",
            "c[one].state.terminated.reason=Completed",
            "c[one].ready=true",
            "cond[Initialized]=True",
        ],
    )
    .await?;
    crate::bed::same("the order", bed.logs("p", "main").await?, "one\ntwo\n".to_owned())
}

async fn failing_init_is_tried_again(bed: Bed) -> Result<()> {
    let spec = "
initContainers: [{name: setup, image: busybox, command: [sh, -c, 'exit 4']}]
containers: [{name: main, image: busybox, command: [sleep, '1000']}]
";
    let made = bed.pod("p", spec).await?;
    let uid = text(&made, "metadata.uid");
    bed.until(
        "p",
        &[
            "phase=Pending",
            "c[setup].restartCount=1",
            "c[setup].state.waiting.reason=CrashLoopBackOff",
            &format!(
                "c[setup].state.waiting.message=back-off 10s restarting failed container=setup pod=p_{}({uid})",
                bed.name
            ),
            "c[setup].lastState.terminated.exitCode=4",
            "c[main].state.waiting.reason=PodInitializing",
            "c[main].restartCount=0",
            "cond[Initialized].message=containers with incomplete status: [setup]",
        ],
    )
    .await?;
    bed.event("p", "BackOff", "Back-off restarting failed container setup in pod p_*").await?;
    Ok(())
}

async fn failing_init_of_a_never_pod(bed: Bed) -> Result<()> {
    let spec = "
restartPolicy: Never
initContainers: [{name: setup, image: busybox, command: [sh, -c, 'exit 4']}]
containers: [{name: main, image: busybox, command: [sleep, '1000']}]
";
    bed.pod("p", spec).await?;
    bed.until(
        "p",
        &[
            "phase=Failed",
            "c[setup].state.terminated.exitCode=4",
            "c[main].state.waiting.reason=PodInitializing",
            "cond[Initialized]=False",
        ],
    )
    .await?;
    Ok(())
}

async fn sidecar_starts_before_the_others(bed: Bed) -> Result<()> {
    let spec = "
terminationGracePeriodSeconds: 1
initContainers:
- {name: side, image: busybox, restartPolicy: Always, command: [sleep, '1000']}
- {name: setup, image: busybox, command: [sh, -c, 'sleep 1']}
containers: [{name: main, image: busybox, command: [sleep, '1000']}]
";
    bed.pod("p", spec).await?;
    bed.until(
        "p",
        &[
            "c[side].started=true",
            "c[setup].state.running.startedAt=?*",
            "c[main].state.waiting.reason=PodInitializing",
        ],
    )
    .await?;
    bed.until(
        "p",
        &[
            "phase=Running",
            "cond[Ready]=True",
            "cond[Initialized]=True",
            "c[side].ready=true",
            "c[side].state.running.startedAt=?*",
            "c[setup].state.terminated.exitCode=0",
        ],
    )
    .await?;
    Ok(())
}

async fn sidecar_startup_probe_holds_the_others_back(bed: Bed) -> Result<()> {
    let spec = "
terminationGracePeriodSeconds: 1
initContainers:
- name: side
  image: busybox
  restartPolicy: Always
  command: [sleep, '1000']
  startupProbe: {exec: {command: [test, -e, /tmp/up]}, periodSeconds: 1, failureThreshold: 100}
containers: [{name: main, image: busybox, command: [sleep, '1000']}]
";
    bed.pod("p", spec).await?;
    bed.until("p", &["c[side].state.running.startedAt=?*", "c[side].started=false"]).await?;
    bed.event("p", "Unhealthy", "Startup probe failed: ").await?;
    bed.until("p", &["c[main].state.waiting.reason=PodInitializing", "cond[Initialized]=False"])
        .await?;
    bed.exec("p", "side", &["touch", "/tmp/up"]).await?;
    bed.until("p", &["c[side].started=true", "cond[Ready]=True", "c[side].restartCount=0"]).await?;
    Ok(())
}

async fn sidecar_is_started_again(bed: Bed) -> Result<()> {
    let spec = "
restartPolicy: Never
terminationGracePeriodSeconds: 1
initContainers:
- {name: side, image: busybox, restartPolicy: Always, command: [sh, -c, 'sleep 2; exit 1']}
containers: [{name: main, image: busybox, command: [sleep, '1000']}]
";
    bed.pod("p", spec).await?;
    bed.until(
        "p",
        &[
            "phase=Running",
            "c[side].restartCount=1",
            "c[main].restartCount=0",
            "c[side].lastState.terminated.exitCode=1",
        ],
    )
    .await?;
    Ok(())
}

pub(crate) async fn sidecars_end_after_the_main_container_in_reverse(bed: Bed) -> Result<()> {
    // Each notes its end on the node; the folder outlives the pod.
    let folder = format!("/var/lib/kubelet/order-{}", bed.name);
    let ends = |name: &str| {
        format!(
            "command: [sh, -c, 'trap \"echo {name} >> /notes/order; exit 0\" TERM; while true; do sleep 0.1; done'], volumeMounts: [{{name: notes, mountPath: /notes}}]"
        )
    };
    let spec = format!(
        "
terminationGracePeriodSeconds: 20
volumes: [{{name: notes, hostPath: {{path: {folder}, type: DirectoryOrCreate}}}}]
initContainers:
- {{name: first, image: busybox, restartPolicy: Always, {}}}
- {{name: second, image: busybox, restartPolicy: Always, {}}}
containers:
- {{name: main, image: busybox, {}}}
",
        ends("first"),
        ends("second"),
        ends("main")
    );
    bed.pod("p", &spec).await?;
    bed.until_heeds_term("p", &["first", "second", "main"]).await?;
    bed.delete("p", None).await?;
    bed.until_gone("Pod", "p").await?;
    let order = std::fs::read_to_string(bed.cluster.on_node(&format!("{folder}/order")))?;
    crate::bed::same("the order of the ends", order.as_str(), "main\nsecond\nfirst\n")
}

async fn sidecar_does_not_keep_a_pod_from_succeeding(bed: Bed) -> Result<()> {
    let spec = "
restartPolicy: Never
terminationGracePeriodSeconds: 5
volumes: [{name: shared, emptyDir: {}}]
initContainers:
- name: side
  image: busybox
  restartPolicy: Always
  command: [sh, -c, 'trap \"exit 0\" TERM; touch /shared/heeds; while true; do sleep 0.1; done']
  volumeMounts: [{name: shared, mountPath: /shared}]
containers:
- name: main
  image: busybox
  command: [sh, -c, 'until test -e /shared/heeds; do sleep 0.1; done']
  volumeMounts: [{name: shared, mountPath: /shared}]
";
    bed.pod("p", spec).await?;
    bed.until(
        "p",
        &[
            "phase=Succeeded",
            "c[main].state.terminated.exitCode=0",
            "c[side].state.terminated.exitCode=0",
        ],
    )
    .await?;
    Ok(())
}

pub(crate) async fn ephemeral_container(bed: Bed) -> Result<()> {
    bed.pod(
        "p",
        "{terminationGracePeriodSeconds: 1, containers: [{name: main, image: busybox, command: [sleep, '1000']}]}",
    )
    .await?;
    let before = bed.until("p", &["cond[Ready]=True"]).await?;
    let debugger = json!({"spec": {"ephemeralContainers": [{
        "name": "debugger", "image": "registry.k8s.io/e2e-test-images/busybox:1.37.0-1", "targetContainerName": "main",
        "command": ["sh", "-c", "ps -o args; exit 9"]
    }]}});
    bed.kubectl(&[
        "patch",
        "pod",
        "p",
        "--subresource=ephemeralcontainers",
        "-p",
        &debugger.to_string(),
    ])
    .await?;
    let after = bed
        .until(
            "p",
            &[
                "phase=Running",
                "cond[Ready]=True",
                "c[debugger].state.terminated.exitCode=9",
                "c[debugger].restartCount=0",
            ],
        )
        .await?;
    shows(&after, &[&format!("c[main].containerID={}", text(&before, "c[main].containerID"))])?;
    let seen = bed.logs("p", "debugger").await?;
    ensure!(
        seen.contains("sleep 1000"),
        "the debugger does not see the processes of its target:\n{seen}"
    );
    bed.event("p", "Started", "Container started").await?;
    Ok(())
}
