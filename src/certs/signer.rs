//! Has a request signed: creates the object, then watches it until there is a certificate.
//!
//! Asked by the managers and by the bootstrap, one request at a time. It keeps nothing.

use std::ops::ControlFlow;
use std::time::Duration;

use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use kube::Api;
use kube::api::PostParams;
use tracing::{debug, info};

use super::pair::Pair;
use super::request::{Incompatible, Refusal, Request, Verdict, judge};
use crate::apiserver::client::ClientError;
use crate::apiserver::failure::{self, FailureKind};
use crate::apiserver::list_watch::{Change, follow};
use crate::apiserver::{Clients, Watched};
use crate::model::Wall;

/// Why a request has not led to a certificate. Texts that hold their cause name no source.
#[derive(Debug, thiserror::Error)]
pub(super) enum SignError {
    /// There is no client to ask with.
    #[error("no credentials to request a certificate with")]
    Client(#[from] ClientError),
    /// The object was not created.
    #[error("cannot create certificate signing request: {}", failure::text(.0))]
    Create(kube::Error),
    /// An object of that name exists, and cannot be read.
    #[error("cannot retrieve certificate signing request: {}", failure::text(.0))]
    Retrieve(kube::Error),
    /// An object of that name exists, and is another one.
    #[error("retrieved csr is not compatible: {0}")]
    Incompatible(Incompatible),
    /// There will be no certificate.
    #[error("cannot watch on the certificate signing request: {0}")]
    Refused(Refusal),
    /// Nobody has approved and signed it in time.
    #[error("timed out waiting for the condition")]
    Timeout,
    /// The node's addresses have changed meanwhile.
    #[error("the node's addresses have changed")]
    Superseded,
}

/// Signs requests. A manager has one.
pub(super) trait Sign: Send {
    /// Has a request signed, and returns the certificate (PEM). `current` is the certificate in
    /// use. Cancel-safe, though an object stays.
    fn sign(
        &mut self,
        request: &Request,
        current: Option<&Pair>,
    ) -> impl Future<Output = Result<Vec<u8>, SignError>> + Send;

    /// Returns another valid pair if somebody has put one there.
    fn found(&mut self, now: Wall) -> Option<Pair>;

