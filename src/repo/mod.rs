//! One opened repository: keys, roster, history, packs in and out, commits.

pub mod bundle;
pub mod chunk_reader;
pub mod chunk_writer;
pub mod content_reader;
pub mod create;
pub mod domain_index;
pub mod error;
pub mod history;
pub mod key_files;
pub mod objects;
pub mod open;
pub mod pack_builder;
pub mod pack_map;
pub mod pack_reader;
pub mod pack_scan;
pub mod read_access;
pub mod reading;
pub mod roles;
pub mod session;
pub mod snapshot_path;
pub mod state;
pub mod tree_reader;
pub mod unlock;
pub mod workers;
pub mod write_counts;
