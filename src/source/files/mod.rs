//! A file tree as a source: walking it in the format's order, reading what changed.
//!
//! Everything is opened relative to the file descriptor of its parent directory and never through
//! a symbolic link, so that paths may be longer than the kernel takes and cannot be redirected.

pub mod content;
pub mod directory;
pub mod entry;
pub mod exclude;
pub mod hard_link;
pub mod holes;
pub mod ignore_file;
pub mod listing;
pub mod metadata;
pub mod postgres_directory;
pub mod prefetch;
pub mod stat;
pub mod walk;
pub mod xattr;

#[cfg(test)]
mod walk_tests;
