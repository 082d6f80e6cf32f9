//! A backup run: sources in, a committed snapshot out.

pub mod content;
pub mod sequencer;
pub mod tree_builder;
pub mod usage;
