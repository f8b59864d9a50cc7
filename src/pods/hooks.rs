//! postStart and preStop: run by the executor as part of a start or a kill, never on their own.
//!
//! Nothing is retried. A hook that is not waited for any more ends when its future is dropped. What
//! a hook wrote stays out of events, because it may hold secrets.

use std::net::IpAddr;
use std::time::Duration;

use futures::future::BoxFuture;
use k8s_openapi::api::core::v1 as api;

use crate::apiserver::events::Recorder;
use crate::clock::Clock;
use crate::cri::client::ExecOutput;
use crate::cri::{CriError, Runtime};
use crate::model::quote::go_quote;
use crate::model::{ContainerId, ContainerKind, EventType, Mono, Pod, reason, time};
use crate::probes::check::Exec;
use crate::probes::check::exec::combined;
use crate::probes::check::http::{ActionError, Get, GetError, fetch_any};

use super::request::pod_in_messages;

/// The container whose hook runs, and what hooks need.
#[derive(Clone, Copy, Debug)]
pub struct HookTarget<'a> {
    /// Runs commands.
    pub exec: &'a dyn Exec,
    /// For the events about hooks.
    pub recorder: &'a Recorder,
    /// The pod.
    pub pod: &'a Pod,
    /// The container's kind.
    pub kind: ContainerKind,
    /// The container in the spec.
    pub container: &'a api::Container,
    /// Its id.
    pub id: &'a ContainerId,
    /// The pod's first address; the node's for a hostNetwork pod.
    pub pod_ip: Option<IpAddr>,
}

/// A hook that failed; the message is upstream's, for the container's waiting message.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct HookError {
    /// Upstream's message.
    pub message: String,
}

/// How a preStop hook ended. The container is stopped in any case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PreStopEnd {
    /// There is none, or it has done its work.
    Done,
    /// It failed.
    Failed(HookError),
    /// The grace period was over first.
    OutOfTime,
}

/// Runs the commands of hooks. A command that is no longer waited for goes on until it or its
/// container ends, as upstream: at the end of the grace the container is killed.
#[derive(Clone, Debug)]
pub struct HookCommands(pub Runtime);

impl Exec for HookCommands {
    fn exec_sync(
        &self,
        id: &ContainerId,
        command: Vec<String>,
        timeout: Duration,
    ) -> BoxFuture<'static, Result<ExecOutput, CriError>> {
        let (runtime, id) = (self.0.clone(), id.clone());
        Box::pin(async move {
            let call = runtime.clone();
            runtime
                .detach(async move { Runtime::exec_sync(&call, &id, command, timeout).await })
                .await
        })
    }
}

/// Runs the postStart hook, if there is one. It has no deadline: a container whose hook hangs does
/// not start, and its readers see it as not running. A failure is recorded as an event.
/// Cancel-safe: dropping the future ends the hook.
pub async fn post_start(target: HookTarget<'_>) -> Result<(), HookError> {
    let Some(handler) = target.container.lifecycle.as_ref().and_then(|all| all.post_start.as_ref())
    else {
        return Ok(());
    };
    let ended = run(target, handler).await;
    if ended.is_err() {
        record(target, reason::event::FAILED_POST_START_HOOK, "PostStartHook failed");
    }
    ended
}

/// Runs the preStop hook, if there is one, until `deadline`. A failure is recorded as an event.
/// Cancel-safe: dropping the future ends the hook.
pub async fn pre_stop(target: HookTarget<'_>, clock: &Clock, deadline: Mono) -> PreStopEnd {
    let Some(handler) = target.container.lifecycle.as_ref().and_then(|all| all.pre_stop.as_ref())
    else {
        return PreStopEnd::Done;
    };
    match tokio::time::timeout_at(clock.instant(deadline), run(target, handler)).await {
        Ok(Ok(())) => PreStopEnd::Done,
        Ok(Err(error)) => {
            tracing::info!(container = target.container.name, %error, "A preStop hook failed");
            record(target, reason::event::FAILED_PRE_STOP_HOOK, "PreStopHook failed");
            PreStopEnd::Failed(error)
        }
        Err(_) => {
            tracing::info!(
                container = target.container.name,
                "A preStop hook did not end within the grace period"
            );
            // Upstream's fails when the container is killed.
            record(target, reason::event::FAILED_PRE_STOP_HOOK, "PreStopHook failed");
            PreStopEnd::OutOfTime
        }
    }
}

fn record(target: HookTarget<'_>, reason: &str, message: &str) {
    let container = Some((target.kind, target.container.name.as_str()));
    target.recorder.pod(target.pod, container, EventType::Warning, reason, message);
}

