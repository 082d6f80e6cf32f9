//! What `holdfast restore --to-time` does with a Redis source: a folder in which a server starts.
//!
//! From version 7 on an append-only directory: the dump as its base, the commands after it as its
//! increment, the manifest; for older ones a single file that has both. It gets its name when
//! everything in it is durable: a server that found half of it would begin with half of the data.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Instant;

use serde_json::json;

use crate::cli::command::restore::RestoreArgs;
use crate::cli::command::restore_run::failed;
use crate::cli::context::Context;
use crate::cli::error::{CommandError, Exit};
use crate::cli::explain::{redis, restore as explain_restore, usage};
use crate::cli::maintaining::short;
use crate::cli::postgres_recovery::{PointArgs, PointWord};
use crate::cli::reading::Reading;
use crate::cli::redis_archive::{Dump, RedisArchive, shown_ms};
use crate::format::redis::reach::Plan;
use crate::format::redis::replay::Replayed;
use crate::progress::Progress;
use crate::restore::cat::cat;
use crate::units::format_duration;

/// The folder in which servers keep their append-only files.
pub const FOLDER: &str = "appendonlydir";
/// What older servers keep beside each other instead.
pub const FILE: &str = "appendonly.aof";
/// The dump in there.
pub const BASE: &str = "appendonly.aof.1.base.rdb";
const INCREMENT: &str = "appendonly.aof.1.incr.aof";
/// Databases that a server has where nobody says more.
const DATABASES_DEFAULT: u32 = 16;
const MANIFEST: &str = "appendonly.aof.manifest";

/// The moment that is asked for; none is the newest.
///
/// # Errors
/// `HF-USE-001` where it is a point that Redis does not have.
pub fn moment_of(
    point: &PointArgs,
    context: &Context,
) -> Result<Option<jiff::Timestamp>, CommandError> {
    if let Some(text) = &point.to_time {
        return context.moment(text).map(Some);
    }
    match point.to {
        Some(PointWord::Latest) => Ok(None),
        _ => Err(CommandError::new(&usage::ARGUMENT, "a Redis source has moments only")
            .hint("--to-time TIME, or --to latest")),
    }
}

/// Restores a folder.
pub fn run(
    reading: &Reading,
    source: &str,
    args: &RestoreArgs,
    context: &Context,
) -> Result<Exit, CommandError> {
    let started = Instant::now();
    let moment = moment_of(&args.postgres.point, context)?;
    let target = args.target.as_deref().ok_or_else(|| {
        CommandError::new(&usage::ARGUMENT, "a moment of a Redis server needs --target DIR")
    })?;
    let archive = RedisArchive::read(reading, context, source)?;
    let plan = archive.plan(moment)?;
    let dump = &archive.dumps[plan.dump];
    check_target(target)?;
    say_what_comes(context, dump, &plan);
    if args.dry_run {
        context.output.summary(Exit::Done, &json!({ "dry_run": true }));
        return Ok(Exit::Done);
    }
    let Written { bytes, commands, database_max } = write_folder(reading, &archive, &plan, target)?;
    let output = &context.output;
    // A server that has fewer puts the commands of the others into another one.
    let databases = if database_max < DATABASES_DEFAULT {
        String::new()
    } else {
        format!(" --databases {}", database_max + 1)
    };
    output.note(&format!(
        "Restored a dump of {} and {commands} commands after it in {}",
        output.size(bytes),
        format_duration(started.elapsed()),
    ));
    output.note(&format!(
        "Ready: start {} {} with --dir {} --appendonly yes{databases}",
        dump.facts.server,
        dump.facts.version,
        target.display()
    ));
    output.summary(
        Exit::Done,
        &json!({
            "snapshot": dump.found.0.name.id.to_string(), "target": target.display().to_string(),
            "bytes": bytes, "commands": commands, "moment": shown_ms(plan.moment),
            "keys": dump.facts.keys_count(), "database_max": database_max, "seconds": started.elapsed().as_secs_f64(),
        }),
    );
    Ok(Exit::Done)
}

/// Says from what to where.
pub fn say_what_comes(context: &Context, dump: &Dump<'_>, plan: &Plan) {
    context.output.note(&format!(
        "From dump {} ({}) to {}",
        short(&dump.found.0.name.id),
        dump.facts.moment,
        shown_ms(plan.moment)
    ));
}

/// Only where a server would find nothing else.
fn check_target(target: &Path) -> Result<(), CommandError> {
    for name in [FOLDER, FILE, "dump.rdb"] {
        let path = target.join(name);
        if path.symlink_metadata().is_ok() {
            let what = format!("{} is there already", path.display());
            return Err(CommandError::new(&redis::TARGET, what));
        }
    }
    Ok(())
}

/// What was written.
pub struct Written {
    /// Length of the dump.
    pub bytes: u64,
    /// Number of the commands after it.
    pub commands: u64,
    /// The highest number of a database that any of them needs.
    pub database_max: u32,
}

