//! `holdfast explain`: what an error id means and what to do.
#![allow(clippy::doc_markdown, reason = "the doc comments are help texts, read in a terminal")]

use clap::Args;
use serde_json::json;

use crate::cli::context::Context;
use crate::cli::error::{CommandError, Exit};
use crate::cli::explain::{self, Explanation, usage};

/// Arguments of `explain`.
#[derive(Debug, Clone, Args)]
#[command(
    after_help = "Examples:\n  holdfast explain HF-KEY-001\n  holdfast explain            lists all"
)]
pub struct ExplainArgs {
    /// The id, as the error shows it
    #[arg(value_name = "ID")]
    pub id: Option<String>,
}

/// Prints one explanation, or the list of all.
pub fn run(args: &ExplainArgs, context: &Context) -> Result<Exit, CommandError> {
    let Some(id) = &args.id else {
        list(context);
        return Ok(Exit::Done);
    };
    let wanted = id.to_ascii_uppercase();
    let entry = explain::find(&wanted).ok_or_else(|| {
        CommandError::new(&usage::ARGUMENT, format!("there is no error id {id:?}"))
            .hint("holdfast explain lists all ids")
    })?;
    context.output.line(&format!(
        "{}: {}\n(exit code {})\n\n{}",
        entry.id,
        entry.title,
        entry.exit.code(),
        entry.text
    ));
    context.output.summary(Exit::Done, &as_json(entry));
    Ok(Exit::Done)
}

fn list(context: &Context) {
    for entry in explain::all() {
        context.output.line(&format!("{}  {}", entry.id, entry.title));
        context.output.item(&as_json(entry));
    }
    context.output.summary(Exit::Done, &json!({}));
}

fn as_json(entry: &Explanation) -> serde_json::Value {
    json!({
        "id": entry.id,
        "explained_exit_code": entry.exit.code(),
        "title": entry.title,
        "text": entry.text,
    })
}
