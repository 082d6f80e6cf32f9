//! Index nodes of a tree.
#![no_main]

use holdfast_fuzz::index_node;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| index_node(data));
