//! A `PostgreSQL` cluster as a root: `BASE_BACKUP`, taken apart into files while it streams.
//!
//! The result is the data directory as a tree, with the log from start to stop in `pg_wal`: whole
//! by itself, however it was sent. Pages are compared with the previous snapshot, and looked at.
//! Nothing is saved unless the server has said that the backup is complete.

use std::fs::File;
use std::io::BufReader;
use std::sync::Arc;

use secrecy::SecretString;

use crate::backup::cluster_feed::{Failure, Feed};
use crate::backup::cluster_files::ClusterFiles;
use crate::backup::error::BackupError;
use crate::backup::item::Item;
use crate::backup::last_base::LastBase;
use crate::backup::ordered::Giver;
use crate::backup::page_watch::PageWatch;
use crate::backup::previous_files::{Manifests, PreviousFiles};
use crate::backup::run::{RootSource, SnapshotLabel};
use crate::backup::stream::Reading;
use crate::backup::successor::Successor;
use crate::chunker::{ChunkSizes, Chunker};
use crate::format::postgres::facts::{BadPage, BaseFacts, PostgresFacts, WalRange};
use crate::format::postgres::lsn::Lsn;
use crate::format::postgres::manifest::ManifestRewriter;
use crate::format::snapshot::Facts;
use crate::progress::Progress;
use crate::repo::session::WriteSession;
use crate::source::postgres::address::Address;
use crate::source::postgres::base_backup::{BaseBackup, BaseBackupOptions, Part, upload_manifest};
use crate::source::postgres::connection::{Connection, Purpose};
use crate::source::postgres::error::PostgresError;
use crate::source::postgres::replication::{SystemIdentity, create_temporary_slot, identify};
use crate::source::postgres::server::{ServerFacts, server_time};

/// Bad pages that are named.
const BAD_PAGES_NAMED: usize = 100;

/// How to get at a server.
#[derive(Debug, Clone)]
pub struct Access {
    /// Where it is.
    pub address: Address,
    /// The password, where it is not in the password file.
    pub password: Option<SecretString>,
}

impl Access {
    /// Connects.
    pub fn connect(&self, purpose: Purpose) -> Result<Connection, PostgresError> {
        Connection::open(&self.address, purpose, self.password.as_ref())
    }
}

/// A cluster.
pub struct PostgresBase {
    name: String,
    access: Access,
    options: BaseBackupOptions,
    expected: Option<String>,
    previous: Option<PreviousFiles>,
    manifests: Option<Manifests>,
    facts: Option<BaseFacts>,
}

impl PostgresBase {
    /// The cluster behind `access`, under that name; its system identifier must be the `expected`
    /// one. `options.incremental` is whether it may be asked for changes only.
    #[must_use]
    pub fn new(
        name: String,
        access: Access,
        options: BaseBackupOptions,
        expected: Option<String>,
    ) -> Self {
        let (previous, manifests, facts) = (None, None, None);
        Self { name, access, options, expected, previous, manifests, facts }
    }

    fn receive(&mut self, feed: &mut Feed<'_>) -> Result<bool, Failure> {
        let mut sql = self.access.connect(Purpose::Sql)?;
        let server = ServerFacts::read(&mut sql)?;
        server.require_cluster(&self.name, self.expected.as_deref(), sql.shown())?;
        let mut keeper = self.access.connect(Purpose::Replication)?;
        let identity = identify(&mut keeper)?;
        if identity.system != server.cluster.system {
            let what = "the connections for queries and for replication lead to two clusters";
            let address = keeper.shown().to_owned();
            return Err(PostgresError::Unfit { address, what: what.to_owned() }.into());
        }
        // The log that the backup needs stays until it was sent, whatever the server's settings.
        let slot = format!("holdfast_base_{}", std::process::id());
        if let Err(error) = create_temporary_slot(&mut keeper, &slot) {
            feed.reading.progress.warn(format!("without a replication slot: {error}"));
        }
        let last = self.last_base(&server, &identity, &feed.reading.progress);
        let (base, last) = self.start(last, &feed.reading.progress)?;
        let changed_since = last.as_ref().map(|last| last.start);
        let (start, timeline) = (base.start, base.timeline);
        let tablespaces = base.tablespaces.clone();
        let watch = Arc::new(PageWatch::new(&server, start));
        let files = ClusterFiles {
            previous: self.previous.as_mut(),
            server: &server,
            watch: Arc::clone(&watch),
            rewriter: last.map(|last| ManifestRewriter::new(last.summary)),
            sole: None,
        };
        let copy = self.manifests.as_ref().and_then(|manifests| manifests.next.try_clone().ok());
        let Some((stop, mut connection)) = take_parts(base, files, copy, feed)? else {
            return Ok(false);
        };
        for notice in connection.take_notices() {
            feed.reading.progress.warn(format!("the server says: {notice}"));
        }
        drop(keeper);
        let bad_pages = watch.finish(stop, &mut sql);
        name_bad_pages(&bad_pages, self.manifests.as_ref(), &feed.reading.progress);
        let (range, stop_time) = (WalRange { timeline, start, end: stop }, server_time(&mut sql)?);
        let facts = base_facts(server, range, stop_time, bad_pages);
        self.facts = Some(BaseFacts { changed_since, tablespaces, ..facts });
        Ok(true)
    }

