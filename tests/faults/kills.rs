//! kill -9 of the kubelet before and after every mutating call of a pod's life.
//!
//! A first pod lives undisturbed and is recorded: its calls are the barriers. Then each phase of a
//! life (start with an init container, restart, delete) is led to all of its barriers at once, one
//! pod at each, the kubelet is killed there and started again, and each pod must come to the
//! phase's end as if nothing had been.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use futures::future::try_join_all;
use rkubelet_bed::bed::{Bed, same};
use rkubelet_bed::look::text;
use serde_json::{Value, json};

use crate::control::{Call, Proxy};
use crate::residue::some;
use crate::watched::Watched;
use crate::{Case, case, kill_kubelet, kubelet};

pub(crate) fn cases() -> Vec<Case> {
    vec![case(at_every_call_of_a_life)]
}

/// The calls that change something.
pub(crate) const MUTATING: &str = "RunPodSandbox|StopPodSandbox|RemovePodSandbox|CreateContainer|StartContainer|StopContainer|RemoveContainer";
/// How long a barrier may take to be reached: upstream removes containers once a minute.
const REACHED: Duration = Duration::from_secs(150);

/// Each start of a container leaves a line in the pod's volume.
const SPEC: &str = "
terminationGracePeriodSeconds: 1
initContainers:
- {name: init, image: busybox, command: [sh, -c, 'echo started >>/d/init'], volumeMounts: [{name: d, mountPath: /d}]}
containers:
- name: main
  image: busybox
  command: [sh, -c, 'echo started >>/d/main; exec sleep 10000']
  volumeMounts: [{name: d, mountPath: /d}]
volumes: [{name: d, emptyDir: {}}]
";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Start,
    Restart,
    Delete,
}

/// A moment at which to kill: the n-th such call of a phase.
#[derive(Clone, Debug)]
struct Barrier {
    method: String,
    container: String,
    nth: usize,
    when: &'static str,
}

impl Barrier {
    fn rule(&self, pod: &str) -> Value {
        json!({
            "name": self.to_string(), "method": self.method, "pod": pod, "container": self.container,
            "nth": self.nth, "when": self.when, "do": "hold",
        })
    }
}

impl std::fmt::Display for Barrier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {} {} {}", self.when, self.method, self.container, self.nth)
    }
}

struct Life<'a> {
    bed: &'a Bed,
    cri: Proxy,
    watched: Watched,
    pods: Vec<String>,
    uids: BTreeMap<String, String>,
}

async fn at_every_call_of_a_life(bed: Bed) -> Result<String> {
    let cri = Proxy::cri(&bed.cluster);
    let mut model = Life::begin(&bed, vec!["model".to_owned()]).await?;
    let mut barriers = Vec::new();
    for phase in [Phase::Start, Phase::Restart, Phase::Delete] {
        cri.forget().await?;
        model.lead(phase).await?;
        model.reached(phase).await?;
        barriers.push((
            phase,
            calls_of(&cri.recorded(MUTATING).await?, &format!("{}/model", bed.name)),
        ));
    }
    let most = barriers.iter().map(|(_, barriers)| barriers.len()).max().unwrap_or_default();
    let total: usize = barriers.iter().map(|(_, barriers)| barriers.len()).sum();
    ensure!(total >= 16, "a pod's life had only {total} barriers: {barriers:?}");
    drop(model);

    cri.forget().await?;
    let mut life =
        Life::begin(&bed, (0..most).map(|number| format!("p-{number}")).collect()).await?;
    for (phase, barriers) in &barriers {
        life.killed_at(*phase, barriers)
            .await
            .with_context(|| format!("{phase:?}, killed at {}", listed(barriers)))?;
    }
    life.watched.faultless()?;
    Ok(format!(
        "{total} barriers: {}",
        barriers.iter().map(|(_, list)| listed(list)).collect::<Vec<_>>().join(" / ")
    ))
}

/// What a pod shows that has come through the phase, unless it is gone then.
fn ready_after(phase: Phase) -> Option<&'static str> {
    match phase {
        Phase::Start => Some("c[main].restartCount=0"),
        Phase::Restart => Some("c[main].restartCount=1"),
        Phase::Delete => None,
    }
}

fn listed(barriers: &[Barrier]) -> String {
    let calls: Vec<String> = barriers
        .iter()
        .filter(|barrier| barrier.when == "before")
        .map(|barrier| format!("{} {}", barrier.method, barrier.container).trim_end().to_owned())
        .collect();
    calls.join(", ")
}

/// The barriers that the calls of one pod make.
fn calls_of(calls: &[Call], pod: &str) -> Vec<Barrier> {
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    let mut found = Vec::new();
    for call in calls.iter().filter(|call| call.pod == pod) {
        let nth = counts.entry(call.what()).or_default();
        *nth += 1;
        for when in ["before", "after"] {
            let (method, container) = (call.method.clone(), call.container.clone());
            found.push(Barrier { method, container, nth: *nth, when });
        }
    }
    found
}

impl<'a> Life<'a> {
    async fn begin(bed: &'a Bed, pods: Vec<String>) -> Result<Self> {
        let watched = Watched::pods(bed).await?;
        Ok(Self { bed, cri: Proxy::cri(&bed.cluster), watched, pods, uids: BTreeMap::new() })
    }