async fn run(target: HookTarget<'_>, handler: &api::LifecycleHandler) -> Result<(), HookError> {
    let whose = || {
        format!(
            "for Container {:?} in Pod {:?}",
            target.container.name,
            pod_in_messages(target.pod)
        )
    };

    if let Some(action) = &handler.exec {
        let command = action.command.clone().unwrap_or_default();
        return exec(target, command.clone()).await.map_err(|(problem, output)| HookError {
            message: format!(
                "Exec lifecycle hook ([{}]) {} failed - error: {problem}, message: {}",
                command.join(" "),
                whose(),
                go_quote(&output)
            ),
        });
    }

    if let Some(action) = &handler.http_get {
        return http(target, action).await.map_err(|problem| HookError {
            message: format!(
                "HTTP lifecycle hook ({}) {} failed - error: {problem}",
                action.path.as_deref().unwrap_or_default(),
                whose()
            ),
        });
    }

    if let Some(action) = &handler.sleep {
        // Zero is allowed; less is refused by the API server.
        tokio::time::sleep(time::seconds(action.seconds)).await;
        return Ok(());
    }

    // `tcpSocket` has never been run; the API keeps it for old manifests, and upstream fails it as
    // well.
    let kind = if handler.tcp_socket.is_some() {
        "tcpSocket is not supported for lifecycle hooks"
    } else {
        "it is empty"
    };
    Err(HookError { message: format!("Cannot run handler: invalid handler: {kind}") })
}

/// Runs a command; the error is the problem and what the command wrote.
async fn exec(target: HookTarget<'_>, command: Vec<String>) -> Result<(), (String, String)> {
    let shown = command.join(" ");
    match target.exec.exec_sync(target.id, command, Duration::ZERO).await {
        Ok(output) if output.exit_code == 0 => Ok(()),
        Ok(output) => {
            let stderr = String::from_utf8_lossy(&output.stderr);
            let problem = format!("command '{shown}' exited with {}: {stderr}", output.exit_code);
            Err((problem, combined(&output)))
        }
        Err(error) => Err((error.to_string(), String::new())),
    }
}

