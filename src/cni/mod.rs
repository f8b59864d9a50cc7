//! CNI: whether the node's network configuration is usable and why not.
