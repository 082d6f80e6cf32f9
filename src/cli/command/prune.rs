//! `holdfast prune`: gives back the space that no snapshot needs.
#![allow(clippy::doc_markdown, reason = "the doc comments are help texts, read in a terminal")]

use std::sync::Arc;

use clap::Args;
use jiff::Span;
use serde_json::json;

use crate::cli::context::Context;
use crate::cli::error::{CommandError, Exit};
use crate::cli::maintaining::{Keyring, as_reserve, failed, reserve};
use crate::cli::time::{fixed_span, format_local, format_rfc3339};
use crate::clock::{Clock, SystemClock};
use crate::crypto::recipient::Recipient;
use crate::format::keyfile::MaintainerKeys;
use crate::maintenance::forget::timestamp;
use crate::maintenance::prune::{Prune, PruneReport};
use crate::maintenance::prune_plan::input::PruneOptions;
use crate::maintenance::prune_plan::repack::{MaxUnused, Repack};
use crate::maintenance::repack::{RepackKeys, RepackReport, repack};
use crate::maintenance::tombs::Maintainer;
use crate::progress::Progress;
use crate::repo::history::History;
use crate::units::{Allowance, parse_span};

/// Most objects that one run deletes.
const DELETED_OBJECTS_MAX: u64 = 1_000_000;
/// Most bytes of packs that one run writes anew.
const REPACK_BYTES_MAX: u64 = 64 * 1024 * 1024 * 1024;

const AFTER_HELP: &str = "\
Prune first announces what it will remove, and removes it in a later run, after the grace time of
the repository (72 hours unless its roster says another): running backups are never disturbed.
--dry-run says what would be freed now and what later.";

/// Arguments of `prune`.
#[derive(Debug, Clone, Args)]
#[command(after_help = AFTER_HELP)]
pub struct PruneArgs {
    /// How much unused data may stay: a share, a size, or unlimited (never repack)
    #[arg(long, value_name = "5%|1GiB|unlimited", default_value = "5%")]
    pub max_unused: Allowance,
    /// Write the used parts of wasteful packs anew; needs the passphrase or identity
    #[arg(long)]
    pub repack: bool,
    /// Wait longer than the repository's grace time before anything is deleted
    #[arg(long, value_name = "SPAN", value_parser = parse_span)]
    pub grace: Option<Span>,
    /// Say what would be done, and do nothing
    #[arg(short = 'n', long)]
    pub dry_run: bool,
}

/// Prunes.
pub fn run(args: &PruneArgs, context: &Context) -> Result<Exit, CommandError> {
    let (mut keyring, keys) = Keyring::open_for_maintainer(context)?;
    if args.repack {
        keyring.require_unlocked(context)?;
    }
    prune(args, context, &keyring, &keys)
}

/// Prunes with keys that are open; also what `forget --prune` does.
pub fn prune(
    args: &PruneArgs,
    context: &Context,
    keyring: &Keyring,
    keys: &MaintainerKeys,
) -> Result<Exit, CommandError> {
    let reserve = reserve(context)?;
    let maintainer = Maintainer {
        repository: &keyring.repository,
        keys,
        clock: &SystemClock,
        reserve: as_reserve(&reserve),
    };
    let progress = Arc::new(Progress::default());
    let identities = [keys.identity.to_identity()];
    let prune = Prune {
        maintainer: &maintainer,
        identities: &identities,
        options: options(args)?,
        progress: &progress,
    };
    let watch = context.watch(&progress);
    let result = if args.dry_run { prune.dry_run() } else { prune.run() };
    let report = result.map_err(failed)?;
    let repacked = if args.repack && !args.dry_run {
        Some(repack_and_announce(&prune, keyring, &progress)?)
    } else {
        None
    };
    watch.finish();
    print(context, args, &report, repacked);
    Ok(Exit::Done)
}

