//! What is stored of a dump, or of the commands of a server, and what servers answer.
#![no_main]

use holdfast_fuzz::redis::stored;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| stored(data));
