//! `/flagz` and `/statusz`: the flags and the state of the process, as text for people, or as an
//! object if the client names its version.
//!
//! What a client accepts, and how a page is written, is pure.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use axum::Router;
use axum::extract::State as Shared;
use axum::response::{IntoResponse as _, Response};
use axum::routing::any;
use http::{HeaderMap, StatusCode, header};
use serde::Serialize;

use super::State;
use super::diagnostics::{Diagnostics, Handler};
use crate::config::KUBERNETES_VERSION;
use crate::model::Wall;

/// The component, as both pages name it.
const COMPONENT: &str = "kubelet";
/// The API group of both objects.
const GROUP: &str = "config.k8s.io";
/// Upstream draws one of `:`, `: `, `=` and a space for each page, so that nobody parses it.
const DELIMITER: &str = ":";

/// The routes of the pages whose gates are on.
pub(super) fn routes(diagnostics: &Diagnostics) -> Router<State> {
    let mut router = Router::new();
    if diagnostics.serves(Handler::Flagz) {
        router = router.route("/flagz", any(flagz));
    }
    if diagnostics.serves(Handler::Statusz) {
        router = router.route("/statusz", any(statusz));
    }
    router
}

async fn flagz(Shared(state): Shared<State>, headers: HeaderMap) -> Response {
    let flags = &state.diagnostics.flags;
    respond(&headers, "Flagz", || flagz_text(flags), |version| object("Flagz", version, flags))
}

async fn statusz(Shared(state): Shared<State>, headers: HeaderMap) -> Response {
    let status = Status::of(&state.diagnostics, state.clock.now().wall);
    respond(&headers, "Statusz", || status.text(), |version| object("Statusz", version, &status))
}

/// Answers in the form that the client accepts.
fn respond(
    headers: &HeaderMap,
    kind: &'static str,
    text: impl FnOnce() -> String,
    object: impl FnOnce(Version) -> serde_json::Value,
) -> Response {
    let accept = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok());
    let Some(form) = negotiate(accept.unwrap_or_default(), kind) else {
        return not_acceptable();
    };
    let Form::Object { version, encoding } = form else {
        let headers = [(header::CONTENT_TYPE, "text/plain; charset=utf-8")];
        return (headers, text()).into_response();
    };

    let object = object(version);
    let (media_type, body) = match encoding {
        Encoding::Json => ("application/json", format!("{object}\n")),
        Encoding::Yaml => ("application/yaml", yaml(&object)),
    };
    let media_type = format!("{media_type};g={GROUP};v={};as={kind}", version.as_str());
    let mut response = ([(header::CONTENT_TYPE, media_type)], body).into_response();
    if version == Version::V1Alpha1 {
        let page = kind.to_ascii_lowercase();
        let warning = format!(
            "299 - \"This version of the {page} endpoint is deprecated. Please use a newer version.\""
        );
        if let Ok(warning) = warning.parse() {
            response.headers_mut().insert(header::WARNING, warning);
        }
    }
    response
}

/// Refuses a client that accepts none of the forms.
fn not_acceptable() -> Response {
    let status = serde_json::json!({
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Failure",
        "message": "only the following media types are accepted: application/json, \
                    application/yaml, text/plain",
        "reason": "NotAcceptable",
        "code": 406,
    });
    let headers = [(header::CONTENT_TYPE, "application/json")];
    (StatusCode::NOT_ACCEPTABLE, headers, format!("{status:#}")).into_response()
}

/// The form of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    /// For people.
    Text,
    /// For programs.
    Object { version: Version, encoding: Encoding },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Encoding {
    Json,
    Yaml,
}

/// A version of the objects. They have the same fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Version {
    V1Alpha1,
    V1Beta1,
}

impl Version {
    fn as_str(self) -> &'static str {
        match self {
            Self::V1Alpha1 => "v1alpha1",
            Self::V1Beta1 => "v1beta1",
        }
    }
}

/// Chooses the form for an `Accept` header, e.g.
/// `application/json;as=Flagz;g=config.k8s.io;v=v1beta1`. An object has to be named in full; an
/// empty header asks for text. `None` if no form is accepted.
fn negotiate(accept: &str, kind: &str) -> Option<Form> {
    if accept.trim().is_empty() {
        return Some(Form::Text);
    }
    let mut clauses: Vec<Clause<'_>> = accept.split(',').map(Clause::parse).collect();
    // Stable: of two that are as good, the first counts.
    clauses.sort_by(|a, b| b.quality.total_cmp(&a.quality));
    clauses.iter().find_map(|clause| clause.form(kind))
}

