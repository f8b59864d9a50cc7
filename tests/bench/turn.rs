//! One kubelet's turn: starts it on the emptied node, measures every phase that is wanted, and
//! stops it.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use crate::Options;
use crate::audit::Audit;
use crate::files::Million;
use crate::node::{self, Kubelet, Node};
use crate::pods::{Bed, CONFIG_MAP, KEY, Kind};
use crate::process::{self, Counters};
use crate::samples::Samples;

/// How many pods are made at once.
pub(crate) const BURST: usize = 50;
/// How many pods a node has at most by default; so many are there for the idle figures.
const FULL: usize = 110;
/// How often somebody asks for `/metrics`, and so also the unit of the idle windows.
const SCRAPE: Duration = Duration::from_secs(15);
/// How long a single pod runs before it is deleted. The first process of a container has no handler
/// of signals at first and, as the first one of its namespace, is then spared by SIGTERM: it would
/// be waited for until its grace is over.
pub(crate) const RUN: Duration = Duration::from_millis(500);
/// How many of the full node's pods are looked at for an edited ConfigMap.
const EDITED: usize = 100;
/// How long an edit may take: upstream's takes up to a sync of the pod and the life of its cache.
const EDIT_PATIENCE: Duration = Duration::from_secs(240);

/// How many single pods per round.
pub(crate) fn singles(options: &Options) -> usize {
    if options.quick { 5 } else { 10 }
}

pub(crate) fn millis(took: Duration) -> f64 {
    took.as_secs_f64() * 1000.0
}

/// When half and when all of a burst had come so far.
pub(crate) fn add_burst(samples: &mut Samples, what: &str, mut took: Vec<Duration>) {
    took.sort();
    if let (Some(half), Some(all)) = (took.get(took.len().saturating_sub(1) / 2), took.last()) {
        samples.add(&format!("burst.{what}_half"), millis(*half));
        samples.add(&format!("burst.{what}_all"), millis(*all));
    }
}

/// Measures `kubelet`.
pub(crate) async fn take(
    node: &Node,
    bed: &Bed,
    kubelet: &Kubelet,
    (options, million): (&Options, Option<&mut Million>),
    samples: &mut Samples,
) -> Result<()> {
    node.stop_kubelet().await?;
    node.sweep().await?;
    let mut turn = Turn { node, bed, options, pid: node.start_kubelet(kubelet).await?, made: 0 };
    turn.ready().await?;
    let scrapes = tokio::spawn(scrape(bed.clone()));
    let mut outcome = turn.phases(samples).await;
    if let (Some(million), Ok(())) = (million, &outcome) {
        outcome = turn.million(million, samples).await.context("fsgroup");
    }
    scrapes.abort();
    node.stop_kubelet().await?;
    outcome
}

struct Turn<'a> {
    node: &'a Node,
    bed: &'a Bed,
    options: &'a Options,
    pid: u32,
    made: usize,
}

