//! `holdfast copy --reencrypt`: the snapshots of one repository in another one, which other people
//! can open.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use serde_json::json;

use crate::backup::run::{RootSource, SnapshotLabel, run as run_backup};
use crate::backup::snapshot_root::SnapshotRoot;
use crate::cli::command::backup_run::{backup_error, level};
use crate::cli::context::Context;
use crate::cli::error::{CommandError, Exit};
use crate::cli::explain::replica;
use crate::cli::maintaining::short;
use crate::cli::open_repository::open_at;
use crate::cli::reading::{FoundSnapshot, Reading, made_at};
use crate::cli::replicas;
use crate::clock::SystemClock;
use crate::progress::Progress;
use crate::repo::open::Repository;
use crate::repo::session::SessionOptions;
use crate::repo::state::{read_json, write_json};
use crate::units::format_duration;

const FILE: &str = "reencrypted.json";

/// Which snapshots of other repositories have been saved anew, and as which.
type Done = BTreeMap<String, String>;

/// Saves every listed snapshot that was not saved there before.
pub fn run(to: &str, dry_run: bool, context: &Context) -> Result<Exit, CommandError> {
    let reading = Reading::open(context)?;
    let named = replicas::find(context, reading.repository.state.path(), to)?;
    let target = open_at(context, &named.place, &named.s3, None)?;
    if target.id == reading.repository.id {
        let what = format!("{} is a copy of this repository", target.store.location());
        return Err(CommandError::new(&replica::SAME, what)
            .hint("holdfast copy without --reencrypt")
            .hint("a repository of its own is made by holdfast init"));
    }
    let mut done = read(&target)?;
    let started = Instant::now();
    let (mut copied, mut stored, mut is_partial) = (0_u64, 0_u64, false);
    let readable = reading.all(context);
    let mut damaged = (reading.history.live().count() - readable.len()) as u64;
    for found in readable {
        let id = found.0.name.id.to_string();
        if done.contains_key(&id) {
            continue;
        }
        if dry_run {
            copied += 1;
            continue;
        }
        let (new, bytes, partial) = match save(context, &reading, &target, &found) {
            Ok(saved) => saved,
            // What is damaged of one snapshot does not keep the others here.
            Err(error) if error.exit() == Exit::SourceFailed => {
                let causes = error.causes().join(": ");
                let what = format!("snapshot {} is not saved: {causes}", &id[..8]);
                context.output.warning(&what);
                damaged += 1;
                continue;
            }
            Err(error) => return Err(error),
        };
        copied += 1;
        context.output.line(&format!("snapshot {} is {} there", &id[..8], &new[..8]));
        context.output.item(&json!({ "snapshot": id, "saved_as": new, "stored_bytes": bytes }));
        stored += bytes;
        is_partial |= partial;
        done.insert(id, new);
        write(&target, &done)?;
    }
    let verb = if dry_run { "Would save" } else { "Saved" };
    context.output.note(&format!(
        "{verb} {copied} snapshots in {} ({} stored); {} were there",
        format_duration(started.elapsed()),
        context.output.size(stored),
        done.len() as u64 - if dry_run { 0 } else { copied },
    ));
    let exit = match (damaged, is_partial) {
        (1.., _) => Exit::Findings,
        (0, true) => Exit::Partial,
        (0, false) => Exit::Done,
    };
    context.output.summary(
        exit,
        &json!({
            "snapshots": copied, "stored_bytes": stored, "dry_run": dry_run,
            "place": target.store.location(), "seconds": started.elapsed().as_secs_f64(),
            "damaged": damaged,
        }),
    );
    if damaged > 0 {
        let what = format!("{damaged} snapshots are damaged here, and are not there");
        return Err(CommandError::new(&replica::DAMAGED, what).hint("holdfast repair --from"));
    }
    Ok(exit)
}

/// Saves one snapshot; its new id, what was stored, and whether items are missing in it.
fn save(
    context: &Context,
    reading: &Reading,
    target: &Repository,
    found: &FoundSnapshot<'_>,
) -> Result<(String, u64, bool), CommandError> {
    let (record, snapshot) = found;
    let label = SnapshotLabel {
        source: snapshot.source.clone(),
        host: snapshot.host.clone(),
        user: snapshot.user.clone(),
        time: made_at(record, Some(snapshot)),
        tags: snapshot.tags.clone(),
    };
    let mut partial = snapshot.partial;
    let mut roots: Vec<Box<dyn RootSource>> = Vec::new();
    for root in &snapshot.roots {
        let access = Arc::clone(&reading.access);
        let is_partial = std::mem::take(&mut partial);
        roots.push(Box::new(SnapshotRoot::new(access, root.clone(), is_partial)));
    }
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let options = SessionOptions { threads, level: level(context) };
    let progress = Arc::new(Progress::default());
    let watch = context.watch(&progress);
    let result =
        run_backup(target.clone(), Arc::new(SystemClock), options, &label, roots, &progress);
    watch.finish();
    let summary = result.map_err(backup_error)?;
    let id = summary.committed.map(|committed| committed.snapshot.id.to_string());
    let id = id.unwrap_or_else(|| short(&record.name.id));
    Ok((id, summary.statistics.stored_bytes, summary.is_partial))
}

fn read(target: &Repository) -> Result<Done, CommandError> {
    Ok(read_json(&target.state.path().join(FILE))?.unwrap_or_default())
}

fn write(target: &Repository, done: &Done) -> Result<(), CommandError> {
    Ok(write_json(&target.state.path().join(FILE), done)?)
}
