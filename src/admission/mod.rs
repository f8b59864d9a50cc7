//! Admission: whether this node takes a pod. One file per check.
