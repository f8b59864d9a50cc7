//! ResourceClaims of dynamic resource allocation (DRA).
//!
//! No driver can register with this kubelet yet, so a claim that needs one cannot be prepared. A
//! pod with such a claim waits before its sandbox, with upstream's event, rather than start without
//! its devices. Deciding is pure; [`prepare`] reads the claims from the API server.

use k8s_openapi::api::core::v1::PodResourceClaim;
use k8s_openapi::api::resource::v1::ResourceClaim;

use crate::apiserver::resource_claims;
use crate::model::{Pod, pod};

/// What upstream's manager puts before each problem.
const PREPARE: &str = "prepare dynamic resources";

/// The names that the pod gives its claims, e.g. `["gpu"]`.
pub fn names(pod: &Pod) -> Vec<&str> {
    let claims = pod.spec.as_ref().and_then(|spec| spec.resource_claims.as_ref());
    claims.into_iter().flatten().map(|claim| claim.name.as_str()).collect()
}

/// Prepares the pod's claims. The error is upstream's text. Cancel-safe.
pub async fn prepare(reader: Option<&resource_claims::Handle>, pod: &Pod) -> Result<(), String> {
    let fail = |problem: String| format!("{PREPARE}: {problem}");
    for object in objects(pod).map_err(fail)? {
        let Some(reader) = reader else {
            return Err(fail(format!(
                "fetch ResourceClaim {}: there is no API server",
                object.name
            )));
        };
        let read = reader.claim(&pod::key(pod).namespace, &object.name).await;
        let claim =
            read.map_err(|error| fail(format!("fetch ResourceClaim {}: {error}", object.name)))?;
        if let Some(driver) = drivers(pod, &object, &claim).map_err(fail)?.first() {
            return Err(fail(format!("DRA driver {driver} is not registered")));
        }
    }
    Ok(())
}

/// A ResourceClaim object that the pod uses.
#[derive(Clone, Debug, PartialEq, Eq)]
struct ClaimObject {
    name: String,
    /// Whether it was made for this pod, from a template.
    is_own: bool,
}

/// The objects of the pod's claims. A claim that needed no object is left out.
fn objects(pod: &Pod) -> Result<Vec<ClaimObject>, String> {
    let mut objects = Vec::new();
    let claims = pod.spec.as_ref().and_then(|spec| spec.resource_claims.as_ref());
    for claim in claims.into_iter().flatten() {
        objects.extend(object(pod, claim)?);
    }
    let status = pod.status.as_ref();
    let extended = status.and_then(|status| status.extended_resource_claim_status.as_ref());
    objects.extend(
        extended.map(|extended| ClaimObject {
            name: extended.resource_claim_name.clone(),
            is_own: false,
        }),
    );
    Ok(objects)
}

fn object(pod: &Pod, claim: &PodResourceClaim) -> Result<Option<ClaimObject>, String> {
    let key = pod::key(pod);
    if let Some(name) = &claim.resource_claim_name {
        return Ok(Some(ClaimObject { name: name.clone(), is_own: false }));
    }
    if claim.resource_claim_template_name.is_none() {
        return Err(format!(
            "pod \"{}/{}\", spec.resourceClaim {:?}: none of the supported fields are set",
            key.namespace, key.name, claim.name
        ));
    }
    let statuses = pod.status.as_ref().and_then(|status| status.resource_claim_statuses.as_ref());
    let made = statuses.into_iter().flatten().find(|status| status.name == claim.name);
    let Some(made) = made else {
        return Err(format!(
            "pod \"{}/{}\": ResourceClaim not created yet",
            key.namespace, key.name
        ));
    };
    let name = made.resource_claim_name.clone();
    Ok(name.map(|name| ClaimObject { name, is_own: true }))
}

/// The drivers that have to prepare the claim for the pod, or why the pod may not use it.
fn drivers(pod: &Pod, object: &ClaimObject, claim: &ResourceClaim) -> Result<Vec<String>, String> {
    let key = pod::key(pod);
    let uid = pod::uid(pod);
    let name = &object.name;
    if object.is_own {
        let owners = claim.metadata.owner_references.as_deref().unwrap_or_default();
        let controller = owners.iter().find(|owner| owner.controller == Some(true));
        if controller.is_none_or(|owner| owner.uid != uid.as_str()) {
            return Err(format!(
                "ResourceClaim {0}/{name} was not created for Pod {0}/{1} (Pod is not owner)",
                key.namespace, key.name
            ));
        }
    }

    let status = claim.status.as_ref();
    let reserved = status.and_then(|status| status.reserved_for.as_ref());
    if !reserved.into_iter().flatten().any(|user| user.uid == uid.as_str()) {
        let claim_uid = claim.metadata.uid.as_deref().unwrap_or_default();
        return Err(format!(
            "pod {} ({uid}) is not allowed to use ResourceClaim {name} ({claim_uid})",
            key.name
        ));
    }

    let Some(allocation) = status.and_then(|status| status.allocation.as_ref()) else {
        return Err(format!("ResourceClaim {name}: not allocated"));
    };
    let results = allocation.devices.as_ref().and_then(|devices| devices.results.as_ref());
    Ok(results.into_iter().flatten().map(|result| result.driver.clone()).collect())
}

