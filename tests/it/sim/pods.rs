//! Pods as the simulation makes them: what is in the object, and how their containers behave.

use std::fmt;
use std::path::Path;

use serde_json::{Value, json};

use super::random::Random;

/// A container: what it is and how it behaves.
#[derive(Clone, Debug)]
pub(super) struct ContainerPlan {
    pub(super) name: String,
    pub(super) kind: Kind,
    /// How long it runs by itself; `None`: until it is stopped.
    pub(super) runs_ms: Option<u64>,
    /// How many of its first runs fail.
    pub(super) fails: u32,
    image: String,
    pull: &'static str,
    probes: Vec<&'static str>,
    hooks: Vec<&'static str>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Init,
    Sidecar,
    Main,
}

/// A pod.
#[derive(Clone, Debug)]
pub(super) struct PodPlan {
    pub(super) name: String,
    pub(super) uid: String,
    pub(super) policy: &'static str,
    pub(super) is_static: bool,
    /// Inits and sidecars in order, then the others.
    pub(super) containers: Vec<ContainerPlan>,
    /// ConfigMaps that are mounted, by the volume's name.
    pub(super) config_maps: Vec<(String, String)>,
    grace: u64,
    host_network: bool,
    volumes: Vec<&'static str>,
}

pub(super) const CONFIG_MAPS: [&str; 3] = ["cm0", "cm1", "cm2"];
pub(super) const IMAGES: [&str; 5] = ["i0:1", "i1:1", "i2:1", "i3:1", "i4:1"];

impl PodPlan {
    pub(super) fn random(
        random: &mut Random,
        name: &str,
        generation: usize,
        is_static: bool,
    ) -> Self {
        let policy = *random.pick(&["Always", "Always", "OnFailure", "Never"]);
        let mut containers = Vec::new();
        for place in 0..random.below(3) {
            let kind = if random.percent(40) { Kind::Sidecar } else { Kind::Init };
            containers.push(ContainerPlan::random(random, &format!("init{place}"), kind, policy));
        }
        for place in 0..=random.below(2) {
            containers.push(ContainerPlan::random(
                random,
                &format!("main{place}"),
                Kind::Main,
                policy,
            ));
        }
        let kinds: &[&str] = if is_static {
            &["disk", "memory"]
        } else {
            &["disk", "memory", "config", "config", "secret", "downward", "projected"]
        };
        let mut volumes = Vec::new();
        let mut config_maps = Vec::new();
        for _ in 0..random.below(4) {
            let kind = *random.pick(kinds);
            if volumes.contains(&kind) {
                continue;
            }
            volumes.push(kind);
            if kind == "config" {
                config_maps.push(("config".to_owned(), (*random.pick(&CONFIG_MAPS)).to_owned()));
            }
        }
        Self {
            name: name.to_owned(),
            uid: format!("uid-{name}-{generation}"),
            policy,
            is_static,
            containers,
            config_maps,
            grace: *random.pick(&[0, 1, 2, 10, 30]),
            host_network: random.percent(15),
            volumes,
        }
    }

    /// The containers that the pod is for.
    pub(super) fn mains(&self) -> impl Iterator<Item = &ContainerPlan> {
        self.containers.iter().filter(|container| container.kind == Kind::Main)
    }

    /// Whether it ends by itself.
    pub(super) fn is_finite(&self) -> bool {
        self.policy != "Always" && self.mains().all(|container| container.runs_ms.is_some())
    }

