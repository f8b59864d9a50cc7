//! Probes of every kind: failing, recovering, and what follows.

use anyhow::Result;

use crate::bed::{Bed, shows};
use crate::{Case, case, slow};

pub(crate) fn cases() -> Vec<Case> {
    vec![
        case(exec_readiness_fails_and_recovers),
        case(http_readiness_fails_and_recovers),
        case(tcp_readiness_fails_and_recovers),
        case(grpc_readiness),
        case(grpc_readiness_without_a_server),
        slow(exec_liveness_restarts),
        slow(http_liveness_restarts),
        case(startup_probe_gates_the_others),
        slow(startup_probe_failing_restarts),
        case(exec_probe_times_out),
        case(exec_probes_of_others_take_no_turns),
        slow(liveness_answers_that_break_off),
        case(probe_of_a_named_port_with_headers),
        case(liveness_with_its_own_grace),
        case(readiness_gate),
    ]
}

const NOT_READY: [&str; 4] = [
    "c[main].ready=false",
    "cond[Ready]=False",
    "cond[Ready].reason=ContainersNotReady",
    "cond[ContainersReady].message=containers with unready status: [main]",
];

pub(crate) async fn exec_readiness_fails_and_recovers(bed: Bed) -> Result<()> {
    let spec = "
terminationGracePeriodSeconds: 1
containers:
- name: main
  image: busybox
  command: [sleep, '1000']
  readinessProbe: {exec: {command: [sh, -c, 'echo not yet; test -e /tmp/ready']}, periodSeconds: 1}
";
    bed.pod("p", spec).await?;
    let unhealthy = bed.event("p", "Unhealthy", "Readiness probe failed: not yet\n").await?;
    shows(&unhealthy, &["type=Warning", "involvedObject.fieldPath=spec.containers{main}"])?;
    bed.until("p", &[&NOT_READY[..], &["c[main].started=true", "phase=Running"]].concat()).await?;
    bed.exec("p", "main", &["touch", "/tmp/ready"]).await?;
    bed.until("p", &["cond[Ready]=True", "c[main].ready=true"]).await?;
    bed.exec("p", "main", &["rm", "/tmp/ready"]).await?;
    bed.until("p", &[&NOT_READY[..], &["c[main].restartCount=0"]].concat()).await?;
    Ok(())
}

async fn http_readiness_fails_and_recovers(bed: Bed) -> Result<()> {
    // The folder that the server shows is empty at first: 404.
    let spec = "
terminationGracePeriodSeconds: 1
containers:
- name: main
  image: busybox
  command: [sh, -c, 'mkdir /www; exec httpd -f -p 8080 -h /www']
  readinessProbe: {httpGet: {path: /ready, port: 8080}, periodSeconds: 1}
";
    bed.pod("p", spec).await?;
    bed.event("p", "Unhealthy", "Readiness probe failed: HTTP probe failed with statuscode: 404")
        .await?;
    bed.until("p", &NOT_READY).await?;
    bed.exec("p", "main", &["touch", "/www/ready"]).await?;
    bed.until("p", &["cond[Ready]=True"]).await?;
    bed.exec("p", "main", &["rm", "/www/ready"]).await?;
    bed.until("p", &NOT_READY).await?;
    Ok(())
}

async fn tcp_readiness_fails_and_recovers(bed: Bed) -> Result<()> {
    let spec = "
terminationGracePeriodSeconds: 1
containers:
- name: main
  image: busybox
  command: [sh, -c, 'while true; do if test -e /tmp/up; then nc -lk -p 7000 -e true & while test -e /tmp/up; do sleep 0.1; done; kill $!; fi; sleep 0.1; done']
  readinessProbe: {tcpSocket: {port: 7000}, periodSeconds: 1}
";
    bed.pod("p", spec).await?;
    bed.event(
        "p",
        "Unhealthy",
        "Readiness probe failed: dial tcp 10.244.1.*:7000: connect: connection refused",
    )
    .await?;
    bed.until("p", &NOT_READY).await?;
    bed.exec("p", "main", &["touch", "/tmp/up"]).await?;
    bed.until("p", &["cond[Ready]=True"]).await?;
    bed.exec("p", "main", &["rm", "/tmp/up"]).await?;
    bed.until("p", &NOT_READY).await?;
    Ok(())
}

