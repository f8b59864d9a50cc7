//! projected volumes: files from ConfigMaps, Secrets, the downward API and service-account tokens
//! together.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{Container, ProjectedVolumeSource, ServiceAccountTokenProjection};

use super::{config_map, downward, fs_group, secret};
use crate::apiserver::tokens;
use crate::model::{Mono, Pod, pod};
use crate::volumes::allocatable::Allocatable;
use crate::volumes::error::SetUpError;
use crate::volumes::kinds::context::{Context, Done, VolumeInputs};
use crate::volumes::mounter::Mounter;
use crate::volumes::payload::{self, File, ObjectRef, Objects, Payload, found};
use crate::volumes::source::TokenSource;

/// The plugin's name.
pub const PLUGIN: &str = "kubernetes.io/projected";

/// The certificates of the API server, which the controller manager puts into each namespace.
const ROOT_CA: &str = "kube-root-ca.crt";

/// The ConfigMaps and Secrets of all sources. A key that is asked for by name may be missing, but
/// not that of the token's volume which every pod has ([`ROOT_CA`]).
pub fn inputs(source: &ProjectedVolumeSource) -> VolumeInputs {
    let mut inputs = VolumeInputs { objects_suffice: true, ..VolumeInputs::default() };
    for part in source.sources.iter().flatten() {
        if let Some(map) = &part.config_map {
            inputs.objects.push(ObjectRef::ConfigMap(map.name.clone()));
            inputs.objects_suffice &= map.items.is_none() || map.name == ROOT_CA;
        }
        if let Some(secret) = &part.secret {
            inputs.objects.push(ObjectRef::Secret(secret.name.clone()));
            inputs.objects_suffice &= secret.items.is_none();
        }
        inputs.shows_pod |= part.downward_api.is_some();
    }
    inputs
}

/// Asks for the tokens, then writes the files. The volume is due again when the first token is to
/// be renewed.
pub(crate) async fn set_up<M: Mounter, T: TokenSource>(
    source: &ProjectedVolumeSource,
    context: &Arc<Context<M, T>>,
) -> Result<Done, SetUpError> {
    let mut texts = Vec::new();
    let mut refresh_at: Option<Mono> = None;
    for request in token_requests(source, &context.pod) {
        let token = context.tools.tokens.token(request).await?;
        let earliest = refresh_at.map_or(token.refresh_at, |known| known.min(token.refresh_at));
        refresh_at = Some(earliest);
        texts.push(token.secret);
    }

    let source = source.clone();
    let files = move |context: &Context<M, T>| {
        let inputs = Inputs {
            pod: &context.pod,
            objects: &context.objects,
            tokens: &texts,
            allocatable: &context.allocatable,
        };
        payload(&source, &inputs)
    };
    let done = super::set_up(PLUGIN, super::memory(context), context, files).await?;
    Ok(Done { refresh_at, ..done })
}

/// The life of a token whose projection names none: what the API defaults it to.
const TOKEN_SECONDS: i64 = 3600;

/// The requests for the tokens of a volume, in the order of its sources.
pub fn token_requests(source: &ProjectedVolumeSource, pod: &Pod) -> Vec<tokens::Request> {
    let projections =
        source.sources.iter().flatten().filter_map(|source| source.service_account_token.as_ref());
    projections.map(|projection| token_request(projection, pod)).collect()
}

fn token_request(projection: &ServiceAccountTokenProjection, pod: &Pod) -> tokens::Request {
    let spec = pod.spec.as_ref();
    tokens::Request {
        namespace: pod.metadata.namespace.clone().unwrap_or_default(),
        service_account: spec
            .and_then(|spec| spec.service_account_name.clone())
            .unwrap_or_default(),
        service_account_uid: String::new(),
        pod_name: pod.metadata.name.clone().unwrap_or_default(),
        pod_uid: pod::uid(pod),
        audiences: projection
            .audience
            .clone()
            .filter(|audience| !audience.is_empty())
            .into_iter()
            .collect(),
        expiration_seconds: projection.expiration_seconds.unwrap_or(TOKEN_SECONDS),
    }
}

