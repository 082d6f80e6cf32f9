//! Restoring: trees from a repository into a directory, without ever writing outside of it.
//!
//! [`target`] alone writes there; everything else plans and reads.

pub mod cat;
mod crew;
pub mod error;
pub mod execute;
mod extra;
mod file_state;
pub mod filter;
#[cfg(test)]
pub(crate) mod fixture;
mod hard_links;
mod metadata;
mod metadata_later;
mod metadata_object;
pub mod plan;
pub mod postgres;
mod read_ahead;
pub mod redis_by_keys;
pub mod redis_dump;
#[cfg(test)]
mod restore_tests;
pub mod selection;
pub mod tar;
pub mod target;
mod target_dirs;
pub mod target_error;
pub mod target_file;
mod target_flush;
pub mod target_options;
pub mod target_path;
pub mod target_place;
mod target_remove;
#[cfg(test)]
mod target_tests;
pub mod verify;
