//! `holdfast ls`: lists the files of a snapshot.
#![allow(clippy::doc_markdown, reason = "the doc comments are help texts, read in a terminal")]

use std::ops::ControlFlow;

use clap::Args;
use serde_json::json;

use crate::cli::context::Context;
use crate::cli::entry::{entry_json, long_line};
use crate::cli::error::{CommandError, Exit};
use crate::cli::escape::escape;
use crate::cli::explain::{repository, restore};
use crate::cli::reading::{Reading, ending, heading};
use crate::format::node::Node;
use crate::progress::Progress;
use crate::view::list::{Depth, list};

/// Arguments of `ls`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "Example:\n  holdfast ls -l latest:/etc/ssh")]
pub struct LsArgs {
    /// Snapshot, and the folder in it
    #[arg(value_name = "SNAPSHOT[:PATH]", default_value = "latest")]
    pub snapshot: String,
    /// Show mode, owner, size and time
    #[arg(short, long)]
    pub long: bool,
    /// Go into the folders below
    #[arg(short = 'R', long)]
    pub recursive: bool,
}

/// Lists the entries of a folder, or the roots of the snapshot.
pub fn run(args: &LsArgs, context: &Context) -> Result<Exit, CommandError> {
    let selector = context.selector(&args.snapshot)?;
    let reading = Reading::open(context)?;
    let found = reading.select(context, &selector)?;
    let id = found.0.name.id.to_string();
    let output = &context.output;
    output.note(&format!("{}:", heading(context, &found)));
    let mut visit = |path: &[u8], node: &Node| {
        if output.options().json {
            output.item(&entry_json(&id, path, node));
        } else if args.long {
            output.line(&long_line(context, path, node));
        } else {
            output.line(&escape(path));
        }
        if output.is_closed() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    };
    let depth = if args.recursive { Depth::All } else { Depth::Children };
    let path = selector.path.clone().unwrap_or_default();
    let progress = Progress::default();
    let listing = list(&reading.access, &found.1, path.as_bytes(), depth, &mut visit, &progress)
        .map_err(|error| CommandError::classify(&error, &restore::DAMAGED))?;
    if !listing.is_found {
        let what = format!("the snapshot has nothing at {path}");
        return Err(CommandError::new(&repository::PATH_MISSING, what));
    }
    let exit = ending(context, &progress, listing.lost_parts);
    output.summary(
        exit,
        &json!({ "snapshot": id, "entries": listing.entries, "lost_parts": listing.lost_parts }),
    );
    Ok(exit)
}
