//! Looking into snapshots: list, find, compare, measure. Nothing here writes or prints.

pub mod diff;
pub mod list;
pub mod sizes;
#[cfg(test)]
mod view_tests;
