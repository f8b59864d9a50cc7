//! The task on a temporary folder, with registrars in this process.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use parking_lot::Mutex;
use tokio::net::UnixListener;
use tokio::sync::mpsc;
use tokio_util::task::{AbortOnDropHandle, TaskTracker};
use tonic::{Request, Response, Status};

use super::v1::registration_server::{Registration, RegistrationServer};
use super::v1::{InfoRequest, PluginInfo, RegistrationStatus, RegistrationStatusResponse};
use super::{CSI_PLUGIN, Handler, Handlers, Plugin, Refusal, new};
use crate::clock::Clock;

/// A plugin's registrar; it hands on what it is told.
struct Registrar {
    info: PluginInfo,
    told: mpsc::Sender<RegistrationStatus>,
}

#[tonic::async_trait]
impl Registration for Registrar {
    async fn get_info(&self, _: Request<InfoRequest>) -> Result<Response<PluginInfo>, Status> {
        Ok(Response::new(self.info.clone()))
    }

    async fn notify_registration_status(
        &self,
        request: Request<RegistrationStatus>,
    ) -> Result<Response<RegistrationStatusResponse>, Status> {
        self.told.try_send(request.into_inner()).ok();
        Ok(Response::new(RegistrationStatusResponse {}))
    }
}

/// Notes what it is asked for; refuses plugins called `bad`.
#[derive(Clone, Default)]
struct Notes(Arc<Mutex<Vec<String>>>);

impl Handler for Notes {
    fn validate(&self, plugin: &Plugin) -> Result<(), Refusal> {
        if plugin.name == "bad" { Err("it is bad".into()) } else { Ok(()) }
    }

    fn register<'a>(&'a self, plugin: &'a Plugin) -> BoxFuture<'a, Result<(), Refusal>> {
        let endpoint = plugin.endpoint.display();
        self.0.lock().push(format!("register {} {endpoint}", plugin.name));
        Box::pin(std::future::ready(Ok(())))
    }

    fn deregister<'a>(&'a self, plugin: &'a Plugin) -> BoxFuture<'a, ()> {
        self.0.lock().push(format!("deregister {}", plugin.name));
        Box::pin(std::future::ready(()))
    }
}

struct World {
    dir: tempfile::TempDir,
    notes: Notes,
    _task: AbortOnDropHandle<()>,
}

fn world(prepare: impl FnOnce(&Path)) -> World {
    let dir = tempfile::tempdir().expect("a directory");
    let folder = dir.path().join("plugins_registry");
    prepare(&folder);
    let notes = Notes::default();
    let handlers: Handlers = [(CSI_PLUGIN, Arc::new(notes.clone()) as Arc<dyn Handler>)].into();
    let task = TaskTracker::new().spawn(new(folder, handlers, Clock::system()));
    World { dir, notes, _task: AbortOnDropHandle::new(task) }
}

type Told = mpsc::Receiver<RegistrationStatus>;

/// Serves a registrar until the guard is dropped.
fn serve(socket: &Path, kind: &str, name: &str) -> (AbortOnDropHandle<()>, Told) {
    let (told, hears) = mpsc::channel(16);
    let info = PluginInfo {
        r#type: kind.to_owned(),
        name: name.to_owned(),
        endpoint: "/d.sock".to_owned(),
        supported_versions: vec!["1.0.0".to_owned()],
    };
    let listener = UnixListener::bind(socket).expect("bound");
    let incoming = tokio_stream::wrappers::UnixListenerStream::new(listener);
    let server = tonic::transport::Server::builder()
        .add_service(RegistrationServer::new(Registrar { info, told }))
        .serve_with_incoming(incoming);
    let task = TaskTracker::new().spawn(async move { server.await.expect("served") });
    (AbortOnDropHandle::new(task), hears)
}

async fn next(told: &mut Told) -> RegistrationStatus {
    let limit = Duration::from_secs(20);
    tokio::time::timeout(limit, told.recv()).await.expect("in time").expect("a status")
}

