//! Warnings about a pod's requests: each is emitted once per generation of the pod. Upstream
//! repeats them at every sync.

use std::collections::BTreeSet;

use parking_lot::Mutex;

use super::deps::Count;
use super::scope::Scope;
use crate::model::EventType;
use crate::model::reason::event;
use crate::pods::request::{Warning, WarningTarget};

/// The warnings of one pod that were emitted.
#[derive(Debug, Default)]
pub(super) struct Warnings(Mutex<Emitted>);

#[derive(Debug, Default)]
struct Emitted {
    /// The generation of the pod that `texts` is about.
    generation: i64,
    texts: BTreeSet<String>,
    /// Whether the pod's resolver configuration is cut.
    dns_cut: bool,
}

impl Warnings {
    /// Whether the pod's resolver configuration is cut.
    pub(super) fn is_dns_cut(&self) -> bool {
        self.0.lock().dns_cut
    }

    /// Emits the warnings that are new for this generation of the pod.
    pub(super) fn emit(&self, scope: Scope<'_>, warnings: Vec<Warning>) {
        let dns_cut = warnings.iter().any(|warning| warning.reason == event::DNS_CONFIG_FORMING);
        if self.replace_dns_cut(scope, dns_cut) != dns_cut {
            scope.deps.metrics.count(Count::DnsCut(dns_cut));
        }

        for Warning { target, reason, message } in warnings {
            let text = format!("{target:?} {reason} {message}");
            let is_new = self.0.lock().texts.insert(text);
            if !is_new {
                continue;
            }
            match target {
                WarningTarget::Pod => scope.event(EventType::Warning, reason, message),
                WarningTarget::Node => {
                    let node = &scope.deps.settings.node_name;
                    scope.deps.api.recorder.node(node, EventType::Warning, reason, message);
                }
            }
        }
    }

    /// Begins anew with a newer generation of the pod. Returns whether the resolver configuration
    /// was cut before.
    fn replace_dns_cut(&self, scope: Scope<'_>, dns_cut: bool) -> bool {
        let generation = scope.context.pod.metadata.generation.unwrap_or_default();
        let mut emitted = self.0.lock();
        if emitted.generation != generation {
            emitted.texts.clear();
            emitted.generation = generation;
        }
        std::mem::replace(&mut emitted.dns_cut, dns_cut)
    }
}
