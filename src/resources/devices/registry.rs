//! Takes on device plugins that announce themselves in `plugins_registry`.
//!
//! Called by the registration of plugins. The texts are upstream's.

use futures::future::BoxFuture;
use tokio::sync::{mpsc, oneshot};

use super::error::RegisterError;
use super::{News, plugin};
use crate::plugins::{Handler, Plugin, Refusal};
use crate::resources::list;

/// The version of the device plugin API.
const VERSION: &str = "v1beta1";

/// The reasons why a plugin does not fit.
#[derive(Debug, thiserror::Error)]
enum ValidateError {
    #[error("manager version, {VERSION}, is not among plugin supported versions [{}]", .0.join(" "))]
    Version(Vec<String>),
    #[error("invalid name of device plugin socket: the ResourceName {0:?} is invalid")]
    Resource(String),
}

/// Hands plugins of the registry to the manager's task.
#[derive(Clone, Debug)]
pub struct RegistryHandler {
    news: mpsc::Sender<News>,
}

impl RegistryHandler {
    /// Creates a handler that reports to the manager's task.
    pub fn new(news: mpsc::Sender<News>) -> Self {
        Self { news }
    }

    async fn take_on(&self, plugin: &Plugin) -> Result<(), RegisterError> {
        let connection = plugin::connect(&plugin.endpoint).await?;
        let (reply, taken) = oneshot::channel();
        let news = News::Connected { resource: plugin.name.clone(), connection, reply };
        self.news.send(news).await.map_err(|_| RegisterError::Ending)?;
        taken.await.map_err(|_| RegisterError::Ending)
    }
}

impl Handler for RegistryHandler {
    fn validate(&self, plugin: &Plugin) -> Result<(), Refusal> {
        if !plugin.versions.iter().any(|version| version == VERSION) {
            return Err(Box::new(ValidateError::Version(plugin.versions.clone())));
        }
        if !list::is_extended(&plugin.name) {
            return Err(Box::new(ValidateError::Resource(plugin.name.clone())));
        }
        Ok(())
    }

    fn register<'a>(&'a self, plugin: &'a Plugin) -> BoxFuture<'a, Result<(), Refusal>> {
        Box::pin(async move { Ok(self.take_on(plugin).await?) })
    }

    fn deregister<'a>(&'a self, _plugin: &'a Plugin) -> BoxFuture<'a, ()> {
        // The end of the plugin's list, which comes with its socket's, is what counts.
        Box::pin(std::future::ready(()))
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::mpsc;

    use super::RegistryHandler;
    use crate::plugins::{Handler as _, Plugin};

    #[track_caller]
    fn check(name: &str, version: &str, expected: Option<&str>) {
        let plugin = Plugin {
            name: name.to_owned(),
            endpoint: "/p.sock".into(),
            versions: vec![version.to_owned()],
        };
        let validated = RegistryHandler::new(mpsc::channel(1).0).validate(&plugin);
        let text = validated.err().map(|error| error.to_string());
        assert_eq!(text.as_deref(), expected);
    }

    #[test]
    fn a_plugin_speaks_our_version_for_an_extended_resource() {
        check("example.com/gpu", "v1beta1", None);
        check(
            "example.com/gpu",
            "v1",
            Some("manager version, v1beta1, is not among plugin supported versions [v1]"),
        );
        check(
            "cpu",
            "v1beta1",
            Some("invalid name of device plugin socket: the ResourceName \"cpu\" is invalid"),
        );
    }
}
