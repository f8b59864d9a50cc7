//! A container runtime in memory, for tests and simulations: sandboxes, containers, images, events,
//! and failures from a script.
//!
//! It answers as containerd does wherever callers can see a difference: names stay reserved while
//! RunPodSandbox runs, a stopped sandbox stays listed, events come after the fact.
//!
//! It implements the generated server traits, so the real client talks to it: in this process
//! ([`FakeRuntime::client`], which works under tokio's paused time) or over a socket
//! ([`FakeRuntime::listen`]).

mod services;
mod witness;
mod world;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::net::UnixListener;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tonic::Status;

use super::client::{Observer, Runtime};
use super::v1;
use super::v1::image_service_server::ImageServiceServer;
use super::v1::runtime_service_server::RuntimeServiceServer;
use crate::clock::Clock;
use crate::model::{ContainerId, SandboxId};

pub use witness::{Attempt, Deed, Delivery, Scene, Witness};
use world::World;
pub use world::{FakeContainer, FakeImage, FakeSandbox};

/// The effect of a script on a call.
#[derive(Clone, Debug)]
pub enum Effect {
    /// The call fails without a change.
    Fail(Status),
    /// The call fails after its change.
    FailAfter(Status),
    /// The call begins after this delay.
    Delay(Duration),
    /// The answer comes this long after the change.
    DelayAnswer(Duration),
    /// The call waits before its change until the gate opens.
    Hold(Gate),
    /// The answer waits after the change until the gate opens.
    HoldAnswer(Gate),
}

/// A gate at which calls wait.
#[derive(Clone, Debug)]
pub struct Gate {
    reached: Arc<Semaphore>,
    open: Arc<Semaphore>,
}

impl Default for Gate {
    fn default() -> Self {
        Self { reached: Arc::new(Semaphore::new(0)), open: Arc::new(Semaphore::new(0)) }
    }
}

impl Gate {
    /// Waits until a call stands at the gate.
    pub async fn reached(&self) {
        if let Ok(permit) = self.reached.acquire().await {
            permit.forget();
        }
    }

    /// Lets one call through.
    pub fn open(&self) {
        self.open.add_permits(1);
    }

    async fn pass(&self) {
        self.reached.add_permits(1);
        if let Ok(permit) = self.open.acquire().await {
            permit.forget();
        }
    }
}

/// A line of the script: an effect on the next `times` calls of one name about one target.
#[derive(Clone, Debug)]
struct Rule {
    call: &'static str,
    target: Option<String>,
    times: usize,
    effect: Effect,
}

/// A call that was made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    /// The call's name, e.g. `CreateContainer`.
    pub name: &'static str,
    /// The pod's name, the container's name, an id or an image.
    pub target: String,
}

/// The fake runtime. Cheap to clone; all clones are the same runtime.
#[derive(Clone)]
pub struct FakeRuntime {
    inner: Arc<Inner>,
}

impl std::fmt::Debug for FakeRuntime {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FakeRuntime").finish_non_exhaustive()
    }
}

struct Inner {
    clock: Mutex<Clock>,
    witness: Mutex<Option<Arc<dyn Witness>>>,
    world: Mutex<World>,
    rules: Mutex<Vec<Rule>>,
    calls: Mutex<Vec<Call>>,
    exec: Mutex<Exec>,
}

type Exec = Arc<dyn Fn(&v1::ExecSyncRequest) -> v1::ExecSyncResponse + Send + Sync>;

impl FakeRuntime {
    /// Returns an empty runtime that is ready.
    pub fn new(clock: Clock) -> Self {
        let exec: Exec = Arc::new(|_| v1::ExecSyncResponse::default());
        let inner = Inner {
            clock: Mutex::new(clock),
            witness: Mutex::default(),
            world: Mutex::new(World::default()),
            rules: Mutex::default(),
            calls: Mutex::default(),
            exec: Mutex::new(exec),
        };

        Self { inner: Arc::new(inner) }
    }

    /// Returns a client in this process.
    pub fn client(&self) -> Runtime {
        self.client_with(Arc::new(|_, _, _| {}))
    }

    /// Returns a client in this process that reports its calls.
    pub fn client_with(&self, observer: Observer) -> Runtime {
        Runtime::in_process(
            RuntimeServiceServer::new(self.clone()),
            ImageServiceServer::new(self.clone()),
            Duration::from_secs(120),
            *self.inner.clock.lock(),
            observer,
        )
    }

