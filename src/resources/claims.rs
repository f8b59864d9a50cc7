//! ResourceClaims of dynamic resource allocation (DRA).
//!
//! No driver can register with this kubelet yet, so a claim that needs one cannot be prepared. A
//! pod with such a claim waits before its sandbox, with upstream's event, rather than start without
//! its devices. Deciding is pure; [`prepare`] reads the claims from the API server.

use k8s_openapi::api::core::v1::PodResourceClaim;
use k8s_openapi::api::resource::v1::ResourceClaim;

use crate::apiserver::{claims, resource_claims};
use crate::model::{Pod, PodKey, PodUid, pod};

/// What upstream's manager puts before each problem.
const PREPARE: &str = "prepare dynamic resources";

/// The names that the pod gives its claims, e.g. `["gpu"]`.
pub fn names(pod: &Pod) -> Vec<&str> {
    let claims = pod.spec.as_ref().and_then(|spec| spec.resource_claims.as_ref());
    claims.into_iter().flatten().map(|claim| claim.name.as_str()).collect()
}

/// Why a pod's claims are not prepared. The texts are upstream's, with what its manager puts before
/// each.
#[derive(Debug, thiserror::Error)]
pub enum PrepareError {
    /// A claim of the pod leads to no object that it may use.
    #[error("{PREPARE}: {0}")]
    Claim(#[source] ClaimProblem),
    /// There is no API server to read the claim from.
    #[error("{PREPARE}: fetch ResourceClaim {claim}: there is no API server")]
    NoServer {
        /// The name of the object.
        claim: String,
    },
    /// The claim cannot be read.
    #[error("{PREPARE}: fetch ResourceClaim {claim}: {source}")]
    Fetch {
        /// The name of the object.
        claim: String,
        /// Why.
        source: claims::ClaimError,
    },
    /// No driver of the name has registered.
    #[error("{PREPARE}: DRA driver {0} is not registered")]
    NoDriver(String),
}

/// Why a pod may not use a claim.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ClaimProblem {
    /// The claim names neither an object nor a template.
    #[error("pod \"{pod}\", spec.resourceClaim {claim:?}: none of the supported fields are set")]
    NoField {
        /// The pod.
        pod: PodKey,
        /// The pod's name for the claim.
        claim: String,
    },
    /// The object of a template does not exist yet.
    #[error("pod \"{pod}\": ResourceClaim not created yet")]
    NotCreated {
        /// The pod.
        pod: PodKey,
    },
    /// The object of a template belongs to another pod.
    #[error(
        "ResourceClaim {}/{claim} was not created for Pod {pod} (Pod is not owner)", pod.namespace
    )]
    NotOwned {
        /// The pod.
        pod: PodKey,
        /// The name of the object.
        claim: String,
    },
    /// The claim is not reserved for the pod.
    #[error("pod {} ({uid}) is not allowed to use ResourceClaim {claim} ({claim_uid})", pod.name)]
    NotReserved {
        /// The pod.
        pod: PodKey,
        /// Its UID.
        uid: PodUid,
        /// The name of the object.
        claim: String,
        /// The UID of the object.
        claim_uid: String,
    },
    /// No devices are allocated to the claim.
    #[error("ResourceClaim {0}: not allocated")]
    NotAllocated(String),
}

/// Prepares the pod's claims. Cancel-safe.
pub async fn prepare(
    reader: Option<&resource_claims::Handle>,
    pod: &Pod,
) -> Result<(), PrepareError> {
    for object in objects(pod).map_err(PrepareError::Claim)? {
        let Some(reader) = reader else {
            return Err(PrepareError::NoServer { claim: object.name });
        };
        let read = reader.claim(&pod::key(pod).namespace, &object.name).await;
        let claim =
            read.map_err(|source| PrepareError::Fetch { claim: object.name.clone(), source })?;

        let drivers = drivers(pod, &object, &claim).map_err(PrepareError::Claim)?;
        if let Some(driver) = drivers.into_iter().next() {
            return Err(PrepareError::NoDriver(driver));
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
fn objects(pod: &Pod) -> Result<Vec<ClaimObject>, ClaimProblem> {
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

fn object(pod: &Pod, claim: &PodResourceClaim) -> Result<Option<ClaimObject>, ClaimProblem> {
    let key = pod::key(pod);
    if let Some(name) = &claim.resource_claim_name {
        return Ok(Some(ClaimObject { name: name.clone(), is_own: false }));
    }
    if claim.resource_claim_template_name.is_none() {
        return Err(ClaimProblem::NoField { pod: key, claim: claim.name.clone() });
    }
    let statuses = pod.status.as_ref().and_then(|status| status.resource_claim_statuses.as_ref());
    let made = statuses.into_iter().flatten().find(|status| status.name == claim.name);
    let Some(made) = made else {
        return Err(ClaimProblem::NotCreated { pod: key });
    };
    let name = made.resource_claim_name.clone();
    Ok(name.map(|name| ClaimObject { name, is_own: true }))
}

/// The drivers that have to prepare the claim for the pod, or why the pod may not use it.
fn drivers(
    pod: &Pod,
    object: &ClaimObject,
    claim: &ResourceClaim,
) -> Result<Vec<String>, ClaimProblem> {
    let key = pod::key(pod);
    let uid = pod::uid(pod);
    let name = &object.name;
    if object.is_own {
        let owners = claim.metadata.owner_references.as_deref().unwrap_or_default();
        let controller = owners.iter().find(|owner| owner.controller == Some(true));
        if controller.is_none_or(|owner| owner.uid != uid.as_str()) {
            return Err(ClaimProblem::NotOwned { pod: key, claim: name.clone() });
        }
    }

    let status = claim.status.as_ref();
    let reserved = status.and_then(|status| status.reserved_for.as_ref());
    if !reserved.into_iter().flatten().any(|user| user.uid == uid.as_str()) {
        let claim_uid = claim.metadata.uid.as_deref().unwrap_or_default();
        let (claim, claim_uid) = (name.clone(), claim_uid.to_owned());
        return Err(ClaimProblem::NotReserved { pod: key, uid, claim, claim_uid });
    }

    let Some(allocation) = status.and_then(|status| status.allocation.as_ref()) else {
        return Err(ClaimProblem::NotAllocated(name.clone()));
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
        assert_eq!(early.to_string(), "pod \"d/p\": ResourceClaim not created yet");
        let made =
            json!({"resourceClaimStatuses": [{"name": "gpu", "resourceClaimName": "p-gpu"}]});
        let found = objects(&pod(from_template.clone(), made)).expect("made");
        assert_eq!((found[0].name.as_str(), found[0].is_own), ("p-gpu", true));
        let needless = json!({"resourceClaimStatuses": [{"name": "gpu"}]});
        assert_eq!(objects(&pod(from_template, needless)).expect("none needed"), []);
        let neither = pod(json!([{"name": "gpu"}]), json!({}));
        assert_eq!(
            objects(&neither).expect_err("no field").to_string(),
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
                .map_err(|problem| problem.to_string())
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
            drivers(&used, &own, &claim).map_err(|problem| problem.to_string()),
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
            prepare(Some(&reader), &of("c")).await.expect_err("no driver").to_string(),
            "prepare dynamic resources: DRA driver gpu.example.com is not registered"
        );
        let missing = prepare(Some(&reader), &of("x")).await.expect_err("no claim");
        assert!(
            missing.to_string().starts_with("prepare dynamic resources: fetch ResourceClaim x: ")
        );
        prepare(None, &pod(json!([]), json!({}))).await.expect("no claims");
    }
}