impl World {
    fn socket(&self, name: &str) -> PathBuf {
        self.dir.path().join("plugins_registry").join(name)
    }

    async fn until_noted(&self, expected: &[&str]) {
        for _ in 0..200 {
            if *self.notes.0.lock() == expected {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        assert_eq!(*self.notes.0.lock(), expected);
    }
}

#[tokio::test]
async fn plugins_from_before_and_after_the_start_are_registered_until_they_go() {
    let mut early = None;
    let world = world(|folder| {
        std::fs::create_dir_all(folder).expect("made");
        early = Some(serve(&folder.join("early.sock"), CSI_PLUGIN, "early"));
    });
    let (_early, mut told) = early.expect("served");
    assert!(next(&mut told).await.plugin_registered);
    world.until_noted(&["register early /d.sock"]).await;

    std::fs::create_dir(world.socket("vendor")).expect("made");
    let late = world.socket("vendor/late.sock");
    let (_late, mut told) = serve(&late, CSI_PLUGIN, "late");
    assert!(next(&mut told).await.plugin_registered);
    world.until_noted(&["register early /d.sock", "register late /d.sock"]).await;

    std::fs::remove_file(&late).expect("removed");
    let gone = ["register early /d.sock", "register late /d.sock", "deregister late"];
    world.until_noted(&gone).await;
}

#[tokio::test]
async fn a_replaced_plugin_is_registered_again() {
    let world = world(|_| {});
    world.until_noted(&[]).await;
    while !world.dir.path().join("plugins_registry").exists() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let socket = world.socket("d.sock");
    let (first, mut told) = serve(&socket, CSI_PLUGIN, "d");
    assert!(next(&mut told).await.plugin_registered);
    drop(first);
    std::fs::remove_file(&socket).expect("removed");
    let (_second, mut told) = serve(&socket, CSI_PLUGIN, "d");
    assert!(next(&mut told).await.plugin_registered);
    world.until_noted(&["register d /d.sock", "deregister d", "register d /d.sock"]).await;
}

#[tokio::test]
async fn plugins_that_do_not_fit_are_told_why() {
    let world = world(|folder| std::fs::create_dir_all(folder).expect("made"));
    let socket = world.socket("dra.sock");
    let (_dra, mut told) = serve(&socket, "DRAPlugin", "dra");
    let status = next(&mut told).await;
    let expected = format!(
        "RegisterPlugin error -- no handler registered for plugin type: DRAPlugin at socket {}",
        socket.display()
    );
    assert_eq!((status.plugin_registered, status.error), (false, expected));
    let (_bad, mut told) = serve(&world.socket("bad.sock"), CSI_PLUGIN, "bad");
    let status = next(&mut told).await;
    assert_eq!(
        status.error,
        "RegisterPlugin error -- plugin validation failed with err: it is bad"
    );
    // It is asked again while its socket is there.
    assert!(!next(&mut told).await.plugin_registered);
    world.until_noted(&[]).await;
}

#[tokio::test]
async fn a_folder_that_is_made_anew_is_watched_again() {
    let world = world(|folder| std::fs::create_dir_all(folder).expect("made"));
    let (_first, mut told) = serve(&world.socket("first.sock"), CSI_PLUGIN, "first");
    assert!(next(&mut told).await.plugin_registered);
    std::fs::remove_dir_all(world.socket("")).expect("removed");
    world.until_noted(&["register first /d.sock", "deregister first"]).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    std::fs::create_dir_all(world.socket("")).expect("made");
    let (_second, mut told) = serve(&world.socket("second.sock"), CSI_PLUGIN, "second");
    assert!(next(&mut told).await.plugin_registered);
}

#[tokio::test]
async fn the_folder_may_be_a_link_of_the_administrators() {
    let elsewhere = tempfile::tempdir().expect("a directory");
    let world = world(|folder| {
        std::os::unix::fs::symlink(elsewhere.path(), folder).expect("a link");
    });
    let (_first, mut told) = serve(&world.socket("first.sock"), CSI_PLUGIN, "first");
    assert!(next(&mut told).await.plugin_registered);
}