async fn grpc_readiness(bed: Bed) -> Result<()> {
    let spec = "
terminationGracePeriodSeconds: 1
containers:
- name: main
  image: agnhost
  args: [grpc-health-checking, --port=5000, --http-port=8080]
  readinessProbe: {grpc: {port: 5000}, periodSeconds: 1}
";
    bed.pod("p", spec).await?;
    bed.until("p", &["cond[Ready]=True"]).await?;
    bed.exec("p", "main", &["curl", "-s", "http://127.0.0.1:8080/make-not-serving"]).await?;
    bed.event(
        "p",
        "Unhealthy",
        "Readiness probe failed: service unhealthy (responded with \"NOT_SERVING\")",
    )
    .await?;
    bed.until("p", &NOT_READY).await?;
    bed.exec("p", "main", &["curl", "-s", "http://127.0.0.1:8080/make-serving"]).await?;
    bed.until("p", &["cond[Ready]=True"]).await?;
    Ok(())
}

async fn grpc_readiness_without_a_server(bed: Bed) -> Result<()> {
    let spec = "
terminationGracePeriodSeconds: 1
containers: [{name: main, image: busybox, command: [sleep, '1000'], readinessProbe: {grpc: {port: 5000}, periodSeconds: 1}}]
";
    bed.pod("p", spec).await?;
    bed.event(
        "p",
        "Unhealthy",
        "Readiness probe failed: timeout: failed to connect service \"10.244.1.*:5000\" within 1s: *",
    )
    .await?;
    bed.until("p", &NOT_READY).await?;
    Ok(())
}

pub(crate) async fn exec_liveness_restarts(bed: Bed) -> Result<()> {
    let spec = "
terminationGracePeriodSeconds: 1
containers:
- name: main
  image: busybox
  command: [sleep, '1000']
  livenessProbe: {exec: {command: [sh, -c, 'test ! -e /tmp/dead || cat /tmp/alive']}, periodSeconds: 1, failureThreshold: 2}
";
    bed.pod("p", spec).await?;
    bed.until("p", &["cond[Ready]=True"]).await?;
    bed.exec("p", "main", &["touch", "/tmp/dead"]).await?;
    bed.event(
        "p",
        "Unhealthy",
        "Liveness probe failed: cat: can't open '/tmp/alive': No such file or directory\n",
    )
    .await?;
    bed.event("p", "Killing", "Container main failed liveness probe, will be restarted").await?;
    bed.until(
        "p",
        &[
            "cond[Ready]=True",
            "c[main].restartCount=1",
            "c[main].lastState.terminated.exitCode=137",
            "c[main].state.running.startedAt=?*",
        ],
    )
    .await?;
    Ok(())
}

async fn http_liveness_restarts(bed: Bed) -> Result<()> {
    let spec = "
terminationGracePeriodSeconds: 1
containers:
- name: main
  image: busybox
  command: [sh, -c, 'mkdir /www; touch /www/alive; exec httpd -f -p 8080 -h /www']
  startupProbe: {httpGet: {path: /alive, port: 8080}, periodSeconds: 1, failureThreshold: 60}
  livenessProbe: {httpGet: {path: /alive, port: 8080}, periodSeconds: 1, failureThreshold: 1}
";
    bed.pod("p", spec).await?;
    bed.until("p", &["cond[Ready]=True"]).await?;
    bed.exec("p", "main", &["rm", "/www/alive"]).await?;
    bed.event("p", "Unhealthy", "Liveness probe failed: HTTP probe failed with statuscode: 404")
        .await?;
    bed.until("p", &["cond[Ready]=True", "c[main].restartCount=1"]).await?;
    Ok(())
}

