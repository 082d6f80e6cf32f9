//! Lists of references.
#![no_main]

use holdfast_fuzz::list;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| list(data));
