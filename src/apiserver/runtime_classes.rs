//! RuntimeClasses: which runtime handler a pod's sandbox is made with. One watch of a few small
//! objects.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use k8s_openapi::api::node::v1::RuntimeClass;
use kube::Api;
use tokio::sync::watch;

use super::client::Clients;
use super::list_watch::{self, Change};
use super::watched::Watched;

/// Why a pod's runtime class gives no handler; upstream's text.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RuntimeClassError {
    /// There is no such class.
    #[error("runtimeclass.node.k8s.io {name:?} not found")]
    NotFound {
        /// Its name.
        name: String,
    },
    /// The classes have not been listed yet.
    #[error("failed to lookup RuntimeClass {name}: the RuntimeClasses have not been listed yet")]
    NotSynced {
        /// Its name.
        name: String,
    },
}

#[derive(Debug, Default)]
struct State {
    synced: bool,
    handlers: BTreeMap<String, String>,
}

/// Reads the classes. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Handle {
    state: watch::Receiver<State>,
}

/// Makes the handle and the task that watches the classes.
pub fn new(clients: &Clients) -> (Handle, impl Future<Output = ()> + Send + use<>) {
    let (sender, state) = watch::channel(State::default());
    let api: Api<Watched<RuntimeClass>> = Api::all(clients.watches.clone());
    let reach = clients.reach.clone();
    let task = async move {
        let reduce = |class: RuntimeClass| (class.metadata.name.unwrap_or_default(), class.handler);
        list_watch::follow((api, &reach), None, reduce, |change| {
            sender.send_if_modified(|state| {
                match change {
                    Change::Reset(classes) => {
                        state.handlers = classes.into_iter().collect();
                        state.synced = true;
                    }
                    Change::Applied((name, handler)) => {
                        state.handlers.insert(name, handler);
                    }
                    Change::Deleted((name, _)) => {
                        state.handlers.remove(&name);
                    }
                    Change::Failed(_) => return false,
                }
                true
            });
            ControlFlow::Continue(())
        })
        .await;
    };
    (Handle { state }, task)
}

impl Handle {
    /// No classes at all, as a kubelet without an API server has.
    pub fn standalone() -> Self {
        Self { state: watch::channel(State { synced: true, handlers: BTreeMap::new() }).1 }
    }

    /// The runtime handler of a class; the empty default handler for none.
    pub fn handler(&self, class: Option<&str>) -> Result<String, RuntimeClassError> {
        let Some(name) = class.filter(|name| !name.is_empty()) else { return Ok(String::new()) };
        let state = self.state.borrow();
        match state.handlers.get(name) {
            Some(handler) => Ok(handler.clone()),
            None if state.synced => Err(RuntimeClassError::NotFound { name: name.to_owned() }),
            None => Err(RuntimeClassError::NotSynced { name: name.to_owned() }),
        }
    }
}
