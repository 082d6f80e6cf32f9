//! All integration tests in one binary: they go through the public interface only.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod architecture;
mod check;
mod cli;
mod forget;
mod household;
mod program;
mod prune;
mod tour;
