//! Logging (klog text and JSON), the metrics registry and its text format.