    /// Listens on a socket until `stop`.
    pub async fn listen(&self, socket: &Path, stop: CancellationToken) -> std::io::Result<()> {
        let listener = UnixListener::bind(socket)?;
        tonic::transport::Server::builder()
            .add_service(RuntimeServiceServer::new(self.clone()))
            .add_service(ImageServiceServer::new(self.clone()))
            .serve_with_incoming_shutdown(
                tokio_stream::wrappers::UnixListenerStream::new(listener),
                stop.cancelled_owned(),
            )
            .await
            .map_err(std::io::Error::other)
    }

    /// Gives the effect to the next `times` calls of this name; with a target, only to those about
    /// it.
    pub fn script(&self, call: &'static str, target: Option<&str>, times: usize, effect: Effect) {
        let target = target.map(str::to_owned);
        self.inner.rules.lock().push(Rule { call, target, times, effect });
    }

    /// Makes the next call of this name fail without a change.
    pub fn fail_next(&self, call: &'static str, status: Status) {
        self.script(call, None, 1, Effect::Fail(status));
    }

    /// Makes the next call of this name wait before its change.
    pub fn hold_next(&self, call: &'static str) -> Gate {
        let gate = Gate::default();
        self.script(call, None, 1, Effect::Hold(gate.clone()));
        gate
    }

    /// Holds the answer of the next call of this name back.
    pub fn hold_next_answer(&self, call: &'static str) -> Gate {
        let gate = Gate::default();
        self.script(call, None, 1, Effect::HoldAnswer(gate.clone()));
        gate
    }

    /// Shows every call, change and event to `witness`, which may interfere.
    pub fn set_witness(&self, witness: Arc<dyn Witness>) {
        self.inner.world.lock().witness = Some(witness.clone());
        *self.inner.witness.lock() = Some(witness);
    }

    /// Continues under another clock: the runtime outlives its callers.
    pub fn set_clock(&self, clock: Clock) {
        *self.inner.clock.lock() = clock;
    }

    /// Delivers the events that a witness has held back.
    pub fn deliver_late_events(&self) {
        self.inner.world.lock().deliver_late();
    }

    /// Forgets the script.
    pub fn clear_script(&self) {
        self.inner.rules.lock().clear();
    }

    /// Sets the answer to commands.
    pub fn on_exec(
        &self,
        exec: impl Fn(&v1::ExecSyncRequest) -> v1::ExecSyncResponse + Send + Sync + 'static,
    ) {
        *self.inner.exec.lock() = Arc::new(exec);
    }

    /// Returns every call so far.
    pub fn calls(&self) -> Vec<Call> {
        self.inner.calls.lock().clone()
    }

    /// Counts the calls of this name.
    pub fn count(&self, call: &str) -> usize {
        self.inner.calls.lock().iter().filter(|made| made.name == call).count()
    }

    /// Forgets the calls so far.
    pub fn clear_calls(&self) {
        self.inner.calls.lock().clear();
    }

    /// Sets the answer of `Version`.
    pub fn set_version(&self, name: &str, version: &str) {
        let mut world = self.inner.world.lock();
        name.clone_into(&mut world.name);
        version.clone_into(&mut world.version);
    }

    /// Sets the answer of `Status`.
    pub fn set_ready(&self, runtime: bool, network: bool) {
        let mut world = self.inner.world.lock();
        world.runtime_ready = runtime;
        world.network_ready = network;
    }

    /// Puts an image on the node.
    pub fn add_image(&self, reference: &str, size: u64) {
        self.inner.world.lock().add_image(reference, FakeImage::new(reference, size));
    }

    /// Puts an image into the registry.
    pub fn add_to_registry(&self, reference: &str, size: u64) {
        self.inner
            .world
            .lock()
            .registry
            .insert(reference.to_owned(), FakeImage::new(reference, size));
    }

    /// Ends a running container.
    pub fn exit_container(&self, id: &ContainerId, exit_code: i32, reason: &str) {
        let now = self.now();
        self.inner.world.lock().exit(id.as_str(), exit_code, reason, now);
    }

    /// Sets the runtime's message of a container's end.
    pub fn set_exit_message(&self, id: &ContainerId, message: &str) {
        if let Some(container) = self.inner.world.lock().containers.get_mut(id.as_str()) {
            message.clone_into(&mut container.message);
        }
    }

    /// Kills a sandbox and the containers in it.
    pub fn kill_sandbox(&self, id: &SandboxId) {
        let now = self.now();
        self.inner.world.lock().stop_sandbox(id.as_str(), now);
    }

