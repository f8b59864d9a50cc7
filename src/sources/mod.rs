//! Where pods come from: the API server's watch, static manifests.
