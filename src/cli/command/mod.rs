//! One file per command: its arguments, and what it prints.
//!
//! A command parses, calls the library once and prints; no rule of the repository lives here.

pub mod backup;
pub mod backup_run;
pub mod backup_sources;
pub mod cat;
pub mod check;
pub mod completions;
pub mod config;
pub mod copy;
pub mod diff;
pub mod doctor;
#[cfg(feature = "mount")]
pub mod drill;
pub mod explain;
pub mod find;
pub mod forget;
pub mod init;
pub mod key;
pub mod ls;
pub mod man;
#[cfg(feature = "mount")]
pub mod mount;
pub mod pg;
pub mod promote;
pub mod prune;
pub mod recover;
pub mod recovery_kit;
pub mod redis;
pub mod reencrypt;
pub mod repair;
pub mod replica;
pub mod restore;
pub mod restore_dump;
pub mod restore_into;
pub mod restore_journal;
pub mod restore_postgres;
pub mod restore_redis;
pub mod restore_run;
pub mod scrub;
#[cfg(feature = "webdav")]
pub mod serve;
pub mod snapshots;
pub mod stats;
pub mod version;
pub mod writer;
mod writer_policy;
