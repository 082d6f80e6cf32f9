//! `holdfast scrub`: for whoever hosts the bytes of a repository.
#![allow(clippy::doc_markdown, reason = "the doc comments are help texts, read in a terminal")]

use std::sync::Arc;

use clap::Args;
use serde_json::json;

use crate::cli::command::copy::{failed, print_finding};
use crate::cli::context::Context;
use crate::cli::error::{CommandError, Exit};
use crate::cli::explain;
use crate::cli::place::open_store;
use crate::progress::Progress;
use crate::replica::scrub::scrub;
use crate::units::Part;

const AFTER_HELP: &str = "\
Examples:
  holdfast scrub /srv/repo               read everything, compare it with its names
  holdfast scrub /srv/repo --part 3/7    a seventh, one each day of the week

No key and no state is needed, so it can run where the bytes are kept. Whether anything is missing
`holdfast check --no-key` says. Exit code 4: damage was found.";

/// Arguments of `scrub`.
#[derive(Debug, Clone, Args)]
#[command(after_help = AFTER_HELP)]
pub struct ScrubArgs {
    /// The place: a path, or s3://BUCKET/PREFIX
    #[arg(value_name = "PLACE")]
    pub place: String,
    /// Only this part of the objects
    #[arg(long, value_name = "N/M")]
    pub part: Option<Part>,
}

/// Scrubs.
pub fn run(args: &ScrubArgs, context: &Context) -> Result<Exit, CommandError> {
    let location = context.location_named(&args.place)?;
    let store = open_store(&location.place, &location.s3)?;
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let progress = Arc::new(Progress::default());
    let watch = context.watch(&progress);
    let threads = cores.max(store.read_slots().min(4));
    let report = scrub(&*store, args.part.unwrap_or(Part::WHOLE), threads, &progress);
    watch.finish();
    let report = report.map_err(failed)?;
    for finding in &report.findings {
        print_finding(context, finding);
    }
    let output = &context.output;
    output.note(&format!(
        "read {} objects with {}; {} more have no hash in their names",
        report.read.objects,
        output.size(report.read.bytes),
        report.unnamed
    ));
    let exit = if report.findings.is_empty() { Exit::Done } else { Exit::Findings };
    output.summary(
        exit,
        &json!({
            "objects": report.read.objects, "bytes": report.read.bytes,
            "unnamed": report.unnamed, "findings": report.findings.len(),
        }),
    );
    if exit == Exit::Done {
        output.note("no damage was found");
        return Ok(exit);
    }
    let what = format!("{} objects are damaged", report.findings.len());
    Err(CommandError::new(&explain::check::DAMAGE, what).hint("holdfast repair --from REPLICA"))
}
