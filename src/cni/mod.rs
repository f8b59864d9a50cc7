//! CNI: diagnoses the node's network configuration.
//!
//! The runtime calls the plugins. This room only reads the same files, so that "network not ready"
//! can say how to mend it. Its texts go beside upstream's, never in their place.
//!
//! - [`watch()`] reports changes of the configuration, for `cri::condition`.
//! - [`diagnose`] finds the fault in it.
//! - [`install`] creates a configuration where there is none.

mod problem;
mod watch;

use std::fmt;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::linux::fs::{ensure_dir, write_atomic};

pub use problem::{NetworkProblem, problem};
pub use watch::{Watcher, watch};

/// The folder in which the runtime looks for configurations by default.
pub const CONF_DIR: &str = "/etc/cni/net.d";
/// The folder in which the runtime looks for plugins by default.
pub const BIN_DIR: &str = "/opt/cni/bin";

/// The folders of configurations and plugins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Places {
    /// The folder of configurations.
    pub conf_dir: PathBuf,
    /// The folders of plugins.
    pub bin_dirs: Vec<PathBuf>,
}

impl Default for Places {
    fn default() -> Self {
        Self { conf_dir: PathBuf::from(CONF_DIR), bin_dirs: vec![PathBuf::from(BIN_DIR)] }
    }
}

/// A valid configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Network {
    /// The configuration's file.
    pub file: PathBuf,
    /// The network's name.
    pub name: String,
    /// The types of its plugins, in order.
    pub plugins: Vec<String>,
}

/// The reasons why the configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Problem {
    /// There is no configuration, or not even a folder for it.
    #[error("no conflist in {dir}: install a network add-on or put a conflist there")]
    NoConfiguration {
        /// The folder.
        dir: PathBuf,
    },
    /// The folder or a file cannot be read.
    #[error("{path} cannot be read")]
    Unreadable {
        /// The folder's or file's path.
        path: PathBuf,
        /// The kernel's error.
        #[source]
        source: io::Error,
    },
    /// The first file is not a configuration.
    #[error("{file} is not a CNI configuration: {problem}")]
    Invalid {
        /// The file.
        file: PathBuf,
        /// The fault, for people.
        problem: String,
    },
    /// A plugin does not exist.
    #[error("plugin {plugin} of {file} not found in {}", Dirs(.dirs))]
    PluginMissing {
        /// The configuration's file.
        file: PathBuf,
        /// The plugin's type.
        plugin: String,
        /// The folders in which it was searched.
        dirs: Vec<PathBuf>,
    },
    /// A plugin exists but cannot be executed.
    #[error("plugin {path} of {file} is not executable")]
    PluginNotExecutable {
        /// The configuration's file.
        file: PathBuf,
        /// The plugin's path.
        path: PathBuf,
    },
    /// A configuration could not be created.
    #[error("{path} cannot be written")]
    Unwritable {
        /// The folder's or file's path.
        path: PathBuf,
        /// The kernel's error.
        #[source]
        source: io::Error,
    },
}

struct Dirs<'a>(&'a [PathBuf]);

impl fmt::Display for Dirs<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let dirs: Vec<String> = self.0.iter().map(|dir| dir.display().to_string()).collect();
        f.write_str(&dirs.join(", "))
    }
}

/// Checks the configuration that the runtime uses: the first file by name. It blocks on small
/// files.
pub fn diagnose(places: &Places) -> Result<Network, Problem> {
    let file = first_file(&places.conf_dir)?;
    let data = std::fs::read(&file)
        .map_err(|source| Problem::Unreadable { path: file.clone(), source })?;
    let (name, plugins) = parse(&file, &data)?;
    for plugin in &plugins {
        find_plugin(&file, plugin, &places.bin_dirs)?;
    }
    Ok(Network { file, name, plugins })
}

