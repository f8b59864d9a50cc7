//! Decides when an image is pulled, words the events, and computes the waits after failed pulls.
//! Pure.
//!
//! Every text here is upstream's byte for byte: dashboards and tests match on them.

use std::collections::HashMap;
use std::time::Duration;

use super::reference;
use crate::model::Mono;
use crate::model::reason::container as reason;
use crate::model::time::go_duration;

/// The first wait after a failed pull.
pub const BACKOFF_FIRST: Duration = Duration::from_secs(10);
/// The longest wait after a failed pull.
pub const BACKOFF_LAST: Duration = Duration::from_secs(300);

/// `imagePullPolicy`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PullPolicy {
    /// Ask the registry before every start.
    Always,
    /// Pull an image that is not on the node.
    IfNotPresent,
    /// Never pull.
    Never,
}

impl PullPolicy {
    /// Returns a container's policy; where it is not set, the API server's default.
    pub fn of(policy: Option<&str>, image: &str) -> Self {
        match policy {
            Some("Always") => Self::Always,
            Some("Never") => Self::Never,
            Some("IfNotPresent") => Self::IfNotPresent,
            Some(_) | None if reference::is_latest(image) => Self::Always,
            Some(_) | None => Self::IfNotPresent,
        }
    }

    /// Returns the label of upstream's metrics.
    pub fn label(self) -> &'static str {
        match self {
            Self::Always => "always",
            Self::IfNotPresent => "ifnotpresent",
            Self::Never => "never",
        }
    }
}

/// `Failed to apply default image tag …`
pub fn invalid_name(image: &str, error: &reference::ReferenceError) -> String {
    format!("Failed to apply default image tag {image:?}: {error}")
}

/// `Failed to inspect image …`; upstream names no image here, since none was found.
pub fn inspect_failed(error: &str) -> String {
    format!("Failed to inspect image \"\": {error}")
}

/// `Container image … is not present with pull policy of Never`
pub fn never_pull(image: &str) -> String {
    format!("Container image {image:?} is not present with pull policy of Never")
}

/// `Container image … already present on machine and can be accessed by the pod`
pub fn already_present(image: &str) -> String {
    format!("Container image {image:?} already present on machine and can be accessed by the pod")
}

/// `Pulling image …`
pub fn pulling(image: &str) -> String {
    format!("Pulling image {image:?}")
}

/// `Successfully pulled image …`
pub fn pulled(image: &str, pull: Duration, with_wait: Duration, size: u64) -> String {
    let milliseconds = |duration: Duration| {
        go_duration(Duration::from_millis(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)))
    };
    format!(
        "Successfully pulled image {image:?} in {} ({} including waiting). Image size: {size} bytes.",
        milliseconds(pull),
        milliseconds(with_wait)
    )
}

/// `Failed to pull image …`
pub fn pull_failed(image: &str, error: &str) -> String {
    format!("Failed to pull image {image:?}: {error}")
}

/// `Back-off pulling image …`
pub fn back_off(image: &str) -> String {
    format!("Back-off pulling image {image:?}")
}

/// Returns reason and message of a container that waits after a failed pull.
pub fn judge_failure(image: &str, error: &str) -> (&'static str, String) {
    const SIGNATURE: &str = "SignatureValidationFailed";
    if let Some(rest) = error.strip_prefix(reason::REGISTRY_UNAVAILABLE) {
        let message =
            format!("image pull failed for {image} because the registry is unavailable{rest}");
        return (reason::REGISTRY_UNAVAILABLE, message);
    }

    if let Some(rest) = error.strip_prefix(SIGNATURE) {
        let message =
            format!("image pull failed for {image} because the signature validation failed{rest}");
        return (SIGNATURE, message);
    }

    (reason::ERR_IMAGE_PULL, error.to_owned())
}

/// Joins several errors as upstream aggregates them.
pub fn aggregate(errors: &[String]) -> String {
    let mut unique: Vec<&str> = Vec::new();
    for error in errors {
        if !unique.contains(&error.as_str()) {
            unique.push(error);
        }
    }

    match unique.as_slice() {
        [one] => (*one).to_owned(),
        several => format!("[{}]", several.join(", ")),
    }
}

/// A failed pull that is not repeated for a while.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Failed {
    wait: Duration,
    at: Mono,
    /// The error in the status beside the back-off: `REASON: MESSAGE`.
    error: String,
}

/// The back-offs, by pod and image.
#[derive(Debug, Default)]
pub struct BackOffs {
    failed: HashMap<(String, String), Failed>,
}

