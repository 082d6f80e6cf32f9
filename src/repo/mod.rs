//! One opened repository: keys, roster, history, packs in and out, commits.

pub mod chunk_writer;
pub mod create;
pub mod domain_index;
pub mod error;
pub mod history;
pub mod objects;
pub mod open;
pub mod pack_builder;
pub mod session;
pub mod state;
pub mod workers;
