//! All integration tests in one binary: they go through the public interface only.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod architecture;
mod canary;
mod check;
mod cli;
mod crash;
mod damage;
mod forget;
mod hostile;
mod household;
mod keys;
mod kill;
mod maintenance_cli;
mod model;
mod moved_clock;
mod program;
mod prune;
mod roles;
mod sink;
mod spec;
mod surprises;
mod tour;
mod vectors;
