//! What tests of this crate, and of other backends, are made of: pods in a line, a small world to
//! run plans in, the runner of the text scenarios under `tests/it/scenarios`, and laws for hostile
//! input.
//!
//! Compiled for tests and with the feature `testkit` only. Nothing here touches a real runtime or
//! clock; the laws of [`hostile`] touch files, in a directory that they are handed.

pub mod builders;
pub mod hostile;
pub mod scenario;
mod script;
pub mod world;

pub use builders::{ContainerBuilder, PodBuilder};
pub use world::World;