/// The inputs of a projected volume's files besides its spec.
#[derive(Clone, Copy, Debug)]
pub struct Inputs<'a> {
    /// The pod.
    pub pod: &'a Pod,
    /// The objects that the sources name.
    pub objects: &'a Objects,
    /// The tokens' texts, in the order of [`token_requests`].
    pub tokens: &'a [Arc<str>],
    /// What the node can give.
    pub allocatable: &'a Allocatable,
}

/// The files of all sources; later ones win. Every source's error is told.
pub fn payload(source: &ProjectedVolumeSource, inputs: &Inputs<'_>) -> Result<Payload, SetUpError> {
    let mode = source.default_mode;
    let owner = owner(inputs.pod);
    let private_mode = if owner.is_some() || fs_group(inputs.pod).is_some() {
        0o600
    } else {
        payload::mode(None, mode)
    };
    let mut files = Payload::new();
    let mut errors = Vec::new();
    let mut tokens = inputs.tokens.iter();
    for source in source.sources.iter().flatten() {
        let part = if let Some(part) = &source.secret {
            let optional = part.optional == Some(true);
            found("secret", &part.name, inputs.objects.secrets.get(&part.name), optional)
                .and_then(|object| secret::payload(part.items.as_deref(), object, mode, optional))
        } else if let Some(part) = &source.config_map {
            let optional = part.optional == Some(true);
            found("configmap", &part.name, inputs.objects.config_maps.get(&part.name), optional)
                .and_then(|object| {
                    config_map::payload(part.items.as_deref(), object, mode, optional)
                })
        } else if let Some(part) = &source.downward_api {
            let items = part.items.as_deref().unwrap_or_default();
            downward::payload(items, inputs.pod, inputs.allocatable, mode)
        } else if let Some(part) = &source.service_account_token {
            let text = tokens.next().map(|token| token.as_bytes().to_vec()).unwrap_or_default();
            Ok(Payload::from([(
                part.path.clone(),
                File { data: text, mode: private_mode, uid: owner },
            )]))
        } else if source.cluster_trust_bundle.is_some() {
            Err(SetUpError::Payload(
                "ClusterTrustBundle projection is not supported on this node yet".into(),
            ))
        } else if source.pod_certificate.is_some() {
            Err(SetUpError::Payload(
                "PodCertificate projection is not supported on this node yet".into(),
            ))
        } else {
            Ok(Payload::new())
        };
        match part {
            Ok(part) => files.extend(part),
            Err(error) => errors.push(error),
        }
    }
    SetUpError::aggregate(errors).map_or(Ok(files), Err)
}