/// Creates a configuration if the folder has none. Returns true if it did. It never replaces a
/// file: a network add-on owns it. The configuration is validated first.
pub fn install(places: &Places, file_name: &str, conflist: &[u8]) -> Result<bool, Problem> {
    let path = places.conf_dir.join(file_name);
    parse(&path, conflist)?;

    match first_file(&places.conf_dir) {
        Ok(_) => return Ok(false),
        Err(Problem::NoConfiguration { .. }) => {}
        Err(problem) => return Err(problem),
    }

    let unwritable = |source| Problem::Unwritable { path: path.clone(), source };
    if !places.conf_dir.exists() {
        ensure_dir(&places.conf_dir, 0o755).map_err(unwritable)?;
    }

    write_atomic(&path, conflist, 0o644).map_err(unwritable)?;
    Ok(true)
}

/// Returns the first configuration by name, in libcni's order.
fn first_file(dir: &Path) -> Result<PathBuf, Problem> {
    let entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(Problem::NoConfiguration { dir: dir.to_owned() });
        }
        Err(source) => return Err(Problem::Unreadable { path: dir.to_owned(), source }),
    };
    let is_configuration = |path: &PathBuf| {
        let extension = path.extension().and_then(|extension| extension.to_str());
        matches!(extension, Some("conf" | "conflist" | "json")) && !path.is_dir()
    };
    let files = entries.flatten().map(|entry| entry.path()).filter(is_configuration);

    files.min().ok_or_else(|| Problem::NoConfiguration { dir: dir.to_owned() })
}

#[derive(Deserialize)]
struct Conflist {
    #[serde(default)]
    name: String,
    #[serde(default)]
    plugins: Option<Vec<Plugin>>,
    /// The plugin's type, in a single-plugin configuration.
    #[serde(default, rename = "type")]
    kind: String,
}

#[derive(Deserialize)]
struct Plugin {
    #[serde(default, rename = "type")]
    kind: String,
}

/// Parses a configuration: the network's name and the types of its plugins.
fn parse(file: &Path, data: &[u8]) -> Result<(String, Vec<String>), Problem> {
    let invalid =
        |problem: &str| Problem::Invalid { file: file.to_owned(), problem: problem.to_owned() };
    let list: Conflist =
        serde_json::from_slice(data).map_err(|error| invalid(&error.to_string()))?;
    let is_list = file.extension().is_some_and(|extension| extension == "conflist");
    let plugins = match list.plugins {
        Some(plugins) => plugins,
        None if is_list => return Err(invalid("it has no plugins")),
        None => vec![Plugin { kind: list.kind }],
    };
    if list.name.is_empty() {
        return Err(invalid("it has no name"));
    }
    if plugins.is_empty() {
        return Err(invalid("its list of plugins is empty"));
    }
    if let Some(position) = plugins.iter().position(|plugin| plugin.kind.is_empty()) {
        return Err(invalid(&format!("plugin {} has no type", position + 1)));
    }
    if let Some(plugin) = plugins.iter().find(|plugin| plugin.kind.contains('/')) {
        return Err(invalid(&format!("the type {:?} is a path", plugin.kind)));
    }

    Ok((list.name, plugins.into_iter().map(|plugin| plugin.kind).collect()))
}

