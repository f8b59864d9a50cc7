//! exec, attach, port-forward and logs, as kubectl uses them; the kubelet's own API and who may use
//! it.

use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use kube::api::LogParams;
use kube::{Client, Config};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};

use crate::bed::{Bed, has_line, same, shows};
use crate::look::text;
use crate::{Case, case};

/// Cases that other cases' connections would notice.
pub(crate) fn alone() -> Vec<Case> {
    vec![case(silent_connections_do_not_shut_the_port)]
}

pub(crate) fn cases() -> Vec<Case> {
    vec![
        case(exec_and_its_exit_code),
        case(exec_with_stdin_and_tty),
        case(attach),
        case(port_forward),
        case(websockets_of_kubectl_reach_the_kubelet),
        case(logs_tail_since_timestamps),
        case(logs_of_the_previous_container),
        case(logs_followed_to_the_end),
        case(logs_of_what_is_not_there),
        case(large_output),
        case(api_for_admins),
        case(api_refuses_strangers),
        case(api_asks_the_api_server),
        case(healthz_on_the_node),
        case(version),
    ]
}

pub(super) const SLEEPER: &str = "{terminationGracePeriodSeconds: 1, containers: [{name: main, image: busybox, command: [sleep, '1000']}]}";

/// kubectl with `input` on its stdin; exit code, stdout and stderr.
async fn talk(bed: &Bed, argv: &[&str], input: &str) -> Result<(Option<i32>, String, String)> {
    let mut command = bed.kubectl_command(argv);
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    let mut stdin = child.stdin.take().context("no stdin")?;
    stdin.write_all(input.as_bytes()).await?;
    drop(stdin);
    let output = tokio::time::timeout(Duration::from_secs(60), child.wait_with_output())
        .await
        .context("no end in 60 s")??;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Ok((output.status.code(), text(&output.stdout), text(&output.stderr)))
}

async fn exec_and_its_exit_code(bed: Bed) -> Result<()> {
    bed.pod("p", SLEEPER).await?;
    bed.until("p", &["cond[Ready]=True"]).await?;
    let (code, out, err) =
        talk(&bed, &["exec", "p", "--", "sh", "-c", "echo out; echo err >&2; exit 42"], "").await?;
    same("the exit code", code, Some(42))?;
    same("stdout", out.as_str(), "out\n")?;
    has_line("stderr", &err, "err")?;
    let (code, _, err) = talk(&bed, &["exec", "p", "--", "/no/such/program"], "").await?;
    ensure!(
        code != Some(0) && err.contains("no such file or directory"),
        "a missing program: {code:?} {err}"
    );
    Ok(())
}

async fn exec_with_stdin_and_tty(bed: Bed) -> Result<()> {
    bed.pod("p", SLEEPER).await?;
    bed.until("p", &["cond[Ready]=True"]).await?;
    let (code, out, _) =
        talk(&bed, &["exec", "-i", "p", "--", "cat"], "through and back\n").await?;
    same("exec -i", (code, out.as_str()), (Some(0), "through and back\n"))?;
    // Without a terminal here, kubectl asks for one there only when told so in the request.
    let tty = bed.kubectl(&["exec", "p", "--", "sh", "-c", "tty || true"]).await?;
    same("without -t", tty.trim(), "not a tty")
}

async fn attach(bed: Bed) -> Result<()> {
    let spec = "{restartPolicy: Never, containers: [{name: main, image: busybox, stdin: true, stdinOnce: true, command: [sh, -c, 'read line; echo heard $line']}]}";
    bed.pod("p", spec).await?;
    bed.until("p", &["c[main].state.running.startedAt=?*"]).await?;
    let (_, out, err) = talk(&bed, &["attach", "-i", "p"], "a word\n").await?;
    bed.until("p", &["phase=Succeeded"]).await?;
    has_line("the log", &bed.logs("p", "main").await?, "heard a word")?;
    ensure!(
        out.contains("heard a word") || err.is_empty() || err.contains("If you don't see"),
        "attach said {out:?} {err:?}"
    );
    Ok(())
}

