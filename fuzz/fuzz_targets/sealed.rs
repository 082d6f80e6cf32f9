//! Sealed objects: age headers and payloads.
#![no_main]

use holdfast_fuzz::sealed;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| sealed(data));
