//! What tests of this crate, and of other backends, are made of: pods in a line, a small world to run plans in, and the
//! runner of the text scenarios under `tests/it/scenarios`.
//!
//! Compiled for tests and with the feature `testkit` only. Nothing here touches a real runtime, clock or file.

pub mod builders;
pub mod scenario;
mod script;
pub mod world;

pub use builders::{ContainerBuilder, PodBuilder};
pub use world::World;
