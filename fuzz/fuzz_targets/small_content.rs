//! Content of small sealed objects: zstd frames and padding.
#![no_main]

use holdfast_fuzz::small_content;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| small_content(data));