    /// The kubelet dies with one pod at each barrier.
    async fn killed_at(&mut self, phase: Phase, barriers: &[Barrier]) -> Result<()> {
        let pods = self.pods.clone();
        let at = |pod: &str| format!("{}/{pod}", self.bed.name);
        let rules: Vec<Value> =
            barriers.iter().zip(&pods).map(|(barrier, pod)| barrier.rule(&at(pod))).collect();
        self.cri.rules(&rules).await?;
        self.lead(phase).await?;
        let held: BTreeSet<String> =
            self.cri.until_held(barriers.len(), REACHED).await?.into_iter().collect();
        let missed: Vec<String> = barriers
            .iter()
            .map(Barrier::to_string)
            .filter(|barrier| !held.contains(barrier))
            .collect();
        ensure!(missed.is_empty(), "barriers never reached: {}", some(&missed));
        // A pod without a barrier must not be cut off in the middle of a call: a start that the
        // runtime gave up counts.
        if let Some(wants) = ready_after(phase) {
            let wants = ["cond[Ready]=True", wants];
            try_join_all(pods.iter().skip(barriers.len()).map(|pod| self.bed.until(pod, &wants)))
                .await?;
        }
        kill_kubelet(self.bed)?;
        // Before the barriers open the proxy must have seen it go: else a call held before the
        // runtime would still be made.
        self.cri.until_none_held().await?;
        self.cri.rules(&[]).await?;
        kubelet(self.bed, "start").await?;
        self.reached(phase).await
    }

    /// Makes the pods enter the phase.
    async fn lead(&mut self, phase: Phase) -> Result<()> {
        match phase {
            Phase::Start => {
                for pod in self.pods.clone() {
                    let made = self.bed.pod(&pod, SPEC).await?;
                    self.uids.insert(pod, text(&made, "metadata.uid"));
                }
            }
            Phase::Restart => {
                let mut pids = vec!["kill".to_owned(), "-KILL".to_owned()];
                let tasks = self.bed.cluster.ctr(&["tasks", "list"]).await?;
                for pod in &self.pods {
                    let id = text(&self.bed.get("Pod", pod).await?, "c[main].containerID")
                        .replace("containerd://", "");
                    let line = tasks
                        .lines()
                        .find(|line| line.starts_with(&id))
                        .context("no task of the container")?;
                    pids.push(line.split_whitespace().nth(1).unwrap_or_default().to_owned());
                }
                self.watched.killed(&self.pods);
                self.bed
                    .cluster
                    .node_exec(&pids.iter().map(String::as_str).collect::<Vec<_>>())
                    .await?;
            }
            Phase::Delete => {
                try_join_all(self.pods.iter().map(|pod| self.bed.delete(pod, None))).await?;
            }
        }
        Ok(())
    }

    /// All pods come to the end of the phase, having done everything once.
    async fn reached(&self, phase: Phase) -> Result<()> {
        let Some(wants) = ready_after(phase) else {
            self.watched.all(&self.pods, |pod| pod.gone, Duration::from_secs(120)).await?;
            return self.all_removed().await;
        };
        let restarts = usize::from(phase == Phase::Restart);
        let wants = [
            "cond[Ready]=True",
            "c[main].state.running.startedAt=?*",
            "c[init].restartCount=0",
            wants,
        ];
        try_join_all(self.pods.iter().map(|pod| self.bed.until(pod, &wants))).await?;
        for pod in &self.pods {
            for (container, wanted) in [("init", 1), ("main", restarts + 1)] {
                same(
                    &format!("starts of {pod}/{container}"),
                    self.starts(pod, container)?,
                    wanted,
                )?;
            }
        }
        self.once().await
    }

    /// How often a container of a pod began, by its own account.
    fn starts(&self, pod: &str, container: &str) -> Result<usize> {
        let uid = self.uids.get(pod).context("a pod without a UID")?;
        let path =
            format!("/var/lib/kubelet/pods/{uid}/volumes/kubernetes.io~empty-dir/d/{container}");
        let path = self.bed.cluster.on_node(&path);
        let text = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        Ok(text.lines().count())
    }

    /// No pod has got a second sandbox, or a second container that was started for one attempt.
    async fn once(&self) -> Result<()> {
        let calls = self.cri.recorded("RunPodSandbox|CreateContainer|StartContainer").await?;
        let of = |method: &'static str| calls.iter().filter(move |call| call.method == method);
        let starts = of("StartContainer").filter(|call| call.done());
        let started: BTreeSet<String> =
            starts.map(|call| text(&call.request, "container_id")).collect();
        // One that was never started is removed and made anew under its number: nothing of it has
        // run.
        let counts = |call: &&Call| {
            call.done()
                && (call.method == "RunPodSandbox"
                    || started.contains(&text(&call.response, "container_id")))
        };
        let mut made: BTreeMap<String, usize> = BTreeMap::new();
        for call in of("RunPodSandbox").chain(of("CreateContainer")).filter(counts) {
            let attempt = text(&call.request, "config.metadata.attempt");
            *made.entry(format!("{} {} attempt {attempt}", call.pod, call.what())).or_default() +=
                1;
        }
        let twice: Vec<String> =
            made.into_iter().filter(|(_, times)| *times > 1).map(|(what, _)| what).collect();
        ensure!(twice.is_empty(), "made twice: {}", some(&twice));
        Ok(())
    }

    /// Waits until the runtime has nothing of the pods.
    async fn all_removed(&self) -> Result<()> {
        let filter = format!("labels.\"io.kubernetes.pod.namespace\"=={}", self.bed.name);
        for _ in 0..180 {
            if self.bed.cluster.ctr(&["containers", "list", "-q", &filter]).await?.trim().is_empty()
            {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        bail!("after 180 s the runtime still has containers of pods that are gone")
    }
}
