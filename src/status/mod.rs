//! Pod statuses: computed from observation, merged, diffed, written.
