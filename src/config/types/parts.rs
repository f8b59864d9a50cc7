//! The parts of `KubeletConfiguration` that are objects themselves, each with the default that an
//! empty one means.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::{GoDuration, is_false};

/// The identification of callers: client certificates, bearer tokens, anonymous.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct KubeletAuthentication {
    /// Client certificates.
    pub x509: X509,
    /// Bearer tokens, checked by the API server.
    pub webhook: WebhookAuthentication,
    /// Requests without a certificate or token.
    pub anonymous: Anonymous,
}

/// Client certificates.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct X509 {
    /// Bundle of the authorities whose certificates identify a caller; empty means none do.
    #[serde(rename = "clientCAFile", skip_serializing_if = "String::is_empty")]
    pub client_ca_file: String,
}

/// Bearer tokens through TokenReview.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct WebhookAuthentication {
    /// True if tokens are accepted.
    pub enabled: bool,
    /// How long an answer is kept.
    #[serde(rename = "cacheTTL")]
    pub cache_ttl: GoDuration,
}

impl Default for WebhookAuthentication {
    fn default() -> Self {
        Self { enabled: true, cache_ttl: GoDuration::from_secs(120) }
    }
}

/// Requests without a certificate or token: user `system:anonymous`, group
/// `system:unauthenticated`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Anonymous {
    /// True if such requests go on to authorization.
    pub enabled: bool,
}

/// The authorization of callers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct KubeletAuthorization {
    /// `Webhook` (SubjectAccessReview) or `AlwaysAllow`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub mode: String,
    /// How long answers are kept.
    pub webhook: WebhookAuthorization,
}

impl Default for KubeletAuthorization {
    fn default() -> Self {
        Self { mode: "Webhook".to_owned(), webhook: WebhookAuthorization::default() }
    }
}

/// How long answers of SubjectAccessReview are kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct WebhookAuthorization {
    /// The time for which an allowed request is kept.
    #[serde(rename = "cacheAuthorizedTTL")]
    pub cache_authorized_ttl: GoDuration,
    /// The time for which a denied request is kept.
    #[serde(rename = "cacheUnauthorizedTTL")]
    pub cache_unauthorized_ttl: GoDuration,
}

impl Default for WebhookAuthorization {
    fn default() -> Self {
        Self {
            cache_authorized_ttl: GoDuration::from_secs(300),
            cache_unauthorized_ttl: GoDuration::from_secs(30),
        }
    }
}

/// The use of swap by containers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct MemorySwap {
    /// Empty or `NoSwap`: not at all; `LimitedSwap`: in proportion to the memory request.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub swap_behavior: String,
}

/// Limits of the back-off of crashing containers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct CrashLoopBackOff {
    /// Longest pause between restarts, 1s to 300s. Set whenever the gate KubeletCrashLoopBackOffMax
    /// is on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_container_restart_period: Option<GoDuration>,
}

/// Shutdown grace of the pods of a priority.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ShutdownGracePeriodByPodPriority {
    /// Lowest priority of the range.
    pub priority: i32,
    /// Grace in seconds.
    pub shutdown_grace_period_seconds: i64,
}

/// Memory reserved on one NUMA node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct MemoryReservation {
    /// The NUMA node's number.
    pub numa_node: i32,
    /// Quantities by resource: `memory`, `hugepages-<size>`.
    pub limits: BTreeMap<String, QuantityText>,
}

/// OpenTelemetry export.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Tracing {
    /// The gRPC target, e.g. `collector:4317`; unset means `localhost:4317`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
    /// Spans kept of a million; unset means none but those whose parent is kept.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sampling_rate_per_million: Option<i32>,
}

/// Identifier ranges of pods in user namespaces.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct UserNamespaces {
    /// Identifiers per pod, a multiple of 65536; unset means 65536.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ids_per_pod: Option<i64>,
}