impl Turn<'_> {
    /// The kubelet runs a pod: also what warms it up.
    async fn ready(&mut self) -> Result<()> {
        for kind in [Kind::Plain, Kind::Volumes] {
            let names = self.names("warm", 1);
            self.bed.start_all(kind, &names).await?;
            self.bed.remove_all(&names).await?;
        }
        Ok(())
    }

    async fn phases(&mut self, samples: &mut Samples) -> Result<()> {
        let (settle, window) = if self.options.quick { (7, SCRAPE) } else { (10, SCRAPE * 2) };
        let settle = Duration::from_secs(settle);
        if self.options.wants("idle") {
            tokio::time::sleep(settle).await;
            process::idle(self.pid, window, "idle", samples).await?;
        }
        for kind in [Kind::Plain, Kind::Volumes] {
            if self.options.wants(kind.phase()) {
                self.single(kind, samples).await.context(kind.phase())?;
            }
        }
        if self.options.wants("burst") {
            self.burst(samples).await.context("burst")?;
        }
        // An edit takes upstream more than a minute: not in the short run.
        let edit =
            self.options.wants("edit") && (!self.options.quick || self.options.only.is_some());
        if edit || self.options.wants("full") {
            let names = self.names("full", FULL);
            self.bed.start_all(Kind::Volumes, &names).await?;
            if edit {
                self.edit(&names, samples).await.context("edit")?;
            }
            if self.options.wants("full") {
                tokio::time::sleep(settle).await;
                process::idle(self.pid, window, "full", samples).await?;
            }
            self.bed.remove_all(&names).await?;
        }
        Ok(())
    }

    /// Names that no other pod of the run has.
    fn names(&mut self, what: &str, count: usize) -> Vec<String> {
        let first = self.made;
        self.made += count;
        (first..self.made).map(|number| format!("{what}-{}-{number}", self.pid)).collect()
    }

    async fn single(&mut self, kind: Kind, samples: &mut Samples) -> Result<()> {
        let audit = Audit::from_now(self.node.audit_log()?);
        let phase = kind.phase();
        let names = self.names(phase, singles(self.options));
        let mut ready = Vec::new();
        for name in &names {
            ready.push(millis(self.bed.start(kind, name).await?));
            tokio::time::sleep(RUN).await;
            samples.add(&format!("{phase}.gone"), millis(self.bed.remove(name).await?));
        }
        let accepted = audit.accepted()?;
        for (name, ready) in names.iter().zip(ready) {
            let took = accepted
                .get(name)
                .with_context(|| format!("no Ready of {name} in the audit log"))?;
            samples.add(&format!("{phase}.ready"), ready);
            samples.add(&format!("{phase}.accepted"), took.since_bound);
            samples.add(&format!("{phase}.control"), took.control_plane);
            samples.add(&format!("{phase}.own"), ready - took.control_plane);
        }
        Ok(())
    }

    async fn burst(&mut self, samples: &mut Samples) -> Result<()> {
        let names = self.names("burst", BURST);
        let before = Counters::read(self.pid)?;
        let took = self.bed.start_all(Kind::Plain, &names).await?;
        add_burst(samples, "ready", took);
        tokio::time::sleep(RUN).await;
        let took = self.bed.remove_all(&names).await?;
        add_burst(samples, "gone", took);
        samples.add("burst.cpu", millis(Counters::read(self.pid)?.cpu_since(&before)));
        Ok(())
    }

    async fn million(&mut self, million: &mut Million, samples: &mut Samples) -> Result<()> {
        for name in self.names("fsgroup", 1) {
            let before = Counters::read(self.pid)?;
            samples.add("fsgroup", million.start(self.bed, &name).await?.as_secs_f64());
            let cpu = Counters::read(self.pid)?.cpu_since(&before);
            samples.add("fsgroup.cpu", cpu.as_secs_f64());
        }
        Ok(())
    }

    /// Edits the ConfigMap that every pod has: when does the file in the pod change?
    async fn edit(&self, names: &[String], samples: &mut Samples) -> Result<()> {
        let value = format!("edited-{}-{}", self.pid, samples.round);
        let mut files = Vec::new();
        for name in names.iter().take(EDITED) {
            let uid = self.bed.uid(name)?;
            let volume = format!("volumes/kubernetes.io~configmap/{CONFIG_MAP}/{KEY}");
            files.push(self.node.path(&format!("/var/lib/kubelet/pods/{uid}/{volume}"))?);
        }
        let began = Instant::now();
        self.bed.set_value(&value).await?;
        while let Some(file) = files.first() {
            if began.elapsed() > EDIT_PATIENCE {
                bail!(
                    "{} does not have the edit after {} s",
                    file.display(),
                    EDIT_PATIENCE.as_secs()
                );
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
            let before = files.len();
            files.retain(|file| std::fs::read_to_string(file).map_or(true, |text| text != value));
            for _ in files.len()..before {
                samples.add("edit", began.elapsed().as_secs_f64());
            }
        }
        Ok(())
    }
}

/// Asks for `/metrics` as a monitoring system does, through the API server, for it has the right
/// to.
async fn scrape(bed: Bed) {
    let mut ticks = tokio::time::interval(SCRAPE);
    let path = format!("/api/v1/nodes/{}/proxy/metrics", node::NAME);
    loop {
        ticks.tick().await;
        let Ok(request) = http::Request::get(&path).body(Vec::new()) else { return };
        if let Err(error) = bed.client.request_text(request).await {
            eprintln!("bench: /metrics: {error}");
        }
    }
}