async fn startup_probe_gates_the_others(bed: Bed) -> Result<()> {
    // The liveness probe would kill at once; it must not run before the startup probe succeeds.
    let spec = "
terminationGracePeriodSeconds: 1
containers:
- name: main
  image: busybox
  command: [sleep, '1000']
  startupProbe: {exec: {command: [test, -e, /tmp/up]}, periodSeconds: 1, failureThreshold: 100}
  livenessProbe: {exec: {command: [test, -e, /tmp/up]}, periodSeconds: 1, failureThreshold: 1}
  readinessProbe: {exec: {command: ['true']}, periodSeconds: 1}
";
    bed.pod("p", spec).await?;
    bed.event("p", "Unhealthy", "Startup probe failed: ").await?;
    bed.until("p", &["c[main].started=false", "c[main].ready=false", "phase=Running"]).await?;
    bed.stays("p", 3, &["c[main].started=false", "c[main].ready=false", "c[main].restartCount=0"])
        .await?;
    bed.exec("p", "main", &["touch", "/tmp/up"]).await?;
    bed.until("p", &["c[main].started=true", "cond[Ready]=True", "c[main].restartCount=0"]).await?;
    Ok(())
}

async fn startup_probe_failing_restarts(bed: Bed) -> Result<()> {
    let spec = "
terminationGracePeriodSeconds: 1
containers:
- name: main
  image: busybox
  command: [sleep, '1000']
  startupProbe: {exec: {command: ['false']}, periodSeconds: 1, failureThreshold: 2}
";
    bed.pod("p", spec).await?;
    bed.event("p", "Killing", "Container main failed startup probe, will be restarted").await?;
    bed.until(
        "p",
        &[
            "c[main].restartCount=1",
            "c[main].started=false",
            "c[main].lastState.terminated.exitCode=137",
        ],
    )
    .await?;
    Ok(())
}

pub(crate) async fn exec_probe_times_out(bed: Bed) -> Result<()> {
    let spec = "
terminationGracePeriodSeconds: 1
containers:
- name: main
  image: busybox
  command: [sleep, '1000']
  readinessProbe: {exec: {command: [sleep, '100']}, periodSeconds: 1, timeoutSeconds: 1}
";
    bed.pod("p", spec).await?;
    bed.event(
        "p",
        "Unhealthy",
        "Readiness probe *: command timed out: \"sleep 100\" timed out after 1s",
    )
    .await?;
    bed.until("p", &NOT_READY).await?;
    Ok(())
}

async fn probe_of_a_named_port_with_headers(bed: Bed) -> Result<()> {
    // Answers only to a request that has the header and the agent's name.
    let spec = "
terminationGracePeriodSeconds: 1
containers:
- name: main
  image: agnhost
  command:
  - sh
  - -c
  - |
    cat > /tmp/answer <<'END'
    while read -r line; do
      case \"$line\" in *[![:space:]]*) echo \"$line\" >> /tmp/asked;; *) break;; esac
    done
    printf 'HTTP/1.1 200 OK\\r\\nContent-Length: 0\\r\\nConnection: close\\r\\n\\r\\n'
    END
    exec busybox nc -lk -p 8080 -e sh /tmp/answer
  ports: [{name: web, containerPort: 8080}]
  readinessProbe: {httpGet: {path: '/deep/path?query=1', port: web, httpHeaders: [{name: X-Probe, value: given}, {name: Host, value: some.host}]}, periodSeconds: 1}
";
    bed.pod("p", spec).await?;
    bed.until("p", &["cond[Ready]=True"]).await?;
    let asked = bed.exec("p", "main", &["cat", "/tmp/asked"]).await?.replace('\r', "");
    for line in [
        "GET /deep/path?query=1 HTTP/1.1",
        "Host: some.host",
        "User-Agent: kube-probe/1.36*",
        "X-Probe: given",
        "Accept: [*]/[*]",
    ] {
        let line = line.replace("[*]/[*]", "*");
        let lower = asked.to_lowercase();
        crate::bed::has_line("the request", &lower, &line.to_lowercase())?;
    }
    Ok(())
}

