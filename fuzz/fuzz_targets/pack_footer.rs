//! Footers of packs.
#![no_main]

use holdfast_fuzz::pack_footer;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| pack_footer(data));
