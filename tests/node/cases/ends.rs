//! Hooks, grace periods and deletion.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use crate::bed::{Bed, same, shows};
use crate::look::text;
use crate::{Case, beyond, case, slow};

pub(crate) fn cases() -> Vec<Case> {
    vec![
        case(post_start_runs_before_the_container_is_ready),
        slow(post_start_that_fails),
        case(pre_stop_exec),
        case(pre_stop_http),
        case(pre_stop_sleep),
        case(pre_stop_that_fails),
        case(pre_stop_is_bounded_by_the_grace_period),
        case(grace_period_then_killed),
        case(term_is_answered_at_once),
        beyond(grace_is_shortened_during_pre_stop),
        case(deleted_with_grace_zero),
        case(deleted_before_it_is_bound),
        case(deleted_during_a_crash_loop),
        case(deleted_pod_shows_how_it_ended),
        case(same_name_again),
        case(finalizer_keeps_the_object),
        case(stop_signal_of_the_spec),
    ]
}

/// A container that ends on SIGTERM.
const POLITE: &str =
    "image: busybox, command: [sh, -c, 'trap \"exit 0\" TERM; while true; do sleep 0.1; done']";

/// A folder on the node that outlives the pod, as a volume `notes`.
fn notes(bed: &Bed) -> (String, String) {
    let folder = format!("/var/lib/kubelet/notes-{}", bed.name);
    let volume = format!(
        "volumes: [{{name: notes, hostPath: {{path: {folder}, type: DirectoryOrCreate}}}}]"
    );
    (folder, volume)
}

fn read(bed: &Bed, path: &str) -> Result<String> {
    Ok(std::fs::read_to_string(bed.cluster.on_node(path))?)
}

/// Deletes the pod, waits for its end, and says how long that took.
async fn time_of_end(bed: &Bed, name: &str, grace: Option<u32>) -> Result<Duration> {
    let began = Instant::now();
    bed.delete(name, grace).await?;
    bed.until_gone("Pod", name).await?;
    Ok(began.elapsed())
}

