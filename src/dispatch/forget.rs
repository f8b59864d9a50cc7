//! Forgetting a pod that is gone.
//!
//! Each subsystem that keeps something by the UID of a pod registers one [`Forget`] at composition.

use crate::model::PodUid;

/// Forgets what is kept of a pod.
pub trait Forget: Send + Sync + 'static {
    /// Drops what is kept of the pod. Called once nothing of the pod is left on the node, or when
    /// it never came to run. Must not block; what takes time goes on in the background.
    fn forget(&self, uid: &PodUid);
}

impl<F: Fn(&PodUid) + Send + Sync + 'static> Forget for F {
    fn forget(&self, uid: &PodUid) {
        self(uid);
    }
}

/// Everything that forgets, in the order of registration.
#[derive(Default)]
pub struct Forgetters(Vec<Box<dyn Forget>>);

impl std::fmt::Debug for Forgetters {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Forgetters").field(&self.0.len()).finish()
    }
}

impl Forgetters {
    /// Registers one.
    pub fn add(&mut self, forget: impl Forget) {
        self.0.push(Box::new(forget));
    }

    /// Has everything of the pod forgotten.
    pub fn forget(&self, uid: &PodUid) {
        for forget in &self.0 {
            forget.forget(uid);
        }
    }
}
