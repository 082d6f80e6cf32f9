//! Snapshots.
#![no_main]

use holdfast_fuzz::snapshot;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| snapshot(data));
