//! What people type or configure: selectors, times, sizes, keys, a configuration file.
#![no_main]

use holdfast_fuzz::text;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| text(data));
