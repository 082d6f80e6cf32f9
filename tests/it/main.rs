//! All integration tests in one binary: they go through the public interface only.

mod architecture;
mod cli;
