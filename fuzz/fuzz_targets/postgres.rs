//! What comes from a `PostgreSQL` server, or from files of one.
#![no_main]

use holdfast_fuzz::postgres;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| postgres(data));
