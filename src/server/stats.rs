//! `/stats/summary`, `/metrics/resource` and `/metrics/cadvisor`: what the node and its pods use.

use axum::Router;
use axum::extract::{Query, State as Shared};
use axum::response::Response;
use axum::routing::get;
use http::StatusCode;

use super::health::page_of;
use super::{State, json, text};
use crate::stats::Part;

pub(super) fn routes() -> Router<State> {
    Router::new()
        .route("/stats/summary", get(summary).post(summary))
        .route("/stats/summary/", get(summary).post(summary))
        .route("/metrics/resource", get(resource))
        .route("/metrics/cadvisor", get(cadvisor))
}

/// The parameter that asks for the short form.
const SHORT: &str = "only_cpu_and_memory";

async fn summary(
    Shared(state): Shared<State>,
    Query(query): Query<Vec<(String, String)>>,
) -> Response {
    match state.stats.summary(part(&query)).await {
        Ok(summary) => json(summary),
        Err(error) => {
            tracing::error!(%error, request = "/stats/summary", "a request has failed");
            text(StatusCode::INTERNAL_SERVER_ERROR, format!("Internal Error: {error}"))
        }
    }
}

/// The part that a query asks for. As upstream's, a parameter that is there twice does not count.
fn part(query: &[(String, String)]) -> Part {
    let mut values = query.iter().filter(|(name, _)| name == SHORT);
    match (values.next(), values.next()) {
        (Some((_, value)), None) if value == "true" => Part::CpuAndMemory,
        _ => Part::Whole,
    }
}

async fn resource(Shared(state): Shared<State>) -> Response {
    page_of(state.stats.resource_page().await)
}

async fn cadvisor(Shared(state): Shared<State>) -> Response {
    match state.stats.cadvisor_page().await {
        Ok(page) => page_of(page),
        Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::part;
    use crate::stats::Part;

    #[test]
    fn the_short_form_is_asked_for_once_and_with_true() {
        let asked = |values: &[&str]| {
            let pair = |value: &&str| ("only_cpu_and_memory".to_owned(), (*value).to_owned());
            part(&values.iter().map(pair).collect::<Vec<_>>())
        };
        assert_eq!(asked(&["true"]), Part::CpuAndMemory);
        assert_eq!(asked(&[]), Part::Whole);
        assert_eq!(asked(&["false"]), Part::Whole);
        assert_eq!(asked(&["true", "true"]), Part::Whole);
    }
}
