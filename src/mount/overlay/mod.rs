//! A snapshot as a folder that can be written to: what was not touched yet comes from the
//! repository, what was is a file of an ordinary folder.
//!
//! Every file of the snapshot is laid out in the folder as a hole of its length ([`lay_out`]). A
//! block that is read, or written in part, is filled first ([`lazy_file`]); one that is written is
//! local from then on. So the folder becomes the whole, by use or because somebody fills it
//! ([`hydrate`]), and needs neither this process nor the repository any more. What a file still
//! lacks stands in an extended attribute of it, changed only when the blocks that it says are there
//! are durable: a folder whose process was killed can be shown again.

pub mod blocks;
pub mod folder;
pub mod fuse;
pub mod hydrate;
pub mod lay_out;
pub mod lazy_file;
mod nodes;
pub mod origin;
#[cfg(test)]
mod overlay_tests;