/// Format, level and destination of the log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct LoggingConfiguration {
    /// `text` or `json`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub format: String,
    /// How often a buffered log is flushed at least. Lines are never held back here.
    pub flush_frequency: FlushFrequency,
    /// Level: the higher the more is logged.
    pub verbosity: u32,
    /// Levels per source file, for the text format.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub vmodule: Vec<VModule>,
    /// Options per format (alpha).
    pub options: FormatOptions,
}

impl Default for LoggingConfiguration {
    fn default() -> Self {
        Self {
            format: "text".to_owned(),
            flush_frequency: FlushFrequency::default(),
            verbosity: 0,
            vmodule: Vec::new(),
            options: FormatOptions::default(),
        }
    }
}

/// The level of the files that match a pattern.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct VModule {
    /// File name without extension, or a glob of one.
    pub file_pattern: String,
    /// Their level.
    pub verbosity: u32,
}

/// Options per log format.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct FormatOptions {
    /// Options of the text format.
    pub text: OutputRouting,
    /// Options of the JSON format.
    pub json: OutputRouting,
}

/// The streams that lines are written to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct OutputRouting {
    /// Errors to stderr, the rest to stdout.
    #[serde(skip_serializing_if = "is_false")]
    pub split_stream: bool,
    /// Buffer of stdout in bytes; lines are never held back here.
    pub info_buffer_size: QuantityText,
}

impl Default for OutputRouting {
    fn default() -> Self {
        Self { split_stream: false, info_buffer_size: QuantityText("0".to_owned()) }
    }
}

/// Headers of HTTP requests. Their values may be credentials, so that only the names are shown by
/// `Debug`.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Headers(#[serde(deserialize_with = "members")] pub BTreeMap<String, Vec<String>>);

impl Headers {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Debug for Headers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.0.keys().map(|name| (name, "<masked>"))).finish()
    }
}

/// A map in which null stands for the zero value, as Go reads it: the name is there all the same.
pub(super) fn members<'de, D, V>(deserializer: D) -> Result<BTreeMap<String, V>, D::Error>
where
    D: Deserializer<'de>,
    V: Deserialize<'de> + Default,
{
    let members = BTreeMap::<String, Option<V>>::deserialize(deserializer)?;
    Ok(members.into_iter().map(|(name, value)| (name, value.unwrap_or_default())).collect())
}

/// A quantity as its text; a bare number is accepted too.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct QuantityText(pub String);

impl fmt::Display for QuantityText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for QuantityText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = match serde_json::Value::deserialize(deserializer)? {
            serde_json::Value::String(text) => text,
            serde_json::Value::Number(number) => number.to_string(),
            serde_json::Value::Null => "0".to_owned(),
            other @ (serde_json::Value::Bool(_)
            | serde_json::Value::Array(_)
            | serde_json::Value::Object(_)) => {
                return Err(de::Error::custom(format!("{other} is not a quantity")));
            }
        };
        crate::model::quantity::Amount::parse(&text).map_err(de::Error::custom)?;
        Ok(Self(text))
    }
}

/// A duration that older versions of the logging API wrote as a number of nanoseconds. `/configz`
/// shows it as it was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlushFrequency {
    /// The duration.
    pub duration: GoDuration,
    /// True if the file has it as a number.
    pub as_number: bool,
}

impl Default for FlushFrequency {
    fn default() -> Self {
        Self { duration: GoDuration::from_secs(5), as_number: false }
    }
}

impl Serialize for FlushFrequency {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if self.as_number {
            serializer.serialize_i64(self.duration.nanos())
        } else {
            self.duration.serialize(serializer)
        }
    }
}

impl<'de> Deserialize<'de> for FlushFrequency {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Either {
            Nanoseconds(i64),
            Text(String),
        }
        match Either::deserialize(deserializer)? {
            Either::Nanoseconds(nanos) => {
                Ok(Self { duration: GoDuration::from_nanos(nanos), as_number: true })
            }
            Either::Text(text) => GoDuration::parse(&text)
                .map(|duration| Self { duration, as_number: false })
                .map_err(de::Error::custom),
        }
    }
}
