//! Index segments.
#![no_main]

use holdfast_fuzz::index_segment;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| index_segment(data));
