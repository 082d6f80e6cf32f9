//! `holdfast version`: the program's version and the format it writes.

use clap::Args;
use serde_json::json;

use crate::cli::context::Context;
use crate::cli::error::{CommandError, Exit};
use crate::format::limits::FORMAT_NUMBER;

/// Arguments of `version`: none.
#[derive(Debug, Clone, Copy, Args)]
pub struct VersionArgs {}

/// Prints it.
pub fn run(_args: VersionArgs, context: &Context) -> Result<Exit, CommandError> {
    let version = env!("CARGO_PKG_VERSION");
    context.output.line(&format!("holdfast {version} (repository format {FORMAT_NUMBER})"));
    context.output.summary(
        Exit::Done,
        &json!({ "program": "holdfast", "version": version, "format": FORMAT_NUMBER }),
    );
    Ok(Exit::Done)
}
