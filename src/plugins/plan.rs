//! Decides which plugins are registered and deregistered next, and when to look again. Pure.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::model::Mono;

/// The first wait after a failure; it doubles with each further one (upstream's values).
const FIRST_WAIT: Duration = Duration::from_millis(500);
/// The longest wait after a failure (upstream's value).
const LONGEST_WAIT: Duration = Duration::from_secs(122);

/// Tells one socket from a later one at the same path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Identity {
    pub(super) device: u64,
    pub(super) inode: u64,
    /// The time of birth in nanoseconds, where the file system has one: inode numbers are used
    /// again.
    pub(super) born: Option<u128>,
}

/// The sockets in the folder.
pub(super) type Found = BTreeMap<PathBuf, Identity>;

/// What is known of one socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    /// The socket that is there now; `None` if it is gone.
    pub(super) found: Option<Identity>,
    pub(super) state: State,
}

/// The state of one socket's plugin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// Not registered, after so many failures.
    New { failures: u32, retry_at: Option<Mono> },
    /// Being registered or deregistered, after so many failures.
    Busy { failures: u32 },
    /// Registered by this socket.
    Registered(Identity),
}

/// One step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    Register(PathBuf, Identity),
    Deregister(PathBuf),
}

/// All sockets.
#[derive(Debug, Default)]
pub(super) struct Sockets(BTreeMap<PathBuf, Entry>);

impl Sockets {
    /// Takes in what is in the folder now. A socket that has been replaced begins without failures.
    pub(super) fn look(&mut self, found: &Found) {
        for (path, entry) in &mut self.0 {
            let now = found.get(path).copied();
            if now != entry.found
                && let State::New { failures, retry_at } = &mut entry.state
            {
                *failures = 0;
                *retry_at = None;
            }
            entry.found = now;
        }
        for (path, identity) in found {
            let state = State::New { failures: 0, retry_at: None };
            self.0.entry(path.clone()).or_insert(Entry { found: Some(*identity), state });
        }
    }

    /// Returns the steps that are due, each of which is then in progress, and the time of the next
    /// look.
    pub(super) fn steps(&mut self, now: Mono) -> (Vec<Step>, Option<Mono>) {
        let mut steps = Vec::new();
        let mut wake_at = None;
        self.0
            .retain(|_, entry| entry.found.is_some() || !matches!(entry.state, State::New { .. }));

        for (path, entry) in &mut self.0 {
            let step = match (&entry.state, entry.found) {
                (State::Busy { .. }, _) | (State::New { .. }, None) => continue,
                (State::New { retry_at: Some(at), .. }, Some(_)) if *at > now => {
                    wake_at = Mono::earliest(wake_at, Some(*at));
                    continue;
                }
                (State::New { .. }, Some(identity)) => Step::Register(path.clone(), identity),
                (State::Registered(by), Some(identity)) if *by == identity => continue,
                (State::Registered(_), _) => Step::Deregister(path.clone()),
            };
            let failures = match entry.state {
                State::New { failures, .. } => failures,
                State::Busy { .. } | State::Registered(_) => 0,
            };
            entry.state = State::Busy { failures };
            steps.push(step);
        }

        (steps, wake_at)
    }

    /// Takes in the end of the registration by one socket.
    pub(super) fn registered(&mut self, path: &Path, by: Identity, ok: bool, now: Mono) {
        let Some(entry) = self.0.get_mut(path) else { return };
        let before = match entry.state {
            State::Busy { failures } => failures,
            State::New { .. } | State::Registered(_) => 0,
        };
        entry.state = if ok {
            State::Registered(by)
        } else if entry.found == Some(by) {
            let failures = before + 1;
            State::New { failures, retry_at: Some(now.after(wait_after(failures))) }
        } else {
            State::New { failures: 0, retry_at: None }
        };
    }

    /// Takes in the end of a deregistration.
    pub(super) fn deregistered(&mut self, path: &Path) {
        if let Some(entry) = self.0.get_mut(path) {
            entry.state = State::New { failures: 0, retry_at: None };
        }
    }
}

fn wait_after(failures: u32) -> Duration {
    FIRST_WAIT.saturating_mul(1 << failures.saturating_sub(1).min(16)).min(LONGEST_WAIT)
}

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};
    use std::time::Duration;

    use super::{Found, Identity, Sockets, Step};
    use crate::model::Mono;

    fn at(millis: u64) -> Mono {
        Mono(Duration::from_millis(millis))
    }

    fn socket(inode: u64) -> Identity {
        Identity { device: 1, inode, born: None }
    }

    fn folder(inode: u64) -> Found {
        [(PathBuf::from("/r/d.sock"), socket(inode))].into()
    }

    fn register(inode: u64) -> Vec<Step> {
        vec![Step::Register("/r/d.sock".into(), socket(inode))]
    }

    fn deregister() -> Vec<Step> {
        vec![Step::Deregister("/r/d.sock".into())]
    }

    #[test]
    fn a_socket_is_registered_once_and_deregistered_when_it_goes() {
        let path = Path::new("/r/d.sock");
        let mut sockets = Sockets::default();
        sockets.look(&folder(1));
        assert_eq!(sockets.steps(at(0)), (register(1), None));
        assert_eq!(sockets.steps(at(1)), (vec![], None), "it is in progress");
        sockets.registered(path, socket(1), true, at(2));
        sockets.look(&folder(1));
        assert_eq!(sockets.steps(at(3)), (vec![], None));
        sockets.look(&Found::new());
        assert_eq!(sockets.steps(at(4)), (deregister(), None));
        sockets.deregistered(path);
        assert_eq!(sockets.steps(at(5)), (vec![], None));
    }

    #[test]
    fn a_replaced_socket_is_deregistered_first() {
        let path = Path::new("/r/d.sock");
        let mut sockets = Sockets::default();
        sockets.look(&folder(1));
        sockets.steps(at(0));
        // It is replaced while the first is being registered.
        sockets.look(&folder(2));
        sockets.registered(path, socket(1), true, at(1));
        assert_eq!(sockets.steps(at(2)), (deregister(), None));
        sockets.deregistered(path);
        assert_eq!(sockets.steps(at(3)), (register(2), None));
        sockets.registered(path, socket(2), true, at(4));
        assert_eq!(sockets.steps(at(5)), (vec![], None));
    }

    #[test]
    fn failures_wait_ever_longer_until_the_socket_is_replaced() {
        let path = Path::new("/r/d.sock");
        let mut sockets = Sockets::default();
        sockets.look(&folder(1));
        sockets.steps(at(0));
        sockets.registered(path, socket(1), false, at(0));
        assert_eq!(sockets.steps(at(499)), (vec![], Some(at(500))));
        assert_eq!(sockets.steps(at(500)), (register(1), None));
        sockets.registered(path, socket(1), false, at(500));
        assert_eq!(sockets.steps(at(500)), (vec![], Some(at(1500))));
        sockets.look(&folder(2));
        assert_eq!(sockets.steps(at(600)), (register(2), None));
        sockets.registered(path, socket(2), false, at(600));
        assert_eq!(sockets.steps(at(600)), (vec![], Some(at(1100))));
        sockets.look(&Found::new());
        assert_eq!(sockets.steps(at(2000)), (vec![], None), "nothing is left of it");
    }
}
