//! A `PostgreSQL` cluster as a root, sent by `pg_basebackup`: for servers that we cannot talk to.
//!
//! The archive is taken apart by the same hands as that of `BASE_BACKUP`, and has the log that the
//! backup needs. Nothing is saved unless the program has ended well.

use std::io::Read;
use std::sync::Arc;

use crate::backup::cluster_feed::{Failure, Feed};
use crate::backup::cluster_files::ClusterFiles;
use crate::backup::error::BackupError;
use crate::backup::item::Item;
use crate::backup::ordered::Giver;
use crate::backup::page_watch::PageWatch;
use crate::backup::postgres_base::{base_facts, give_failure, name_bad_pages};
use crate::backup::previous_files::{Manifests, PreviousFiles};
use crate::backup::run::{RootSource, SnapshotLabel};
use crate::backup::sole_archive::SoleArchive;
use crate::backup::stream::Reading;
use crate::backup::successor::Successor;
use crate::chunker::{ChunkSizes, Chunker};
use crate::format::postgres::facts::{BaseFacts, PostgresFacts};
use crate::format::postgres::lsn::Lsn;
use crate::format::snapshot::Facts;
use crate::repo::session::WriteSession;
use crate::source::command::CommandStream;
use crate::source::error::SourceError;
use crate::source::postgres::client_tools::ClientTools;
use crate::source::postgres::error::PostgresError;
use crate::source::postgres::queries::Queries as _;
use crate::source::postgres::server::{ServerFacts, server_time};
use crate::source::stream::ByteStream as _;

/// Those that do not fit into the one archive of a standard output.
const TABLESPACES_SQL: &str = "SELECT count(*) FROM pg_catalog.pg_tablespace \
     WHERE pg_catalog.pg_tablespace_location(oid) <> ''";
/// What an archive may have behind its end: it is filled up.
const DRAIN_BYTES: usize = 64 * 1024;

/// A cluster.
pub struct PostgresTool {
    name: String,
    tools: ClientTools,
    label: String,
    expected: Option<String>,
    previous: Option<PreviousFiles>,
    manifests: Option<Manifests>,
    facts: Option<BaseFacts>,
}

/// The output of the program as the archive reads it.
struct Output {
    stream: Option<Box<CommandStream>>,
    failure: Option<SourceError>,
}

impl Read for Output {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let Some(stream) = &mut self.stream else { return Ok(0) };
        stream.read(buffer).map_err(|error| {
            let said = std::io::Error::other(error.to_string());
            self.failure = Some(error);
            said
        })
    }
}

impl Output {
    /// Reads what is left, and asks the program how it went: that comes before everything else.
    fn finish(mut self, taken: Result<bool, Failure>) -> Result<bool, Failure> {
        if let Ok(false) | Err(Failure::Server(_)) = taken {
            // Nobody wants the rest; the program is killed.
            return taken;
        }
        let mut rest = vec![0; DRAIN_BYTES];
        while self.read(&mut rest).is_ok_and(|length| length > 0) {}
        if let Some(stream) = self.stream.take() {
            stream.finish()?;
        }
        match self.failure.take() {
            Some(failure) => Err(failure.into()),
            None => taken,
        }
    }
}

impl PostgresTool {
    /// The cluster that `tools` lead to, under that name; its system identifier must be the
    /// `expected` one. `label` is for `backup_label` and the server's log.
    #[must_use]
    pub fn new(name: String, tools: ClientTools, label: String, expected: Option<String>) -> Self {
        let (previous, manifests, facts) = (None, None, None);
        Self { name, tools, label, expected, previous, manifests, facts }
    }

    fn receive(&mut self, feed: &mut Feed<'_>) -> Result<bool, Failure> {
        let mut sql = self.tools.clone();
        let server = ServerFacts::read(&mut sql)?;
        server.require_cluster(&self.name, self.expected.as_deref(), sql.shown())?;
        let tablespaces = sql.value(TABLESPACES_SQL)?;
        if tablespaces != "0" {
            let what = format!(
                "it has {tablespaces} tablespaces outside the data directory, and a program's \
                 output has room for none: without --via-tool they are saved"
            );
            return Err(PostgresError::Unfit { address: sql.shown().to_owned(), what }.into());
        }
        let progress = Arc::clone(&feed.reading.progress);
        let lines = move |line: &[u8]| {
            progress.warn(format!("pg_basebackup says: {}", String::from_utf8_lossy(line)));
        };
        let stream = self.tools.start_base_backup(&self.label, Box::new(lines))?;
        let mut output = Output { stream: Some(Box::new(stream)), failure: None };
        let watch = Arc::new(PageWatch::new(&server, Lsn(0)));
        let copy = self.manifests.as_ref().and_then(|manifests| manifests.next.try_clone().ok());
        let mut files = ClusterFiles {
            previous: self.previous.as_mut(),
            server: &server,
            watch: Arc::clone(&watch),
            rewriter: None,
            sole: Some(SoleArchive::new(sql.shown(), copy)),
        };
        let mut archive = tar::Archive::new(&mut output as &mut dyn Read);
        let taken = files.take_entries(&mut archive, None, feed);
        if !output.finish(taken)? || !feed.give_root() {
            return Ok(false);
        }
        let range = match &files.sole {
            Some(sole) => sole.finish(&server)?,
            None => return Ok(false),
        };
        let bad_pages = watch.finish(range.end, &mut sql);
        name_bad_pages(&bad_pages, self.manifests.as_ref(), &feed.reading.progress);
        let stop_time = server_time(&mut sql)?;
        self.facts = Some(base_facts(server, range, stop_time, bad_pages));
        Ok(true)
    }
}

impl RootSource for PostgresTool {
    fn name(&self) -> String {
        format!("postgres:{}", self.name)
    }

    fn path(&self) -> Vec<u8> {
        self.name.clone().into_bytes()
    }

    fn chunk_sizes(&self) -> ChunkSizes {
        ChunkSizes::FILES
    }

    fn previous(
        &mut self,
        session: &mut WriteSession,
        label: &SnapshotLabel,
    ) -> Result<Option<Successor>, BackupError> {
        let (previous, successor, manifests) =
            PreviousFiles::open_cluster(session, label, &self.path())?;
        (self.previous, self.manifests) = (previous, Some(manifests));
        Ok(Some(successor))
    }

    fn facts(&self) -> Option<Facts> {
        self.facts.clone().map(|facts| PostgresFacts::Base(facts).encode())
    }

    fn read(&mut self, reading: &Reading, chunker: &Chunker, items: &mut Giver<Item>) {
        let mut feed = Feed::new(reading, chunker, items);
        match self.receive(&mut feed) {
            Ok(true) => drop(feed.flush()),
            Ok(false) => {}
            Err(failure) => give_failure(items, &self.name, failure),
        }
    }
}