#[cfg(test)]
mod tests {
    #![expect(
        clippy::needless_pass_by_value,
        reason = "JSON reads better at the calls without a borrow"
    )]

    use serde_json::{Value, json};

    use super::{drivers, names, objects, prepare};
    use crate::apiserver::fake::FakeApi;
    use crate::apiserver::resource_claims;
    use crate::clock::Clock;
    use crate::model::Pod;

    fn pod(claims: Value, status: Value) -> Pod {
        serde_json::from_value(json!({
            "metadata": {"name": "p", "namespace": "d", "uid": "u"},
            "spec": {"containers": [], "resourceClaims": claims}, "status": status}))
        .expect("a pod")
    }

    fn claim(name: &str) -> Value {
        json!({"metadata": {"name": name, "namespace": "d", "uid": "c1"},
            "spec": {},
            "status": {"reservedFor": [{"resource": "pods", "name": "p", "uid": "u"}],
                "allocation": {"devices": {"results": [{"request": "r", "driver": "gpu.example.com",
                    "pool": "n", "device": "0"}]}}}})
    }

    #[test]
    fn a_claim_of_a_template_is_named_by_the_status() {
        let from_template = json!([{"name": "gpu", "resourceClaimTemplateName": "t"}]);
        let early = objects(&pod(from_template.clone(), json!({}))).expect_err("too early");
        assert_eq!(early, "pod \"d/p\": ResourceClaim not created yet");
        let made =
            json!({"resourceClaimStatuses": [{"name": "gpu", "resourceClaimName": "p-gpu"}]});
        let found = objects(&pod(from_template.clone(), made)).expect("made");
        assert_eq!((found[0].name.as_str(), found[0].is_own), ("p-gpu", true));
        let needless = json!({"resourceClaimStatuses": [{"name": "gpu"}]});
        assert_eq!(objects(&pod(from_template, needless)).expect("none needed"), []);
        let neither = pod(json!([{"name": "gpu"}]), json!({}));
        assert_eq!(
            objects(&neither).expect_err("no field"),
            "pod \"d/p\", spec.resourceClaim \"gpu\": none of the supported fields are set"
        );
        assert_eq!(names(&neither), ["gpu"]);
    }

    #[test]
    fn a_claim_must_be_for_the_pod_and_allocated() {
        let used = pod(json!([{"name": "gpu", "resourceClaimName": "c"}]), json!({}));
        let object = objects(&used).expect("one").remove(0);
        let check = |claim: Value| {
            drivers(&used, &object, &serde_json::from_value(claim).expect("a claim"))
        };
        assert_eq!(check(claim("c")), Ok(vec!["gpu.example.com".to_owned()]));
        let mut other = claim("c");
        other["status"]["reservedFor"] = json!([]);
        assert_eq!(
            check(other),
            Err("pod p (u) is not allowed to use ResourceClaim c (c1)".to_owned())
        );
        let mut early = claim("c");
        early["status"]["allocation"] = json!(null);
        assert_eq!(check(early), Err("ResourceClaim c: not allocated".to_owned()));

        let own = super::ClaimObject { is_own: true, ..object };
        let claim = serde_json::from_value(claim("c")).expect("a claim");
        assert_eq!(
            drivers(&used, &own, &claim),
            Err("ResourceClaim d/c was not created for Pod d/p (Pod is not owner)".to_owned())
        );
    }

    #[tokio::test]
    async fn a_pod_waits_for_its_driver() {
        let fake = FakeApi::new(Clock::starting_at(jiff::Timestamp::UNIX_EPOCH));
        fake.put("apis/resource.k8s.io/v1/resourceclaims", claim("c"));
        let reader = resource_claims::new(&fake.clients("n"));
        let of = |name: &str| pod(json!([{"name": "gpu", "resourceClaimName": name}]), json!({}));
        assert_eq!(
            prepare(Some(&reader), &of("c")).await.expect_err("no driver"),
            "prepare dynamic resources: DRA driver gpu.example.com is not registered"
        );
        let missing = prepare(Some(&reader), &of("x")).await.expect_err("no claim");
        assert!(missing.starts_with("prepare dynamic resources: fetch ResourceClaim x: "));
        prepare(None, &pod(json!([]), json!({}))).await.expect("no claims");
    }
}
