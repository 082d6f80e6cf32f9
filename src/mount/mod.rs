//! Snapshots as a read-only file system: `/<source>/<time>/…` and `/<source>/latest`.
//!
//! [`file_system`] is the one tree; [`fuse`] and [`webdav`] show it. Nothing is kept for a file
//! that was looked at: an inode number says which entry of which tree it is ([`inode`]), so memory
//! is bounded by the caches and by what is open. Every chunk is compared with its id before a byte
//! of it is given out; what is lost is an error, never other bytes.

pub mod attributes;
pub mod catalog;
pub mod directory;
pub mod error;
pub mod file_system;
pub mod frames;
#[cfg(feature = "mount")]
pub mod fuse;
#[cfg(feature = "mount")]
mod fuse_values;
pub mod inode;
pub mod layout;
pub mod links;
pub mod loaded;
pub mod lru;
pub mod names;
pub mod open_file;
#[cfg(feature = "mount")]
pub mod overlay;
pub mod prefetch;
pub mod sync;
pub mod tree;
#[cfg(feature = "webdav")]
pub mod webdav;
