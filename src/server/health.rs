//! `/healthz`, `/healthz/{ping,log,syncloop}` and the metrics pages.

use axum::Router;
use axum::extract::{Path, State as Shared};
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use http::{StatusCode, header};

use super::{State, text};
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

pub(super) async fn metrics(Shared(state): Shared<State>) -> Response {
    page(&state.metrics)
}

pub(super) async fn probe_metrics(Shared(state): Shared<State>) -> Response {
    page(&state.probe_metrics)
}

fn page(registry: &Registry) -> Response {
    let headers = [(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")];
    (StatusCode::OK, headers, registry.encode()).into_response()
}
