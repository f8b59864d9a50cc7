//! What runs: reads the runtime, diffs, and tells each pod's task what is new (pod lifecycle event generator).
