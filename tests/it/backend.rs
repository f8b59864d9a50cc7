//! The example of a backend, run against dispatch as it is.

#[path = "../../examples/backend.rs"]
mod example;

#[tokio::test]
async fn the_example_runs_a_pod_and_reads_its_log() {
    assert_eq!(example::play().await, "default/web/main does nothing\n");
}
