//! Where bytes come from: file trees, standard input, commands, database directories.
//!
//! Nothing here knows the repository: a source yields nodes and bytes, and says what it could not
//! read. No failure of a source is ever an end of data.

pub mod command;
pub mod error;
pub mod files;
pub mod postgres;
pub mod redis;
pub mod socket;
pub mod stream;
pub mod tls;
