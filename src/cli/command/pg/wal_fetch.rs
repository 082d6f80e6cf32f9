//! `holdfast pg wal-fetch`: gives a recovering server a file of the write-ahead log.
#![allow(clippy::doc_markdown, reason = "the doc comments are help texts, read in a terminal")]

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::json;

use crate::backup::postgres_wal::wal_source;
use crate::cli::context::Context;
use crate::cli::error::{CommandError, Exit};
use crate::cli::explain::restore;
use crate::cli::postgres::{KnownSources, only_name};
use crate::cli::postgres_bases::bases_of;
use crate::cli::reading::Reading;
use crate::cli::wal_archive::{FoundFile, WalArchive};

const AFTER_HELP: &str = "\
Exit code 0: the file is there. 1: the repository does not have it, which a recovering server takes
for the end of the log. 255: any other trouble, at which the server stops instead of going on as if
the log ended there.

The repository is read, so it needs a key: --identity-file or --password-file.";

/// Arguments of `pg wal-fetch`.
#[derive(Debug, Clone, Args)]
#[command(after_help = AFTER_HELP)]
pub struct WalFetchArgs {
    /// Name of the file, %f of restore_command
    #[arg(value_name = "FILE")]
    pub file: String,
    /// Where to put it, %p of restore_command
    #[arg(value_name = "PATH")]
    pub path: PathBuf,
    /// Name of the source [default: the only one there is]
    #[arg(long, value_name = "NAME")]
    pub source: Option<String>,
}

/// Fetches the file.
pub fn run(args: &WalFetchArgs, context: &Context) -> Result<Exit, CommandError> {
    let reading = Reading::open(context)?;
    let known = KnownSources::read_at(&reading.repository.state)?;
    let name = args.source.clone().map_or_else(|| only_name(context, &known), Ok)?;
    let system = match system_beside(&args.path) {
        Some(system) => Some(system),
        None => {
            bases_of(&reading, context, &name, None)?.pop().map(|base| base.facts.cluster.system)
        }
    };
    let archive = WalArchive::read(&reading, context, &wal_source(&name), system.as_deref())?;
    let Some(found) = archive.find(&args.file)? else {
        context.output.summary(Exit::NotArchived, &json!({ "file": args.file, "found": false }));
        return Ok(Exit::NotArchived);
    };
    write(&archive, &found, &args.path)?;
    context.output.summary(Exit::Done, &json!({ "file": args.file, "found": true }));
    Ok(Exit::Done)
}

/// System identifier of the cluster in whose folder of the log the path is.
#[must_use]
pub fn system_beside(path: &Path) -> Option<String> {
    let folder = path.parent().unwrap_or(Path::new("."));
    let mut system = [0; 8];
    File::open(folder.join("../global/pg_control")).ok()?.read_exact(&mut system).ok()?;
    Some(u64::from_ne_bytes(system).to_string())
}

/// Puts the whole file at `path`, or nothing.
fn write(archive: &WalArchive<'_>, found: &FoundFile<'_>, path: &Path) -> Result<(), CommandError> {
    let failed = |error: &std::io::Error| {
        let what = format!("cannot write {}", path.display());
        CommandError::new(&restore::TARGET, what).because(error)
    };
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(format!(".holdfast-{}", std::process::id()));
    let temporary = PathBuf::from(temporary);
    let made = (|| {
        let mut file = File::create(&temporary).map_err(|error| failed(&error))?;
        archive.copy(found, &mut file)?;
        file.flush().and_then(|()| file.sync_all()).map_err(|error| failed(&error))?;
        std::fs::rename(&temporary, path).map_err(|error| failed(&error))
    })();
    if made.is_err() {
        drop(std::fs::remove_file(&temporary));
    }
    made
}
