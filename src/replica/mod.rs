//! Copies of a repository in other places: made and compared without a key, healed from, promoted.
//!
//! A replica holds the same objects under the same names. Whoever copies checks names, signatures
//! and chains on the way and needs nothing secret; whoever promotes needs the root key.

pub mod copy;
pub mod error;
pub mod heal;
pub mod promote;
pub mod scrub;
mod target;
mod transfer;