/// Checks that a plugin exists in one of the folders and can be executed.
fn find_plugin(file: &Path, plugin: &str, dirs: &[PathBuf]) -> Result<(), Problem> {
    let found = dirs.iter().map(|dir| dir.join(plugin)).find_map(|path| {
        let metadata = std::fs::metadata(&path).ok().filter(std::fs::Metadata::is_file)?;
        Some((path, metadata))
    });
    match found {
        None => Err(Problem::PluginMissing {
            file: file.to_owned(),
            plugin: plugin.to_owned(),
            dirs: dirs.to_owned(),
        }),
        Some((path, metadata)) if metadata.permissions().mode() & 0o111 == 0 => {
            Err(Problem::PluginNotExecutable { file: file.to_owned(), path })
        }
        Some(_) => Ok(()),
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "tests prepare files")]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::{Places, diagnose, install};

    const BRIDGE: &str = "{\"cniVersion\":\"1.0.0\",\"name\":\"pods\",\"plugins\":[{\"type\":\"bridge\"},{\"type\":\"portmap\"}]}";

    fn places() -> (tempfile::TempDir, Places) {
        let root = tempfile::tempdir().expect("a directory");
        let places =
            Places { conf_dir: root.path().join("net.d"), bin_dirs: vec![root.path().join("bin")] };
        std::fs::create_dir(&places.bin_dirs[0]).expect("made");
        (root, places)
    }

    fn plugin(places: &Places, name: &str, mode: u32) {
        let path = places.bin_dirs[0].join(name);
        std::fs::write(&path, "").expect("written");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).expect("changed");
    }

    #[track_caller]
    fn check(places: &Places, expected: &str) {
        let root = places.conf_dir.parent().expect("a parent").display().to_string();
        let text = match diagnose(places) {
            Ok(network) => format!("{} {:?}", network.name, network.plugins),
            Err(problem) => problem.to_string(),
        };
        assert_eq!(text.replace(&root, ""), expected);
    }

    #[test]
    fn says_what_is_missing() {
        let (_root, places) = places();
        let none = "no conflist in /net.d: install a network add-on or put a conflist there";
        check(&places, none);
        std::fs::create_dir(&places.conf_dir).expect("made");
        std::fs::write(places.conf_dir.join("README"), "x").expect("written");
        check(&places, none);
        std::fs::write(places.conf_dir.join("20-b.conflist"), BRIDGE).expect("written");
        check(&places, "plugin bridge of /net.d/20-b.conflist not found in /bin");
        plugin(&places, "bridge", 0o644);
        check(&places, "plugin /bin/bridge of /net.d/20-b.conflist is not executable");
        plugin(&places, "bridge", 0o755);
        plugin(&places, "portmap", 0o755);
        check(&places, "pods [\"bridge\", \"portmap\"]");
        std::fs::write(places.conf_dir.join("10-a.conf"), "{\"name\":\"a\",\"type\":\"portmap\"}")
            .expect("written");
        check(&places, "a [\"portmap\"]");
    }

    #[track_caller]
    fn invalid(name: &str, text: &str, problem: &str) {
        let (_root, places) = places();
        std::fs::create_dir(&places.conf_dir).expect("made");
        std::fs::write(places.conf_dir.join(name), text).expect("written");
        check(&places, &format!("/net.d/{name} is not a CNI configuration: {problem}"));
    }

    #[test]
    fn says_what_is_wrong() {
        invalid("a.conflist", "{\"name\":\"a\",\"type\":\"bridge\"}", "it has no plugins");
        invalid("a.conflist", "{\"plugins\":[{\"type\":\"x\"}]}", "it has no name");
        invalid("a.conflist", "{\"name\":\"a\",\"plugins\":[]}", "its list of plugins is empty");
        invalid(
            "a.conflist",
            "{\"name\":\"a\",\"plugins\":[{\"type\":\"x\"},{}]}",
            "plugin 2 has no type",
        );
        invalid("a.conf", "{\"name\":\"a\",\"type\":\"../x\"}", "the type \"../x\" is a path");
        invalid("a.json", "{", "EOF while parsing an object at line 1 column 1");
    }

    #[test]
    fn installs_only_where_there_is_none() {
        let (_root, places) = places();
        assert!(install(&places, "10-x.conflist", b"{}").is_err());
        assert!(install(&places, "10-x.conflist", BRIDGE.as_bytes()).expect("installed"));
        assert!(!install(&places, "05-y.conflist", BRIDGE.as_bytes()).expect("left alone"));
        assert_eq!(std::fs::read_dir(&places.conf_dir).expect("there").count(), 1);
    }
}
