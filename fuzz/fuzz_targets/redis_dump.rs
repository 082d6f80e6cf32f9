//! A dump of Redis or Valkey: what is stored of it gives the same bytes again.
#![no_main]

use holdfast_fuzz::redis::dump;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| dump(data));
