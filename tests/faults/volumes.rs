//! kill -9 of the kubelet before every call that changes a file or a mount of a pod's volumes:
//! while they are mounted, updated, unmounted.
//!
//! A first pod with all kinds of volumes lives undisturbed under the tracer and tells the steps.
//! Then rounds of pods go through the same phases, each pod caught at another step; the kubelet is
//! killed there and started again. On disk no volume may ever show a mixture of old and new, and
//! each phase must come to what it would have been. In the end nothing of the pods may be left, and
//! nothing be touched that is not theirs (see `foreign`). `ROUNDS=n` takes an even share of the
//! steps, `SHOW=1` prints them all.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use futures::future::{join_all, try_join_all};
use rkubelet_bed::bed::{Bed, same};
use rkubelet_bed::look::text;
use serde_json::{Value, json};

use crate::foreign::{self, Foreign};
use crate::residue::{Residue, some};
use crate::tracer::{Step, Tracer};
use crate::{Case, case, kubelet, kubelet_pid, parameter, quick};

pub(crate) fn cases() -> Vec<Case> {
    vec![case(killed_at_every_step_of_volumes)]
}

/// How many pods are caught at a time, at most.
const SIDE_BY_SIDE: usize = 12;
/// How many of those that were missed are caught at a time.
const SECOND_CHANCES: usize = 3;
/// How long the way to a step, or to the end of a phase, may be.
const REACHED: Duration = Duration::from_secs(60);
/// The group that the volumes are given to.
const GROUP: u32 = 2345;

