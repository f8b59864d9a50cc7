//! Who looks on: a simulation sees every request and every write, and may interfere.

use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;

/// What a witness does to a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ApiEffect {
    /// Answers with that code; nothing happens.
    Fail(u16),
    /// The connection breaks; nothing happens.
    Break,
    /// The connection breaks after it has happened.
    LoseAnswer,
    /// It happens so much later.
    Delay(Duration),
    /// The answer comes so much later.
    DelayAnswer(Duration),
}

/// Looks on. All but `request` and `ended` are called with the server's lock held: they must not
/// call the server.
pub trait ApiWitness: Send + Sync {
    /// A request has come.
    fn request(&self, method: &str, path: &str, body: &Value) -> Option<ApiEffect>;
    /// A write is about to be done to the object that was `before`.
    fn write(&self, method: &str, path: &str, body: &Value, before: Option<&Value>);
    /// The object is like that now, because of a write. Not called for what tests put there
    /// themselves.
    fn written(&self, method: &str, path: &str, object: &Value);
    /// An object is told to somebody who lists or watches, or (`READ`) who asks for this one alone.
    fn told(&self, kind: &str, object: &Value);
    /// A request has ended: it was answered, or nobody waits for it any more.
    fn ended(&self, method: &str, path: &str, body: &Value);
}

/// Tells the witness that a request has ended.
pub(super) struct Ended {
    pub(super) witness: Arc<dyn ApiWitness>,
    pub(super) method: String,
    pub(super) path: String,
    pub(super) body: Value,
}

impl Drop for Ended {
    fn drop(&mut self) {
        self.witness.ended(&self.method, &self.path, &self.body);
    }
}
