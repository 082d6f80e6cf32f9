//! Makes a restored data directory of PostgreSQL ready to start.

pub mod control_file;
pub mod directory;
pub mod plan;
pub mod settings;