    /// The object as the API server has it, with its defaults. `image` replaces that of the first
    /// main container.
    pub(super) fn object(&self, image: Option<&str>) -> Value {
        let containers = |inits: bool| {
            let of_kind =
                self.containers.iter().filter(|container| (container.kind != Kind::Main) == inits);
            let mut objects: Vec<Value> =
                of_kind.map(|container| self.container(container)).collect();
            if let (false, Some(image)) = (inits, image) {
                objects[0]["image"] = json!(image);
            }
            objects
        };
        json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": self.name, "namespace": "d", "uid": self.uid, "labels": {"app": self.name}},
            "spec": {
                "nodeName": "n1", "restartPolicy": self.policy, "terminationGracePeriodSeconds": self.grace,
                "hostNetwork": self.host_network, "dnsPolicy": "Default", "enableServiceLinks": false,
                "serviceAccountName": if self.is_static { "" } else { "default" },
                "automountServiceAccountToken": false,
                "initContainers": containers(true), "containers": containers(false),
                "volumes": self.volumes.iter().map(|kind| self.volume(kind)).collect::<Vec<_>>(),
            },
            "status": {"phase": "Pending"},
        })
    }

    /// The manifest of a static pod.
    pub(super) fn manifest(&self) -> Value {
        let mut object = self.object(None);
        for (part, field) in
            [("metadata", "uid"), ("spec", "nodeName"), ("spec", "serviceAccountName")]
        {
            object[part].as_object_mut().expect("an object").remove(field);
        }
        object.as_object_mut().expect("an object").remove("status");
        object
    }

    fn volume(&self, kind: &str) -> Value {
        let config_map = self.config_maps.first().map_or("cm0", |(_, name)| name);
        match kind {
            "disk" => json!({"name": kind, "emptyDir": {}}),
            "memory" => json!({"name": kind, "emptyDir": {"medium": "Memory"}}),
            "config" => {
                json!({"name": kind, "configMap": {"name": config_map, "defaultMode": 420}})
            }
            "secret" => json!({"name": kind, "secret": {"secretName": "s0", "defaultMode": 420}}),
            "downward" => json!({"name": kind, "downwardAPI": {"defaultMode": 420, "items": [
                {"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}}]}}),
            _ => json!({"name": kind, "projected": {"defaultMode": 420, "sources": [
                {"serviceAccountToken": {"path": "token", "expirationSeconds": 3600}},
                {"configMap": {"name": "cm0", "optional": true}}]}}),
        }
    }

    fn container(&self, plan: &ContainerPlan) -> Value {
        let whom = format!("{}/{}", self.name, plan.name);
        let exec = |what: &str| json!({"exec": {"command": [what, whom]}});
        let mounts: Vec<Value> = self
            .volumes
            .iter()
            .map(|kind| json!({"name": kind, "mountPath": format!("/{kind}")}))
            .collect();
        let mut container = json!({"name": plan.name, "image": plan.image, "imagePullPolicy": plan.pull,
            "terminationMessagePath": "/dev/termination-log", "terminationMessagePolicy": "File",
            "volumeMounts": mounts});
        if plan.kind == Kind::Sidecar {
            container["restartPolicy"] = json!("Always");
        }
        for probe in &plan.probes {
            let threshold = if *probe == "startup" { 30 } else { 3 };
            let mut object = exec(probe);
            for (field, value) in [
                ("periodSeconds", 2),
                ("timeoutSeconds", 1),
                ("successThreshold", 1),
                ("failureThreshold", threshold),
            ] {
                object[field] = json!(value);
            }
            container[format!("{probe}Probe")] = object;
        }
        for hook in &plan.hooks {
            container["lifecycle"][*hook] = exec(hook);
        }
        container
    }

    /// Where its directory is.
    pub(super) fn volume_dir(root: &Path, uid: &str) -> std::path::PathBuf {
        root.join("pods").join(uid).join("volumes")
    }
}

impl ContainerPlan {
    fn random(random: &mut Random, name: &str, kind: Kind, policy: &str) -> Self {
        let ends = match kind {
            Kind::Init => true,
            Kind::Sidecar => false,
            Kind::Main => policy != "Always" && random.percent(70),
        };
        let mut probes = Vec::new();
        let mut hooks = Vec::new();
        if kind != Kind::Init {
            probes.extend(
                ["readiness", "liveness", "startup"].into_iter().filter(|_| random.percent(20)),
            );
            hooks.extend(["postStart", "preStop"].into_iter().filter(|_| random.percent(20)));
        }
        Self {
            name: name.to_owned(),
            kind,
            runs_ms: ends.then(|| random.below(6000)),
            fails: u32::from(ends && random.percent(30)),
            image: (*random.pick(&IMAGES)).to_owned(),
            pull: if random.percent(20) { "Always" } else { "IfNotPresent" },
            probes,
            hooks,
        }
    }
}

impl fmt::Display for PodPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = if self.is_static { "static " } else { "" };
        write!(f, "{kind}{} ({}, grace {}", self.name, self.policy, self.grace)?;
        if self.host_network {
            write!(f, ", host network")?;
        }
        write!(f, ") volumes {:?}", self.volumes)?;
        for container in &self.containers {
            write!(f, " {}:{:?}", container.name, container.kind)?;
            if let Some(runs) = container.runs_ms {
                write!(f, " {runs}ms")?;
            }
            if container.fails > 0 {
                write!(f, " fails {}", container.fails)?;
            }
            if container.pull == "Always" {
                write!(f, " pulls")?;
            }
            for extra in container.probes.iter().chain(&container.hooks) {
                write!(f, " {extra}")?;
            }
        }
        Ok(())
    }
}