impl BackOffs {
    /// Returns the end of the back-off and the last error; `None` if the image may be pulled for
    /// the pod.
    pub fn waiting(&self, pod: &str, image: &str, now: Mono) -> Option<(Mono, &str)> {
        let failed = self.failed.get(&(pod.to_owned(), image.to_owned()))?;
        let until = failed.at.after(failed.wait);
        (now < until).then_some((until, failed.error.as_str()))
    }

    /// Records a failed pull. Returns the end of the back-off.
    pub fn note(&mut self, pod: &str, image: &str, now: Mono, error: String) -> Mono {
        self.failed.retain(|_, failed| !is_over(failed, now));
        let failed = self
            .failed
            .entry((pod.to_owned(), image.to_owned()))
            .and_modify(|failed| failed.wait = (failed.wait * 2).min(BACKOFF_LAST))
            .or_insert(Failed { wait: BACKOFF_FIRST, at: now, error: String::new() });
        failed.at = now;
        failed.error = error;
        now.after(failed.wait)
    }

    /// Forgets the back-offs of a pod that is gone.
    pub fn forget(&mut self, pod: &str) {
        self.failed.retain(|(failed, _), _| failed != pod);
    }
}

/// Returns true once twice the longest wait has passed: the back-off is then forgotten.
fn is_over(failed: &Failed, now: Mono) -> bool {
    now.since(failed.at) > BACKOFF_LAST * 2
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{BackOffs, PullPolicy, aggregate, judge_failure, pulled};
    use crate::model::Mono;

    #[track_caller]
    fn check(policy: Option<&str>, image: &str, expected: PullPolicy) {
        assert_eq!(PullPolicy::of(policy, image), expected);
    }

    #[test]
    fn policies_default_as_in_the_api_server() {
        check(None, "nginx", PullPolicy::Always);
        check(None, "nginx:latest", PullPolicy::Always);
        check(None, "nginx:1.27", PullPolicy::IfNotPresent);
        check(Some("Never"), "nginx", PullPolicy::Never);
        check(Some("IfNotPresent"), "nginx", PullPolicy::IfNotPresent);
    }

    #[test]
    fn success_says_how_long_it_took() {
        let text = pulled("nginx", Duration::from_micros(1_234_567), Duration::from_secs(61), 42);
        let expected = "Successfully pulled image \"nginx\" in 1.234s (1m1s including waiting). Image size: 42 bytes.";
        assert_eq!(text, expected);
    }

    #[test]
    fn failures_are_judged_by_their_prefix() {
        let (reason, message) = judge_failure("x.io/a", "RegistryUnavailable: 503");
        assert_eq!(reason, "RegistryUnavailable");
        assert_eq!(
            message,
            "image pull failed for x.io/a because the registry is unavailable: 503"
        );
        let (reason, message) = judge_failure("x.io/a", "SignatureValidationFailed");
        assert_eq!(reason, "SignatureValidationFailed");
        assert_eq!(message, "image pull failed for x.io/a because the signature validation failed");
        assert_eq!(judge_failure("x.io/a", "no"), ("ErrImagePull", "no".to_owned()));
    }

    #[test]
    fn errors_are_aggregated_once_each() {
        let errors =
            |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
        assert_eq!(aggregate(&errors(&["a"])), "a");
        assert_eq!(aggregate(&errors(&["a", "a"])), "a");
        assert_eq!(aggregate(&errors(&["a", "b", "a"])), "[a, b]");
    }

    #[test]
    fn waits_double_and_end() {
        let at = |seconds| Mono(Duration::from_secs(seconds));
        let mut backoffs = BackOffs::default();
        assert_eq!(backoffs.note("p", "i", at(0), "e".to_owned()), at(10));
        assert_eq!(backoffs.waiting("p", "i", at(9)), Some((at(10), "e")));
        assert_eq!(backoffs.waiting("p", "i", at(10)), None);
        assert_eq!(backoffs.waiting("q", "i", at(5)), None, "another pod");
        let mut now = 10;
        for wait in [20, 40, 80, 160, 300, 300] {
            assert_eq!(backoffs.note("p", "i", at(now), String::new()), at(now + wait));
            now += wait;
        }
        assert_eq!(
            backoffs.note("p", "i", at(now + 301), String::new()),
            at(now + 311),
            "begins anew"
        );
        backoffs.forget("p");
        assert_eq!(backoffs.waiting("p", "i", at(now + 302)), None);
    }
}
