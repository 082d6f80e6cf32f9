//! The local index: chunk id → pack and ordinal, pack → frames. A cache in SQLite.
//!
//! The truth is in the repository; deleting the database loses nothing but time. What it says is
//! never proof that an object exists: the packs are compared with a listing of the store before
//! anything is built on them.

pub mod database;
pub mod entry_file;
pub mod lookup;
pub mod previous_tree;
