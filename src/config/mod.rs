//! Flags and KubeletConfiguration: parse, defaults, precedence, validation. The only place that reads argv and the environment.
