//! A backup run: sources in, a committed snapshot out.

pub mod content;
pub mod error;
pub mod item;
pub mod ordered;
pub mod page_map;
pub mod run;
pub mod sequencer;
pub mod stream;
pub mod tree_builder;
pub mod usage;
