//! A container's environment: `envFrom`, then `env` in order with `$(VAR)`, then the variables of
//! services.
//!
//! Upstream hands them to the runtime in random order; here they are sorted by name, services last.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1 as api;

use crate::apiserver::objects::ObjectError;
use crate::model::expansion::expand;
use crate::model::quote::go_quote;
use crate::model::{Pod, pod};

use super::input::{EnvFile, EnvInput, EnvVar};
use super::services::service_variables;
use super::{SpecError, downward, env_file};

/// Composes the environment.
pub fn environment(input: &EnvInput<'_>) -> Result<Vec<EnvVar>, SpecError> {
    if input.services.is_none() && !pod::is_static(input.pod) {
        return Err(SpecError::container(
            "services have not yet been read at least once, cannot construct envvars",
        ));
    }
    let links = input.pod.spec.as_ref().and_then(|spec| spec.enable_service_links).unwrap_or(true);
    let namespace = namespace(input.pod);
    let services = service_variables(input.services.unwrap_or_default(), namespace, links);

    let mut own = BTreeMap::new();
    for source in input.container.env_from.iter().flatten() {
        import(&mut own, input, source)?;
    }
    for var in input.container.env.iter().flatten() {
        let written = var.value.as_deref().unwrap_or_default();
        let value = if !written.is_empty() {
            Some(expand(written, |name| {
                own.get(name).or_else(|| services.get(name)).map(String::as_str)
            }))
        } else if let Some(source) = &var.value_from {
            resolve(input, source)?
        } else {
            Some(String::new())
        };
        if let Some(value) = value {
            own.insert(var.name.clone(), value);
        }
    }
    let rest: Vec<_> = services.into_iter().filter(|(name, _)| !own.contains_key(name)).collect();
    Ok(own.into_iter().chain(rest).map(|(name, value)| EnvVar { name, value }).collect())
}

fn namespace(pod: &Pod) -> &str {
    pod.metadata.namespace.as_deref().unwrap_or_default()
}

fn import(
    own: &mut BTreeMap<String, String>,
    input: &EnvInput<'_>,
    source: &api::EnvFromSource,
) -> Result<(), SpecError> {
    let prefix = source.prefix.as_deref().unwrap_or_default();
    if let Some(reference) = &source.config_map_ref {
        let optional = reference.optional.unwrap_or(false);
        if let Some(map) = config_map(input, &reference.name, optional)? {
            for (key, value) in map.data.iter().flatten() {
                own.insert(format!("{prefix}{key}"), value.clone());
            }
        }
    } else if let Some(reference) = &source.secret_ref {
        let optional = reference.optional.unwrap_or(false);
        if let Some(secret) = secret(input, &reference.name, optional)? {
            for (key, value) in secret.data.iter().flatten() {
                own.insert(format!("{prefix}{key}"), text(&value.0));
            }
        }
    }
    Ok(())
}

/// The value from its source; `None`: the source is optional and absent, so the variable is not
/// set.
fn resolve(input: &EnvInput<'_>, source: &api::EnvVarSource) -> Result<Option<String>, SpecError> {
    if let Some(field) = &source.field_ref {
        return downward::field(input, field).map(Some);
    }
    if let Some(resource) = &source.resource_field_ref {
        return downward::resource(input, resource).map(Some);
    }
    if let Some(reference) = &source.config_map_key_ref {
        let optional = reference.optional.unwrap_or(false);
        let Some(map) = config_map(input, &reference.name, optional)? else { return Ok(None) };
        return match map.data.as_ref().and_then(|data| data.get(&reference.key)) {
            Some(value) => Ok(Some(value.clone())),
            None => missing_key(input, optional, &reference.key, "ConfigMap", &reference.name),
        };
    }
    if let Some(reference) = &source.secret_key_ref {
        let optional = reference.optional.unwrap_or(false);
        let Some(secret) = secret(input, &reference.name, optional)? else { return Ok(None) };
        return match secret.data.as_ref().and_then(|data| data.get(&reference.key)) {
            Some(value) => Ok(Some(text(&value.0))),
            None => missing_key(input, optional, &reference.key, "Secret", &reference.name),
        };
    }
    if let Some(reference) = &source.file_key_ref {
        return from_file(input, reference);
    }
    Ok(Some(String::new()))
}

