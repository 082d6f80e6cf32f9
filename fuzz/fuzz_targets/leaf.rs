//! Leaves of a tree: entries with their metadata.
#![no_main]

use holdfast_fuzz::leaf;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| leaf(data));
