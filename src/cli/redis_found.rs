//! Dumps of Redis in snapshots: which one is meant, and its bytes.

use std::io::Write;

use crate::cli::command::restore_run;
use crate::cli::context::Context;
use crate::cli::error::CommandError;
use crate::cli::explain::redis;
use crate::cli::reading::Reading;
use crate::cli::redis::failed;
use crate::cli::selector::{Selector, Which};
use crate::format::redis::aof_facts::AofFacts;
use crate::format::redis::facts::RecordFacts;
use crate::format::redis::server_facts::{DumpFacts, RedisFacts};
use crate::format::snapshot::{Root, Snapshot};
use crate::progress::Progress;
use crate::restore::cat::cat;
use crate::restore::error::RestoreError;
use crate::source::redis::error::RedisError;

/// A dump.
pub struct FoundDump {
    /// Id of its snapshot.
    pub id: String,
    /// Its snapshot.
    pub snapshot: Snapshot,
    /// Where it lies in there.
    pub path: Vec<u8>,
    /// What its server said, where it came from one.
    pub facts: Option<DumpFacts>,
}

/// The dump that is meant: the only one of the newest snapshot that has one, or that at the path.
///
/// # Errors
/// There is none.
pub fn find(
    reading: &Reading,
    context: &Context,
    selector: &Selector,
) -> Result<FoundDump, CommandError> {
    let (record, snapshot) = reading.select(context, selector)?;
    let id = record.name.id.to_string();
    if let Some(path) = &selector.path {
        let path = path.trim_matches('/').as_bytes().to_vec();
        let root = snapshot.roots.iter().find(|root| *root.path == *path);
        let facts = root.and_then(facts_of);
        return Ok(FoundDump { id, snapshot, path, facts });
    }
    if let Some((path, facts)) = only_dump(&snapshot) {
        return Ok(FoundDump { id, snapshot, path, facts });
    }
    // The newest of a source may be something else: its journal.
    if let (Which::Source(name), 0) = (&selector.which, selector.back) {
        for (record, snapshot) in reading.all(context).into_iter().rev() {
            if snapshot.source != *name {
                continue;
            }
            if let Some((path, facts)) = only_dump(&snapshot) {
                let id = record.name.id.to_string();
                return Ok(FoundDump { id, snapshot, path, facts });
            }
        }
    }
    let what = format!("snapshot {} has no dump of Redis, or several", &id[..8]);
    Err(CommandError::new(&redis::NO_DUMP, what))
}

/// Whether the snapshot is a dump of Redis, a journal or an append-only file of it.
#[must_use]
pub fn is_of_redis(snapshot: &Snapshot) -> bool {
    let is_redis = |root: &Root| {
        let facts = root.facts.as_ref().map(RedisFacts::decode);
        let is_append_only =
            root.facts.as_ref().is_some_and(|facts| AofFacts::decode(facts).is_some());
        is_dump(root) || is_append_only || matches!(facts, Some(Ok(Some(_))))
    };
    snapshot.roots.iter().any(is_redis)
}

fn only_dump(snapshot: &Snapshot) -> Option<(Vec<u8>, Option<DumpFacts>)> {
    let mut dumps = snapshot.roots.iter().filter(|root| is_dump(root));
    match (dumps.next(), dumps.next()) {
        (Some(root), None) => Some((root.path.clone(), facts_of(root))),
        _ => None,
    }
}

/// What the server of a dump said.
fn facts_of(root: &Root) -> Option<DumpFacts> {
    match root.facts.as_ref().map(RedisFacts::decode) {
        Some(Ok(Some(RedisFacts::Redis(facts)))) => Some(facts),
        _ => None,
    }
}

/// Whether a root is a dump. One of a form that is not known is one all the same: reading it says
/// what is wrong.
fn is_dump(root: &Root) -> bool {
    facts_of(root).is_some() || !matches!(RecordFacts::of(root.facts.as_ref()), Ok(None))
}

/// What takes the bytes of a dump.
pub type Take<'a> = dyn FnMut(&[u8]) -> Result<(), RedisError> + 'a;

/// Why the bytes did not get to where they should.
#[derive(Debug)]
pub enum FeedError {
    /// They could not be read.
    Read(RestoreError),
    /// They were not taken.
    Taken(RedisError),
}

impl From<FeedError> for CommandError {
    fn from(error: FeedError) -> Self {
        match error {
            FeedError::Read(error) => restore_run::failed(error),
            FeedError::Taken(error) => failed(&error),
        }
    }
}

struct Taker<'a, 'b> {
    take: &'a mut Take<'b>,
    failure: Option<RedisError>,
}

impl Write for Taker<'_, '_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        match (self.take)(bytes) {
            Ok(()) => Ok(bytes.len()),
            Err(error) => {
                self.failure = Some(error);
                Err(std::io::ErrorKind::BrokenPipe.into())
            }
        }
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl FoundDump {
    /// Gives the bytes of the dump to `take`, in order; their hash is that of the snapshot.
    ///
    /// # Errors
    /// Also after some were given.
    pub fn feed(
        &self,
        reading: &Reading,
        progress: &Progress,
        take: &mut Take<'_>,
    ) -> Result<(), FeedError> {
        let mut taker = Taker { take, failure: None };
        let path = [b"/", &self.path[..]].concat();
        let given = cat(&reading.access, &self.snapshot, &path, &mut taker, 0, progress);
        match (given, taker.failure) {
            (_, Some(failure)) => Err(FeedError::Taken(failure)),
            (Err(error), None) => Err(FeedError::Read(error)),
            (Ok(_), None) => Ok(()),
        }
    }
}
