//! Commits of a writer's log, signed by its key.
#![no_main]

use holdfast_fuzz::{Kind, signed_text};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| signed_text(Kind::Commit, data));
