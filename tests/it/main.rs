//! All integration tests in one binary: they go through the public interface only.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(
    clippy::type_complexity,
    clippy::too_many_lines,
    clippy::needless_pass_by_value,
    reason = "tables of cases are long, and say what they hold"
)]

mod architecture;
mod canary;
mod check;
mod cli;
mod crash;
mod damage;
mod file_system;
mod forget;
mod hostile;
mod household;
mod keys;
mod kill;
mod maintenance_cli;
mod model;
#[cfg(feature = "mount")]
mod mount;
mod moved_clock;
mod program;
mod prune;
mod roles;
mod sink;
mod spec;
mod surprises;
mod tour;
mod vectors;
#[cfg(feature = "webdav")]
mod webdav;