/// Writes what a server of the dump's version starts from.
///
/// # Errors
/// Nothing that a server would start from is left.
pub fn write_folder(
    reading: &Reading,
    archive: &RedisArchive<'_>,
    plan: &Plan,
    target: &Path,
) -> Result<Written, CommandError> {
    let dump = &archive.dumps[plan.dump];
    let major = dump.facts.version.split('.').next().and_then(|major| major.parse().ok());
    let is_single = dump.facts.server == "redis" && major.is_some_and(|major: u32| major < 7);
    let mut builder = std::fs::DirBuilder::new();
    builder.recursive(true).mode(0o700);
    builder.create(target).map_err(|error| unwritable(target, &error))?;
    let temporary = target.join(format!("holdfast-{}.part", std::process::id()));
    let written = if is_single {
        write_single(reading, archive, plan, &temporary)
    } else {
        builder.create(&temporary).map_err(|error| unwritable(&temporary, &error))?;
        write_parts(reading, archive, plan, &temporary)
    };
    let place = target.join(if is_single { FILE } else { FOLDER });
    let placed = written.and_then(|written| {
        let renamed = std::fs::rename(&temporary, &place).and_then(|()| sync(target));
        renamed.map(|()| written).map_err(|error| unwritable(&place, &error))
    });
    if placed.is_err() {
        // The error says more than what cannot be removed.
        drop(std::fs::remove_dir_all(&temporary));
        drop(std::fs::remove_file(&temporary));
    }
    placed
}

fn write_single(
    reading: &Reading,
    archive: &RedisArchive<'_>,
    plan: &Plan,
    path: &Path,
) -> Result<Written, CommandError> {
    let mut file = AppendOnly::create(path, Annotations::None)?;
    let bytes = copy_dump(reading, &archive.dumps[plan.dump], &mut file.file)?;
    let (commands, database_max) = archive.replay(plan, &mut file)?;
    file.finish()?;
    Ok(Written { bytes, commands, database_max })
}

fn write_parts(
    reading: &Reading,
    archive: &RedisArchive<'_>,
    plan: &Plan,
    folder: &Path,
) -> Result<Written, CommandError> {
    let mut base = AppendOnly::create(&folder.join(BASE), Annotations::None)?;
    let bytes = copy_dump(reading, &archive.dumps[plan.dump], &mut base.file)?;
    base.finish()?;
    let mut increment = AppendOnly::create(&folder.join(INCREMENT), Annotations::Seconds(0))?;
    let (commands, database_max) = archive.replay(plan, &mut increment)?;
    increment.finish()?;
    let mut manifest = AppendOnly::create(&folder.join(MANIFEST), Annotations::None)?;
    let text = format!("file {BASE} seq 1 type b\nfile {INCREMENT} seq 1 type i\n");
    manifest.bytes(text.as_bytes())?;
    manifest.finish()?;
    sync(folder).map_err(|error| unwritable(folder, &error))?;
    Ok(Written { bytes, commands, database_max })
}

fn copy_dump(reading: &Reading, dump: &Dump<'_>, out: &mut dyn Write) -> Result<u64, CommandError> {
    let snapshot = &dump.found.1;
    let path = snapshot.roots.first().map(|root| root.path.clone()).unwrap_or_default();
    cat(&reading.access, snapshot, &path, out, 0, &Progress::default()).map_err(failed)
}

fn sync(folder: &Path) -> std::io::Result<()> {
    File::open(folder)?.sync_all()
}

fn unwritable(path: &Path, error: &std::io::Error) -> CommandError {
    let what = format!("cannot write {}", path.display());
    CommandError::new(&explain_restore::TARGET, what).because(error)
}

/// Whether the second of the commands that follow stands in the file.
enum Annotations {
    None,
    /// The last one that was written.
    Seconds(u64),
}

/// An append-only file that is being written.
struct AppendOnly {
    path: PathBuf,
    file: BufWriter<File>,
    annotations: Annotations,
}

impl AppendOnly {
    fn create(path: &Path, annotations: Annotations) -> Result<Self, CommandError> {
        let mut options = File::options();
        let file = options.write(true).create_new(true).mode(0o600).open(path);
        let file = BufWriter::new(file.map_err(|error| unwritable(path, &error))?);
        Ok(Self { path: path.to_owned(), file, annotations })
    }

    fn finish(mut self) -> Result<(), CommandError> {
        let written = self.file.flush().and_then(|()| self.file.get_ref().sync_all());
        written.map_err(|error| unwritable(&self.path, &error))
    }
}

impl Replayed for AppendOnly {
    type Error = CommandError;

    fn begin(&mut self, time_ms: u64) -> Result<(), CommandError> {
        let second = time_ms / 1000;
        match &mut self.annotations {
            Annotations::Seconds(last) if *last < second => *last = second,
            _ => return Ok(()),
        }
        self.bytes(format!("#TS:{second}\r\n").as_bytes())
    }

    fn bytes(&mut self, bytes: &[u8]) -> Result<(), CommandError> {
        self.file.write_all(bytes).map_err(|error| unwritable(&self.path, &error))
    }
}
