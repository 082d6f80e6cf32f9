//! A backup run: sources in, a committed snapshot out.

pub mod block;
pub mod content;
pub mod dump_reader;
pub mod entry_reader;
pub mod error;
pub mod item;
pub mod large_file;
pub mod ordered;
pub mod page_map;
pub mod page_watch;
pub mod pages;
pub mod postgres_base;
pub mod postgres_dump;
pub mod postgres_wal;
pub mod previous_files;
pub mod run;
pub mod sequencer;
pub mod snapshot_root;
pub mod stream;
pub mod successor;
pub mod tree_builder;
pub mod tree_root;
pub mod usage;
pub mod wal_series;
pub mod wal_spool;
