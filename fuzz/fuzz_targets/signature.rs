//! SSH signatures and their armour, before any key is known.
#![no_main]

use holdfast_fuzz::signature;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| signature(data));