    /// Sets the time that containers of this name take to end after SIGTERM; `None`: only SIGKILL
    /// ends them.
    pub fn set_stop_time(&self, container: &str, wait: Option<Duration>) {
        self.inner.world.lock().stop_times.insert(container.to_owned(), wait);
    }

    /// Sets whether events are sent to subscribers. A silent stream is one that lost them.
    pub fn set_events(&self, on: bool) {
        self.inner.world.lock().events_on = on;
    }

    /// Ends every event stream, as a restart of the runtime does.
    pub fn drop_streams(&self) {
        self.inner.world.lock().subscribers.clear();
    }

    /// Counts the open event streams.
    pub fn streams(&self) -> usize {
        let mut world = self.inner.world.lock();
        world.subscribers.retain(|subscriber| !subscriber.is_closed());
        world.subscribers.len()
    }

    /// Returns every container.
    pub fn containers(&self) -> Vec<FakeContainer> {
        self.inner.world.lock().containers.values().cloned().collect()
    }

    /// Returns every sandbox.
    pub fn sandboxes(&self) -> Vec<FakeSandbox> {
        self.inner.world.lock().sandboxes.values().cloned().collect()
    }

    /// Returns the references of all images on the node.
    pub fn images(&self) -> Vec<String> {
        self.inner.world.lock().images.keys().cloned().collect()
    }

    /// Returns the time, in nanoseconds since 1970.
    pub fn now(&self) -> i64 {
        i64::try_from(self.inner.clock.lock().now().wall.as_nanosecond()).unwrap_or(i64::MAX)
    }

    /// Records a call and takes its effect from the script.
    fn begin(&self, call: &'static str, target: &str, pod: &str) -> Option<Effect> {
        self.inner.calls.lock().push(Call { name: call, target: target.to_owned() });
        let witness = self.inner.witness.lock().clone();
        if let Some(effect) =
            witness.and_then(|witness| witness.call(&Attempt { call, target, pod }))
        {
            return Some(effect);
        }
        let mut rules = self.inner.rules.lock();
        let position = rules.iter().position(|rule| {
            rule.call == call
                && rule.times > 0
                && rule.target.as_deref().is_none_or(|wanted| wanted == target)
        })?;
        let rule = &mut rules[position];
        rule.times -= 1;
        let effect = rule.effect.clone();
        if rule.times == 0 {
            rules.remove(position);
        }

        Some(effect)
    }

    /// Serves a call as the script says.
    async fn serve<T>(
        &self,
        call: &'static str,
        target: &str,
        work: impl FnOnce(&mut World, i64) -> Result<T, Status>,
    ) -> Result<tonic::Response<T>, Status> {
        self.serve_for(call, target, "", work).await
    }

    /// Serves a call about a pod as the script says.
    async fn serve_for<T>(
        &self,
        call: &'static str,
        target: &str,
        pod: &str,
        work: impl FnOnce(&mut World, i64) -> Result<T, Status>,
    ) -> Result<tonic::Response<T>, Status> {
        let effect = self.before(call, target, pod).await?;
        let answer = work(&mut self.inner.world.lock(), self.now());
        self.after(effect, answer).await
    }

    /// Applies the part of an effect that comes before the call.
    async fn before(
        &self,
        call: &'static str,
        target: &str,
        pod: &str,
    ) -> Result<Option<Effect>, Status> {
        let effect = self.begin(call, target, pod);
        match &effect {
            Some(Effect::Fail(status)) => return Err(status.clone()),
            Some(Effect::Delay(wait)) => tokio::time::sleep(*wait).await,
            Some(Effect::Hold(gate)) => gate.pass().await,
            Some(Effect::FailAfter(_) | Effect::DelayAnswer(_) | Effect::HoldAnswer(_)) | None => {}
        }
        Ok(effect)
    }

    /// Applies the part of an effect that comes after the call.
    async fn after<T>(
        &self,
        effect: Option<Effect>,
        answer: Result<T, Status>,
    ) -> Result<tonic::Response<T>, Status> {
        match effect {
            Some(Effect::FailAfter(status)) => return Err(status),
            Some(Effect::DelayAnswer(wait)) => tokio::time::sleep(wait).await,
            Some(Effect::HoldAnswer(gate)) => gate.pass().await,
            Some(Effect::Fail(_) | Effect::Delay(_) | Effect::Hold(_)) | None => {}
        }
        answer.map(tonic::Response::new)
    }
}