async fn liveness_with_its_own_grace(bed: Bed) -> Result<()> {
    // The pod's own grace period is far longer than this case waits.
    let spec = "
terminationGracePeriodSeconds: 600
containers:
- name: main
  image: busybox
  command: [sleep, '1000']
  livenessProbe: {exec: {command: ['false']}, periodSeconds: 1, failureThreshold: 1, terminationGracePeriodSeconds: 1}
";
    bed.pod("p", spec).await?;
    bed.until("p", &["c[main].restartCount>0", "c[main].lastState.terminated.exitCode=137"])
        .await?;
    Ok(())
}

async fn readiness_gate(bed: Bed) -> Result<()> {
    let spec = "
readinessGates: [{conditionType: example.com/approved}]
terminationGracePeriodSeconds: 1
containers: [{name: main, image: busybox, command: [sleep, '1000']}]
";
    bed.pod("p", spec).await?;
    bed.until(
        "p",
        &[
            "cond[ContainersReady]=True",
            "cond[Ready]=False",
            "cond[Ready].reason=ReadinessGatesNotReady",
            "cond[Ready].message=corresponding condition of pod readiness gate \"example.com/approved\" does not exist.",
        ],
    )
    .await?;
    let approved = "{\"status\": {\"conditions\": [{\"type\": \"example.com/approved\", \"status\": \"True\"}]}}";
    bed.kubectl(&["patch", "pod", "p", "--subresource=status", "-p", approved]).await?;
    bed.until("p", &["cond[Ready]=True", "cond[example.com/approved]=True"]).await?;
    Ok(())
}

/// Ten probes of one pod that never end, more than any limit of a small node would let run at once,
/// leave those of another pod alone.
async fn exec_probes_of_others_take_no_turns(bed: Bed) -> Result<()> {
    let container = |number: usize| {
        let probe =
            "{exec: {command: [sleep, '1000000']}, timeoutSeconds: 1000000, periodSeconds: 1}";
        format!(
            "- {{name: c{number}, image: busybox, command: [sleep, '1000'], \
             readinessProbe: {probe}}}\n"
        )
    };
    let containers: String = (0..10).map(container).collect();
    bed.pod("stuck", &format!("terminationGracePeriodSeconds: 1\ncontainers:\n{containers}"))
        .await?;
    bed.until("stuck", &["c[c9].state.running.startedAt=?*", "c[c9].ready=false"]).await?;
    let spec = "
terminationGracePeriodSeconds: 1
containers:
- name: main
  image: busybox
  command: [sleep, '1000']
  readinessProbe: {exec: {command: [test, -e, /tmp/ready]}, periodSeconds: 1}
";
    bed.pod("p", spec).await?;
    bed.event("p", "Unhealthy", "Readiness probe failed: ").await?;
    bed.exec("p", "main", &["touch", "/tmp/ready"]).await?;
    bed.until("p", &["cond[Ready]=True"]).await?;
    Ok(())
}

/// A server that says 500 is not well, however its answer ends, and neither is one whose answer
/// does not end in time (kubernetes/kubernetes#122591).
async fn liveness_answers_that_break_off(bed: Bed) -> Result<()> {
    let container = |name: &str, port: u16, head: &str, after: &str| {
        format!(
            "
- name: {name}
  image: busybox
  command: [sh, -c]
  args:
  - |
    cat >/srv.sh <<'END'
    while read -r line; do [ \"${{#line}}\" -le 1 ] && break; done
    printf 'HTTP/1.1 {head}\\r\\nContent-Length: 100\\r\\n\\r\\n0123456789'
    {after}
    END
    exec tcpsvd 0.0.0.0 {port} sh /srv.sh
  livenessProbe: {{httpGet: {{path: /, port: {port}}}, periodSeconds: 2, failureThreshold: 2}}"
        )
    };
    let spec = format!(
        "terminationGracePeriodSeconds: 1\ncontainers:{}{}\n",
        container("cut", 8081, "500 Internal Server Error", "true"),
        container("hang", 8082, "200 OK", "sleep 20"),
    );
    bed.pod("p", &spec).await?;
    bed.until("p", &["c[cut].restartCount>0", "c[hang].restartCount>0"]).await?;
    Ok(())
}