    /// The last base backup, where it can be built upon; says why not where one would expect it.
    fn last_base(
        &mut self,
        server: &ServerFacts,
        identity: &SystemIdentity,
        progress: &Progress,
    ) -> Option<LastBase> {
        if !self.options.incremental || !server.has_increments() {
            return None;
        }
        let (previous, manifests) = (self.previous.as_mut()?, self.manifests.as_ref()?);
        match LastBase::find(previous, &manifests.last, identity) {
            Ok(last) => Some(last),
            Err(why) => {
                progress.warn(format!("the whole cluster is read, not only changes: {why}"));
                None
            }
        }
    }

    /// Asks for what changed since the last base backup, or, where the server refuses and where
    /// there is none, for everything.
    fn start(
        &self,
        last: Option<LastBase>,
        progress: &Progress,
    ) -> Result<(BaseBackup, Option<LastBase>), PostgresError> {
        if let Some(last) = last {
            match self.start_increment(&last) {
                Err(error @ PostgresError::Server { .. }) => {
                    progress.warn(format!("the whole cluster is read, not only changes: {error}"));
                }
                started => return started.map(|base| (base, Some(last))),
            }
        }
        let options = BaseBackupOptions { incremental: false, ..self.options.clone() };
        let connection = self.access.connect(Purpose::Replication)?;
        BaseBackup::start(connection, &options).map(|base| (base, None))
    }

    fn start_increment(&self, last: &LastBase) -> Result<BaseBackup, PostgresError> {
        let manifest = File::open(&last.manifest).map_err(|source| PostgresError::Increment {
            path: last.manifest.display().to_string(),
            source: Box::new(source),
        })?;
        let mut connection = self.access.connect(Purpose::Replication)?;
        upload_manifest(&mut connection, &mut BufReader::new(manifest))?;
        BaseBackup::start(connection, &self.options)
    }
}

/// Names the pages that are damaged on the server, and lets the next base backup look at all pages
/// again.
pub fn name_bad_pages(pages: &[BadPage], manifests: Option<&Manifests>, progress: &Progress) {
    for page in pages.iter().take(BAD_PAGES_NAMED) {
        let warning = format!("page {} of {} is damaged on the server", page.page, page.path);
        progress.warn(warning);
    }
    if let Some(manifests) = manifests
        && !pages.is_empty()
    {
        // If it is not emptied, the next one does not look at pages that did not change.
        drop(manifests.next.set_len(0));
    }
}

/// What a base backup says about itself that was sent as a whole, without tablespaces.
#[must_use]
pub fn base_facts(
    server: ServerFacts,
    range: WalRange,
    stop_time: String,
    mut bad_pages: Vec<BadPage>,
) -> BaseFacts {
    let bad_pages_count = bad_pages.len() as u64;
    bad_pages.truncate(BAD_PAGES_NAMED);
    BaseFacts {
        cluster: server.cluster,
        timeline: range.timeline,
        start: range.start,
        stop: range.end,
        stop_time,
        page_bytes: server.page_bytes,
        has_checksums: server.has_checksums,
        from_standby: server.is_standby,
        changed_since: None,
        tablespaces: Vec::new(),
        bad_pages,
        bad_pages_count,
        collations: server.collations,
        settings: server.settings,
    }
}

/// Gives the error of a base backup.
pub fn give_failure(items: &mut Giver<Item>, name: &str, failure: Failure) {
    let name = name.to_owned();
    items.give(Item::Failed(match failure {
        Failure::Server(source) => BackupError::Postgres { name, source },
        Failure::Source(source) => BackupError::Source { name, source },
        Failure::Archive(source) => {
            let (address, doing) = (name.clone(), "receiving a base backup");
            let source = PostgresError::Broken { address, doing, source };
            BackupError::Postgres { name, source }
        }
    }));
}

/// Takes everything that the server sends; where it ends, and the connection. `None` when nobody
/// takes any more.
fn take_parts(
    mut base: BaseBackup,
    mut files: ClusterFiles<'_>,
    mut copy: Option<File>,
    feed: &mut Feed<'_>,
) -> Result<Option<(Lsn, Connection)>, Failure> {
    let timeline = base.timeline;
    while let Some(part) = base.next_part()? {
        let goes_on = match part {
            Part::Archive { tablespace } => files.take_archive(&mut base, tablespace, feed)?,
            Part::Manifest => files.take_manifest(&mut base, copy.take(), feed)?,
        };
        if !goes_on {
            return Ok(None);
        }
    }
    if !feed.give_root() {
        return Ok(None);
    }
    let (stop, stop_timeline, connection) = base.finish()?;
    if stop_timeline != timeline {
        let what = format!("it went from timeline {timeline} to {stop_timeline} meanwhile");
        let address = connection.shown().to_owned();
        return Err(PostgresError::Unfit { address, what }.into());
    }
    Ok(Some((stop, connection)))
}

impl RootSource for PostgresBase {
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
            Err(failure) => {
                if let (Failure::Server(PostgresError::Increment { .. }), Some(manifests)) =
                    (&failure, &self.manifests)
                {
                    // The next run asks for everything.
                    drop(std::fs::remove_file(&manifests.last));
                }
                give_failure(items, &self.name, failure);
            }
        }
    }
}
