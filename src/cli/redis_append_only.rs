//! A saved append-only file, put where a server of ours finds it.
//!
//! Under the names that a server has where nobody says others: the list names its files without a
//! folder, so they keep theirs.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::cli::command::restore_run;
use crate::cli::context::Context;
use crate::cli::error::CommandError;
use crate::cli::explain::{redis, restore as explain_restore};
use crate::cli::reading::Reading;
use crate::format::redis::aof_facts::{AofFacts, AofPart};
use crate::format::redis::aof_log::AofLog;
use crate::format::snapshot::{Root, Snapshot};
use crate::progress::Progress;
use crate::restore::cat::cat;
use crate::source::redis::local_server::{APPEND_ONLY_FILE, APPEND_ONLY_FOLDER};

/// What was put there.
pub struct AppendOnly {
    /// The file that the data begin with; none where that are commands of a list.
    pub base: Option<PathBuf>,
    /// The highest number of a database that is needed.
    pub database_max: u32,
}

/// What the files of an append-only file say, where the snapshot is of one.
#[must_use]
pub fn facts_of(snapshot: &Snapshot) -> Option<AofFacts> {
    snapshot.roots.iter().find_map(|root| AofFacts::decode(root.facts.as_ref()?))
}

/// Writes the files below `run`.
///
/// # Errors
/// They are damaged, or cannot be written.
pub fn write_files(
    reading: &Reading,
    context: &Context,
    snapshot: &Snapshot,
    run: &Path,
) -> Result<AppendOnly, CommandError> {
    let mut written = AppendOnly { base: None, database_max: 0 };
    let progress = Arc::new(Progress::default());
    let watch = context.watch(&progress);
    let all = snapshot.roots.iter().try_for_each(|root| {
        let Some(facts) = root.facts.as_ref().and_then(AofFacts::decode) else { return Ok(()) };
        let path = place_of(root, facts.part, run)?;
        let mut file = Scanned { file: BufWriter::new(create(&path)?), log: None };
        if facts.part != AofPart::Manifest {
            file.log = Some(AofLog::default());
        }
        let inside = [b"/", &root.path[..]].concat();
        cat(&reading.access, snapshot, &inside, &mut file, 0, &progress)
            .map_err(restore_run::failed)?;
        let closed = file.file.flush();
        closed.map_err(|error| unwritable(&path, &error))?;
        if let Some(mut log) = file.log {
            let kept = log.finish();
            kept.map_err(|error| CommandError::classify(&error, &redis::JOURNAL))?;
            written.database_max = written.database_max.max(log.database_max());
        }
        if matches!(facts.part, AofPart::Base | AofPart::Single) {
            written.base = Some(path);
        }
        Ok(())
    });
    watch.finish();
    all.map(|()| written)
}

/// Where a server looks for it.
fn place_of(root: &Root, part: AofPart, run: &Path) -> Result<PathBuf, CommandError> {
    let name = match part {
        AofPart::Single => return Ok(run.join(APPEND_ONLY_FILE)),
        AofPart::Manifest => format!("{APPEND_ONLY_FILE}.manifest"),
        AofPart::Base | AofPart::Incremental => {
            let path = String::from_utf8_lossy(&root.path);
            path.rsplit('/').next().unwrap_or_default().to_owned()
        }
    };
    let folder = run.join(APPEND_ONLY_FOLDER);
    let mut builder = std::fs::DirBuilder::new();
    let made = builder.recursive(true).mode(0o700).create(&folder);
    made.map_err(|error| unwritable(&folder, &error))?;
    Ok(folder.join(name))
}

fn create(path: &Path) -> Result<File, CommandError> {
    let file = File::options().write(true).create_new(true).mode(0o600).open(path);
    file.map_err(|error| unwritable(path, &error))
}

fn unwritable(path: &Path, error: &std::io::Error) -> CommandError {
    let what = format!("cannot write {}", path.display());
    CommandError::new(&explain_restore::TARGET, what).because(error)
}

/// A file that is looked at while it is written.
struct Scanned {
    file: BufWriter<File>,
    log: Option<AofLog>,
}

impl Write for Scanned {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        if let Some(log) = &mut self.log {
            log.take(bytes).map_err(std::io::Error::other)?;
        }
        self.file.write_all(bytes)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.file.flush()
    }
}