/// Who owns token files: the user of all containers, if every one has the same by its spec.
pub fn owner(pod: &Pod) -> Option<u32> {
    let of_pod =
        pod.spec.as_ref()?.security_context.as_ref().and_then(|context| context.run_as_user);
    let user = |container: &Container| {
        container.security_context.as_ref().and_then(|context| context.run_as_user).or(of_pod)
    };
    let ephemeral = pod::ephemeral_containers(pod).iter().map(|container| {
        container.security_context.as_ref().and_then(|context| context.run_as_user).or(of_pod)
    });
    let containers = pod::init_containers(pod).iter().chain(pod::main_containers(pod)).map(user);
    let mut users = containers.chain(ephemeral);
    let first = users.next()??;
    users.all(|user| user == Some(first)).then_some(first).and_then(|user| u32::try_from(user).ok())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use k8s_openapi::api::core::v1::ProjectedVolumeSource;

    use super::{Inputs, owner, payload, token_requests};
    use crate::model::Pod;
    use crate::volumes::Allocatable;
    use crate::volumes::payload::Objects;

    fn pod(spec: &str) -> Pod {
        let text =
            format!(r#"{{"metadata":{{"name":"web","namespace":"ns","uid":"u1"}},"spec":{spec}}}"#);
        serde_json::from_str(&text).expect("a pod")
    }

    fn source(text: &str) -> ProjectedVolumeSource {
        serde_json::from_str(text).expect("a source")
    }

    fn objects() -> Objects {
        let map = serde_json::from_str(r#"{"data":{"ca.crt":"CA"}}"#).expect("a ConfigMap");
        Objects {
            config_maps: [("root".to_owned(), Some(Arc::new(map))), ("gone".to_owned(), None)]
                .into(),
            secrets: [("gone".to_owned(), None)].into(),
        }
    }

    const API_ACCESS: &str = r#"{"defaultMode":420,"sources":[
        {"serviceAccountToken":{"expirationSeconds":3607,"path":"token"}},
        {"configMap":{"name":"root","items":[{"key":"ca.crt","path":"ca.crt"}]}},
        {"downwardAPI":{"items":[{"path":"namespace","fieldRef":{"fieldPath":"metadata.namespace"}}]}}]}"#;

    type Seen = (String, String, u32, Option<u32>);

    #[track_caller]
    fn files(source_text: &str, spec: &str) -> Result<Vec<Seen>, String> {
        let pod = pod(spec);
        let (objects, allocatable) = (objects(), Allocatable::default());
        let tokens = ["T1".into(), "T2".into()];
        let inputs =
            Inputs { pod: &pod, objects: &objects, tokens: &tokens, allocatable: &allocatable };
        let files = payload(&source(source_text), &inputs).map_err(|error| error.text())?;
        let text = |data: Vec<u8>| String::from_utf8(data).expect("text");
        Ok(files
            .into_iter()
            .map(|(path, file)| (path, text(file.data), file.mode, file.uid))
            .collect())
    }

    #[test]
    fn the_volume_of_every_pod() {
        let expected =
            [("ca.crt", "CA", 0o644), ("namespace", "ns", 0o644), ("token", "T1", 0o644)];
        let found = files(API_ACCESS, r#"{"containers":[{"name":"a"}]}"#).expect("files");
        assert_eq!(
            found,
            expected.map(|(path, text, mode)| (path.to_owned(), text.to_owned(), mode, None))
        );
    }

    #[test]
    fn tokens_belong_to_the_one_user_of_the_pod() {
        let spec =
            r#"{"securityContext":{"runAsUser":1000},"containers":[{"name":"a"},{"name":"b"}]}"#;
        let found = files(API_ACCESS, spec).expect("files");
        assert_eq!(found[2], ("token".to_owned(), "T1".to_owned(), 0o600, Some(1000)));
        let two = r#"{"securityContext":{"runAsUser":1000},
            "containers":[{"name":"a"},{"name":"b","securityContext":{"runAsUser":1}}]}"#;
        assert_eq!(owner(&pod(two)), None);
        let grouped = r#"{"securityContext":{"fsGroup":7},"containers":[{"name":"a"}]}"#;
        assert_eq!(files(API_ACCESS, grouped).expect("files")[2].2, 0o600);
    }

    #[test]
    fn requests_name_the_pod_and_the_audience() {
        let pod = pod(r#"{"serviceAccountName":"sa","containers":[]}"#);
        let text = r#"{"sources":[{"serviceAccountToken":{"path":"a"}},
            {"serviceAccountToken":{"path":"b","audience":"vault","expirationSeconds":600}}]}"#;
        let requests = token_requests(&source(text), &pod);
        assert_eq!((requests[0].audiences.len(), requests[0].expiration_seconds), (0, 3600));
        assert_eq!(
            (requests[1].audiences.as_slice(), requests[1].expiration_seconds),
            (&["vault".to_owned()][..], 600)
        );
        assert_eq!(requests[1].service_account, "sa");
    }

    #[test]
    fn every_error_is_told() {
        let text = r#"{"sources":[{"configMap":{"name":"gone"}},{"secret":{"name":"gone"}},
            {"clusterTrustBundle":{"path":"x"}},{"configMap":{"name":"gone","optional":true}}]}"#;
        assert_eq!(
            files(text, r#"{"containers":[]}"#).expect_err("errors"),
            "[configmap \"gone\" not found, secret \"gone\" not found, \
             ClusterTrustBundle projection is not supported on this node yet]"
        );
    }
}
