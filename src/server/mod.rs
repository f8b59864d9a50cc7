//! The kubelet's HTTPS API: one file per endpoint family.
