//! Dumps of Redis and Valkey that come as a file, or by standard input; append-only files.

use std::fs::File;
use std::io::{Cursor, Read as _};
use std::path::{Path, PathBuf};

use crate::backup::dump_records::RedisRecords;
use crate::backup::redis_aof;
use crate::backup::run::{BackupSummary, RootSource};
use crate::backup::stream::StreamRoot;
use crate::cli::context::Context;
use crate::cli::error::CommandError;
use crate::cli::explain::{redis, source, usage};
use crate::cli::time::format_rfc3339;
use crate::format::redis::aof_facts::AofFacts;
use crate::format::redis::dump_parts::is_dump;
use crate::format::redis::facts::DumpOrder;
use crate::format::snapshot::Facts;
use crate::source::redis::aof::{AofError, AofPlace};
use crate::source::stream::ReaderStream;

/// Bytes by which a dump is recognised.
const FIRST_BYTES: u64 = 9;

/// Standard input as a stream of that name: by its records where it is a dump, unless it is to be
/// stored `plain`.
pub fn stdin_root(
    name: &str,
    order: DumpOrder,
    is_plain: bool,
) -> Result<Box<dyn RootSource>, CommandError> {
    if is_plain {
        let open = || Ok(Box::new(ReaderStream::standard_input()) as _);
        return Ok(Box::new(StreamRoot::new(name.to_owned(), Box::new(open))));
    }
    let mut first = Vec::new();
    std::io::stdin().take(FIRST_BYTES).read_to_end(&mut first).map_err(|error| {
        CommandError::new(&source::STDIN, "standard input cannot be read").because(&error)
    })?;
    let is_records = is_dump(&first) == Some(true);
    let bytes = Cursor::new(first).chain(std::io::stdin());
    let open = move || Ok(Box::new(ReaderStream::new("standard input", bytes)) as _);
    if !is_records {
        return Ok(Box::new(StreamRoot::new(name.to_owned(), Box::new(open))));
    }
    let (root, name) = (format!("stream:{name}"), name.to_owned());
    Ok(Box::new(RedisRecords::new(root, name, order, Box::new(open), Box::new(file_facts))))
}

/// Takes `NAME=FILE` apart.
pub fn named_file(option: &str, text: &str) -> Result<(String, PathBuf), CommandError> {
    let named = text.split_once('=').filter(|(name, file)| !name.is_empty() && !file.is_empty());
    let (name, file) = named.ok_or_else(|| {
        let what = format!("{option} {text}: NAME=PATH is expected");
        CommandError::new(&usage::ARGUMENT, what)
    })?;
    Ok((name.to_owned(), PathBuf::from(file)))
}

/// A file that holds a dump, as source of that name.
pub fn file_root(
    name: &str,
    path: &Path,
    order: DumpOrder,
) -> Result<Box<dyn RootSource>, CommandError> {
    let failed = |error| {
        let what = format!("{} cannot be read", path.display());
        CommandError::new(&source::NO_DUMP, what).because(&error)
    };
    let mut file = File::open(path).map_err(failed)?;
    let mut first = Vec::new();
    file.by_ref().take(FIRST_BYTES).read_to_end(&mut first).map_err(failed)?;
    if is_dump(&first) != Some(true) {
        let what = format!("{} is no dump of Redis or Valkey", path.display());
        return Err(CommandError::new(&source::NO_DUMP, what));
    }
    let (bytes, shown) = (Cursor::new(first).chain(file), path.display().to_string());
    let open = move || Ok(Box::new(ReaderStream::new(shown, bytes)) as _);
    let (root, file) = (format!("redis:{name}"), format!("{name}.rdb"));
    Ok(Box::new(RedisRecords::new(root, file, order, Box::new(open), Box::new(file_facts))))
}

/// The files of an append-only file, as source of that name.
pub fn aof_roots(name: &str, path: &Path) -> Result<Vec<Box<dyn RootSource>>, CommandError> {
    let failed = |error: AofError| CommandError::classify(&error, &redis::NO_AOF);
    let pinned = AofPlace::find(path).and_then(|place| place.pin()).map_err(failed)?;
    Ok(redis_aof::aof_roots(name, pinned, &format_rfc3339(jiff::Timestamp::now())))
}

/// Says how much of an append-only file was left out, where something was.
pub fn report_left_out(context: &Context, summary: &BackupSummary) {
    let found = summary.facts.iter().filter_map(AofFacts::decode);
    for facts in found.filter(|facts| facts.left_out > 0) {
        let (bytes, id) = (facts.left_out, redis::AOF_TAIL.id);
        context.output.warning(&format!(
            "the append-only file ends within a command: {bytes} bytes are left out ({id})"
        ));
    }
}

/// What is known of a dump whose server is not: its kind.
fn file_facts() -> Facts {
    let mut facts = Facts::new();
    facts.insert("kind".into(), "redis-file".into());
    facts
}