    /// Waits until other credentials may be at hand. Cancel-safe.
    fn changed(&mut self) -> impl Future<Output = ()> + Send;
}

/// Creates the object, or finds the one that an earlier process made, and waits for `patience` at
/// most until there is a certificate. Cancel-safe, though an object stays.
pub(super) async fn sign(
    clients: &Clients,
    request: &Request,
    now: Wall,
    patience: Duration,
) -> Result<Vec<u8>, SignError> {
    let object = create(clients, request, now).await?;
    let name = object.metadata.name.unwrap_or_default();
    let uid = object.metadata.uid.unwrap_or_default();
    info!(csr = name, signer = request.purpose.signer(), "certificate requested");
    tokio::time::timeout(patience, issued(clients, &name, &uid))
        .await
        .map_err(|_| SignError::Timeout)?
        .map_err(SignError::Refused)
}

async fn create(
    clients: &Clients,
    request: &Request,
    now: Wall,
) -> Result<CertificateSigningRequest, SignError> {
    let api: Api<CertificateSigningRequest> = Api::all(clients.writes.clone());
    let error = match api.create(&PostParams::default(), &request.object()).await {
        Ok(created) => return Ok(created),
        Err(error) => error,
    };
    match &request.name {
        Some(name) if failure::kind(&error) == FailureKind::AlreadyExists => {
            let found = api.get(name).await.map_err(SignError::Retrieve)?;
            request.check_reuse(&found, now).map_err(SignError::Incompatible)?;
            info!(csr = name, "the request of an earlier process is still valid");
            Ok(found)
        }
        _ => Err(SignError::Create(error)),
    }
}

/// Watches the object until it is decided.
async fn issued(clients: &Clients, name: &str, uid: &str) -> Result<Vec<u8>, Refusal> {
    let api: Api<Watched<CertificateSigningRequest>> = Api::all(clients.watches.clone());
    let fields = format!("metadata.name={name}");
    let mut outcome = Err(Refusal::Deleted(name.to_owned()));
    let mut was_approved = false;
    let mut decide = |found: &CertificateSigningRequest| match judge(found, uid) {
        Verdict::Undecided => ControlFlow::Continue(()),
        Verdict::Approved => {
            if !std::mem::replace(&mut was_approved, true) {
                info!(csr = name, "certificate request is approved, waiting to be issued");
            }
            ControlFlow::Continue(())
        }
        Verdict::Issued(certificate) => {
            outcome = Ok(certificate);
            ControlFlow::Break(())
        }
        Verdict::Refused(refusal) => {
            outcome = Err(refusal);
            ControlFlow::Break(())
        }
    };

    let sink = |change: Change<CertificateSigningRequest>| match change {
        // An empty list may be older than the object.
        Change::Reset(found) => found.iter().try_for_each(&mut decide),
        Change::Applied(found) => decide(&found),
        // The outcome says so already.
        Change::Deleted(_) => ControlFlow::Break(()),
        Change::Failed(problem) => {
            debug!(csr = name, problem, "the certificate request cannot be watched");
            ControlFlow::Continue(())
        }
    };
    let reduce = |found: CertificateSigningRequest| found;
    Box::pin(follow((api, &clients.reach), Some(&fields), reduce, sink)).await;
    outcome
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::{Value, json};

    use super::super::key::Key;
    use super::super::request::Purpose;
    use super::super::template::Template;
    use super::*;
    use crate::apiserver::fake::FakeApi;
    use crate::clock::Clock;

    const REQUESTS: &str = "apis/certificates.k8s.io/v1/certificatesigningrequests";

    fn request(name: &str) -> Request {
        let key = Key::generate().expect("a key");
        let pem = key.request(&Template::client("n1")).expect("a request");
        let name = Some(name.to_owned());
        Request { purpose: Purpose::Client, pem, public: key.public(), name }
    }

    /// What comes of a request whose object gets `status` when it is there.
    async fn answered(status: Value) -> Result<Vec<u8>, SignError> {
        let fake = FakeApi::new(Clock::starting_at(Wall::UNIX_EPOCH));
        let clients = fake.clients("n1");
        let request = request("a");
        let asked = sign(&clients, &request, Wall::UNIX_EPOCH, Duration::from_secs(900));
        let answer = async {
            let mut object = fake.wait_for(REQUESTS, |found| found.first().cloned()).await;
            tokio::time::sleep(Duration::from_secs(5)).await;
            object["status"] = status;
            fake.put(REQUESTS, object);
        };
        tokio::join!(asked, answer).0
    }

    #[tokio::test(start_paused = true)]
    async fn the_certificate_is_taken_when_it_is_issued() {
        let condition = json!({"type": "Approved", "status": "True"});
        let issued = answered(json!({"conditions": [condition], "certificate": "UEVN"})).await;
        assert_eq!(issued.expect("a certificate"), b"PEM");
    }

    #[tokio::test(start_paused = true)]
    async fn a_denial_is_told_in_upstreams_words() {
        let denied = json!({"type": "Denied", "status": "True", "reason": "No", "message": "no"});
        let error = answered(json!({"conditions": [denied]})).await.expect_err("denied");
        let text = "cannot watch on the certificate signing request: certificate signing request \
                    is denied, reason: No, message: no";
        assert_eq!(error.to_string(), text);
    }

    #[tokio::test(start_paused = true)]
    async fn what_nobody_approves_ends() {
        let error = answered(json!({})).await.expect_err("not approved");
        assert_eq!(error.to_string(), "timed out waiting for the condition");
    }

    #[tokio::test(start_paused = true)]
    async fn the_object_of_an_earlier_process_is_used_again() {
        let fake = FakeApi::new(Clock::starting_at(Wall::UNIX_EPOCH));
        let clients = fake.clients("n1");
        let request = request("a");
        let ask = || sign(&clients, &request, Wall::UNIX_EPOCH, Duration::from_secs(60));
        assert!(matches!(ask().await, Err(SignError::Timeout)));
        assert!(matches!(ask().await, Err(SignError::Timeout)));
        assert_eq!(fake.list(REQUESTS).len(), 1);
    }
}
