//! Pods that run, end, fail and are started again.

use anyhow::Result;
use serde_json::json;

use crate::bed::{Bed, same, shows};
use crate::look::text;
use crate::{Case, case, slow};

pub(crate) fn cases() -> Vec<Case> {
    vec![
        case(runs_and_is_ready),
        case(succeeds),
        case(fails_with_its_exit_code),
        case(on_failure_starts_again_until_it_succeeds),
        slow(always_starts_again_after_success),
        slow(crash_loop_waits_and_says_so),
        case(active_deadline_ends_a_pod),
        case(termination_message_from_the_file),
        case(termination_message_falls_back_to_the_log),
        case(killed_by_a_signal),
        case(status_fields),
        case(observed_generation_follows_the_spec),
        case(image_change_restarts_only_that_container),
        case(two_containers_share_network_and_not_files),
        case(shared_process_namespace),
    ]
}

pub(crate) async fn runs_and_is_ready(bed: Bed) -> Result<()> {
    bed.pod("p", "containers: [{name: main, image: busybox, command: [sleep, '1000']}]").await?;
    bed.until(
        "p",
        &[
            "phase=Running",
            "cond[Ready]=True",
            "c[main].ready=true",
            "c[main].started=true",
            "c[main].restartCount=0",
            "c[main].state.running.startedAt=?*",
            "c[main].containerID=containerd://?*",
            "c[main].imageID=?*",
            "c[main].image=registry.k8s.io/e2e-test-images/busybox:1.37.0-1",
            "status.podIP=10.244.1.*",
        ],
    )
    .await?;
    bed.event("p", "Scheduled", "Successfully assigned * to n1").await?;
    let image = "registry.k8s.io/e2e-test-images/busybox:1.37.0-1";
    let present = format!(
        "Container image \"{image}\" already present on machine and can be accessed by the pod"
    );
    bed.event("p", "Pulled", &present).await?;
    bed.event("p", "Created", "Container created").await?;
    let started = bed.event("p", "Started", "Container started").await?;
    shows(
        &started,
        &[
            "type=Normal",
            "source.component=kubelet",
            "source.host=n1",
            "reportingComponent=kubelet",
            "reportingInstance=n1",
            "involvedObject.fieldPath=spec.containers{main}",
            "count=1",
        ],
    )
}

async fn succeeds(bed: Bed) -> Result<()> {
    bed.pod("p", "{restartPolicy: Never, containers: [{name: main, image: busybox, command: [sh, -c, 'echo done']}]}")
        .await?;
    bed.until(
        "p",
        &[
            "phase=Succeeded",
            "c[main].state.terminated.reason=Completed",
            "c[main].state.terminated.exitCode=0",
            "c[main].state.terminated.startedAt=?*",
            "c[main].state.terminated.finishedAt=?*",
            "c[main].state.terminated.containerID=containerd://?*",
            "c[main].started=false",
            "cond[Ready]=False",
            "cond[Ready].reason=PodCompleted",
            "cond[ContainersReady].reason=PodCompleted",
            "cond[Initialized]=True",
            "cond[Initialized].reason=PodCompleted",
            "cond[PodReadyToStartContainers]=False",
        ],
    )
    .await?;
    same("the log", bed.logs("p", "main").await?, "done\n".to_owned())
}

pub(crate) async fn fails_with_its_exit_code(bed: Bed) -> Result<()> {
    bed.pod("p", "{restartPolicy: Never, containers: [{name: main, image: busybox, command: [sh, -c, 'exit 7']}]}")
        .await?;
    bed.until(
        "p",
        &[
            "phase=Failed",
            "c[main].state.terminated.reason=Error",
            "c[main].state.terminated.exitCode=7",
            "c[main].restartCount=0",
            "cond[Ready].reason=PodFailed",
            "cond[ContainersReady].reason=PodFailed",
        ],
    )
    .await?;
    Ok(())
}

async fn on_failure_starts_again_until_it_succeeds(bed: Bed) -> Result<()> {
    let spec = "
restartPolicy: OnFailure
volumes: [{name: state, emptyDir: {}}]
containers:
- name: main
  image: busybox
  command: [sh, -c, 'test -e /state/ran && exit 0; touch /state/ran; exit 3']
  volumeMounts: [{name: state, mountPath: /state}]
";
    bed.pod("p", spec).await?;
    bed.until(
        "p",
        &[
            "phase=Succeeded",
            "c[main].restartCount=1",
            "c[main].state.terminated.exitCode=0",
            "c[main].lastState.terminated.exitCode=3",
            "c[main].lastState.terminated.reason=Error",
        ],
    )
    .await?;
    Ok(())
}

