//! QoS, OOM scores, the cgroup tree, allocatable: pure arithmetic, and its application to cgroupfs.