/// One clause of an `Accept` header.
struct Clause<'a> {
    media_type: (&'a str, &'a str),
    quality: f64,
    parameters: BTreeMap<&'a str, &'a str>,
}

impl<'a> Clause<'a> {
    fn parse(text: &'a str) -> Self {
        let mut parts = text.split(';').map(str::trim);
        let media_type = parts.next().unwrap_or_default();
        let mut parameters: BTreeMap<&str, &str> =
            parts.filter_map(|part| part.split_once('=')).collect();
        let quality = parameters.remove("q").and_then(|quality| quality.parse().ok());
        let media_type = media_type.split_once('/').unwrap_or((media_type, "*"));
        Self { media_type, quality: quality.unwrap_or(1.0), parameters }
    }

    fn form(&self, kind: &str) -> Option<Form> {
        let (main, sub) = self.media_type;
        let accepts = |wanted: &str| match wanted.split_once('/') {
            Some((wanted_main, wanted_sub)) => {
                (main == "*" && sub == "*")
                    || (main == wanted_main && (sub == wanted_sub || sub == "*"))
            }
            None => false,
        };
        let parameter = |name| self.parameters.get(name).copied();
        let version = match (parameter("as"), parameter("g"), parameter("v")) {
            (Some(name), Some(GROUP), Some("v1alpha1")) if name == kind => Some(Version::V1Alpha1),
            (Some(name), Some(GROUP), Some("v1beta1")) if name == kind => Some(Version::V1Beta1),
            _ => None,
        };

        let object = |encoding| version.map(|version| Form::Object { version, encoding });
        let named = parameter("as").is_some();
        let json = if accepts("application/json") { object(Encoding::Json) } else { None };
        json.or_else(|| if accepts("application/yaml") { object(Encoding::Yaml) } else { None })
            .or_else(|| (accepts("text/plain") && !named).then_some(Form::Text))
    }
}

/// The state of the process; the fields of `Statusz`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Status {
    start_time: String,
    uptime_seconds: i64,
    /// Go's version is asked for; this is what the program is built with.
    go_version: &'static str,
    binary_version: &'static str,
    emulation_version: &'static str,
    paths: Vec<&'static str>,
    #[serde(skip)]
    started: Wall,
}

impl Status {
    fn of(diagnostics: &Diagnostics, now: Wall) -> Self {
        // As upstream: the first part of each path that is no web service of its framework.
        let mut paths = vec!["/configz", "/debug", "/healthz", "/metrics"];
        if diagnostics.serves(Handler::Flagz) {
            paths.push("/flagz");
        }
        if !diagnostics.serves(Handler::SystemLogs) {
            paths.push("/logs");
        }
        paths.sort_unstable();

        let started = diagnostics.started;
        Self {
            start_time: started.strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
            uptime_seconds: now.duration_since(started).as_secs().max(0),
            go_version: "rustc",
            binary_version: KUBERNETES_VERSION.trim_start_matches('v'),
            emulation_version: "1.36",
            paths,
            started,
        }
    }

    fn text(&self) -> String {
        let mut text = head("statusz");
        let up = self.uptime_seconds;
        let up = format!("{} hr {:02} min {:02} sec", up / 3600, up / 60 % 60, up % 60);
        let started = self.started.strftime("%a %b %e %H:%M:%S UTC %Y").to_string();
        let paths = self.paths.join(" ");
        text.push('\n');
        for (name, value) in [
            ("Started", started.as_str()),
            ("Up", &up),
            ("Go version", self.go_version),
            ("Binary version", self.binary_version),
            ("Emulation version", self.emulation_version),
            ("Paths", &paths),
        ] {
            let _ = writeln!(text, "{name}{DELIMITER} {value}");
        }
        text
    }
}

fn flagz_text(flags: &BTreeMap<String, String>) -> String {
    flags.iter().fold(head("flagz"), |mut text, (name, value)| {
        let _ = writeln!(text, "{name}{DELIMITER}{value}");
        text
    })
}

/// The first lines of a page.
fn head(page: &str) -> String {
    format!(
        "\n{COMPONENT} {page}\nWarning: This endpoint is not meant to be machine parseable, has no \
         formatting compatibility guarantees and is for debugging purposes only.\n"
    )
}

/// The object of a page: `flags` for `Flagz`, the fields of `Status` for `Statusz`.
fn object(kind: &str, version: Version, content: impl Serialize) -> serde_json::Value {
    let content = serde_json::to_value(content).unwrap_or_default();
    let mut object = if kind == "Flagz" {
        serde_json::Map::from_iter([("flags".to_owned(), content)])
    } else {
        content.as_object().cloned().unwrap_or_default()
    };
    object.insert("kind".into(), kind.into());
    object.insert("apiVersion".into(), format!("{GROUP}/{}", version.as_str()).into());
    object.insert("metadata".into(), serde_json::json!({ "name": COMPONENT }));
    object.into()
}

