//! One opened repository: keys, roster, history, packs in and out, commits.

pub mod chunk_writer;
pub mod pack_builder;
pub mod workers;
