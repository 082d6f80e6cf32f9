//! `holdfast doctor`: looks what the place of a repository really keeps.
#![allow(clippy::doc_markdown, reason = "the doc comments are help texts, read in a terminal")]

use clap::Args;
use serde_json::json;

use crate::cli::context::Context;
use crate::cli::error::{CommandError, Exit};
use crate::cli::known_addresses;
use crate::cli::place::open_store;
use crate::repo::error::RepoError;
use crate::repo::open::Repository;
use crate::store::capabilities::{Capabilities, ProbeLine, Verdict};

const AFTER_HELP: &str = "\
Example:
  holdfast doctor -r s3://bucket/prefix --endpoint https://s3.example.org

It stores some small objects below tmp/, tries to overwrite and to delete them, and removes them
but for tmp/probe-conditions.
A repository need not be there yet. Exit code 4: something is wrong.";

/// Arguments of `doctor`.
#[derive(Debug, Clone, Copy, Args)]
#[command(after_help = AFTER_HELP)]
pub struct DoctorArgs {}

/// Probes, compares with what was found before, and ends with code 4 where anything is wrong.
pub fn run(_: DoctorArgs, context: &Context) -> Result<Exit, CommandError> {
    let location = context.location()?;
    let store = open_store(&location.place, &location.s3)?;
    // Some services make a bucket that is not there when something is put into it.
    store.list("roster/", &mut |_| {})?;
    let found = store.probe()?;
    known_addresses::remember_or_warn(context, &location.place, &*store);
    let mut lines = found.lines();
    if let Some(bytes) = found.free_bytes {
        let what = format!("{} are free", context.output.size(bytes));
        lines.push(ProbeLine { verdict: Verdict::Kept, what, advice: None });
    }
    match Repository::open(store, &context.state_dir()?, None) {
        Ok(repository) => {
            lines.extend(compared(&repository, &found)?);
            let what = "a repository is there, and its roster is signed".to_owned();
            lines.push(ProbeLine { verdict: Verdict::Kept, what, advice: None });
        }
        Err(RepoError::NotThere { .. }) => {
            let what = "there is no repository yet".to_owned();
            let advice = Some("holdfast init makes one");
            lines.push(ProbeLine { verdict: Verdict::NotOffered, what, advice });
        }
        Err(error) => return Err(error.into()),
    }
    print(context, &lines);
    let is_broken = lines.iter().any(|line| line.verdict == Verdict::Broken);
    let exit = if is_broken { Exit::Findings } else { Exit::Done };
    context.output.summary(exit, &json!({ "capabilities": found }));
    Ok(exit)
}

/// What has changed since the last probe; what is there now is recorded.
fn compared(repository: &Repository, found: &Capabilities) -> Result<Vec<ProbeLine>, CommandError> {
    let before = repository.state.capabilities()?;
    repository.state.set_capabilities(found)?;
    let changes = before.map(|before| found.changes_since(&before)).unwrap_or_default();
    let advice = Some("ask whoever runs the service, before the next backup");
    let line = |what| ProbeLine { verdict: Verdict::Broken, what, advice };
    Ok(changes.into_iter().map(line).collect())
}

fn print(context: &Context, lines: &[ProbeLine]) {
    for line in lines {
        let mark = match line.verdict {
            Verdict::Kept => '✓',
            Verdict::NotOffered => '–',
            Verdict::Broken => '✗',
        };
        context.output.line(&format!("{mark} {}", line.what));
        if let Some(advice) = line.advice {
            context.output.line(&format!("    {advice}"));
        }
        context.output.item(line);
    }
}