fn missing_key(
    input: &EnvInput<'_>,
    optional: bool,
    key: &str,
    kind: &str,
    name: &str,
) -> Result<Option<String>, SpecError> {
    if optional {
        return Ok(None);
    }
    let namespace = namespace(input.pod);
    Err(SpecError::container(format!("couldn't find key {key} in {kind} {namespace}/{name}")))
}

fn config_map<'a>(
    input: &EnvInput<'a>,
    name: &str,
    optional: bool,
) -> Result<Option<&'a api::ConfigMap>, SpecError> {
    found(input.config_maps.get(name), "configmap", name, optional)
}

fn secret<'a>(
    input: &EnvInput<'a>,
    name: &str,
    optional: bool,
) -> Result<Option<&'a api::Secret>, SpecError> {
    found(input.secrets.get(name), "secret", name, optional)
}

fn found<'a, T>(
    fetched: Option<&'a Result<Arc<T>, ObjectError>>,
    kind: &str,
    name: &str,
    optional: bool,
) -> Result<Option<&'a T>, SpecError> {
    match fetched {
        Some(Ok(object)) => Ok(Some(object)),
        Some(Err(error)) if optional && error.is_not_found() => Ok(None),
        Some(Err(error)) => Err(SpecError::container(error.to_string())),
        None => Err(SpecError::container(format!("{kind} {name:?} has not been read yet"))),
    }
}

/// The bytes as text, each byte that is not UTF-8 replaced: what arrives in a container that
/// upstream's kubelet makes, because the runtime writes the environment as JSON.
fn text(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        text.push_str(chunk.valid());
        text.extend(chunk.invalid().iter().map(|_| char::REPLACEMENT_CHARACTER));
    }
    text
}

