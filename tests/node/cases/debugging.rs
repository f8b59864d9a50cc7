//! The endpoints of the kubelet for people who look into a node: flags, status, verbosity, logs of
//! the system, checkpoints, and the metrics of requests.

use anyhow::{Context as _, Result, ensure};
use kube::Client;
use serde_json::Value;

use super::streams::{SLEEPER, Who, ask, kubelet};
use crate::bed::{Bed, has_line, same, shows};
use crate::{Case, case};

pub(crate) fn cases() -> Vec<Case> {
    vec![
        case(flags_and_status),
        case(verbosity),
        case(logs_of_the_system),
        case(checkpoint),
        case(requests_are_counted),
    ]
}

/// The answer to any request: its status code and text.
async fn send(
    client: &Client,
    request: http::request::Builder,
    body: &str,
) -> Result<(u16, String)> {
    let request = request.body(kube::client::Body::from(body.as_bytes().to_vec()))?;
    let response = client.send(request).await?;
    let status = response.status().as_u16();
    let bytes = response.into_body().collect_bytes().await?;
    Ok((status, String::from_utf8_lossy(&bytes).into_owned()))
}

async fn flags_and_status(bed: Bed) -> Result<()> {
    let admin = kubelet(&bed, Who::Admin).await?;
    let (status, page) = ask(&admin, "/flagz").await?;
    same("/flagz", status, 200)?;
    ensure!(page.starts_with("\nkubelet flagz\nWarning: "), "{page}");
    ensure!(page.lines().any(|line| line.starts_with("hostname-override")), "{page}");
    let (status, page) = ask(&admin, "/statusz").await?;
    same("/statusz", status, 200)?;
    has_line("/statusz", &page, "Binary version: 1.36.3")?;

    for kind in ["Flagz", "Statusz"] {
        let path = format!("/{}", kind.to_lowercase());
        let accept = format!("application/json;as={kind};g=config.k8s.io;v=v1beta1");
        let request = http::Request::get(&path).header("accept", &accept);
        let (status, object) = send(&admin, request, "").await?;
        same(&path, status, 200)?;
        let object: Value = serde_json::from_str(&object)?;
        let kind = format!("kind={kind}");
        shows(&object, &[&kind, "apiVersion=config.k8s.io/v1beta1", "metadata.name=kubelet"])?;
        let request = http::Request::get(&path).header("accept", "application/json");
        same("without a version", send(&admin, request, "").await?.0, 406)?;
    }

    // As upstream, each has a right of its own.
    let token = bed.kubectl(&["create", "token", "default"]).await?.trim().to_owned();
    let known = kubelet(&bed, Who::Token(token)).await?;
    for (path, subresource) in [
        ("/flagz", "configz"),
        ("/statusz", "statusz"),
        ("/logs/", "log"),
        ("/debug/flags/v", "proxy"),
    ] {
        let (status, answer) = ask(&known, path).await?;
        same(path, status, 403)?;
        ensure!(answer.ends_with(&format!("subresource(s)=[{subresource}])\n")), "{answer}");
    }
    Ok(())
}

async fn verbosity(bed: Bed) -> Result<()> {
    let admin = kubelet(&bed, Who::Admin).await?;
    let put = || http::Request::put("/debug/flags/v");
    let set = |level: &str| (200, format!("successfully set klog.logging.verbosity to {level}\n"));
    same("PUT 5", send(&admin, put(), "5").await?, set("5"))?;
    same("PUT 4", send(&admin, put(), "4").await?, set("4"))?;
    let invalid = "strconv.ParseUint: parsing \"loud\": invalid syntax\n".to_owned();
    same("PUT loud", send(&admin, put(), "loud").await?, (400, invalid))?;
    let method = (406, "unsupported http method\n".to_owned());
    same("GET", ask(&admin, "/debug/flags/v").await?, method)?;
    let (status, line) = ask(&admin, "/debug/pprof/cmdline").await?;
    same("/debug/pprof/cmdline", status, 200)?;
    ensure!(line.contains("\0--config"), "{line:?}");
    same("a profile of Go", ask(&admin, "/debug/pprof/heap").await?.0, 404)
}

async fn logs_of_the_system(bed: Bed) -> Result<()> {
    let admin = kubelet(&bed, Who::Admin).await?;
    let (status, page) = ask(&admin, "/logs/").await?;
    same("/logs/", status, 200)?;
    has_line("/logs/", &page, "<a href=\"pods/\">pods/</a>")?;
    same("a file that is not there", ask(&admin, "/logs/no-such-file").await?.0, 404)?;
    // Queries are off unless they are switched on: they are read as if they were not there.
    same("a query", ask(&admin, "/logs/?query=kubelet").await?.0, 200)?;
    bed.pod("p", SLEEPER).await?;
    let pod = bed.until("p", &["cond[Ready]=True"]).await?;
    let uid = pod["metadata"]["uid"].as_str().context("no UID")?;
    let (status, page) = ask(&admin, &format!("/logs/pods/{}_p_{uid}/", bed.name)).await?;
    same("the pod's logs", status, 200)?;
    has_line("the pod's logs", &page, "<a href=\"main/\">main/</a>")
}

async fn checkpoint(bed: Bed) -> Result<()> {
    bed.pod("p", SLEEPER).await?;
    bed.until("p", &["cond[Ready]=True"]).await?;
    let admin = kubelet(&bed, Who::Admin).await?;
    let post = |path: &str| http::Request::post(format!("/checkpoint/{}/{path}", bed.name));
    let none = (404, "pod does not exist".to_owned());
    same("no pod", send(&admin, post("none/main"), "").await?, none)?;
    let none = (404, "container none does not exist".to_owned());
    same("no container", send(&admin, post("p/none"), "").await?, none)?;

    // Whether it can be done is up to the runtime, which needs CRIU.
    let (status, answer) = send(&admin, post("p/main"), "").await?;
    let archive =
        format!("{{\"items\":[\"/var/lib/kubelet/checkpoints/checkpoint-p_{}-main-", bed.name);
    let refusal = format!("checkpointing of {}/p/main failed (", bed.name);
    ensure!(
        (status == 200 && answer.starts_with(&archive))
            || (status == 500 && answer.starts_with(&refusal)),
        "{status} {answer}"
    );
    bed.until("p", &["cond[Ready]=True"]).await.map(drop)
}

async fn requests_are_counted(bed: Bed) -> Result<()> {
    let admin = kubelet(&bed, Who::Admin).await?;
    same("/no-such-thing", ask(&admin, "/no-such-thing").await?.0, 404)?;
    let (_, metrics) = ask(&admin, "/metrics").await?;
    let labels = "{method=\"GET\",path=\"other\",server_type=\"readwrite\",long_running=\"false\"}";
    for name in ["kubelet_http_requests_total", "kubelet_http_requests_duration_seconds_count"] {
        let series = format!("{name}{labels} ");
        ensure!(metrics.lines().any(|line| line.starts_with(&series)), "no {series} in {metrics}");
    }
    // The request that reads the page is in flight.
    let own = "kubelet_http_inflight_requests{method=\"GET\",path=\"metrics\",\
               server_type=\"readwrite\",long_running=\"false\"} ";
    let line = metrics.lines().find(|line| line.starts_with(own)).context("no gauge")?;
    ensure!(!line.ends_with(" 0"), "{line}");
    same("the version of cgroups", metrics.contains("kubelet_cgroup_version "), true)
}