async fn port_forward(bed: Bed) -> Result<()> {
    let spec = "{terminationGracePeriodSeconds: 1, containers: [{name: main, image: busybox, command: [sh, -c, 'while true; do echo from the pod | nc -l -p 7000; done']}]}";
    bed.pod("p", spec).await?;
    bed.until("p", &["cond[Ready]=True"]).await?;
    // No probe looks for the server: it would be the one client that it listens for before it
    // starts again.
    bed.until_exec("p", "main", &["sh", "-c", "netstat -ltn | grep -q :7000"]).await?;
    let mut command = bed.kubectl_command(&["port-forward", "p", ":7000"]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    let mut lines = BufReader::new(child.stdout.take().context("no stdout")?).lines();
    let first = tokio::time::timeout(Duration::from_secs(30), lines.next_line())
        .await
        .context("no port in 30 s")??;
    let first = first.context("kubectl port-forward ended")?;
    let port =
        first.strip_prefix("Forwarding from 127.0.0.1:").and_then(|rest| rest.split(' ').next());
    let port: u16 = port.with_context(|| format!("kubectl says {first:?}"))?.parse()?;
    let mut answer = String::new();
    let read = async {
        let mut stream = tokio::net::TcpStream::connect(("127.0.0.1", port)).await?;
        stream.read_to_string(&mut answer).await
    };
    tokio::time::timeout(Duration::from_secs(30), read)
        .await
        .context("no answer through the port in 30 s")??;
    child.kill().await?;
    same("the answer", answer.as_str(), "from the pod\n")
}

async fn websockets_of_kubectl_reach_the_kubelet(bed: Bed) -> Result<()> {
    let fields = "jsonpath={.items[*].status.declaredFeatures}";
    let declared = bed.kubectl(&["get", "nodes", "-o", fields]).await?;
    ensure!(declared.contains("ExtendWebSocketsToKubelet"), "{declared}");
    bed.pod("p", SLEEPER).await?;
    bed.until("p", &["cond[Ready]=True"]).await?;
    let (code, out, _) = talk(&bed, &["exec", "-i", "p", "--", "cat"], "there and back\n").await?;
    same("exec -i", (code, out.as_str()), (Some(0), "there and back\n"))?;
    let admin = kubelet(&bed, Who::Admin).await?;
    let (_, metrics) = ask(&admin, "/metrics").await?;
    let series = "kubelet_websocket_streaming_requests_total{subresource=\"exec\"} ";
    ensure!(metrics.lines().any(|line| line.starts_with(series)), "no {series}");
    Ok(())
}

async fn logs_tail_since_timestamps(bed: Bed) -> Result<()> {
    let spec = "{restartPolicy: Never, containers: [{name: main, image: busybox, command: [sh, -c, 'seq 1 100; sleep 2; echo to-stderr >&2; sleep 3; echo late']}]}";
    bed.pod("p", spec).await?;
    bed.until("p", &["phase=Succeeded"]).await?;
    let params = |params: LogParams| LogParams { container: Some("main".to_owned()), ..params };
    let tail = bed
        .logs_with("p", params(LogParams { tail_lines: Some(3), ..LogParams::default() }))
        .await?;
    ensure!(
        tail.lines().count() == 3 && tail.ends_with("late\n"),
        "the last three lines are {tail:?}"
    );
    let limited = bed
        .logs_with("p", params(LogParams { limit_bytes: Some(5), ..LogParams::default() }))
        .await?;
    same("five bytes", limited.as_str(), "1\n2\n3")?;
    let none = bed
        .logs_with("p", params(LogParams { tail_lines: Some(0), ..LogParams::default() }))
        .await?;
    same("no lines", none.as_str(), "")?;
    let stamped = bed
        .logs_with(
            "p",
            params(LogParams { timestamps: true, tail_lines: Some(1), ..LogParams::default() }),
        )
        .await?;
    has_line("with times", &stamped, "20??-??-??T??:??:??*Z late")?;
    let (stamp, _) = stamped.split_once(' ').context("no time")?;
    let since = bed.kubectl(&["logs", "p", "--since-time", stamp]).await?;
    same("since the last line", since.as_str(), "late\n")?;
    has_line("all", &bed.logs("p", "main").await?, "to-stderr")
}

async fn logs_of_the_previous_container(bed: Bed) -> Result<()> {
    let spec = "
terminationGracePeriodSeconds: 1
volumes: [{name: state, emptyDir: {}}]
containers:
- {name: main, image: busybox, command: [sh, -c, 'test -e /state/x && echo second && exec sleep 1000; touch /state/x; echo first; exit 1'], volumeMounts: [{name: state, mountPath: /state}]}
";
    bed.pod("p", spec).await?;
    bed.until("p", &["c[main].restartCount=1", "c[main].state.running.startedAt=?*"]).await?;
    bed.until_logged("p", "main", "second").await?;
    same("now", bed.logs("p", "main").await?.as_str(), "second\n")?;
    let previous =
        LogParams { container: Some("main".to_owned()), previous: true, ..LogParams::default() };
    same("before", bed.logs_with("p", previous).await?.as_str(), "first\n")
}

async fn logs_followed_to_the_end(bed: Bed) -> Result<()> {
    let spec = "{restartPolicy: Never, containers: [{name: main, image: busybox, command: [sh, -c, 'for i in 1 2 3 4; do echo $i; sleep 1; done']}]}";
    bed.pod("p", spec).await?;
    bed.until("p", &["c[main].state.running.startedAt=?*"]).await?;
    // Ends by itself when the container does.
    same("what is followed", bed.kubectl(&["logs", "-f", "p"]).await?.as_str(), "1\n2\n3\n4\n")
}

async fn logs_of_what_is_not_there(bed: Bed) -> Result<()> {
    bed.pod("p", SLEEPER).await?;
    bed.until("p", &["cond[Ready]=True"]).await?;
    let (code, _, err) = talk(&bed, &["logs", "p", "--previous"], "").await?;
    ensure!(code == Some(1), "the log of no container was given");
    has_line("kubectl", &err, "*previous terminated container \"main\" in pod \"p\" not found*")
}

async fn large_output(bed: Bed) -> Result<()> {
    bed.pod("p", SLEEPER).await?;
    bed.until("p", &["cond[Ready]=True"]).await?;
    let seen = bed.exec("p", "main", &["sh", "-c", "seq 1 300000"]).await?;
    same("lines through exec", seen.lines().count(), 300_000)?;
    ensure!(seen.ends_with("300000\n"), "the end is missing");
    Ok(())
}

/// Who asks the kubelet.
pub(super) enum Who {
    Admin,
    Nobody,
    Token(String),
}

/// A client of the kubelet itself.
pub(super) async fn kubelet(bed: &Bed, who: Who) -> Result<Client> {
    let url: http::Uri = "https://10.200.0.11:10250".parse()?;
    let mut config = match who {
        Who::Admin => {
            let kubeconfig = kube::config::Kubeconfig::read_from(bed.cluster.env("KUBECONFIG"))?;
            Config::from_custom_kubeconfig(kubeconfig, &kube::config::KubeConfigOptions::default())
                .await?
        }
        Who::Nobody => Config::new(url.clone()),
        Who::Token(token) => {
            let mut config = Config::new(url.clone());
            config.auth_info.token = Some(token.into());
            config
        }
    };
    config.cluster_url = url;
    config.root_cert = None;
    config.accept_invalid_certs = true;
    config.proxy_url = None;
    Ok(Client::try_from(config)?)
}

/// The answer to a GET: its status code and text.
pub(super) async fn ask(client: &Client, path: &str) -> Result<(u16, String)> {
    let request = http::Request::get(path).body(kube::client::Body::empty())?;
    let response =
        client.send(request).await.with_context(|| format!("asking the kubelet for {path}"))?;
    let status = response.status().as_u16();
    let bytes = response.into_body().collect_bytes().await?;
    Ok((status, String::from_utf8_lossy(&bytes).into_owned()))
}

async fn api_for_admins(bed: Bed) -> Result<()> {
    bed.pod("p", SLEEPER).await?;
    let pod = bed.until("p", &["cond[Ready]=True"]).await?;
    let admin = kubelet(&bed, Who::Admin).await?;
    same("/healthz", ask(&admin, "/healthz").await?, (200, "ok".to_owned()))?;
    let (status, pods) = ask(&admin, "/pods").await?;
    same("/pods", status, 200)?;
    let pods: Value = serde_json::from_str(&pods)?;
    shows(&pods, &["kind=PodList", "apiVersion=v1"])?;
    let list = pods["items"].as_array().context("no items")?;
    let mine = list
        .iter()
        .find(|item| text(item, "metadata.namespace") == bed.name)
        .context("the pod is not in /pods")?;
    same("its uid", text(mine, "metadata.uid"), text(&pod, "metadata.uid"))?;
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let (status, running) = ask(&admin, "/runningpods/").await?;
        same("/runningpods/", status, 200)?;
        let running: Value = serde_json::from_str(&running)?;
        let list = running["items"].as_array().context("no items")?;
        if list.iter().any(|item| text(item, "metadata.namespace") == bed.name) {
            break;
        }
        ensure!(Instant::now() < deadline, "after 20 s the pod is not in /runningpods/: {running}");
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    let (status, config) = ask(&admin, "/configz").await?;
    same("/configz", status, 200)?;
    let config: Value = serde_json::from_str(&config)?;
    shows(
        &config,
        &[
            "kubeletconfig.kind=KubeletConfiguration",
            "kubeletconfig.syncFrequency=10s",
            "kubeletconfig.clusterDomain=cluster.local",
            &format!("kubeletconfig.cgroupDriver={}", bed.cluster.env("NODE_N1_CGROUP_DRIVER")),
        ],
    )?;
    let (status, metrics) = ask(&admin, "/metrics").await?;
    same("/metrics", status, 200)?;
    for name in ["# TYPE kubelet_running_pods gauge", "# TYPE process_resident_memory_bytes gauge"]
    {
        has_line("/metrics", &metrics, name)?;
    }
    let (status, log) =
        ask(&admin, &format!("/containerLogs/{}/p/main?tailLines=1", bed.name)).await?;
    same("/containerLogs", (status, log.as_str()), (200, ""))?;
    let request = http::Request::post(format!("/run/{}/p/main?cmd=hostname", bed.name))
        .body(kube::client::Body::empty())?;
    let response = admin.send(request).await?;
    same("/run", response.status().as_u16(), 200)?;
    let bytes = response.into_body().collect_bytes().await?;
    same("/run", String::from_utf8_lossy(&bytes).as_ref(), "p\n")?;
    same("an unknown path", ask(&admin, "/no-such-thing").await?.0, 404)
}

async fn api_refuses_strangers(bed: Bed) -> Result<()> {
    let nobody = kubelet(&bed, Who::Nobody).await?;
    same("without credentials", ask(&nobody, "/pods").await?, (401, "Unauthorized".to_owned()))?;
    let forged = kubelet(&bed, Who::Token("not-a-token".to_owned())).await?;
    same("with a forged token", ask(&forged, "/pods").await?, (401, "Unauthorized".to_owned()))?;
    let token = bed.kubectl(&["create", "token", "default"]).await?.trim().to_owned();
    let known = kubelet(&bed, Who::Token(token)).await?;
    let (status, answer) = ask(&known, "/metrics").await?;
    same("without rights", status, 403)?;
    let wanted = format!(
        "Forbidden (user=system:serviceaccount:{}:default, verb=get, resource=nodes, subresource(s)=[metrics])\n",
        bed.name
    );
    same("without rights", answer, wanted)?;
    same("without rights", ask(&known, "/pods").await?.0, 403)
}

async fn api_asks_the_api_server(bed: Bed) -> Result<()> {
    // The finest right for each: /pods is served to those who may read nodes/pods.
    let role = format!("reader-{}", bed.name);
    bed.kubectl(&[
        "create",
        "clusterrole",
        &role,
        "--verb=get",
        "--resource=nodes/pods,nodes/healthz",
    ])
    .await?;
    bed.kubectl(&[
        "create",
        "clusterrolebinding",
        &role,
        "--clusterrole",
        &role,
        "--serviceaccount",
        &format!("{}:default", bed.name),
    ])
    .await?;
    let token = bed.kubectl(&["create", "token", "default"]).await?.trim().to_owned();
    let reader = kubelet(&bed, Who::Token(token)).await?;
    let answers = (
        ask(&reader, "/pods").await?.0,
        ask(&reader, "/healthz").await?.0,
        ask(&reader, "/configz").await?.0,
    );
    bed.kubectl(&["delete", "clusterrolebinding,clusterrole", &role]).await?;
    same("/pods, /healthz, /configz", answers, (200, 200, 403))
}

/// Whoever reaches the node's port can open connections and say nothing.
async fn silent_connections_do_not_shut_the_port(bed: Bed) -> Result<()> {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};

    let spec = "{terminationGracePeriodSeconds: 1, containers: \
        [{name: main, image: busybox, command: [sh, -c, 'echo here; sleep 1000']}]}";
    bed.pod("p", spec).await?;
    bed.until("p", &["cond[Ready]=True"]).await?;
    bed.until_logged("p", "main", "here").await?;

    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, most, most)?;
    let mut silent = Vec::new();
    for _ in 0..5000 {
        silent.push(tokio::net::TcpStream::connect("10.200.0.11:10250").await?);
    }
    let log = tokio::time::timeout(Duration::from_secs(5), bed.logs("p", "main"))
        .await
        .context("no log within 5 s beside 5000 silent connections")??;
    same("the log", log.as_str(), "here\n")
}

async fn healthz_on_the_node(bed: Bed) -> Result<()> {
    // Port 10248 listens on the node's own loopback only.
    let spec = "{restartPolicy: Never, hostNetwork: true, containers: [{name: main, image: busybox, command: [wget, -qO-, 'http://127.0.0.1:10248/healthz']}]}";
    bed.pod("p", spec).await?;
    bed.until("p", &["phase=Succeeded"]).await?;
    same("the answer", bed.logs("p", "main").await?.as_str(), "ok")
}

async fn version(bed: Bed) -> Result<()> {
    let pid = bed.cluster.run(&["kubelet", "pid", "n1"]).await?;
    let output = tokio::process::Command::new(format!("/proc/{}/exe", pid.trim()))
        .arg("--version")
        .output()
        .await?;
    same("--version", String::from_utf8_lossy(&output.stdout).as_ref(), "Kubernetes v1.36.3\n")
}
