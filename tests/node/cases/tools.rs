//! The tools of the binary, as an operator runs them on the node: `rkubelet pods`, `timeline`,
//! `support-bundle`.

use anyhow::{Result, ensure};
use rkubelet_bed::run::kubelet_program;
use serde_json::Value;

use super::streams::SLEEPER;
use crate::bed::{Bed, same};
use crate::{Case, case};

pub(crate) fn cases() -> Vec<Case> {
    vec![case(a_stuck_pod_is_explained), case(a_start_has_its_steps), case(a_bundle_has_no_secret)]
}

/// Runs a tool on the node, as root there.
async fn tool(bed: &Bed, words: &[&str]) -> Result<String> {
    let program = kubelet_program()?;
    let mut argv = vec![program.as_str()];
    argv.extend(words);
    bed.cluster.node_exec(&argv).await
}

async fn a_stuck_pod_is_explained(bed: Bed) -> Result<()> {
    bed.pod(
        "stuck",
        "containers:
- name: app
  image: busybox
  command: [sleep, '1000']
  envFrom: [{configMapRef: {name: not-there}}]
",
    )
    .await?;
    bed.until(
        "stuck",
        &["status.containerStatuses[0].state.waiting.reason=CreateContainerConfigError"],
    )
    .await?;

    let text = tool(&bed, &["pods"]).await?;
    let head = text.lines().next().unwrap_or_default().to_owned();
    ensure!(head.starts_with("NAMESPACE") && head.ends_with("WAITS FOR"), "{text}");
    let row = text.lines().find(|line| line.contains(" stuck ")).unwrap_or_default();
    ensure!(row.contains("0/1") && row.contains("Pending") && row.contains("not-there"), "{text}");

    let all: Vec<Value> = serde_json::from_str(&tool(&bed, &["pods", "-o", "json"]).await?)?;
    let stuck = all.iter().find(|pod| pod["name"] == "stuck" && pod["namespace"] == bed.name);
    let stuck = stuck.unwrap_or(&Value::Null);
    same("phase", stuck["phase"].as_str(), Some("Pending"))?;
    same("stage", stuck["blocked"]["stage"].as_str(), Some("create"))?;
    same("state", stuck["state"].as_str(), Some("syncing"))
}

async fn a_start_has_its_steps(bed: Bed) -> Result<()> {
    bed.pod("web", SLEEPER).await?;
    bed.until("web", &["status.phase=Running"]).await?;

    let pod = format!("{}/web", bed.name);
    let answer = tool(&bed, &["timeline", &pod, "--output=json"]).await?;
    let timeline: Value = serde_json::from_str(&answer)?;
    let steps = timeline["steps"].as_array().cloned().unwrap_or_default();
    for what in ["make cgroup and directories", "create sandbox", "have image", "create and start"]
    {
        let step = steps.iter().find(|step| step["what"] == what).unwrap_or(&Value::Null);
        same(what, step["result"].as_str(), Some("done"))?;
    }
    ensure!(steps.iter().any(|step| step["what"] == "phase Running"), "{answer}");

    let text = tool(&bed, &["timeline", &pod]).await?;
    ensure!(text.starts_with(&format!("pod {pod}: Running, 1/1 ready, 0 restarts\n")), "{text}");

    let gone = tool(&bed, &["timeline", "default/nobody"]).await;
    let gone = gone.err().map(|error| format!("{error:#}")).unwrap_or_default();
    ensure!(gone.contains("pod default/nobody is not on this node"), "{gone}");
    Ok(())
}

async fn a_bundle_has_no_secret(bed: Bed) -> Result<()> {
    bed.create(
        "
apiVersion: v1
kind: Secret
metadata: {name: hidden}
stringData: {key: t0ps3cretvalue}
",
    )
    .await?;
    bed.pod(
        "user",
        "containers:
- name: app
  image: busybox
  command: [sleep, '1000']
  env:
  - {name: PLAIN, value: pl41nvalue}
  - {name: KEY, valueFrom: {secretKeyRef: {name: hidden, key: key}}}
",
    )
    .await?;
    bed.until("user", &["status.phase=Running"]).await?;

    let file = format!("/tmp/bundle-{}.tar.gz", bed.name);
    let said = tool(&bed, &["support-bundle", &file]).await?;
    for name in ["configz.json\n", "pods.json\n", "metrics.txt\n", "machine/proc/meminfo\n"] {
        ensure!(said.contains(name), "{name}: {said}");
    }
    let script = format!(
        "stat -c %a {file}; tar -xzOf {file} | grep -acE 't0ps3cretvalue|pl41nvalue'; rm {file}"
    );
    let found = bed.cluster.node_exec(&["sh", "-c", &script]).await?;
    same("mode, and lines with a secret", found.trim(), "600\n0")
}
