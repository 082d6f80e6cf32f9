//! Texts of the files that hold keys, and of a writer's bundle.
#![no_main]

use holdfast_fuzz::key_file;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| key_file(data));
