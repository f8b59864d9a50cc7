//! An object of the API as a watch brings it: decoded by the same code as every other answer.
//!
//! `kube` decodes the events of a watch from bytes, and once more from a buffer for the case that
//! the kind of an event comes after its object; single answers it decodes from text. Each way is a
//! copy of the code that reads a whole Pod, a Node and so on: together a tenth of the program, and
//! of what it holds in memory. Here the first two ways only write the object down as text again,
//! which is little code and takes some ten microseconds.

use std::borrow::Cow;
use std::fmt;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Resource;
use serde::de::{Deserialize, DeserializeOwned, Deserializer, Error as _};

/// The object itself.
#[derive(Clone)]
pub struct Watched<K>(pub K);

impl<'de, K: DeserializeOwned> Deserialize<'de> for Watched<K> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut text = Vec::with_capacity(4096);
        serde_transcode::transcode(deserializer, &mut serde_json::Serializer::new(&mut text))
            .and_then(|()| decode(&text))
            .map(Self)
            .map_err(D::Error::custom)
    }
}

fn decode<K: DeserializeOwned>(text: &[u8]) -> Result<K, serde_json::Error> {
    serde_json::from_str(std::str::from_utf8(text).map_err(serde_json::Error::custom)?)
}

/// Only what it is and which one: objects hold secrets, and are large.
impl<K: Resource<DynamicType = ()>> fmt::Debug for Watched<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let meta = self.0.meta();
        f.debug_struct(&K::kind(&()))
            .field("namespace", &meta.namespace)
            .field("name", &meta.name)
            .finish_non_exhaustive()
    }
}

impl<K: Resource> Resource for Watched<K> {
    type DynamicType = K::DynamicType;
    type Scope = K::Scope;

    fn kind(of: &Self::DynamicType) -> Cow<'_, str> {
        K::kind(of)
    }

    fn group(of: &Self::DynamicType) -> Cow<'_, str> {
        K::group(of)
    }

    fn version(of: &Self::DynamicType) -> Cow<'_, str> {
        K::version(of)
    }

    fn plural(of: &Self::DynamicType) -> Cow<'_, str> {
        K::plural(of)
    }

    fn meta(&self) -> &ObjectMeta {
        self.0.meta()
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        self.0.meta_mut()
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::{Pod, Secret};
    use kube::core::WatchEvent;
    use serde_json::json;

    use super::Watched;

    #[test]
    fn is_what_was_sent_wherever_the_kind_of_the_event_stands() {
        let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p\n\u{1F980}\"", "generation": 7},
            "spec": {"containers": [{"name": "c", "securityContext": {"runAsUser": 9_007_199_254_740_993_i64}}],
                "volumes": [{"name": "v", "futureKind": {"x": [1.5, null, true]}}]},
            "status": {"startTime": "2026-11-27T00:00:00Z"}});
        let expected: Pod = serde_json::from_value(pod.clone()).expect("a pod");
        for text in [
            format!(r#"{{"type":"ADDED","object":{pod}}}"#),
            format!(r#"{{"object":{pod},"type":"ADDED"}}"#),
        ] {
            let event: WatchEvent<Watched<Pod>> =
                serde_json::from_slice(text.as_bytes()).expect("an event");
            let WatchEvent::Added(Watched(found)) = event else { panic!("another kind of event") };
            assert_eq!(found, expected, "{text}");
        }
    }

    #[test]
    fn what_it_is_not_is_an_error_that_says_so() {
        let event =
            r#"{"type":"ADDED","object":{"metadata":{"name":"p"},"spec":{"containers":7}}}"#;
        let error = serde_json::from_slice::<WatchEvent<Watched<Pod>>>(event.as_bytes())
            .expect_err("no pod");
        assert!(
            error.to_string().contains("invalid type: integer `7`, expected a sequence"),
            "{error}"
        );
    }

    #[test]
    fn its_contents_do_not_reach_a_log() {
        let secret = json!({"metadata": {"namespace": "n", "name": "s"}, "data": {"key": "dG9w"}});
        let secret: Watched<Secret> = serde_json::from_value(secret).expect("a secret");
        assert_eq!(
            format!("{secret:?}"),
            r#"Secret { namespace: Some("n"), name: Some("s"), .. }"#
        );
    }
}
