//! Refs: which chunks of which packs a snapshot uses.
#![no_main]

use holdfast_fuzz::refs;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| refs(data));