fn spec(bed: &Bed, pod: &str) -> String {
    format!(
        "
terminationGracePeriodSeconds: 1
automountServiceAccountToken: false
schedulingGates: [{{name: tests.rkubelet/marked}}]
securityContext: {{fsGroup: {GROUP}}}
volumes:
- {{name: disk, emptyDir: {{}}}}
- {{name: memory, emptyDir: {{medium: Memory, sizeLimit: 1Mi}}}}
- {{name: settings, configMap: {{name: settings}}}}
- {{name: keys, secret: {{secretName: keys}}}}
- name: own
  downwardAPI: {{items: [{{path: version, fieldRef: {{fieldPath: \"metadata.labels['version']\"}}}}]}}
- name: all
  projected: {{sources: [{{configMap: {{name: settings}}}}, {{serviceAccountToken: {{path: token}}}}]}}
- {{name: host, hostPath: {{path: {host}, type: Directory}}}}
- {{name: made, hostPath: {{path: {made}/{pod}, type: DirectoryOrCreate}}}}
- {{name: data, persistentVolumeClaim: {{claimName: {pod}}}}}
containers:
- name: main
  image: busybox
  command: [sh, -c, 'echo started >>/disk/starts; echo x >/memory/x; exec sleep 10000']
  volumeMounts:
  - {{name: disk, mountPath: /disk}}
  - {{name: disk, mountPath: /deep, subPath: deep/er}}
  - {{name: memory, mountPath: /memory}}
  - {{name: settings, mountPath: /settings}}
  - {{name: settings, mountPath: /single, subPath: one}}
  - {{name: keys, mountPath: /keys}}
  - {{name: own, mountPath: /own}}
  - {{name: all, mountPath: /all}}
  - {{name: host, mountPath: /host}}
  - {{name: made, mountPath: /made}}
  - {{name: data, mountPath: /data}}
  - {{name: data, mountPath: /part, subPath: part}}
",
        host = foreign::dir(bed, "host"),
        made = foreign::dir(bed, "made"),
    )
}

/// What is shown in volumes: kind, name, and the field of its files.
const OBJECTS: [(&str, &str, &str); 2] =
    [("ConfigMap", "settings", "data"), ("Secret", "keys", "stringData")];
/// The volumes that are written, with their plugins.
const WRITTEN: [(&str, &str); 4] =
    [("settings", "configmap"), ("keys", "secret"), ("own", "downward-api"), ("all", "projected")];

/// The files of a volume in each version. One name comes and goes.
fn files(volume: &str, version: usize) -> BTreeMap<String, String> {
    let names = match volume {
        "settings" | "all" => {
            vec!["one".to_owned(), "two".to_owned(), format!("only-{}", version % 2)]
        }
        "keys" => vec!["password".to_owned(), "user".to_owned()],
        _ => vec!["version".to_owned()],
    };
    names.into_iter().map(|name| (name, format!("v{version}"))).collect()
}

/// The names in a directory.
fn names(dir: &Path) -> Result<Vec<String>> {
    let entries = std::fs::read_dir(dir).with_context(|| dir.display().to_string())?;
    entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
}

/// A directory's files with their contents; links are followed. Names with two dots, and tokens,
/// are left out.
fn seen(dir: &Path) -> Result<BTreeMap<String, String>> {
    let mut found = BTreeMap::new();
    for name in names(dir)? {
        if !name.starts_with("..") && name != "token" {
            let content = std::fs::read_to_string(dir.join(&name));
            found.insert(
                name.clone(),
                content.with_context(|| format!("{}/{name}", dir.display()))?,
            );
        }
    }
    Ok(found)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Mount,
    Update,
    Unmount,
}

const PHASES: [Phase; 3] = [Phase::Mount, Phase::Update, Phase::Unmount];

/// What came of a phase: the steps of the first pod, and those at which a pod was to be caught but
/// was not.
struct Came {
    recorded: Vec<Step>,
    missed: Vec<Step>,
}

struct Matrix<'a> {
    bed: &'a Bed,
    foreign: &'a Foreign<'a>,
    /// What the ConfigMap, the Secret and the pods' labels say now.
    version: usize,
    /// Of the pods that there are now.
    uids: BTreeMap<String, String>,
    /// Their versions when they started.
    began: usize,
    /// Where something is mounted for a pod that nothing has disturbed, from its directory on.
    mounts: Vec<String>,
    /// What was there before the pods.
    before: Residue,
    /// Pods that something is wrong with already.
    broken: BTreeSet<String>,
    failures: Vec<String>,
    /// Steps that nobody came to any more.
    missed: Vec<String>,
}

async fn killed_at_every_step_of_volumes(bed: Bed) -> Result<String> {
    let pods: Vec<String> = (0..SIDE_BY_SIDE).map(|number| format!("p-{number}")).collect();
    let foreign = Foreign::new(&bed, &pods);
    foreign.make().await?;
    for (kind, name, data) in OBJECTS {
        let object = json!({"apiVersion": "v1", "kind": kind, "metadata": {"name": name}, data: files(name, 0)});
        bed.create(&object.to_string()).await?;
    }
    let mut matrix = Matrix::new(&bed, &foreign);
    let outcome = matrix.run(&pods).await;
    if outcome.is_err() {
        kubelet(&bed, "restart").await?;
        let all = kube::api::ListParams::default();
        bed.api("Pod").delete_collection(&rkubelet_bed::bed::grace(1), &all).await?;
    }
    let removed = foreign.remove().await;
    outcome.and_then(|said| removed.map(|()| said))
}

impl<'a> Matrix<'a> {
    fn new(bed: &'a Bed, foreign: &'a Foreign<'a>) -> Self {
        let (uids, mounts, before, broken, failures, missed) = Default::default();
        Self { bed, foreign, version: 0, uids, began: 0, mounts, before, broken, failures, missed }
    }

    async fn run(&mut self, pods: &[String]) -> Result<String> {
        let mut steps = Vec::new();
        for phase in PHASES {
            let came = self.phase(phase, &pods[..1], &[]).await;
            steps.push(came.with_context(|| format!("{phase:?}, undisturbed"))?.recorded);
        }
        ensure!(self.failures.is_empty(), "undisturbed: {}", some(&self.failures));
        let counted: Vec<usize> = steps.iter().map(Vec::len).collect();
        ensure!(counted.iter().all(|count| *count >= 8), "a phase had hardly any step: {steps:?}");
        let all = counted.iter().copied().max().unwrap_or_default().div_ceil(pods.len());
        let rounds = if quick() { 1 } else { parameter("ROUNDS", all) };
        let (mut killed, mut missed) = ([0; 3], [const { Vec::new() }; 3]);
        for round in 0..rounds {
            for (phase, steps) in PHASES.into_iter().zip(&steps) {
                // Far from each other: two threads that all pods need are hardly held at the same
                // time.
                let stride = rounds.max(steps.len().div_ceil(pods.len()));
                let of_round: Vec<Step> =
                    steps.iter().skip(round).step_by(stride).cloned().collect();
                let left = self.phase(phase, pods, &of_round).await;
                let left = left.with_context(|| format!("{phase:?} of round {round}"))?.missed;
                killed[phase as usize] += of_round.len() - left.len();
                missed[phase as usize].extend(left);
            }
        }
        // Those that did not come, because somebody else was first or all was held up, have a
        // second chance.
        while !quick() && missed.iter().any(|missed| !missed.is_empty()) {
            for (phase, missed) in PHASES.into_iter().zip(&mut missed) {
                let again: Vec<Step> = missed.drain(..missed.len().min(SECOND_CHANCES)).collect();
                let left = self.phase(phase, &pods[..SECOND_CHANCES], &again).await?.missed;
                killed[phase as usize] += again.len() - left.len();
                self.missed.extend(left.iter().map(|step| format!("{phase:?} {step}")));
            }
        }
        let total: usize = killed.iter().sum();
        let nobody = |missed: String| {
            if missed.is_empty() { missed } else { format!("; nobody came to {missed}") }
        };
        let missed = nobody(some(&self.missed));
        let said = format!(
            "killed at {killed:?} of {counted:?} steps of mount, update and unmount{missed}"
        );
        ensure!(
            self.failures.is_empty(),
            "{} failures: {}; {said}",
            self.failures.len(),
            some(&self.failures)
        );
        ensure!(total >= 16 && self.missed.len() * 10 <= total, "too few steps: {said}");
        Ok(said)
    }

    /// Leads the pods through a phase. Each of the first is caught at one of the steps, and when
    /// all are the kubelet is killed and started again.
    async fn phase(&mut self, phase: Phase, pods: &[String], steps: &[Step]) -> Result<Came> {
        if phase == Phase::Mount {
            self.before = Residue::take(&self.bed.cluster).await?;
            self.broken.clear();
        }
        let tracer = Tracer::attach(kubelet_pid(self.bed)?)?;
        pods.iter().zip(steps).for_each(|(pod, step)| tracer.catch(pod, step));
        self.uids.iter().for_each(|(pod, uid)| self.mark(&tracer, pod, uid));
        self.lead(phase, pods, &tracer).await?;
        let caught = tracer.until_caught(REACHED).await?;
        let missed = pods.iter().zip(steps).filter(|(pod, _)| !caught.contains(*pod));
        let missed: Vec<Step> = missed.map(|(_, step)| step.clone()).collect();
        if missed.is_empty() {
            // Who is not caught must not be cut off in the middle of a call to the runtime: that
            // one would fail. (If some were not caught it is quiet.)
            self.reached(phase, pods.iter().skip(steps.len()), steps).await;
        }
        let mut recorded = tracer.steps(&pods[0]);
        // What is written for the pod's containers is no volume, and written by threads that all
        // pods need.
        recorded
            .retain(|step| !["pod/etc-hosts", "pod/containers"].iter().any(|dir| step.is_in(dir)));
        if std::env::var("SHOW").is_ok() && self.mounts.is_empty() {
            for step in &recorded {
                println!("{phase:?} {step}");
            }
        }
        tracer.kill()?;
        for (pod, step) in pods.iter().zip(steps).filter(|_| phase != Phase::Unmount) {
            if let Err(error) = self.is_whole(pod) {
                self.failures.push(format!("{phase:?} before {step}, the kubelet dead: {error:#}"));
            }
        }
        kubelet(self.bed, "start").await?;
        self.reached(phase, pods.iter(), steps).await;
        if phase == Phase::Mount && self.mounts.is_empty() {
            self.mounts = self.mounted(&pods[0])?;
        }
        if phase == Phase::Unmount {
            self.uids.clear();
            let left = Residue::until_back(&self.bed.cluster, &self.before, REACHED).await;
            if let Err(error) = left.and_then(|()| self.foreign.is_kept()) {
                let listed: Vec<String> = steps.iter().map(Step::to_string).collect();
                self.failures
                    .push(format!("{phase:?} before one of {}: {error:#}", listed.join(", ")));
            }
        }
        Ok(Came { recorded, missed })
    }

    /// What is written for the pod lies below its directory, but for the directory of the node that
    /// is made for it.
    fn mark(&self, tracer: &Tracer, pod: &str, uid: &str) {
        tracer.mark(&format!("/pods/{uid}"), pod, "pod");
        tracer.mark(&format!("{}/{pod}", foreign::dir(self.bed, "made")), pod, "made");
    }

    /// Makes the pods enter the phase.
    async fn lead(&mut self, phase: Phase, pods: &[String], tracer: &Tracer) -> Result<()> {
        let bed = self.bed;
        match phase {
            Phase::Mount => {
                self.began = self.version;
                let labels = format!("{{labels: {{version: v{}}}}}", self.version);
                for pod in pods {
                    // Nobody starts it before the tracer knows it.
                    let uid = text(
                        &bed.labelled_pod(pod, &labels, &spec(bed, pod)).await?,
                        "metadata.uid",
                    );
                    self.mark(tracer, pod, &uid);
                    self.uids.insert(pod.clone(), uid);
                }
                let open = || json!({"spec": {"schedulingGates": []}});
                try_join_all(pods.iter().map(|pod| bed.patch("Pod", pod, open()))).await?;
            }
            Phase::Update => {
                self.version += 1;
                for (kind, name, data) in OBJECTS {
                    let mut change: BTreeMap<String, Value> = files(name, self.version - 1)
                        .into_keys()
                        .map(|name| (name, Value::Null))
                        .collect();
                    change.extend(
                        files(name, self.version)
                            .into_iter()
                            .map(|(name, text)| (name, json!(text))),
                    );
                    bed.patch(kind, name, json!({data: change})).await?;
                }
                let change =
                    json!({"metadata": {"labels": {"version": format!("v{}", self.version)}}});
                try_join_all(pods.iter().map(|pod| bed.patch("Pod", pod, change.clone()))).await?;
            }
            Phase::Unmount => {
                drop(try_join_all(pods.iter().map(|pod| bed.delete(pod, None))).await?);
            }
        }
        Ok(())
    }

    /// Waits until the pods are at the phase's end, and keeps what is wrong with them.
    async fn reached<'p>(
        &mut self,
        phase: Phase,
        pods: impl Iterator<Item = &'p String>,
        steps: &[Step],
    ) {
        let pods: Vec<&String> = pods.filter(|pod| !self.broken.contains(*pod)).collect();
        let outcomes = join_all(pods.iter().map(|pod| self.is_through(phase, pod))).await;
        for (pod, outcome) in pods.into_iter().zip(outcomes) {
            let Err(error) = outcome else { continue };
            let number = pod.trim_start_matches("p-").parse::<usize>().unwrap_or_default();
            let step = steps.get(number).map_or_else(|| "nothing".to_owned(), Step::to_string);
            println!("  {phase:?} of {pod}, killed before {step}: {error:#}");
            self.failures.push(format!("{phase:?} before {step}: {error:#}"));
            self.broken.insert(pod.clone());
        }
    }

    async fn is_through(&self, phase: Phase, pod: &str) -> Result<()> {
        if phase == Phase::Unmount {
            return self.bed.until_gone("Pod", pod).await;
        }
        let shown = self.bed.until(pod, &["cond[Ready]=True", "c[main].restartCount=0"]).await?;
        let id = text(&shown, "c[main].containerID").replace("containerd://", "");
        let tasks = self.bed.cluster.ctr(&["tasks", "list"]).await?;
        let task =
            tasks.lines().find(|line| line.starts_with(&id)).context("no task of the container")?;
        let pid = task.split_whitespace().nth(1).unwrap_or_default();
        let root = self.bed.cluster.on_node(&format!("/proc/{pid}/root"));
        let deadline = Instant::now() + REACHED;
        loop {
            match self.is_right(pod, &root) {
                Ok(()) => return Ok(()),
                Err(error) if Instant::now() > deadline => return Err(error),
                Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        }
    }

    /// The pod's container sees what it should, and nothing else is on the node's disk or mounted.
    fn is_right(&self, pod: &str, root: &Path) -> Result<()> {
        let read =
            |path: &str| std::fs::read_to_string(root.join(path)).with_context(|| path.to_owned());
        for (volume, _) in WRITTEN {
            same(volume, seen(&root.join(volume))?, files(volume, self.version))?;
            let mut odd = names(&self.place(pod, volume)?)?;
            odd.retain(|name| name.starts_with('.') && name != "..data");
            ensure!(odd.len() == 1, "generations and leftovers of {volume}: {odd:?}");
        }
        ensure!(!read("all/token")?.is_empty(), "the token is empty");
        for (path, wanted) in [
            ("disk/starts", "started\n"),
            ("memory/x", "x\n"),
            ("host/kept", "kept"),
            ("data/kept", "kept"),
        ] {
            same(path, read(path)?.as_str(), wanted)?;
        }
        same("the file by its subPath", read("single")?, format!("v{}", self.began))?;
        for path in [
            "disk",
            "memory",
            "keys/user",
            "settings/one",
            "own/version",
            "all/token",
            "data",
            "part",
            "deep",
        ] {
            same(
                &format!("the group of {path}"),
                std::fs::metadata(root.join(path))?.gid(),
                GROUP,
            )?;
        }
        ensure!(root.join("made").is_dir(), "made is no directory");
        if !self.mounts.is_empty() {
            same("what is mounted", self.mounted(pod)?, self.mounts.clone())?;
        }
        Ok(())
    }

    /// With the kubelet dead: a volume has no files yet, or all those of one version.
    fn is_whole(&self, pod: &str) -> Result<()> {
        for (volume, _) in WRITTEN {
            let data = self.place(pod, volume)?.join("..data");
            if data.symlink_metadata().is_err() {
                continue;
            }
            let shown = seen(&data)?;
            let versions = self.version.saturating_sub(1)..=self.version;
            ensure!(
                versions.map(|version| files(volume, version)).any(|files| files == shown),
                "{volume}: {shown:?}"
            );
        }
        Ok(())
    }

    /// A written volume of the pod on the node.
    fn place(&self, pod: &str, volume: &str) -> Result<PathBuf> {
        let uid = self.uids.get(pod).context("a pod without a UID")?;
        let plugin = WRITTEN
            .iter()
            .find(|(name, _)| *name == volume)
            .map(|(_, plugin)| plugin)
            .context("no plugin")?;
        let path = format!("/var/lib/kubelet/pods/{uid}/volumes/kubernetes.io~{plugin}/{volume}");
        Ok(self.bed.cluster.on_node(&path))
    }

    /// What is mounted in the pod's directory, as often as it is.
    fn mounted(&self, pod: &str) -> Result<Vec<String>> {
        let uid = self.uids.get(pod).context("a pod without a UID")?;
        let mounts = std::fs::read_to_string(format!(
            "/proc/{}/mountinfo",
            self.bed.cluster.env("NODE_N1_PID")
        ))?;
        let points =
            mounts.lines().filter_map(|line| line.split(' ').nth(4)?.split_once(uid.as_str()));
        let mut points: Vec<String> = points
            .map(|(_, path)| path.replace(&format!("{}-{pod}", self.bed.name), "PV"))
            .collect();
        points.sort();
        Ok(points)
    }
}
