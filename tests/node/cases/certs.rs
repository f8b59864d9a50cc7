//! A node that joins with a token: its certificates are requested, rotated and kept. One case at a
//! time, on a cluster of its own whose certificates live two minutes.
//!
//! `KUBELET=upstream` runs the same against upstream's kubelet: what is compared here (files, modes,
//! requests, the kubeconfig, texts) is what that one does.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use kube::Api;
use kube::api::ListParams;
use serde_json::{Value, json};

use crate::bed::{Bed, as_value, grace, same, shows};
use crate::look::text;
use crate::{Case, beyond, case, slow};

/// What these cases ask of the kubelet's configuration.
pub(crate) const KUBELET_CONFIG: &str = "
syncFrequency: 10s
serverTLSBootstrap: true
";
/// What these cases ask of the cluster. The controller manager dates certificates back by five
/// minutes, so that two minutes are a lifetime of seven: the rotation is due within 78 seconds.
pub(crate) const CLUSTER_OPTIONS: &[&str] = &["--bootstrap", "--signing-duration", "2m"];

pub(crate) fn cases() -> Vec<Case> {
    vec![
        case(joins_with_a_token),
        case(serves_by_an_approved_certificate),
        slow(rotates_without_a_gap),
        case(waits_for_approval_and_says_why_it_was_denied),
        case(killed_between_the_steps_of_a_bootstrap),
        beyond(expired_while_off),
    ]
}

const PKI: &str = "/var/lib/kubelet/pki";
const KUBECONFIG: &str = "/etc/kubernetes/kubelet.conf";
const BOOTSTRAP: &str = "/etc/kubernetes/bootstrap-kubelet.conf";
const CONFIG: &str = "/var/lib/kubelet/config.yaml";
const CLIENT: &str = "kubernetes.io/kube-apiserver-client-kubelet";
const SERVING: &str = "kubernetes.io/kubelet-serving";
/// The right by which the requests of new nodes are approved by themselves.
const AUTO_APPROVE: &str = "kubeadm:node-autoapprove-bootstrap";
const SLEEPER: &str = "{terminationGracePeriodSeconds: 1, containers: [{name: main, image: busybox, command: [sh, -c, 'echo hello; exec sleep 1000']}]}";

async fn kubelet(bed: &Bed, verb: &str) -> Result<()> {
    bed.cluster.run(&["kubelet", verb, "n1"]).await.map(drop)
}

/// Stops the kubelet and makes the node one that has never joined.
async fn forget(bed: &Bed) -> Result<()> {
    kubelet(bed, "stop").await?;
    for path in [PKI, KUBECONFIG] {
        let path = bed.cluster.on_node(path);
        let removed = if path.is_dir() {
            std::fs::remove_dir_all(&path)
        } else {
            std::fs::remove_file(&path)
        };
        if path.exists() {
            removed.with_context(|| format!("removing {}", path.display()))?;
        }
    }
    bed.api("CertificateSigningRequest")
        .delete_collection(&grace(0), &ListParams::default())
        .await?;
    Ok(())
}

/// The lines that the kubelet has logged since `from`.
fn log_since(bed: &Bed, from: usize) -> String {
    let log = std::fs::read(bed.cluster.env("NODE_N1_KUBELET_LOG")).unwrap_or_default();
    String::from_utf8_lossy(log.get(from..).unwrap_or_default()).into_owned()
}

fn log_length(bed: &Bed) -> usize {
    std::fs::read(bed.cluster.env("NODE_N1_KUBELET_LOG")).map_or(0, |log| log.len())
}