/// Why a request of a hook failed.
#[derive(Debug, thiserror::Error)]
enum HttpError {
    /// The pod has no address.
    #[error("failed to find networking container: the pod has no address")]
    NoAddress,
    /// The action cannot be requested.
    #[error(transparent)]
    Action(#[from] ActionError),
    /// There was no answer.
    #[error(transparent)]
    Get(#[from] GetError),
}

/// Makes a request; whatever is answered is success.
async fn http(target: HookTarget<'_>, action: &api::HTTPGetAction) -> Result<(), HttpError> {
    let unspecified = IpAddr::from([0, 0, 0, 0]);
    let has_host = action.host.as_deref().is_some_and(|host| !host.is_empty());
    let pod_ip = match target.pod_ip {
        Some(ip) => ip,
        None if has_host => unspecified,
        None => return Err(HttpError::NoAddress),
    };
    let get = Get::new(action, target.container, pod_ip, "lifecycle")?;
    let host = get.authority();
    let Err(error) = fetch_any(&get).await else { return Ok(()) };
    // Before 1.25 the scheme was ignored, and hooks were written against that.
    if error.is_plain_http() && fetch_any(&get.without_tls()).await.is_ok() {
        let message = format!(
            "request to HTTPS lifecycle hook {host} got HTTP response, retry with HTTP succeeded"
        );
        let reason = reason::event::LIFECYCLE_HTTP_FALLBACK;
        target.recorder.pod(target.pod, None, EventType::Warning, reason, message);
        return Ok(());
    }
    Err(error.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::apiserver::events::Event;
    use crate::model::Wall;
    use crate::pods::request::testing;
    use crate::probes::testing::FakeExec;
    use serde_json::json;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;
    use tokio::sync::mpsc;
    use tokio::task::JoinSet;

    struct World {
        pod: Pod,
        exec: FakeExec,
        recorder: Recorder,
        events: mpsc::Receiver<Event>,
        id: ContainerId,
        clock: Clock,
    }

    fn world(lifecycle: &serde_json::Value, exec: FakeExec) -> World {
        let (recorder, events) = Recorder::channel();
        World {
            pod: testing::pod(json!({"containers": [{"name": "c", "lifecycle": lifecycle}]})),
            exec,
            recorder,
            events,
            id: ContainerId::from("id"),
            clock: Clock::starting_at(Wall::from_second(0).expect("a time")),
        }
    }

    impl World {
        fn target(&self) -> HookTarget<'_> {
            HookTarget {
                exec: &self.exec,
                recorder: &self.recorder,
                pod: &self.pod,
                kind: ContainerKind::Main,
                container: &self.pod.spec.as_ref().expect("spec").containers[0],
                id: &self.id,
                pod_ip: Some("127.0.0.1".parse().expect("ip")),
            }
        }

        fn event(&mut self) -> Option<String> {
            let event = self.events.try_recv().ok()?;
            Some(format!("{} {} {}", event.object.field_path, event.reason, event.message))
        }
    }

    #[tokio::test]
    async fn runs_commands() {
        let hook = json!({"postStart": {"exec": {"command": ["sh", "$(A)"]}}});
        let mut world = world(&hook, FakeExec::exiting(&[0, 3]));
        assert_eq!(post_start(world.target()).await, Ok(()));
        assert_eq!(world.exec.commands(), [vec!["sh".to_owned(), "$(A)".to_owned()]]);
        assert_eq!(world.event(), None);
        let error = post_start(world.target()).await.expect_err("exit code 3");
        assert_eq!(
            error.message,
            "Exec lifecycle hook ([sh $(A)]) for Container \"c\" in Pod \"web_prod(u1)\" failed - error: command 'sh $(A)' \
             exited with 3: , message: \"exit 3\""
        );
        let expected = "spec.containers{c} FailedPostStartHook PostStartHook failed";
        assert_eq!(world.event().as_deref(), Some(expected));
    }

    #[tokio::test(start_paused = true)]
    async fn pre_stop_ends_with_the_grace_period() {
        let hook = json!({"preStop": {"exec": {"command": ["hang"]}}});
        let mut world = world(&hook, FakeExec::exiting(&[]));
        let deadline = world.clock.now().mono.after(Duration::from_secs(30));
        assert_eq!(pre_stop(world.target(), &world.clock, deadline).await, PreStopEnd::OutOfTime);
        assert_eq!(world.clock.now().mono.0.as_secs(), 30);
        assert_eq!(
            world.event().as_deref(),
            Some("spec.containers{c} FailedPreStopHook PreStopHook failed")
        );
    }

    #[tokio::test(start_paused = true)]
    async fn sleeps_and_refuses() {
        let sleeping =
            world(&json!({"preStop": {"sleep": {"seconds": 5}}}), FakeExec::exiting(&[]));
        let deadline = sleeping.clock.now().mono.after(Duration::from_secs(30));
        assert_eq!(pre_stop(sleeping.target(), &sleeping.clock, deadline).await, PreStopEnd::Done);
        assert_eq!(sleeping.clock.now().mono.0.as_secs(), 5);

        let mut odd =
            world(&json!({"preStop": {"tcpSocket": {"port": 1}}}), FakeExec::exiting(&[]));
        let ended = pre_stop(odd.target(), &odd.clock, deadline).await;
        let PreStopEnd::Failed(error) = ended else { panic!("tcpSocket cannot be run") };
        assert!(error.message.starts_with("Cannot run handler: invalid handler"));
        assert_eq!(
            odd.event().as_deref(),
            Some("spec.containers{c} FailedPreStopHook PreStopHook failed")
        );

        let none = world(&json!({}), FakeExec::exiting(&[]));
        assert_eq!(pre_stop(none.target(), &none.clock, deadline).await, PreStopEnd::Done);
        assert_eq!(post_start(none.target()).await, Ok(()));
    }

    /// Answers every connection with `answer`, and counts them by what they began with.
    async fn serve(answer: &'static str) -> (u16, mpsc::Receiver<String>, JoinSet<()>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("bound").port();
        let (send, asked) = mpsc::channel(16);
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut bytes = vec![0; 4096];
                let read = stream.read(&mut bytes).await.expect("a request");
                stream.write_all(answer.as_bytes()).await.expect("an answer");
                send.send(String::from_utf8_lossy(&bytes[..read]).into_owned())
                    .await
                    .expect("the test listens");
            }
        });
        (port, asked, tasks)
    }

    #[tokio::test]
    async fn any_answer_will_do_and_https_falls_back() {
        let (port, mut asked, _tasks) = serve("HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n").await;
        let plain = world(
            &json!({"postStart": {"httpGet": {"path": "/hook", "port": port}}}),
            FakeExec::exiting(&[]),
        );
        assert_eq!(post_start(plain.target()).await, Ok(()));
        let request = asked.recv().await.expect("asked");
        assert!(request.starts_with("GET /hook HTTP/1.1\r\n"), "{request}");
        assert!(request.contains("User-Agent: kube-lifecycle/1.36\r\n"), "{request}");

        let headers = json!([{"name": "Authorization", "value": "secret"}]);
        let get = json!({"port": port, "scheme": "HTTPS", "httpHeaders": headers});
        let mut fallback = world(&json!({"postStart": {"httpGet": get}}), FakeExec::exiting(&[]));
        assert_eq!(post_start(fallback.target()).await, Ok(()));
        let _hello = asked.recv().await.expect("asked over TLS");
        let request = asked.recv().await.expect("asked again");
        assert!(!request.contains("secret"), "{request}");
        let expected = format!(
            " LifecycleHTTPFallback request to HTTPS lifecycle hook 127.0.0.1:{port} got HTTP response, retry with HTTP succeeded"
        );
        assert_eq!(fallback.event(), Some(expected));
    }

    #[tokio::test]
    async fn says_why_a_request_failed() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("bound").port();
        drop(listener);
        let world = world(
            &json!({"postStart": {"httpGet": {"path": "/x", "port": port}}}),
            FakeExec::exiting(&[]),
        );
        assert_eq!(
            post_start(world.target()).await.expect_err("nobody listens").message,
            format!(
                "HTTP lifecycle hook (/x) for Container \"c\" in Pod \"web_prod(u1)\" failed - error: \
                 Get \"http://127.0.0.1:{port}/x\": dial tcp 127.0.0.1:{port}: connect: connection refused"
            )
        );
    }
}
