//! `holdfast check`: verifies the repository.
#![allow(clippy::doc_markdown, reason = "the doc comments are help texts, read in a terminal")]

use std::sync::Arc;
use std::time::SystemTime;

use clap::Args;
use serde_json::json;

use crate::cli::context::Context;
use crate::cli::error::{CommandError, Exit};
use crate::cli::explain;
use crate::cli::healing::{fetch, open_copies};
use crate::cli::maintaining::{Asking, Keyring, failed, short};
use crate::clock::{Clock, SystemClock};
use crate::maintenance::check::{CheckKeys, CheckOptions, CheckReport, check};
use crate::maintenance::checked::Coverage;
use crate::maintenance::finding::Finding;
use crate::progress::Progress;
use crate::repo::error::RepoError;
use crate::repo::history::History;
use crate::units::Part;

/// Snapshots that one finding lists as text.
const SNAPSHOTS_SHOWN: usize = 5;

const AFTER_HELP: &str = "\
Examples:
  holdfast check                          signatures, chains, names, references
  holdfast check --read-data              read everything, too
  holdfast check --read-data 1/30         a thirtieth: what was not read for the longest

Without a passphrase or identity everything is checked that can be checked without one.
Exit code 4: the check ran to its end and found damage.";

/// Arguments of `check`.
#[derive(Debug, Clone, Args)]
#[command(after_help = AFTER_HELP)]
pub struct CheckArgs {
    /// Read the stored data too, all of it or one part
    #[arg(long, value_name = "N/M", num_args = 0..=1, default_missing_value = "1/1")]
    pub read_data: Option<Part>,
    /// Sign and store an attestation of what was read
    #[arg(long, requires = "read_data")]
    pub attest: bool,
    /// Use no key: check what can be checked without one
    #[arg(long)]
    pub no_key: bool,
    /// Fetch what is damaged or missing from this replica (repeatable)
    #[arg(long, value_name = "REPLICA")]
    pub repair_from: Vec<String>,
}

/// Checks, and ends with code 4 where anything was found.
pub fn run(args: &CheckArgs, context: &Context) -> Result<Exit, CommandError> {
    let asking = if args.no_key { Asking::NoKey } else { Asking::Person };
    let keyring = Keyring::open(context, asking)?;
    if args.attest {
        let repository = keyring.repository.id;
        return Err(RepoError::NoKey { role: "verifier", repository }.into());
    }
    let history = History::read(&keyring.repository)?;
    let access = keyring.access(&history)?;
    let (domains, refs) = (keyring.domains(), keyring.refs_identities());
    let keys = CheckKeys { access: access.as_ref(), domains: &domains, refs: &refs };
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let options = CheckOptions { read_data: args.read_data, threads };
    let progress = Arc::new(Progress::default());
    let watch = context.watch(&progress);
    let report = check(&keyring.repository, &SystemClock, keys, options, &progress);
    watch.finish();
    let report = report.map_err(failed)?;
    print(context, &report, access.is_some());
    if report.findings.is_empty() {
        return Ok(Exit::Done);
    }
    if !args.repair_from.is_empty() {
        let repository = &keyring.repository;
        let copies = open_copies(context, Some(repository.id), &args.repair_from)?;
        let healed = fetch(context, repository, &history, report.findings, &copies)?;
        let (done, left) = (healed.healed.len(), healed.left.len());
        context.output.note(&format!("{done} objects were fetched; check again to be sure"));
        let what = format!("{done} objects were damaged and have been healed, {left} are left");
        return Err(CommandError::new(&explain::check::DAMAGE, what).hint("holdfast check"));
    }
    let what = format!("{} findings", report.findings.len());
    Err(CommandError::new(&explain::check::DAMAGE, what).hint("holdfast explain HF-CHECK-001"))
}

fn print(context: &Context, report: &CheckReport, with_key: bool) {
    let output = &context.output;
    for finding in &report.findings {
        print_finding(context, finding);
    }
    output.note(&format!(
        "{} objects with {} are there; {} snapshots",
        report.objects.objects,
        output.size(report.objects.bytes),
        report.snapshots
    ));
    if report.orphans.objects > 0 {
        let size = output.size(report.orphans.bytes);
        output.note(&format!(
            "{} objects with {size} belong to no commit yet",
            report.orphans.objects
        ));
    }
    if report.read.objects > 0 {
        output.note(&format!(
            "read {} packs with {}",
            report.read.objects,
            output.size(report.read.bytes)
        ));
    }
    output.note(&coverage_text(&report.coverage));
    let lock = report.weakest_lock.as_ref();
    if let Some(lock) = lock {
        let until = lock.until.map_or_else(
            || "is not locked".to_owned(),
            |until| format!("is locked until {}", timestamp_text(until)),
        );
        output.note(&format!(
            "weakest lock: {} {until}; {} objects are not locked",
            lock.object, lock.unlocked
        ));
    }
    if !with_key {
        output.note(&format!("{} ({})", explain::check::KEYLESS.title, explain::check::KEYLESS.id));
    }
    let exit = if report.findings.is_empty() { Exit::Done } else { Exit::Findings };
    if exit == Exit::Done {
        output.note("no damage was found");
    }
    let coverage = &report.coverage;
    output.summary(
        exit,
        &json!({
            "findings": report.findings.len(), "objects": report.objects.objects,
            "bytes": report.objects.bytes, "orphans": report.orphans.objects,
            "orphan_bytes": report.orphans.bytes, "snapshots": report.snapshots,
            "packs_read": report.read.objects, "bytes_read": report.read.bytes,
            "with_key": with_key, "packs": coverage.packs, "packs_recent": coverage.recent,
            "packs_never": coverage.never,
            "unlocked": lock.map(|lock| lock.unlocked),
            "locked_until": lock.and_then(|lock| lock.until).map(timestamp_text),
        }),
    );
}

fn print_finding(context: &Context, finding: &Finding) {
    let output = &context.output;
    output.line(&format!("{}: {}", finding.object, finding.what));
    let ids: Vec<String> =
        finding.snapshots.iter().take(SNAPSHOTS_SHOWN).map(|name| short(&name.id)).collect();
    if !ids.is_empty() {
        let more = finding.snapshots.len() - ids.len();
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        output.line(&format!("  snapshots concerned: {}{more}", ids.join(", ")));
    }
    output.line(&format!("  try: {}", finding.problem.advice()));
    let ids: Vec<String> = finding.snapshots.iter().map(|name| name.id.to_string()).collect();
    output.item(&json!({
        "object": finding.object, "problem": finding.problem, "what": finding.what,
        "snapshots": ids, "advice": finding.problem.advice(),
    }));
}

fn coverage_text(coverage: &Coverage) -> String {
    let percent = coverage.recent * 100 / coverage.packs.max(1);
    let mut text = format!("{percent} % of {} packs read in the last 30 days", coverage.packs);
    if let Some(oldest) = coverage.oldest {
        let age = SystemClock.now().duration_since(oldest).unwrap_or_default();
        let days = age.as_secs() / 86_400;
        text = format!("{text}, oldest {days} days ago");
    }
    if coverage.never > 0 {
        text = format!("{text}, {} never on this host", coverage.never);
    }
    text
}

fn timestamp_text(time: SystemTime) -> String {
    jiff::Timestamp::try_from(time)
        .map(|time| time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string())
        .unwrap_or_default()
}
