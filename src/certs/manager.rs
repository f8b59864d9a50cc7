//! The task that owns one certificate: waits until it is due, has a new one signed, keeps it and
//! publishes it.
//!
//! Fed by the template and by the disk; `rotation` decides when. An attempt that fails is made
//! again, with upstream's pauses, until there is a certificate; the old one stays published, also
//! when it has expired. It never ends.

use std::sync::Arc;

use tokio::sync::watch;
use tracing::{error, info};

use super::key::{Key, KeyError};
use super::metrics::Metrics;
use super::pair::Pair;
use super::request::{Purpose, Request};
use super::rotation::{self, Due};
use super::signer::{Sign, SignError};
use super::store::{Store, StoreError};
use super::template::Template;
use crate::apiserver::identity::Rotated;
use crate::apiserver::kubeconfig::Identity;
use crate::apiserver::random;
use crate::clock::{Clock, Jumps};
use crate::model::Wall;

/// Why an attempt has led to no certificate.
#[derive(Debug, thiserror::Error)]
enum AttemptError {
    /// No request could be made.
    #[error("unable to generate a certificate signing request")]
    Request(#[from] KeyError),
    /// It was not signed.
    #[error(transparent)]
    Sign(#[from] SignError),
    /// It was signed, and could not be kept.
    #[error("unable to store the new cert/key pair")]
    Store(#[from] StoreError),
}

/// A certificate that was there at the start.
#[derive(Debug)]
pub(super) struct Start {
    /// The pair, which may have expired.
    pub(super) pair: Option<Pair>,
    /// True if it is to be replaced at once.
    pub(super) is_forced: bool,
}

/// What a manager works with.
pub(super) struct Deps<S> {
    pub(super) signer: S,
    pub(super) store: Store,
    /// The names that the certificate is to have; `None` while they are not known.
    pub(super) template: watch::Receiver<Option<Template>>,
    pub(super) metrics: Metrics,
    pub(super) clock: Clock,
}

/// The channel on which a manager publishes, which exists before it.
pub(super) fn publish(start: &Start) -> (watch::Sender<Option<Arc<Identity>>>, Rotated) {
    watch::channel(start.pair.as_ref().map(|pair| Arc::clone(&pair.identity)))
}

/// The owner of one certificate.
pub(super) struct Manager<S> {
    purpose: Purpose,
    deps: Deps<S>,
    current: Option<Pair>,
    is_forced: bool,
    /// Where in its span the rotation of the current certificate is; 0 to 1.
    jitter: f64,
    published: watch::Sender<Option<Arc<Identity>>>,
}

impl<S: Sign> Manager<S> {
    pub(super) fn new(
        purpose: Purpose,
        start: Start,
        deps: Deps<S>,
        published: watch::Sender<Option<Arc<Identity>>>,
    ) -> Self {
        let Start { pair, is_forced } = start;
        if let Some(pair) = &pair {
            deps.metrics.in_use(pair.leaf.not_after);
        }
        Self { purpose, deps, current: pair, is_forced, jitter: random::unit(), published }
    }

    /// Keeps the certificate fresh for ever.
    pub(super) async fn run(mut self) {
        let mut jumps = Jumps::watch();
        loop {
            let template = self.until_due(&mut jumps).await;
            self.replace(template).await;
        }
    }

    /// Waits until a new certificate is due. The wall clock may be set meanwhile.
    async fn until_due(&mut self, jumps: &mut Jumps) -> Template {
        loop {
            let template = self.deps.template.borrow_and_update().clone();
            let now = self.deps.clock.now();
            let leaf = self.current.as_ref().map(|pair| &pair.leaf);
            let wanted = template.as_ref();
            let wake = match rotation::due(leaf, wanted, self.is_forced, self.jitter, now.wall) {
                Due::Now(template) => return template.clone(),
                Due::At(deadline) => {
                    info!(signer = self.purpose.signer(), %deadline, "next certificate rotation");
                    Some(now.mono_at(deadline))
                }
                Due::NotYet => None,
            };

            // Cancel-safe: all three are only waits.
            tokio::select! {
                () = self.deps.clock.sleep_until_some(wake) => {}
                () = changed(&mut self.deps.template) => {}
                () = jumps.next() => {}
            }
        }
    }

    /// Tries until there is another certificate, or nothing to request one for.
    async fn replace(&mut self, mut template: Template) {
        let mut failures = 0;
        loop {
            let error = match self.attempt(&template).await {
                Ok(pair) => return self.adopt(pair),
                Err(error) => error,
            };
            self.deps.metrics.failed();
            self.report(&error);
            failures += 1;

            let pause = rotation::pause(failures, random::unit());
            // Cancel-safe: both are only waits.
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = self.deps.signer.changed() => {}
            }
            let Some(newest) = self.deps.template.borrow_and_update().clone() else { return };
            template = newest;
        }
    }

    /// Says why there is no new certificate, and what to do if the present one is of no use.
    fn report(&self, error: &AttemptError) {
        let signer = self.purpose.signer();
        let now = self.deps.clock.now().wall;
        let error: &dyn std::error::Error = error;
        if self.current.as_ref().is_some_and(|pair| pair.is_valid(now)) {
            error!(signer, error, "certificate was not renewed; the present one is used on");
            return;
        }
        match self.purpose {
            Purpose::Client => error!(
                signer,
                error,
                "no valid client certificate: pods keep running, and nothing is reported; approve \
                 the request, or provide a valid bootstrap kubeconfig or kubeconfig"
            ),
            Purpose::Serving => {
                error!(signer, error, "no valid serving certificate: logs and exec do not work");
            }
        }
    }

    /// Has one request signed, and keeps the certificate.
    async fn attempt(&mut self, template: &Template) -> Result<Adopted, AttemptError> {
        let now = self.deps.clock.now().wall;
        if !self.current.as_ref().is_some_and(|pair| pair.is_valid(now))
            && let Some(pair) = self.deps.signer.found(now)
        {
            return Ok(Adopted::Found(pair));
        }

        let key = Key::generate()?;
        let pem = key.request(template)?;
        let public = key.public();
        let request = Request { purpose: self.purpose, pem, public, name: None };
        let wanted = self.deps.template.clone();
        let current = self.current.as_ref();
        // Cancel-safe: what was requested in vain is collected by the controller manager.
        let certificate = tokio::select! {
            signed = self.deps.signer.sign(&request, current) => signed?,
            () = superseded(wanted, template, current) => return Err(SignError::Superseded.into()),
        };
        let now = self.deps.clock.now().wall;
        Ok(Adopted::Signed(self.deps.store.update(&certificate, key.pem(), now)?))
    }

    /// Puts a new certificate into use.
    fn adopt(&mut self, adopted: Adopted) {
        let (pair, is_forced) = match adopted {
            Adopted::Signed(pair) => (pair, false),
            // As a certificate of a kubeconfig at the start.
            Adopted::Found(pair) => (pair, true),
        };
        let now = self.deps.clock.now().wall;
        let expires = pair.leaf.not_after;
        info!(signer = self.purpose.signer(), %expires, "new certificate in use");

        self.deps.metrics.in_use(expires);
        self.published.send_replace(Some(Arc::clone(&pair.identity)));
        if let Some(old) = self.current.replace(pair) {
            self.deps.metrics.replaced(old.leaf.not_before, now);
        }
        self.is_forced = is_forced;
        self.jitter = random::unit();
    }
}

/// A certificate to use from now on.
enum Adopted {
    /// It was requested.
    Signed(Pair),
    /// Somebody has put it there.
    Found(Pair),
}

async fn changed(template: &mut watch::Receiver<Option<Template>>) {
    if template.changed().await.is_err() {
        // It stays as it is.
        std::future::pending::<()>().await;
    }
}

/// Waits until another template than `requested` is wanted, and `current` does not do.
async fn superseded(
    mut wanted: watch::Receiver<Option<Template>>,
    requested: &Template,
    current: Option<&Pair>,
) {
    let is_other = |wanted: &Option<Template>| {
        wanted.as_ref().is_some_and(|wanted| {
            let is_satisfied = current.is_some_and(|pair| wanted.is_satisfied_by(&pair.leaf));
            wanted != requested && !is_satisfied
        })
    };
    if wanted.wait_for(is_other).await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// Decides what of the disk is used at the start: a valid pair, else one that has expired, which is
/// to be replaced at once.
pub(super) fn start(found: Option<Pair>, now: Wall) -> Start {
    let is_forced = !found.as_ref().is_some_and(|pair| pair.is_valid(now));
    Start { pair: found, is_forced }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use parking_lot::Mutex;

    use super::super::pair::testing;
    use super::*;
    use crate::telemetry::metrics::Registry;

    /// A signer that answers at once, unless it is to fail.
    #[derive(Clone, Default)]
    struct Fake {
        shared: Arc<Mutex<Shared>>,
    }

    #[derive(Default)]
    struct Shared {
        clock: Option<Clock>,
        template: Option<Template>,
        /// The moments of the attempts, in seconds.
        attempts: Vec<u64>,
        failures: usize,
        found: Option<Pair>,
        hangs: bool,
    }

    /// The lifetime of certificates.
    const LIFE: i64 = 1000;

    impl Sign for Fake {
        async fn sign(
            &mut self,
            request: &Request,
            _: Option<&Pair>,
        ) -> Result<Vec<u8>, SignError> {
            let hangs = {
                let mut shared = self.shared.lock();
                let now = shared.clock.expect("a clock").now();
                shared.attempts.push(now.mono.0.as_secs());
                shared.hangs
            };
            if hangs {
                std::future::pending::<()>().await;
            }
            let mut shared = self.shared.lock();
            if shared.failures > 0 {
                shared.failures -= 1;
                return Err(SignError::Timeout);
            }
            let now = shared.clock.expect("a clock").now().wall;
            let end = Wall::from_second(now.as_second() + LIFE).expect("a time");
            let template = shared.template.clone().expect("a template");
            Ok(testing::sign(&request.pem, &template, now, end).into_bytes())
        }

        fn found(&mut self, _: Wall) -> Option<Pair> {
            self.shared.lock().found.take()
        }

        async fn changed(&mut self) {
            std::future::pending::<()>().await;
        }
    }

    struct World {
        fake: Fake,
        manager: Manager<Fake>,
        published: Rotated,
        template: watch::Sender<Option<Template>>,
        registry: Registry,
        directory: tempfile::TempDir,
    }

    fn world(pair: Option<Pair>) -> World {
        let clock = Clock::starting_at(Wall::UNIX_EPOCH);
        let directory = tempfile::tempdir().expect("a directory");
        let store = Store::open("kubelet-client", directory.path(), None).expect("a store");
        let fake = Fake::default();
        fake.shared.lock().clock = Some(clock);
        fake.shared.lock().template = Some(Template::client("n1"));
        let (template, wanted) = watch::channel(Some(Template::client("n1")));
        let registry = Registry::new();
        let metrics = Metrics::new(&registry, Purpose::Client, clock);
        let deps = Deps { signer: fake.clone(), store, template: wanted, metrics, clock };
        let start = start(pair, clock.now().wall);
        let (sender, published) = publish(&start);
        let manager = Manager::new(Purpose::Client, start, deps, sender);
        World { fake, manager, published, template, registry, directory }
    }

    /// Runs the manager for so many seconds.
    async fn run(manager: Manager<Fake>, seconds: u64) {
        tokio::time::timeout(Duration::from_secs(seconds), manager.run())
            .await
            .expect_err("it runs on");
    }

    #[tokio::test(start_paused = true)]
    async fn it_rotates_at_70_to_90_percent_of_the_lifetime() {
        let World { fake, manager, published, directory: _kept, .. } = world(None);
        run(manager, 5 * 1000).await;
        assert!(published.borrow().is_some());
        let attempts = fake.shared.lock().attempts.clone();
        assert_eq!(attempts[0], 0, "at once without one");
        assert!((6..=8).contains(&attempts.len()), "{attempts:?}");
        for pair in attempts.windows(2) {
            assert!((699..=901).contains(&(pair[1] - pair[0])), "{attempts:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_failure_is_tried_again_with_upstreams_pauses() {
        let World { fake, manager, published, registry, directory: _kept, .. } = world(None);
        fake.shared.lock().failures = 7;
        run(manager, 130).await;
        let attempts = fake.shared.lock().attempts.clone();
        let pauses: Vec<_> = attempts.windows(2).map(|pair| pair[1] - pair[0]).collect();
        assert_eq!(pauses.len(), 7, "{attempts:?}");
        for (pause, least) in pauses.iter().zip([2, 4, 8, 16, 32, 32, 32]) {
            assert!((least..=least + 2).contains(pause), "{pauses:?}");
        }
        assert!(published.borrow().is_some());
        let errors = "kubelet_certificate_manager_client_expiration_renew_errors 7\n";
        assert!(registry.encode().contains(errors), "{}", registry.encode());
    }

    #[tokio::test(start_paused = true)]
    async fn an_expired_certificate_stays_until_a_valid_one_is_found() {
        let wall = |second| Wall::from_second(second).expect("a time");
        let expired = testing::pair(Wall::UNIX_EPOCH, Wall::UNIX_EPOCH);
        let World { fake, manager, published, directory: _kept, .. } = world(Some(expired.clone()));
        fake.shared.lock().failures = 1;
        fake.shared.lock().found = None;
        let found = testing::pair(Wall::UNIX_EPOCH, wall(5_000));
        let place = async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            let known = published.borrow().clone().expect("the expired one");
            assert!(Arc::ptr_eq(&known, &expired.identity));
            fake.shared.lock().found = Some(found.clone());
            fake.shared.lock().hangs = true;
            std::future::pending::<()>().await;
        };
        let both = async { tokio::join!(manager.run(), place) };
        tokio::time::timeout(Duration::from_secs(60), both).await.expect_err("it runs on");
        let known = published.borrow().clone().expect("one");
        assert!(Arc::ptr_eq(&known, &found.identity), "the one that was found");
        assert_eq!(fake.shared.lock().attempts.len(), 2, "and a new one is requested with it");
    }

    #[tokio::test(start_paused = true)]
    async fn other_addresses_end_a_request_and_begin_another() {
        let World { fake, manager, template, directory: _kept, .. } = world(None);
        fake.shared.lock().hangs = true;
        let change = async {
            for seconds in [100, 200] {
                tokio::time::sleep(Duration::from_secs(seconds)).await;
                let dns_names = vec![format!("name-{seconds}")];
                template.send_replace(Some(Template { dns_names, ..Template::client("n1") }));
            }
            std::future::pending::<()>().await;
        };
        let both = async { tokio::join!(manager.run(), change) };
        tokio::time::timeout(Duration::from_secs(500), both).await.expect_err("it runs on");
        let attempts = fake.shared.lock().attempts.clone();
        assert_eq!(attempts.len(), 3, "{attempts:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_template_nothing_is_requested() {
        let World { fake, manager, template, directory: _kept, .. } = world(None);
        template.send_replace(None);
        run(manager, 1000).await;
        assert!(fake.shared.lock().attempts.is_empty());
    }
}
