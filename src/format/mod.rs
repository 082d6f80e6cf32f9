//! Bytes to values and back: no input or output, every length bounded by [`limits`].

pub mod attestation;
pub mod bytes;
pub mod commit;
pub mod drill;
pub mod index_segment;
pub mod keyfile;
pub mod limits;
pub mod node;
pub mod node_json;
pub mod pack;
pub mod postgres;
pub mod redis;
pub mod refs;
pub mod roster;
pub mod signed_text;
pub mod snapshot;
pub mod tombstone;
pub mod tree;
