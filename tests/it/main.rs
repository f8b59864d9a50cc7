//! Integration tests that need neither root nor a cluster: the rules of the repository (`tidy`,
//! `documents`),
//! drift of generated files, text scenarios of the planner and the simulation of a node. One
//! binary, so that it links once.
#![allow(clippy::disallowed_methods, reason = "tests prepare files and read the environment")]

mod backend;
mod documents;
mod hostile;
mod laws;
mod man;
mod measures;
mod proto;
mod scenarios;
mod sim;
mod tidy;