fn options(args: &PruneArgs) -> Result<PruneOptions, CommandError> {
    let max_unused = match args.max_unused {
        Allowance::Share(share) => MaxUnused::Percent(share.of(100).try_into().unwrap_or(100)),
        Allowance::Bytes(bytes) => MaxUnused::Bytes(bytes),
        Allowance::Unlimited => MaxUnused::Unlimited,
    };
    let grace = args.grace.map(fixed_span).transpose()?.unwrap_or_default();
    Ok(PruneOptions {
        grace,
        repack: Repack::Allowed { max_unused, pack_bytes_max: REPACK_BYTES_MAX },
        deleted_objects_max: DELETED_OBJECTS_MAX,
        deleted_bytes_max: u64::MAX,
    })
}

/// Repacks what is wasteful now, and announces the old packs at once.
fn repack_and_announce(
    prune: &Prune<'_>,
    keyring: &Keyring,
    progress: &Progress,
) -> Result<RepackReport, CommandError> {
    let repository = &keyring.repository;
    let (state, plan) = prune.plan(SystemClock.now()).map_err(failed)?;
    if plan.repack.is_empty() {
        return Ok(RepackReport::default());
    }
    let history = History::read(repository)?;
    let (Some(unlocked), Some(access)) = (&keyring.unlocked, keyring.access(&history)?) else {
        return Ok(RepackReport::default());
    };
    let recipient: Recipient = unlocked.active_recipient(&repository.roster)?.into();
    let (domains, refs) = (keyring.domains(), keyring.refs_identities());
    let keys =
        RepackKeys { access: &access, domains: &domains, recipient: &recipient, refs: &refs };
    let grace = prune.grace();
    let report = repack(prune.maintainer, &keys, &state, &plan.repack, grace, progress);
    let report = report.map_err(failed)?;
    prune.run().map_err(failed)?;
    Ok(report)
}

fn print(
    context: &Context,
    args: &PruneArgs,
    report: &PruneReport,
    repacked: Option<RepackReport>,
) {
    let (output, totals) = (&context.output, &report.plan.totals);
    let deleted = if args.dry_run { totals.deleted_now } else { report.deleted };
    let would = if args.dry_run { "would delete" } else { "deleted" };
    output.note(&format!("{would} {} in {} objects", output.size(deleted.bytes), deleted.objects));
    if totals.waiting.objects > 0 {
        let until = totals.waiting_until.map(|time| format_local(timestamp(time), &context.now));
        output.note(&format!(
            "announced: {} in {} objects, to be deleted by a prune after {}",
            output.size(totals.waiting.bytes),
            totals.waiting.objects,
            until.unwrap_or_default()
        ));
    }
    if report.locked.objects > 0 {
        output.note(&format!(
            "{} in {} objects could go, and stays until its locks end",
            output.size(report.locked.bytes),
            report.locked.objects
        ));
    }
    if totals.held.objects > 0 {
        let text = "not needed yet, perhaps of running backups";
        output.note(&format!(
            "{} in {} objects {text}",
            output.size(totals.held.bytes),
            totals.held.objects
        ));
    }
    output.note(&format!(
        "{} in packs is not used by any snapshot",
        output.size(totals.unused_bytes)
    ));
    if let Some(repacked) = repacked {
        output.note(&format!(
            "wrote {} anew as {}, for {} snapshots",
            output.size(repacked.old.bytes),
            output.size(repacked.new.bytes),
            repacked.snapshots
        ));
    } else if totals.repack_freed_bytes > 0 {
        let freed = output.size(totals.repack_freed_bytes);
        output.note(&format!("--repack would free {freed} of it"));
    }
    for missing in &report.plan.missing {
        output.warning(&format!("{missing} is needed and missing; see holdfast check"));
    }
    let until = totals.waiting_until.map(|time| format_rfc3339(timestamp(time)));
    output.summary(
        Exit::Done,
        &json!({
            "dry_run": args.dry_run,
            "deleted_objects": deleted.objects, "deleted_bytes": deleted.bytes,
            "waiting_objects": totals.waiting.objects, "waiting_bytes": totals.waiting.bytes,
            "locked_objects": report.locked.objects, "locked_bytes": report.locked.bytes,
            "waiting_until": until, "held_bytes": totals.held.bytes,
            "unused_bytes": totals.unused_bytes, "repackable_bytes": totals.repack_freed_bytes,
            "repacked_bytes": repacked.map(|repacked| repacked.old.bytes),
            "missing": report.plan.missing, "grace_seconds": report.grace.as_secs(),
        }),
    );
}