fn from_file(
    input: &EnvInput<'_>,
    reference: &api::FileKeySelector,
) -> Result<Option<String>, SpecError> {
    let volume = &reference.volume_name;
    let Some(EnvFile { path, content }) =
        input.files.get(&(volume.clone(), reference.path.clone()))
    else {
        let message = format!("cannot find the volume {volume:?} referenced by FileKeyRef");
        return Err(SpecError::container(message));
    };
    let Ok(Ok(value)) = content.as_ref().map(|content| env_file::value(content, &reference.key))
    else {
        // What is wrong with it is not told: it may be a file of secrets.
        return Err(SpecError::container("couldn't parse env file"));
    };
    match value {
        Some(value) if !value.is_empty() => Ok(Some(value)),
        Some(_) | None if reference.optional.unwrap_or(false) => Ok(None),
        Some(_) | None => {
            let (key, path) = (go_quote(&reference.key), go_quote(path));
            let message = format!("environment variable key {key} not found in file {path}");
            Err(SpecError::container(message))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::apiserver::services::{Service, ServicePort};
    use crate::pods::request::testing::pod;
    use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
    use serde_json::json;

    struct World {
        config_maps: BTreeMap<String, Result<Arc<api::ConfigMap>, ObjectError>>,
        secrets: BTreeMap<String, Result<Arc<api::Secret>, ObjectError>>,
        files: BTreeMap<(String, String), EnvFile>,
        allocatable: BTreeMap<String, Quantity>,
        services: Option<Vec<Arc<Service>>>,
    }

    fn gone<T>(kind: &'static str) -> Result<Arc<T>, ObjectError> {
        Err(ObjectError::NotFound { kind, name: "gone".into() })
    }

    fn file(name: &str, content: Result<String, String>) -> ((String, String), EnvFile) {
        (("v".to_owned(), name.to_owned()), EnvFile { path: format!("/pods/u1/v/{name}"), content })
    }

    fn world() -> World {
        let map: api::ConfigMap =
            serde_json::from_value(json!({"data": {"K": "v", "not a name": "x"}})).expect("map");
        let secret: api::Secret =
            serde_json::from_value(json!({"data": {"pass": "czNjcmV0"}})).expect("secret");
        World {
            config_maps: [
                ("map".to_owned(), Ok(Arc::new(map))),
                ("gone".to_owned(), gone("configmap")),
                ("slow".to_owned(), Err(ObjectError::Timeout { kind: "configmap" })),
            ]
            .into(),
            secrets: [
                ("sec".to_owned(), Ok(Arc::new(secret))),
                ("gone".to_owned(), gone("secret")),
            ]
            .into(),
            files: [
                file("f.env", Ok("A='1'\nE=''\n".to_owned())),
                file("bad.env", Ok("A=1\n".to_owned())),
                file("gone.env", Err("no such file".to_owned())),
            ]
            .into(),
            allocatable: [
                ("cpu".to_owned(), Quantity("3500m".into())),
                ("memory".to_owned(), Quantity("8Gi".into())),
            ]
            .into(),
            services: Some(vec![Arc::new(Service {
                namespace: "default".into(),
                name: "kubernetes".into(),
                cluster_ip: "10.0.0.1".into(),
                ports: vec![ServicePort { name: String::new(), port: 443, protocol: "TCP".into() }],
                ..Service::default()
            })]),
        }
    }

    fn compose(world: &World, container: serde_json::Value) -> Result<String, String> {
        let mut container = container;
        container["name"] = json!("c");
        let pod = pod(json!({
            "nodeName": "node-1", "serviceAccountName": "sa", "enableServiceLinks": false, "containers": [container],
        }));
        let input = EnvInput {
            container: &pod.spec.as_ref().expect("spec").containers[0],
            pod: &pod,
            pod_ips: &["10.1.0.5".parse().expect("ip"), "fd00::5".parse().expect("ip")],
            host_ips: &["192.168.0.1".parse().expect("ip")],
            allocatable: &world.allocatable,
            services: world.services.as_deref(),
            config_maps: &world.config_maps,
            secrets: &world.secrets,
            files: &world.files,
        };
        let vars = environment(&input).map_err(|error| {
            assert_eq!(error.reason, "CreateContainerConfigError");
            error.message
        })?;
        let own = vars.iter().filter(|var| !var.name.starts_with("KUBERNETES_"));
        Ok(own.map(|var| format!("{}={}", var.name, var.value)).collect::<Vec<_>>().join(" "))
    }

    #[track_caller]
    fn check(container: serde_json::Value, expected: Result<&str, &str>) {
        let composed = compose(&world(), container);
        assert_eq!(composed.as_deref().map_err(String::as_str), expected);
    }

    #[test]
    fn expands_in_order() {
        check(
            json!({"env": [
                {"name": "B", "value": "$(A)"}, {"name": "A", "value": "1"}, {"name": "C", "value": "$(A)-$(B)-$$(A)"},
                {"name": "H", "value": "$(KUBERNETES_SERVICE_HOST)"}, {"name": "E"},
            ]}),
            Ok("A=1 B=$(A) C=1-$(A)-$(A) E= H=10.0.0.1"),
        );
    }

    #[test]
    fn env_overrides_env_from_and_prefixes_apply() {
        check(
            json!({
                "envFrom": [{"configMapRef": {"name": "map"}}, {"prefix": "P_", "secretRef": {"name": "sec"}}],
                "env": [{"name": "K", "value": "mine"}],
            }),
            Ok("K=mine P_pass=s3cret not a name=x"),
        );
    }

    #[test]
    fn says_what_is_missing_in_upstreams_words() {
        let map = |name: &str, key: &str, optional: bool| json!({"env": [{"name": "X", "valueFrom": {"configMapKeyRef": {"name": name, "key": key, "optional": optional}}}]});
        check(map("map", "K", false), Ok("X=v"));
        check(map("gone", "K", false), Err("configmap \"gone\" not found"));
        check(map("gone", "K", true), Ok(""));
        check(map("map", "nope", false), Err("couldn't find key nope in ConfigMap prod/map"));
        check(map("map", "nope", true), Ok(""));
        check(
            map("slow", "K", true),
            Err("failed to sync configmap cache: timed out waiting for the condition"),
        );
        let secret = |name: &str, key: &str| json!({"env": [{"name": "X", "valueFrom": {"secretKeyRef": {"name": name, "key": key}}}]});
        check(secret("sec", "pass"), Ok("X=s3cret"));
        check(secret("gone", "pass"), Err("secret \"gone\" not found"));
        check(secret("sec", "nope"), Err("couldn't find key nope in Secret prod/sec"));
        check(
            json!({"envFrom": [{"secretRef": {"name": "gone"}}]}),
            Err("secret \"gone\" not found"),
        );
        check(json!({"envFrom": [{"secretRef": {"name": "gone", "optional": true}}]}), Ok(""));
    }

    #[test]
    fn reads_fields_resources_and_files() {
        let field = |path: &str| json!({"env": [{"name": "X", "valueFrom": {"fieldRef": {"fieldPath": path}}}]});
        check(field("metadata.name"), Ok("X=web"));
        check(field("metadata.labels['app']"), Ok("X=web"));
        check(field("status.podIPs"), Ok("X=10.1.0.5,fd00::5"));
        check(field("status.hostIP"), Ok("X=192.168.0.1"));
        check(field("spec.nodeName"), Ok("X=node-1"));
        check(field("spec.nope"), Err("field label not supported: spec.nope"));
        let resource = |name: &str, divisor: &str| {
            json!({
                "resources": {"limits": {"memory": "100Mi"}},
                "env": [{"name": "X", "valueFrom": {"resourceFieldRef": {"resource": name, "divisor": divisor}}}],
            })
        };
        check(resource("limits.memory", "1Mi"), Ok("X=100"));
        check(resource("limits.memory", "0"), Ok("X=104857600"));
        check(resource("limits.cpu", "1"), Ok("X=4"));
        check(resource("limits.cpu", "1m"), Ok("X=3500"));
        check(resource("requests.cpu", "1"), Ok("X=0"));
    }

    #[test]
    fn reads_files_of_variables() {
        let from = |path: &str, key: &str, optional: bool| {
            let reference =
                json!({"volumeName": "v", "path": path, "key": key, "optional": optional});
            json!({"env": [{"name": "X", "valueFrom": {"fileKeyRef": reference}}]})
        };
        check(from("f.env", "A", false), Ok("X=1"));
        check(from("f.env", "B", true), Ok(""));
        check(
            from("f.env", "B", false),
            Err("environment variable key \"B\" not found in file \"/pods/u1/v/f.env\""),
        );
        let empty = "environment variable key \"E\" not found in file \"/pods/u1/v/f.env\"";
        check(from("f.env", "E", false), Err(empty));
        check(from("bad.env", "A", true), Err("couldn't parse env file"));
        check(from("gone.env", "A", true), Err("couldn't parse env file"));
        check(
            from("other", "A", true),
            Err("cannot find the volume \"v\" referenced by FileKeyRef"),
        );
    }

    #[test]
    fn waits_for_services_unless_static() {
        let world = World { services: None, ..world() };
        assert_eq!(
            compose(&world, json!({})),
            Err("services have not yet been read at least once, cannot construct envvars"
                .to_owned())
        );
    }

    #[test]
    fn binary_secrets_do_not_stop_a_container() {
        assert_eq!(text(b"a\xff\xfeb"), "a\u{fffd}\u{fffd}b");
    }

    #[test]
    fn values_stay_out_of_debug_output() {
        assert_eq!(format!("{:?}", EnvVar::new("PASSWORD", "s3cret")), "PASSWORD=…");
    }
}
