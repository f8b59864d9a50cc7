//! Which object of the API a pod refers to: a static pod may refer to none
//! (`PreventStaticPodAPIReferences`).
//!
//! Pure. The answers are the words of upstream's refusal.

use k8s_openapi::api::core::v1::{Container, EnvFromSource, EnvVar, Volume};

use crate::model::{Pod, pod};

/// What the pod refers to first, in upstream's order; `None` for a pod that needs no API server.
pub fn api_object(pod: &Pod) -> Option<&'static str> {
    let spec = pod.spec.as_ref()?;
    if spec.service_account_name.as_deref().is_some_and(|name| !name.is_empty()) {
        return Some("serviceaccounts");
    }
    let volumes = spec.volumes.as_deref().unwrap_or_default();
    let pull_secrets =
        spec.image_pull_secrets.iter().flatten().any(|secret| !secret.name.is_empty());
    if pull_secrets || environments(pod).any(uses_secret) || volumes.iter().any(volume_secret) {
        return Some("secrets");
    }
    if environments(pod).any(uses_config_map) || volumes.iter().any(volume_config_map) {
        return Some("configmaps");
    }
    if spec.resource_claims.as_ref().is_some_and(|claims| !claims.is_empty()) {
        return Some("resourceclaims");
    }
    volumes.iter().find_map(volume_object)
}

type Environment<'a> = (&'a [EnvVar], &'a [EnvFromSource]);

fn environments(pod: &Pod) -> impl Iterator<Item = Environment<'_>> {
    fn of(container: &Container) -> Environment<'_> {
        (
            container.env.as_deref().unwrap_or_default(),
            container.env_from.as_deref().unwrap_or_default(),
        )
    }
    let ephemeral = pod::ephemeral_containers(pod).iter().map(|container| {
        (
            container.env.as_deref().unwrap_or_default(),
            container.env_from.as_deref().unwrap_or_default(),
        )
    });
    pod::init_containers(pod).iter().chain(pod::main_containers(pod)).map(of).chain(ephemeral)
}

fn uses_secret((env, env_from): Environment<'_>) -> bool {
    env_from.iter().any(|source| source.secret_ref.is_some())
        || env
            .iter()
            .filter_map(|variable| variable.value_from.as_ref())
            .any(|from| from.secret_key_ref.is_some())
}

fn uses_config_map((env, env_from): Environment<'_>) -> bool {
    env_from.iter().any(|source| source.config_map_ref.is_some())
        || env
            .iter()
            .filter_map(|variable| variable.value_from.as_ref())
            .any(|from| from.config_map_key_ref.is_some())
}

fn volume_secret(volume: &Volume) -> bool {
    let projected =
        volume.projected.iter().flat_map(|projected| projected.sources.iter().flatten());
    volume.secret.is_some()
        || volume.azure_file.is_some()
        || projected.into_iter().any(|source| source.secret.is_some())
        || volume.cephfs.as_ref().is_some_and(|source| source.secret_ref.is_some())
        || volume.cinder.as_ref().is_some_and(|source| source.secret_ref.is_some())
        || volume.flex_volume.as_ref().is_some_and(|source| source.secret_ref.is_some())
        || volume.rbd.as_ref().is_some_and(|source| source.secret_ref.is_some())
        || volume.iscsi.as_ref().is_some_and(|source| source.secret_ref.is_some())
        || volume.storageos.as_ref().is_some_and(|source| source.secret_ref.is_some())
        || volume.scale_io.is_some()
        || volume.csi.as_ref().is_some_and(|source| source.node_publish_secret_ref.is_some())
}

fn volume_config_map(volume: &Volume) -> bool {
    let projected =
        volume.projected.iter().flat_map(|projected| projected.sources.iter().flatten());
    volume.config_map.is_some() || projected.into_iter().any(|source| source.config_map.is_some())
}

fn volume_object(volume: &Volume) -> Option<&'static str> {
    if volume.csi.is_some() {
        return Some("csidrivers (via CSI volumes)");
    }
    if volume.glusterfs.is_some() {
        return Some("endpoints (via glusterFS volumes)");
    }
    if volume.persistent_volume_claim.is_some() {
        return Some("persistentvolumeclaims");
    }
    if volume.ephemeral.is_some() {
        return Some("persistentvolumeclaims (via ephemeral volumes)");
    }
    volume.projected.as_ref()?.sources.as_ref()?.iter().find_map(|source| {
        if source.service_account_token.is_some() {
            Some("serviceaccounts (via projected volumes)")
        } else if source.cluster_trust_bundle.is_some() {
            Some("clustertrustbundles")
        } else if source.pod_certificate.is_some() {
            Some("podcertificates")
        } else {
            None
        }
    })
}

/// What no static pod can use, whether or not it may refer to objects.
pub(super) fn unusable(pod: &Pod) -> Option<&'static str> {
    let spec = pod.spec.as_ref()?;
    let projected = spec.volumes.iter().flatten().filter_map(|volume| volume.projected.as_ref());
    let mut sources = projected.flat_map(|projected| projected.sources.iter().flatten());
    if sources.any(|source| source.cluster_trust_bundle.is_some()) {
        return Some("ClusterTrustBundle projected volume sources");
    }
    let claims = spec.resource_claims.as_ref().is_some_and(|claims| !claims.is_empty());
    claims.then_some("ResourceClaims")
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::api_object;

    #[track_caller]
    fn check(spec: Value, expected: Option<&str>) {
        let mut spec = spec;
        if spec.get("containers").is_none() {
            spec["containers"] = json!([{"name": "c"}]);
        }
        let pod = serde_json::from_value(json!({"metadata": {"name": "x"}, "spec": spec}))
            .expect("a pod");
        assert_eq!(api_object(&pod), expected);
    }

    #[test]
    fn finds_references() {
        check(
            json!({"volumes": [{"name": "v", "hostPath": {"path": "/"}}, {"name": "w", "emptyDir": {}}]}),
            None,
        );
        check(json!({"serviceAccountName": "a"}), Some("serviceaccounts"));
        check(json!({"imagePullSecrets": [{"name": "s"}]}), Some("secrets"));
        check(json!({"volumes": [{"name": "v", "secret": {"secretName": "s"}}]}), Some("secrets"));
        check(json!({"volumes": [{"name": "v", "configMap": {"name": "s"}}]}), Some("configmaps"));
        let env =
            json!([{"name": "A", "valueFrom": {"configMapKeyRef": {"name": "m", "key": "k"}}}]);
        check(json!({"containers": [{"name": "c", "env": env}]}), Some("configmaps"));
        check(
            json!({"containers": [{"name": "c", "envFrom": [{"secretRef": {"name": "m"}}]}]}),
            Some("secrets"),
        );
        check(
            json!({"volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "p"}}]}),
            Some("persistentvolumeclaims"),
        );
        let token = json!({"sources": [{"serviceAccountToken": {"path": "t"}}]});
        check(
            json!({"volumes": [{"name": "v", "projected": token}]}),
            Some("serviceaccounts (via projected volumes)"),
        );
        let downward = json!({"sources": [{"downwardAPI": {"items": []}}]});
        check(json!({"volumes": [{"name": "v", "projected": downward}]}), None);
    }
}
