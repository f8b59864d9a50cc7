//! `/healthz`, `/healthz/{ping,log,syncloop}` and the metrics pages.

use std::time::Duration;

use axum::Router;
use axum::extract::{Path, State as Shared};
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use http::{StatusCode, header};

use super::{State, text};
use crate::stats;
use crate::telemetry::metrics::Registry;

/// The checks of `/healthz`, in upstream's order.
const CHECKS: [&str; 3] = ["ping", "log", "syncloop"];

pub(super) fn routes() -> Router<State> {
    Router::new()
        .route("/healthz", get(all))
        .route("/healthz/", get(all))
        .route("/healthz/{check}", get(one))
}

async fn all(Shared(state): Shared<State>, uri: http::Uri) -> Response {
    let problem = state.unhealthy.borrow().clone();
    for check in CHECKS {
        state.checks.count(check, check != "syncloop" || problem.is_none());
    }
    let verbose =
        uri.query().is_some_and(|query| query.split('&').any(|part| part.starts_with("verbose")));
    if problem.is_none() && !verbose {
        return text(StatusCode::OK, "ok");
    }
    let mut body = String::new();
    for check in CHECKS {
        let failed = check == "syncloop" && problem.is_some();
        let (mark, outcome) = if failed { ("-", " failed: reason withheld") } else { ("+", " ok") };
        body.extend(["[", mark, "]", check, outcome, "\n"]);
    }
    if let Some(problem) = problem {
        tracing::info!(problem, "healthz check failed: syncloop");
        body.push_str("healthz check failed\n");
        return text(StatusCode::INTERNAL_SERVER_ERROR, body);
    }
    body.push_str("healthz check passed\n");
    text(StatusCode::OK, body)
}

async fn one(Shared(state): Shared<State>, Path(check): Path<String>) -> Response {
    if !CHECKS.contains(&check.as_str()) {
        return text(StatusCode::NOT_FOUND, "404 page not found\n");
    }
    match (check.as_str(), state.unhealthy.borrow().as_ref()) {
        ("syncloop", Some(problem)) => {
            text(StatusCode::INTERNAL_SERVER_ERROR, format!("internal server error: {problem}\n"))
        }
        _ => text(StatusCode::OK, "ok"),
    }
}

/// How old the sizes of volumes and logs may be: as often as volumes are measured.
const SIZES: Duration = Duration::from_secs(60);
/// A runtime that hangs holds the page up no longer than this; the sizes are then left out.
const PATIENCE: Duration = Duration::from_secs(5);

pub(super) async fn metrics(Shared(state): Shared<State>) -> Response {
    let sizes = tokio::time::timeout(PATIENCE, state.stats.pods(SIZES)).await;
    let sizes = sizes.ok().and_then(Result::ok);
    page_of(state.metrics.encode_with(|page| {
        if let Some(usage) = &sizes {
            stats::volumes::write(page, usage);
        }
    }))
}

pub(super) async fn probe_metrics(Shared(state): Shared<State>) -> Response {
    page(&state.probe_metrics)
}

fn page(registry: &Registry) -> Response {
    page_of(registry.encode())
}

/// A page of metrics.
pub(super) fn page_of(page: String) -> Response {
    let headers = [(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")];
    (StatusCode::OK, headers, page).into_response()
}
