//! `holdfast restore … --target dump.rdb`: a dump of Redis or Valkey as the file itself.

use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use crate::cli::command::restore::{Overwrite as OverwriteChoice, RestoreArgs};
use crate::cli::command::restore_run::failed;
use crate::cli::error::CommandError;
use crate::cli::explain;
use crate::cli::reading::Reading;
use crate::format::redis::facts::RecordFacts;
use crate::format::snapshot::Snapshot;
use crate::progress::Progress;
use crate::restore::cat::cat;
use crate::restore::execute::RestoreReport;

/// Whether the snapshot is one dump, and the target is to be that file: not a folder that is there,
/// and called `….rdb`.
#[must_use]
pub fn is_file(snapshot: &Snapshot, path: &[u8], target: &Path) -> bool {
    let [root] = &snapshot.roots[..] else { return false };
    let is_dump = matches!(RecordFacts::of(root.facts.as_ref()), Ok(Some(_)));
    let is_named = target.extension().is_some_and(|extension| extension == "rdb");
    is_dump && path.is_empty() && is_named && !target.is_dir()
}

/// Writes the dump beside its place, and puts it there when it is whole and durable.
pub fn to_file(
    reading: &Reading,
    snapshot: &Snapshot,
    target: &Path,
    args: &RestoreArgs,
    progress: &Progress,
) -> Result<(RestoreReport, Option<u64>), CommandError> {
    let unwritable = |error: std::io::Error| {
        let what = format!("cannot write {}", target.display());
        CommandError::new(&explain::restore::TARGET, what).because(&error)
    };
    if target.symlink_metadata().is_ok() && args.overwrite == OverwriteChoice::Never {
        return Ok((RestoreReport { unchanged: 1, ..RestoreReport::default() }, None));
    }
    let mut report = RestoreReport { files: 1, ..RestoreReport::default() };
    let path = snapshot.roots.first().map(|root| root.path.clone()).unwrap_or_default();
    if args.dry_run {
        return Ok((report, None));
    }
    let mut name = target.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.tmp", std::process::id()));
    let temporary = target.with_file_name(name);
    let mut options = File::options();
    let file = options.write(true).create_new(true).mode(0o600).open(&temporary);
    let mut file = BufWriter::new(file.map_err(unwritable)?);
    let written = cat(&reading.access, snapshot, &path, &mut file, 0, progress).map_err(failed);
    let written = written.and_then(|bytes| {
        let folder = target.parent().filter(|folder| !folder.as_os_str().is_empty());
        let durable = file.flush().and_then(|()| file.get_ref().sync_all());
        durable
            .and_then(|()| std::fs::rename(&temporary, target))
            .and_then(|()| File::open(folder.unwrap_or(Path::new(".")))?.sync_all())
            .map_err(unwritable)?;
        Ok(bytes)
    });
    if written.is_err() {
        // The error says more than a file that cannot be removed.
        drop(std::fs::remove_file(&temporary));
    }
    report.bytes = written?;
    Ok((report, None))
}