async fn post_start_runs_before_the_container_is_ready(bed: Bed) -> Result<()> {
    let spec = format!("
terminationGracePeriodSeconds: 1
containers:
- {{name: main, {POLITE}, lifecycle: {{postStart: {{exec: {{command: [sh, -c, 'sleep 1; echo hooked > /tmp/hook']}}}}}}}}
");
    bed.pod("p", &spec).await?;
    bed.until("p", &["cond[Ready]=True"]).await?;
    same(
        "what the hook wrote",
        bed.exec("p", "main", &["cat", "/tmp/hook"]).await?.as_str(),
        "hooked\n",
    )
}

async fn post_start_that_fails(bed: Bed) -> Result<()> {
    let spec = format!(
        "
terminationGracePeriodSeconds: 1
containers:
- {{name: main, {POLITE}, lifecycle: {{postStart: {{exec: {{command: [sh, -c, 'exit 3']}}}}}}}}
"
    );
    bed.pod("p", &spec).await?;
    shows(
        &bed.event("p", "FailedPostStartHook", "PostStartHook failed").await?,
        &["type=Warning"],
    )?;
    bed.event("p", "Killing", "FailedPostStartHook").await?;
    bed.until("p", &["c[main].restartCount>0", "cond[Ready]=False"]).await?;
    Ok(())
}

pub(crate) async fn pre_stop_exec(bed: Bed) -> Result<()> {
    let (folder, volume) = notes(&bed);
    let spec = format!(
        "
{volume}
containers:
- name: main
  image: busybox
  command: [sh, -c, 'trap \"echo term >> /notes/order; exit 0\" TERM; while true; do sleep 0.1; done']
  lifecycle: {{preStop: {{exec: {{command: [sh, -c, 'sleep 1; echo hook >> /notes/order']}}}}}}
  volumeMounts: [{{name: notes, mountPath: /notes}}]
"
    );
    bed.pod("p", &spec).await?;
    bed.until_heeds_term("p", &["main"]).await?;
    time_of_end(&bed, "p", None).await?;
    bed.event("p", "Killing", "Stopping container main").await?;
    same("the order", read(&bed, &format!("{folder}/order"))?.as_str(), "hook\nterm\n")
}

async fn pre_stop_http(bed: Bed) -> Result<()> {
    let (folder, volume) = notes(&bed);
    let spec = format!("
{volume}
containers:
- name: main
  image: busybox
  command: [sh, -c, 'mkdir -p /www/cgi-bin; printf \"#!/bin/sh\\necho hook >> /notes/order; printf \\\"Content-Type: text/plain\\\\r\\\\n\\\\r\\\\n\\\"\\n\" > /www/cgi-bin/stop; chmod 755 /www/cgi-bin/stop; trap \"exit 0\" TERM; httpd -p 8080 -h /www; while true; do sleep 0.1; done']
  readinessProbe: {{tcpSocket: {{port: 8080}}, periodSeconds: 1}}
  lifecycle: {{preStop: {{httpGet: {{path: /cgi-bin/stop, port: 8080}}}}}}
  volumeMounts: [{{name: notes, mountPath: /notes}}]
");
    bed.pod("p", &spec).await?;
    bed.until("p", &["cond[Ready]=True"]).await?;
    time_of_end(&bed, "p", None).await?;
    same("what the hook wrote", read(&bed, &format!("{folder}/order"))?.as_str(), "hook\n")
}

async fn pre_stop_sleep(bed: Bed) -> Result<()> {
    bed.pod("p", &format!("containers: [{{name: main, {POLITE}, lifecycle: {{preStop: {{sleep: {{seconds: 3}}}}}}}}]"))
        .await?;
    bed.until_heeds_term("p", &["main"]).await?;
    let took = time_of_end(&bed, "p", None).await?;
    ensure!(took >= Duration::from_secs(3), "ended after {took:?}: the hook did not sleep");
    ensure!(took < Duration::from_secs(20), "ended only after {took:?}");
    Ok(())
}

async fn pre_stop_that_fails(bed: Bed) -> Result<()> {
    bed.pod(
        "p",
        &format!("containers: [{{name: main, {POLITE}, lifecycle: {{preStop: {{exec: {{command: ['false']}}}}}}}}]"),
    )
    .await?;
    bed.until_heeds_term("p", &["main"]).await?;
    time_of_end(&bed, "p", None).await?;
    shows(&bed.event("p", "FailedPreStopHook", "PreStopHook failed").await?, &["type=Warning"])
}

async fn pre_stop_is_bounded_by_the_grace_period(bed: Bed) -> Result<()> {
    let spec = format!(
        "
terminationGracePeriodSeconds: 3
containers: [{{name: main, {POLITE}, lifecycle: {{preStop: {{exec: {{command: [sleep, '100']}}}}}}}}]
"
    );
    bed.pod("p", &spec).await?;
    bed.until("p", &["cond[Ready]=True"]).await?;
    let took = time_of_end(&bed, "p", None).await?;
    ensure!(
        took >= Duration::from_secs(3),
        "ended after {took:?}, before the hook's time was over"
    );
    ensure!(took < Duration::from_secs(20), "ended only after {took:?}");
    Ok(())
}

pub(crate) async fn grace_period_then_killed(bed: Bed) -> Result<()> {
    let spec = "{terminationGracePeriodSeconds: 3, containers: [{name: main, image: busybox, command: [sleep, '1000']}]}";
    bed.pod("p", spec).await?;
    bed.until("p", &["cond[Ready]=True"]).await?;
    let took = time_of_end(&bed, "p", None).await?;
    ensure!(
        took >= Duration::from_secs(3),
        "killed after {took:?}, before its grace period was over"
    );
    ensure!(took < Duration::from_secs(20), "killed only after {took:?}");
    Ok(())
}

async fn term_is_answered_at_once(bed: Bed) -> Result<()> {
    bed.pod("p", &format!("containers: [{{name: main, {POLITE}}}]")).await?;
    bed.until_heeds_term("p", &["main"]).await?;
    let took = time_of_end(&bed, "p", None).await?;
    ensure!(
        took < Duration::from_secs(15),
        "a pod that ends on SIGTERM was gone only after {took:?}"
    );
    Ok(())
}

async fn grace_is_shortened_during_pre_stop(bed: Bed) -> Result<()> {
    let spec = format!(
        "
terminationGracePeriodSeconds: 600
containers: [{{name: main, {POLITE}, lifecycle: {{preStop: {{exec: {{command: [sleep, '500']}}}}}}}}]
"
    );
    bed.pod("p", &spec).await?;
    bed.until("p", &["cond[Ready]=True"]).await?;
    bed.delete("p", None).await?;
    bed.event("p", "Killing", "Stopping container main").await?;
    let took = time_of_end(&bed, "p", Some(2)).await?;
    ensure!(
        took < Duration::from_secs(30),
        "ended only {took:?} after its grace was shortened to 2 s"
    );
    Ok(())
}

async fn deleted_with_grace_zero(bed: Bed) -> Result<()> {
    let spec = "{terminationGracePeriodSeconds: 600, containers: [{name: main, image: busybox, command: [sleep, '1000']}]}";
    bed.pod("p", spec).await?;
    let pod = bed.until("p", &["cond[Ready]=True"]).await?;
    bed.delete("p", Some(0)).await?;
    bed.until_gone("Pod", "p").await?;
    // The object is gone at once; the node must not keep what ran.
    let folder =
        bed.cluster.on_node(&format!("/var/lib/kubelet/pods/{}", text(&pod, "metadata.uid")));
    let deadline = Instant::now() + Duration::from_secs(60);
    while folder.exists() {
        ensure!(
            Instant::now() < deadline,
            "{} is still there 60 s after the pod was deleted by force",
            folder.display()
        );
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let id = text(&pod, "c[main].containerID").replace("containerd://", "");
    let running = bed.cluster.ctr(&["task", "list"]).await?;
    ensure!(
        !running.lines().any(|line| line.contains(&id) && line.contains("RUNNING")),
        "its container still runs:\n{running}"
    );
    Ok(())
}

async fn deleted_before_it_is_bound(bed: Bed) -> Result<()> {
    bed.pod("p", "{schedulerName: nobody, containers: [{name: main, image: busybox, command: [sleep, '1000']}]}")
        .await?;
    time_of_end(&bed, "p", None).await?;
    same("events", bed.events("p").await?, Vec::new())
}

async fn deleted_during_a_crash_loop(bed: Bed) -> Result<()> {
    bed.pod("p", "containers: [{name: main, image: busybox, command: ['false']}]").await?;
    bed.until("p", &["c[main].state.waiting.reason=CrashLoopBackOff"]).await?;
    let took = time_of_end(&bed, "p", None).await?;
    ensure!(
        took < Duration::from_secs(20),
        "a pod of which nothing runs was gone only after {took:?}"
    );
    Ok(())
}

async fn deleted_pod_shows_how_it_ended(bed: Bed) -> Result<()> {
    // Somebody must be able to read the end: the finalizer holds the object.
    let spec = "{terminationGracePeriodSeconds: 5, containers: [{name: main, image: busybox, command: [sh, -c, 'trap \"exit 17\" TERM; while true; do sleep 0.1; done']}]}";
    bed.labelled_pod("p", "{finalizers: [example.com/held]}", spec).await?;
    bed.until_heeds_term("p", &["main"]).await?;
    bed.delete("p", None).await?;
    bed.until("p", &["phase=Failed", "c[main].state.terminated.exitCode=17", "cond[Ready]=False"])
        .await?;
    bed.patch("Pod", "p", serde_json::json!({"metadata": {"finalizers": null}})).await?;
    bed.until_gone("Pod", "p").await
}

pub(crate) async fn same_name_again(bed: Bed) -> Result<()> {
    let spec = format!("{{hostname: twin, containers: [{{name: main, {POLITE}}}]}}");
    let first = bed.pod("p", &spec).await?;
    bed.until_heeds_term("p", &["main"]).await?;
    time_of_end(&bed, "p", None).await?;
    let second = bed.pod("p", &spec).await?;
    ensure!(text(&first, "metadata.uid") != text(&second, "metadata.uid"), "one uid for two pods");
    bed.until(
        "p",
        &[
            "cond[Ready]=True",
            "c[main].restartCount=0",
            &format!("metadata.uid={}", text(&second, "metadata.uid")),
        ],
    )
    .await?;
    Ok(())
}

async fn finalizer_keeps_the_object(bed: Bed) -> Result<()> {
    let spec =
        format!("{{terminationGracePeriodSeconds: 5, containers: [{{name: main, {POLITE}}}]}}");
    bed.labelled_pod("p", "{finalizers: [example.com/held]}", &spec).await?;
    bed.until_heeds_term("p", &["main"]).await?;
    bed.delete("p", None).await?;
    bed.until(
        "p",
        &[
            "c[main].state.terminated.exitCode=0",
            "phase=Succeeded",
            "metadata.deletionGracePeriodSeconds=0",
        ],
    )
    .await?;
    bed.stays("p", 3, &["phase=Succeeded", "metadata.finalizers[0]=example.com/held"]).await?;
    bed.patch("Pod", "p", serde_json::json!({"metadata": {"finalizers": null}})).await?;
    bed.until_gone("Pod", "p").await
}

async fn stop_signal_of_the_spec(bed: Bed) -> Result<()> {
    let (folder, volume) = notes(&bed);
    let spec = format!("
os: {{name: linux}}
terminationGracePeriodSeconds: 10
{volume}
containers:
- name: main
  image: busybox
  command: [sh, -c, 'trap \"echo usr1 >> /notes/order; exit 0\" USR1; trap \"echo term >> /notes/order; exit 0\" TERM; while true; do sleep 0.1; done']
  lifecycle: {{stopSignal: SIGUSR1}}
  volumeMounts: [{{name: notes, mountPath: /notes}}]
");
    bed.pod("p", &spec).await?;
    bed.until_heeds_term("p", &["main"]).await?;
    time_of_end(&bed, "p", None).await?;
    // The gate ContainerStopSignals is off unless the cluster turns it on; then the field is
    // dropped by the API server.
    let seen = read(&bed, &format!("{folder}/order"))?;
    ensure!(seen == "usr1\n" || seen == "term\n", "the container noted {seen:?}");
    Ok(())
}