async fn always_starts_again_after_success(bed: Bed) -> Result<()> {
    bed.pod("p", "containers: [{name: main, image: busybox, command: [sh, -c, 'sleep 1']}]")
        .await?;
    bed.until("p", &["c[main].restartCount=1", "c[main].lastState.terminated.reason=Completed"])
        .await?;
    bed.until("p", &["phase=Running", "c[main].state.waiting.reason=CrashLoopBackOff"]).await?;
    Ok(())
}

pub(crate) async fn crash_loop_waits_and_says_so(bed: Bed) -> Result<()> {
    let made = bed
        .pod("p", "containers: [{name: main, image: busybox, command: [sh, -c, 'exit 5']}]")
        .await?;
    let uid = text(&made, "metadata.uid");
    let message =
        format!("back-off 10s restarting failed container=main pod=p_{}({uid})", bed.name);
    bed.until(
        "p",
        &[
            "phase=Running",
            "c[main].state.waiting.reason=CrashLoopBackOff",
            &format!("c[main].state.waiting.message={message}"),
            "c[main].restartCount=1",
            "c[main].lastState.terminated.exitCode=5",
            "cond[Ready]=False",
            "cond[Ready].reason=ContainersNotReady",
            "cond[Ready].message=containers with unready status: [main]",
        ],
    )
    .await?;
    let backoff = format!("Back-off restarting failed container main in pod p_{}({uid})", bed.name);
    shows(&bed.event("p", "BackOff", &backoff).await?, &["type=Warning"])?;
    let second = format!("back-off 20s restarting failed container=main pod=p_{}({uid})", bed.name);
    bed.until("p", &["c[main].restartCount=2", &format!("c[main].state.waiting.message={second}")])
        .await?;
    Ok(())
}

async fn active_deadline_ends_a_pod(bed: Bed) -> Result<()> {
    let spec = "
activeDeadlineSeconds: 8
terminationGracePeriodSeconds: 1
containers: [{name: main, image: busybox, command: [sleep, '1000']}]
";
    bed.pod("p", spec).await?;
    bed.until(
        "p",
        &[
            "phase=Failed",
            "status.reason=DeadlineExceeded",
            "status.message=Pod was active on the node longer than the specified deadline",
            "c[main].state.terminated.exitCode=137",
        ],
    )
    .await?;
    bed.event(
        "p",
        "DeadlineExceeded",
        "Pod was active on the node longer than the specified deadline",
    )
    .await?;
    Ok(())
}

async fn termination_message_from_the_file(bed: Bed) -> Result<()> {
    let spec = "
restartPolicy: Never
containers:
- {name: file, image: busybox, command: [sh, -c, 'echo -n for-the-reader > /dev/termination-log']}
- {name: elsewhere, image: busybox, terminationMessagePath: /tmp/said, command: [sh, -c, 'echo -n over-here > /tmp/said; exit 1']}
- {name: silent, image: busybox, command: [sh, -c, 'echo in the log only; exit 1']}
";
    bed.pod("p", spec).await?;
    bed.until(
        "p",
        &[
            "phase=Failed",
            "c[file].state.terminated.message=for-the-reader",
            "c[elsewhere].state.terminated.message=over-here",
            "c[silent].state.terminated.exitCode=1",
            "c[silent].state.terminated.message=",
        ],
    )
    .await?;
    Ok(())
}

pub(crate) async fn termination_message_falls_back_to_the_log(bed: Bed) -> Result<()> {
    let spec = "
restartPolicy: Never
containers:
- {name: failed, image: busybox, terminationMessagePolicy: FallbackToLogsOnError, command: [sh, -c, 'echo first; echo second; exit 1']}
- {name: fine, image: busybox, terminationMessagePolicy: FallbackToLogsOnError, command: [sh, -c, 'echo unneeded']}
";
    bed.pod("p", spec).await?;
    bed.until(
        "p",
        &[
            "phase=Failed",
            "c[failed].state.terminated.message=first\nsecond\n",
            "c[fine].state.terminated.exitCode=0",
            "c[fine].state.terminated.message=",
        ],
    )
    .await?;
    Ok(())
}

async fn killed_by_a_signal(bed: Bed) -> Result<()> {
    bed.pod("p", "{restartPolicy: Never, containers: [{name: main, image: busybox, command: [sh, -c, 'kill -USR1 $$; sleep 1; sh -c \"kill -KILL \\$\\$\"; exit $?']}]}")
        .await?;
    bed.until(
        "p",
        &[
            "phase=Failed",
            "c[main].state.terminated.exitCode=137",
            "c[main].state.terminated.reason=Error",
        ],
    )
    .await?;
    Ok(())
}