/// Waits until `look` finds something, looking every 100 ms.
async fn wait_for<T, F>(bed: &Bed, what: &str, mut look: impl FnMut() -> F) -> Result<T>
where
    F: Future<Output = Result<Option<T>>>,
{
    let began = Instant::now();
    loop {
        if let Some(found) = look().await? {
            return Ok(found);
        }
        ensure!(began.elapsed() < bed.patience, "{what}: not after {:?}", bed.patience);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// The requests of one signer, oldest first.
async fn requests(bed: &Bed, signer: &str) -> Result<Vec<Value>> {
    let listed = bed.api("CertificateSigningRequest").list(&ListParams::default()).await?;
    let mut found: Vec<Value> = listed
        .items
        .iter()
        .map(as_value)
        .filter(|request| text(request, "spec.signerName") == signer)
        .collect();
    found.sort_by_key(|request| text(request, "metadata.creationTimestamp"));
    Ok(found)
}

/// Waits for a request of this signer that nobody has decided.
async fn undecided(bed: &Bed, signer: &str) -> Result<Value> {
    wait_for(bed, "an undecided request", || async {
        let found = requests(bed, signer).await?;
        Ok(found.into_iter().find(|request| request["status"]["conditions"].is_null()))
    })
    .await
}

/// Waits until the node is ready and its lease was renewed after `since`.
async fn until_ready(bed: &Bed, since: Timestamp) -> Result<()> {
    wait_for(bed, "a Ready node", || async {
        let Ok(node) = bed.get("Node", "n1").await else { return Ok(None) };
        let renewed = renewed(bed).await.unwrap_or_default();
        Ok((renewed > since && text(&node, "cond[Ready]") == "True").then_some(()))
    })
    .await
}

/// When the node's lease was renewed last.
async fn renewed(bed: &Bed) -> Result<Timestamp> {
    let leases: Api<Lease> = Api::namespaced(bed.client.clone(), "kube-node-lease");
    let renewed = leases.get("n1").await?.spec.and_then(|spec| spec.renew_time);
    Ok(renewed.context("a lease without a time")?.0)
}

fn now() -> Timestamp {
    Timestamp::now()
}

/// The dated files of a store, newest last.
fn dated(bed: &Bed, prefix: &str) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(bed.cluster.on_node(PKI))? {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if name.starts_with(prefix) && !path.is_symlink() {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

/// What OpenSSL reads in a file.
async fn openssl(args: &[&str], file: &Path) -> Result<String> {
    let output = tokio::process::Command::new("openssl")
        .args(args)
        .arg("-in")
        .arg(file)
        .output()
        .await
        .context("running openssl")?;
    ensure!(output.status.success(), "openssl {}: {:?}", args.join(" "), output);
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn mode(path: &Path) -> Result<u32> {
    Ok(std::fs::metadata(path)?.permissions().mode() & 0o7777)
}

async fn joins_with_a_token(bed: Bed) -> Result<()> {
    forget(&bed).await?;
    let began = now();
    kubelet(&bed, "start").await?;
    until_ready(&bed, began).await?;

    let requests = requests(&bed, CLIENT).await?;
    let request = requests
        .iter()
        .find(|request| text(request, "spec.username") == "system:bootstrap:abcdef")
        .context("no request with the token")?;
    shows(request, &["metadata.name=csr-*", "metadata.generateName=csr-"])?;
    same("usages", &request["spec"]["usages"], &json!(["digital signature", "client auth"]))?;
    same("expirationSeconds", &request["spec"]["expirationSeconds"], &Value::Null)?;
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("request.pem");
    let encoded = text(request, "spec.request");
    std::fs::write(&file, decode(&encoded).await?)?;
    let printed = openssl(&["req", "-noout", "-text", "-nameopt", "RFC2253"], &file).await?;
    for part in ["CN=system:node:n1,O=system:nodes", "ASN1 OID: prime256v1", "ecdsa-with-SHA256"] {
        ensure!(printed.contains(part), "the request has no {part}:\n{printed}");
    }
    // The heading is printed for an empty list too.
    ensure!(!printed.contains("X509v3"), "extensions are requested:\n{printed}");

    same("the mode of the folder", mode(&bed.cluster.on_node(PKI))?, 0o755)?;
    let files = dated(&bed, "kubelet-client-")?;
    let pem = files.last().context("no certificate file")?;
    same("the mode of the certificate", mode(pem)?, 0o600)?;
    let name = pem.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let digits = name.chars().filter(char::is_ascii_digit).count();
    ensure!(name.len() == "kubelet-client-2006-01-02-15-04-05.pem".len() && digits == 14, "{name}");
    let link =
        std::fs::read_link(bed.cluster.on_node(&format!("{PKI}/kubelet-client-current.pem")))?;
    same("the link", link.as_path(), Path::new(&format!("{PKI}/{name}")))?;
    let blocks: Vec<String> = std::fs::read_to_string(pem)?
        .lines()
        .filter(|line| line.starts_with("-----BEGIN"))
        .map(ToOwned::to_owned)
        .collect();
    same(
        "the blocks of the file",
        blocks,
        vec!["-----BEGIN CERTIFICATE-----".to_owned(), "-----BEGIN EC PRIVATE KEY-----".to_owned()],
    )?;

    let kubeconfig = bed.cluster.on_node(KUBECONFIG);
    same("the mode of the kubeconfig", mode(&kubeconfig)?, 0o600)?;
    let bootstrap = std::fs::read_to_string(bed.cluster.on_node(BOOTSTRAP))?;
    let authority = bootstrap
        .lines()
        .find_map(|line| line.trim().strip_prefix("certificate-authority-data: "))
        .context("no authority in the bootstrap kubeconfig")?;
    let expected = format!(
        "apiVersion: v1
clusters:
- cluster:
    certificate-authority-data: {authority}
    server: https://10.200.0.1:6443
  name: default-cluster
contexts:
- context:
    cluster: default-cluster
    namespace: default
    user: default-auth
  name: default-context
current-context: default-context
kind: Config
users:
- name: default-auth
  user:
    client-certificate: {PKI}/kubelet-client-current.pem
    client-key: {PKI}/kubelet-client-current.pem
"
    );
    same("the kubeconfig", std::fs::read_to_string(kubeconfig)?, expected)
}

/// What base64 means.
async fn decode(encoded: &str) -> Result<Vec<u8>> {
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("base64");
    std::fs::write(&file, encoded)?;
    Ok(openssl(&["base64", "-d", "-A"], &file).await?.into_bytes())
}

async fn serves_by_an_approved_certificate(bed: Bed) -> Result<()> {
    forget(&bed).await?;
    let began = now();
    kubelet(&bed, "start").await?;
    until_ready(&bed, began).await?;
    bed.pod("p", SLEEPER).await?;
    bed.until("p", &["cond[Ready]=True"]).await?;

    let refused = bed.kubectl(&["logs", "p"]).await;
    let refused = refused.err().context("logs without a certificate")?.to_string();
    ensure!(refused.contains("remote error: tls: internal error"), "{refused}");

    let request = undecided(&bed, SERVING).await?;
    same("the user", text(&request, "spec.username").as_str(), "system:node:n1")?;
    same("usages", &request["spec"]["usages"], &json!(["digital signature", "server auth"]))?;
    bed.kubectl(&["certificate", "approve", &text(&request, "metadata.name")]).await?;
    wait_for(&bed, "logs", || async {
        let logs = bed.kubectl(&["logs", "p"]).await;
        Ok(logs.ok().filter(|logs| logs == "hello\n"))
    })
    .await?;

    let pem = bed.cluster.on_node(&format!("{PKI}/kubelet-server-current.pem"));
    ensure!(pem.is_symlink(), "{} is no link", pem.display());
    let files = dated(&bed, "kubelet-server-")?;
    let printed = openssl(
        &["x509", "-noout", "-ext", "subjectAltName,extendedKeyUsage"],
        files.last().context("no certificate file")?,
    )
    .await?;
    for part in ["DNS:n1, IP Address:10.200.0.11", "TLS Web Server Authentication"] {
        ensure!(printed.contains(part), "the certificate has no {part}:\n{printed}");
    }
    verify(&bed).await
}

/// Has OpenSSL verify what is served against the cluster's authority and the node's address.
async fn verify(bed: &Bed) -> Result<()> {
    let authority = bed.cluster.on_node("/etc/kubernetes/pki/ca.crt");
    let authority = authority.to_str().context("a path that is no text")?;
    let output = tokio::process::Command::new("openssl")
        .args(["s_client", "-connect", "10.200.0.11:10250", "-CAfile", authority])
        .args(["-verify_return_error", "-verify_ip", "10.200.0.11", "-brief"])
        .stdin(std::process::Stdio::null())
        .output()
        .await?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success() && said.contains("Verification: OK"), "{said}");
    Ok(())
}

async fn rotates_without_a_gap(bed: Bed) -> Result<()> {
    bed.pod("p", SLEEPER).await?;
    bed.until("p", &["cond[Ready]=True"]).await?;
    let before = dated(&bed, "kubelet-client-")?.len();
    let began = Instant::now();
    let mut longest = 0;
    let mut last: Option<Timestamp> = None;
    let mut rotations = 0;
    while rotations < 2 {
        ensure!(began.elapsed() < Duration::from_secs(240), "{rotations} rotations in 240 s");
        tokio::time::sleep(Duration::from_secs(1)).await;
        rotations = dated(&bed, "kubelet-client-")?.len().saturating_sub(before);

        let renewed = renewed(&bed).await?;
        if let Some(last) = last {
            longest = longest.max(renewed.duration_since(last).as_secs());
        }
        last = Some(renewed);
        let node = bed.get("Node", "n1").await?;
        same("Ready", text(&node, "cond[Ready]").as_str(), "True")?;
    }
    // Renewed every ten seconds, upstream's interval, with its jitter.
    ensure!(longest <= 12, "{longest} s between two renewals of the lease");

    // The watches go on: a new pod and a deletion come through.
    let pods = Instant::now();
    bed.pod("q", SLEEPER).await?;
    bed.until("q", &["cond[Ready]=True"]).await?;
    bed.delete("p", None).await?;
    bed.until_gone("Pod", "p").await?;
    ensure!(pods.elapsed() < Duration::from_secs(20), "pods took {:?}", pods.elapsed());

    let metrics =
        bed.cluster.run(&["kubectl", "get", "--raw", "/api/v1/nodes/n1/proxy/metrics"]).await;
    // Served only while the node has a serving certificate that has been approved.
    if let Ok(metrics) = metrics {
        let name = "kubelet_certificate_manager_client_ttl_seconds";
        let line = metrics.lines().find(|line| line.starts_with(name)).context(name)?;
        let left: f64 = line.rsplit(' ').next().unwrap_or_default().parse()?;
        ensure!(left > 0.0 && left <= 120.0, "{line}");
    }
    Ok(())
}

/// Whether requests of new nodes are approved by themselves.
async fn set_auto_approval(bed: &Bed, is_on: bool) -> Result<()> {
    if !is_on {
        return bed.delete_kind("ClusterRoleBinding", AUTO_APPROVE).await;
    }
    bed.create(&format!(
        "
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {{name: '{AUTO_APPROVE}'}}
roleRef: {{apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: 'system:certificates.k8s.io:certificatesigningrequests:nodeclient'}}
subjects: [{{apiGroup: rbac.authorization.k8s.io, kind: Group, name: 'system:bootstrappers:kubeadm:default-node-token'}}]
"
    ))
    .await
    .map(drop)
}

/// Runs `work` while requests of new nodes wait for somebody.
async fn without_approval(bed: &Bed, work: impl Future<Output = Result<()>>) -> Result<()> {
    set_auto_approval(bed, false).await?;
    let outcome = work.await;
    set_auto_approval(bed, true).await?;
    outcome
}

async fn waits_for_approval_and_says_why_it_was_denied(bed: Bed) -> Result<()> {
    forget(&bed).await?;
    let from = log_length(&bed);
    let work = async {
        let began = now();
        kubelet(&bed, "start").await?;
        let first = undecided(&bed, CLIENT).await?;
        // The kubelet is healthy meanwhile: kubeadm waits for that first.
        let kubeconfig = bed.cluster.on_node(KUBECONFIG);
        ensure!(kubeconfig.exists(), "the kubeconfig is written at once");
        healthy(&bed).await?;
        tokio::time::sleep(Duration::from_secs(5)).await;
        same("requests", requests(&bed, CLIENT).await?.len(), 1)?;

        bed.kubectl(&["certificate", "deny", &text(&first, "metadata.name")]).await?;
        wait_for(&bed, "the reason in the log", || async {
            let said = "certificate signing request is denied, reason: KubectlDeny, message: This \
                        CSR was denied by kubectl certificate deny.";
            Ok(log_since(&bed, from).contains(said).then_some(()))
        })
        .await?;
        let second = undecided(&bed, CLIENT).await?;
        bed.kubectl(&["certificate", "approve", &text(&second, "metadata.name")]).await?;
        until_ready(&bed, began).await
    };
    without_approval(&bed, work).await
}

/// Waits for the answer that kubeadm waits for.
async fn healthy(bed: &Bed) -> Result<()> {
    wait_for(bed, "healthz", || async {
        let ask = "exec 3<>/dev/tcp/127.0.0.1/10248; printf 'GET /healthz HTTP/1.0\\r\\n\\r\\n' >&3; cat <&3";
        let answer = bed.cluster.node_exec(&["bash", "-c", ask]).await;
        Ok(answer.ok().filter(|answer| answer.contains("200 OK")))
    })
    .await
    .map(drop)
}

/// Changes the kubelet's configuration file.
fn configure(bed: &Bed, from: &str, to: &str) -> Result<()> {
    let path = bed.cluster.on_node(CONFIG);
    let text = std::fs::read_to_string(&path)?;
    ensure!(text.contains(from), "{} has no {from:?}", path.display());
    std::fs::write(&path, text.replace(from, to))?;
    Ok(())
}

async fn killed_between_the_steps_of_a_bootstrap(bed: Bed) -> Result<()> {
    forget(&bed).await?;
    // The first certificate alone is requested: its key outlives the process.
    configure(&bed, "rotateCertificates: true", "rotateCertificates: false")?;
    let outcome = without_approval(&bed, bootstrap_in_steps(&bed)).await;
    configure(&bed, "rotateCertificates: false", "rotateCertificates: true")?;
    kubelet(&bed, "restart").await?;
    outcome
}

async fn bootstrap_in_steps(bed: &Bed) -> Result<()> {
    let key = bed.cluster.on_node(&format!("{PKI}/kubelet-client.key.tmp"));
    kubelet(bed, "start").await?;
    wait_for(bed, "the key", || async { Ok(key.exists().then_some(())) }).await?;
    kubelet(bed, "kill").await?;
    same("the mode of the key", mode(&key)?, 0o600)?;
    let first = std::fs::read(&key)?;

    kubelet(bed, "start").await?;
    let request = undecided(bed, CLIENT).await?;
    kubelet(bed, "kill").await?;
    let name = text(&request, "metadata.name");
    ensure!(name.starts_with("node-csr-") && name.len() == "node-csr-".len() + 43, "{name}");

    // Approved and signed while nobody waits for it.
    kubelet(bed, "start").await?;
    tokio::time::sleep(Duration::from_secs(3)).await;
    same("the key", std::fs::read(&key)?, first)?;
    kubelet(bed, "kill").await?;
    bed.kubectl(&["certificate", "approve", &name]).await?;
    bed.until_kind("CertificateSigningRequest", &name, &["status.certificate=?*"]).await?;
    ensure!(!bed.cluster.on_node(KUBECONFIG).exists(), "the kubeconfig is written last");

    let began = now();
    kubelet(bed, "start").await?;
    until_ready(bed, began).await?;
    let names: Vec<String> =
        requests(bed, CLIENT).await?.iter().map(|request| text(request, "metadata.name")).collect();
    same("requests", names, vec![name])?;
    ensure!(!key.exists(), "the key of the request is still there");
    Ok(())
}

async fn expired_while_off(bed: Bed) -> Result<()> {
    forget(&bed).await?;
    let began = now();
    kubelet(&bed, "start").await?;
    until_ready(&bed, began).await?;
    let pod = bed.pod("p", SLEEPER).await?;
    let ready = bed.until("p", &["cond[Ready]=True"]).await?;
    kubelet(&bed, "stop").await?;
    let pem = dated(&bed, "kubelet-client-")?.pop().context("no certificate file")?;
    wait_for(&Bed { patience: Duration::from_secs(150), ..bed.clone() }, "its end", || async {
        Ok(openssl(&["x509", "-noout", "-checkend", "0"], &pem).await.is_err().then_some(()))
    })
    .await?;

    // The flag stays, the file is gone, as kubeadm leaves it.
    let bootstrap = bed.cluster.on_node(BOOTSTRAP);
    let content = std::fs::read(&bootstrap)?;
    let flags =
        Path::new(bed.cluster.env("NODE_N1_KUBELET_PID_FILE")).with_file_name("kubelet-flags");
    let flags_before = std::fs::read(&flags)?;
    std::fs::remove_file(&bootstrap)?;
    std::fs::write(&flags, format!("--bootstrap-kubeconfig={BOOTSTRAP}"))?;
    let from = log_length(&bed);
    let started = kubelet(&bed, "start").await;
    std::fs::write(&flags, flags_before)?;
    let outcome = async {
        started?;
        tokio::time::sleep(Duration::from_secs(15)).await;
        bed.cluster.run(&["kubelet", "pid", "n1"]).await.context("the kubelet has ended")?;
        let said = log_since(&bed, from);
        let what = "no valid client certificate: pods keep running";
        ensure!(said.contains(what), "the log does not say {what:?}");
        Ok(())
    }
    .await;
    let began = now();
    std::fs::write(&bootstrap, content)?;
    outcome?;

    until_ready(&bed, began).await?;
    let after = bed.until("p", &["cond[Ready]=True"]).await?;
    for path in ["metadata.uid", "c[main].containerID", "c[main].restartCount"] {
        same(path, text(&after, path), text(&ready, path))?;
    }
    same("the pod", text(&after, "metadata.uid"), text(&pod, "metadata.uid"))?;
    if text(&after, "c[main].state.running.startedAt").is_empty() {
        bail!("the container does not run: {}", text(&after, "status"));
    }
    Ok(())
}
