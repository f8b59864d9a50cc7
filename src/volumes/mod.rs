//! Volumes of pods: plans, payloads, the atomic writer, the task that owns what is mounted.
