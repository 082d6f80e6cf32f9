//! Transcripts of the command line: help, errors, exit codes, JSON.
//!
//! `TRYCMD=overwrite cargo test --test it cli` writes them anew; read the difference before it is
//! committed.

#[test]
fn transcripts() {
    trycmd::TestCases::new()
        .register_bin("holdfast", std::path::Path::new(env!("CARGO_BIN_EXE_holdfast")))
        .case("tests/it/cli/*.md");
}
