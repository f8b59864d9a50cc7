//! Tables for `compute`.
