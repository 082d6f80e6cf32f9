//! The log: what the library traces, to standard error, as much as `-v` or `HOLDFAST_LOG` asks for.

use tracing_subscriber::EnvFilter;

use crate::cli::environment::Environment;
use crate::cli::error::CommandError;

/// Starts it. `verbose` counts the `-v`; the variable has the form of `RUST_LOG` and wins.
///
/// Troubles are shown by the progress display anyway, so that without `-v` nothing is logged.
///
/// # Errors
/// `HF-USE-002` for a variable that is no filter.
pub fn start(verbose: u8, environment: &Environment) -> Result<(), CommandError> {
    let named = environment
        .parsed("HOLDFAST_LOG", |text| text.parse::<EnvFilter>().map_err(|e| e.to_string()))?;
    let filter = named.unwrap_or_else(|| EnvFilter::new(usual_filter(verbose)));
    // A second start in one process (tests) keeps the first.
    drop(
        tracing_subscriber::fmt()
            .with_env_filter(filter)
            .with_writer(std::io::stderr)
            .with_ansi(false)
            .try_init(),
    );
    Ok(())
}

const fn usual_filter(verbose: u8) -> &'static str {
    match verbose {
        0 => "off",
        1 => "holdfast=info,holdfast::progress=off",
        2 => "holdfast=debug,holdfast::progress=off",
        _ => "holdfast=trace,holdfast::progress=off,info",
    }
}
