//! What keeps a repository at its size: which snapshots go, and which objects go with them.
//!
//! [`retention`] and [`prune_plan`] decide and do nothing: they do no IO, they ask no clock, and
//! the same input gives the same plan. Whoever carries a plan out signs it, writes it and deletes.

pub mod check;
pub mod check_snapshots;
pub mod checked;
pub mod error;
pub mod finding;
pub mod forget;
pub mod listing;
pub mod log_retention;
pub mod maintainer_log;
pub mod maintainer_packs;
pub mod pack_catalog;
pub mod prune;
pub mod prune_plan;
pub mod prune_state;
pub mod read_data;
pub mod recover;
pub mod repack;
pub mod repair;
pub mod retention;
pub mod snapshot_refs;
pub mod tombs;