async fn status_fields(bed: Bed) -> Result<()> {
    let spec = "
containers:
- {name: b, image: busybox, command: [sleep, '1000'], resources: {requests: {cpu: 10m}}}
- {name: a, image: busybox, command: [sleep, '1000']}
";
    bed.pod("p", spec).await?;
    let pod = bed
        .until(
            "p",
            &[
                "cond[Ready]=True",
                "cond[ContainersReady]=True",
                "cond[Initialized]=True",
                "cond[PodScheduled]=True",
                "cond[PodReadyToStartContainers]=True",
                "status.hostIP=10.200.0.11",
                "status.hostIPs=[{\"ip\":\"10.200.0.11\"}]",
                "status.podIPs[0].ip=10.244.1.*",
                "status.qosClass=Burstable",
                "status.startTime=?*",
                "status.observedGeneration=1",
                "cond[Ready].observedGeneration=1",
                "status.containerStatuses[0].name=a",
                "status.containerStatuses[1].name=b",
            ],
        )
        .await?;
    let order: Vec<String> =
        (0..5).map(|index| text(&pod, &format!("status.conditions[{index}].type"))).collect();
    let wanted =
        ["PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady", "PodScheduled"];
    same("the order of the conditions", order, wanted.map(str::to_owned).to_vec())
}

async fn observed_generation_follows_the_spec(bed: Bed) -> Result<()> {
    bed.pod("p", "containers: [{name: main, image: busybox, command: [sleep, '1000']}]").await?;
    bed.until("p", &["cond[Ready]=True", "status.observedGeneration=1"]).await?;
    bed.patch("Pod", "p", json!({"spec": {"activeDeadlineSeconds": 1000}})).await?;
    bed.until(
        "p",
        &["metadata.generation=2", "status.observedGeneration=2", "c[main].restartCount=0"],
    )
    .await?;
    Ok(())
}

async fn image_change_restarts_only_that_container(bed: Bed) -> Result<()> {
    let spec = "
terminationGracePeriodSeconds: 1
containers:
- {name: changed, image: busybox, command: [sleep, '1000']}
- {name: kept, image: busybox, command: [sleep, '1000']}
";
    bed.pod("p", spec).await?;
    let before = bed.until("p", &["cond[Ready]=True"]).await?;
    let image = "registry.k8s.io/e2e-test-images/agnhost:2.63.0";
    let change = json!([{"op": "replace", "path": "/spec/containers/0/image", "value": image}]);
    bed.kubectl(&["patch", "pod", "p", "--type=json", "-p", &change.to_string()]).await?;
    bed.until(
        "p",
        &[
            "cond[Ready]=True",
            "c[changed].restartCount=1",
            &format!("c[changed].image={image}"),
            "c[kept].restartCount=0",
            &format!("c[kept].containerID={}", text(&before, "c[kept].containerID")),
        ],
    )
    .await?;
    bed.event("p", "Killing", "Container changed definition changed, will be restarted").await?;
    Ok(())
}

async fn two_containers_share_network_and_not_files(bed: Bed) -> Result<()> {
    let spec = "
restartPolicy: Never
containers:
- {name: server, image: busybox, command: [sh, -c, 'touch /mine; echo hello | nc -l -p 7000']}
- name: client
  image: busybox
  command: [sh, -c, 'until nc 127.0.0.1 7000 </dev/null >/tmp/got && grep hello /tmp/got; do sleep 0.2; done; test ! -e /mine']
";
    bed.pod("p", spec).await?;
    bed.until("p", &["phase=Succeeded", "c[client].state.terminated.exitCode=0"]).await?;
    Ok(())
}

async fn shared_process_namespace(bed: Bed) -> Result<()> {
    let spec = "
shareProcessNamespace: true
terminationGracePeriodSeconds: 1
containers:
- {name: a, image: busybox, command: [sleep, '1234']}
- {name: b, image: busybox, command: [sleep, '1000']}
";
    bed.pod("p", spec).await?;
    bed.until("p", &["cond[Ready]=True"]).await?;
    let processes = bed.exec("p", "b", &["ps", "-o", "pid,args"]).await?;
    crate::bed::has_line("ps in b", &processes, "*1 /pause")?;
    crate::bed::has_line("ps in b", &processes, "*sleep 1234")?;
    Ok(())
}