/// Writes an object of texts, numbers, lists of texts and maps of texts as YAML. Texts are quoted
/// as JSON quotes them, which YAML reads too.
fn yaml(object: &serde_json::Value) -> String {
    let mut text = String::new();
    for (name, value) in object.as_object().into_iter().flatten() {
        let _ = match value {
            serde_json::Value::Object(fields) if !fields.is_empty() => {
                let fields = fields.iter().fold(String::new(), |mut lines, (name, value)| {
                    let _ = write!(lines, "\n  {name}: {value}");
                    lines
                });
                writeln!(text, "{name}:{fields}")
            }
            serde_json::Value::Array(items) if !items.is_empty() => {
                let items = items.iter().fold(String::new(), |mut lines, item| {
                    let _ = write!(lines, "\n- {item}");
                    lines
                });
                writeln!(text, "{name}:{items}")
            }
            serde_json::Value::Object(_)
            | serde_json::Value::Array(_)
            | serde_json::Value::Null
            | serde_json::Value::Bool(_)
            | serde_json::Value::Number(_)
            | serde_json::Value::String(_) => writeln!(text, "{name}: {value}"),
        };
    }
    text
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    fn diagnostics() -> Diagnostics {
        Diagnostics {
            handlers: [Handler::Flagz, Handler::Statusz, Handler::SystemLogs].into(),
            flags: [("v".to_owned(), "2".to_owned()), ("port".to_owned(), "10250".to_owned())]
                .into(),
            started: "2026-11-03T10:00:00Z".parse().expect("a time"),
            log: None,
            checkpoints: PathBuf::new(),
            system_logs: PathBuf::new(),
        }
    }

    #[test]
    fn an_object_has_to_be_named_in_full() {
        let object = |version, encoding| Some(Form::Object { version, encoding });
        for (accept, form) in [
            ("", Some(Form::Text)),
            ("*/*", Some(Form::Text)),
            ("text/plain", Some(Form::Text)),
            ("application/json, */*", Some(Form::Text)),
            ("application/json", None),
            ("application/json;as=Flagz;g=config.k8s.io;v=v2", None),
            ("application/json;as=Statusz;g=config.k8s.io;v=v1beta1", None),
            ("application/vnd.kubernetes.protobuf", None),
            (
                "application/json;as=Flagz;g=config.k8s.io;v=v1beta1",
                object(Version::V1Beta1, Encoding::Json),
            ),
            (
                "text/plain;q=0.5,application/yaml;v=v1alpha1;g=config.k8s.io;as=Flagz",
                object(Version::V1Alpha1, Encoding::Yaml),
            ),
        ] {
            assert_eq!(negotiate(accept, "Flagz"), form, "{accept}");
        }
    }

    #[test]
    fn the_pages_are_upstreams() {
        let diagnostics = diagnostics();
        let now = "2026-11-03T11:02:03Z".parse().expect("a time");
        let status = Status::of(&diagnostics, now);
        assert_eq!(
            status.text(),
            "\nkubelet statusz\nWarning: This endpoint is not meant to be machine parseable, has \
             no formatting compatibility guarantees and is for debugging purposes only.\n\n\
             Started: Tue Nov  3 10:00:00 UTC 2026\nUp: 1 hr 02 min 03 sec\nGo version: rustc\n\
             Binary version: 1.36.3\nEmulation version: 1.36\n\
             Paths: /configz /debug /flagz /healthz /metrics\n"
        );
        assert_eq!(
            object("Statusz", Version::V1Beta1, &status),
            serde_json::json!({
                "kind": "Statusz", "apiVersion": "config.k8s.io/v1beta1",
                "metadata": {"name": "kubelet"}, "startTime": "2026-11-03T10:00:00Z",
                "uptimeSeconds": 3723, "goVersion": "rustc", "binaryVersion": "1.36.3",
                "emulationVersion": "1.36",
                "paths": ["/configz", "/debug", "/flagz", "/healthz", "/metrics"],
            })
        );
        assert!(flagz_text(&diagnostics.flags).ends_with("only.\nport:10250\nv:2\n"));
        let flagz = object("Flagz", Version::V1Alpha1, &diagnostics.flags);
        assert_eq!(flagz["flags"]["port"], "10250");
        assert_eq!(
            yaml(&flagz),
            "apiVersion: \"config.k8s.io/v1alpha1\"\nflags:\n  port: \"10250\"\n  v: \"2\"\n\
             kind: \"Flagz\"\nmetadata:\n  name: \"kubelet\"\n"
        );
    }
}
