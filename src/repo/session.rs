//! A writing run: from the checks before the first byte to the commit.
//!
//! Order of writing: packs → index → snapshot → refs → commit. Nothing exists before its commit;
//! a run that is killed leaves packs that the next run of this host takes over.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::clock::Clock;
use crate::compress::Level;
use crate::crypto::ids::{DomainKeys, object_id};
use crate::crypto::recipient::{NativeRecipient, Recipient};
use crate::crypto::secret::random_bytes;
use crate::crypto::small::{open_text, seal_small};
use crate::format::commit::{Commit, ObjectName, PutEntry, SnapshotEntry, SnapshotName};
use crate::format::index_segment::{IndexSegment, encoded_pack_bytes};
use crate::format::keyfile::{EpochFile, WriterFile};
use crate::format::limits;
use crate::format::pack::PackOwner;
use crate::format::refs::{PackUse, Refs, SnapshotLabel};
use crate::format::signed_text::NO_PREVIOUS;
use crate::format::snapshot::Snapshot;
use crate::id::{ObjectId, PackHandle};
use crate::index::database::IndexDatabase;
use crate::index::lookup::ChunkLookup;
use crate::repo::chunk_writer::ChunkWriter;
use crate::repo::domain_index;
use crate::repo::error::RepoError;
use crate::repo::history::History;
use crate::repo::objects::{put_named, refused};
use crate::repo::open::Repository;
use crate::repo::pack_builder::PackSettings;
use crate::repo::state::Lock;
use crate::store::Put;

/// Level of the small objects: they are few.
const SMALL_LEVEL: i32 = 9;
/// Encoded packs that one index segment takes.
const SEGMENT_BYTES: usize = 8 * 1024 * 1024;
/// A checkpoint is due after so long…
const CHECKPOINT_AFTER: Duration = Duration::from_mins(15);
/// …or after so many stored bytes.
const CHECKPOINT_BYTES: u64 = 10 * 1024 * 1024 * 1024;

/// How a run works.
#[derive(Debug, Clone, Copy)]
pub struct SessionOptions {
    /// Worker threads.
    pub threads: usize,
    /// zstd level of frames.
    pub level: Level,
}

/// A run that may write.
pub struct WriteSession {
    /// The repository.
    pub repository: Repository,
    /// This host's keys.
    pub keys: WriterFile,
    /// Keys of its domain.
    pub domain: DomainKeys,
    /// Where chunks go.
    pub chunks: ChunkWriter,
    clock: Arc<dyn Clock>,
    run: String,
    _lock: Lock,
    epoch: u32,
    checkpoint_at: SystemTime,
    checkpoint_bytes: u64,
}

/// What a commit made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Committed {
    /// The snapshot.
    pub snapshot: SnapshotName,
    /// Its place in the writer's log.
    pub seq: u64,
    /// Bytes of the objects that are no packs.
    pub other_bytes: u64,
}

impl WriteSession {
    /// Begins a run: checks rights and history, brings the index up to date, takes over what a
    /// killed run has left.
    pub fn begin(
        repository: Repository,
        clock: Arc<dyn Clock>,
        options: SessionOptions,
    ) -> Result<Self, RepoError> {
        repository.require_primary()?;
        let no_key = RepoError::NoKey { role: "writer", repository: repository.id };
        let keys = repository.state.writer()?.ok_or(no_key)?;
        let mut history = History::read(&repository)?;
        history.require_sound()?;
        check_writer(&repository, &keys, &history)?;
        let domain = DomainKeys::derive(&keys.secret);
        let epoch = repository.roster.active_epoch().number;
        let recipient = read_recipient(&repository, &keys, &domain)?;
        let run = data_encoding::HEXLOWER.encode(&random_bytes::<8>()?);
        let lock = repository.state.begin_run(&run)?;
        let lookup = open_lookup(&repository, &history, &keys, &domain, &run)?;
        let owner = PackOwner { repository: repository.id, writer: keys.id, domain: keys.domain };
        let settings = PackSettings { owner, recipient, pack_bytes: repository.roster.pack_bytes };
        let chunks = ChunkWriter::start(
            settings,
            domain.clone(),
            &repository.store,
            lookup,
            options.threads,
            options.level,
        )?;
        let checkpoint_at = clock.now() + CHECKPOINT_AFTER;
        Ok(Self {
            repository,
            keys,
            domain,
            chunks,
            clock,
            run,
            _lock: lock,
            epoch,
            checkpoint_at,
            checkpoint_bytes: CHECKPOINT_BYTES,
        })
    }

    /// Epoch whose read recipient the run seals to.
    #[must_use]
    pub fn epoch(&self) -> u32 {
        self.epoch
    }

    /// Random name of the run, for files beside those of other runs.
    #[must_use]
    pub fn run(&self) -> &str {
        &self.run
    }

    /// Commits what is stored so far, if that is due: a killed run then loses no more than since.
    pub fn checkpoint_if_due(&mut self) -> Result<(), RepoError> {
        let stored = self.chunks.counts().stored_bytes;
        let now = self.clock.now();
        // A clock that went back would put it off for ever.
        let is_early = now < self.checkpoint_at && now + CHECKPOINT_AFTER >= self.checkpoint_at;
        if stored < self.checkpoint_bytes && is_early {
            return Ok(());
        }
        self.checkpoint_at = now + CHECKPOINT_AFTER;
        self.checkpoint_bytes = stored + CHECKPOINT_BYTES;
        if self.chunks.lookup().uncommitted().is_empty() { Ok(()) } else { self.checkpoint() }
    }

    /// Commits what is stored so far without a snapshot.
    pub fn checkpoint(&mut self) -> Result<(), RepoError> {
        let _lock = self.repository.state.lock("commit.lock")?;
        let mut history = History::read(&self.repository)?;
        history.require_sound()?;
        let (puts, segments) = self.put_index()?;
        self.put_commit(&history, puts, None)?;
        self.chunks.lookup().commit(&segments)?;
        Ok(())
    }

    /// Commits a snapshot. All chunks must be durable: [`ChunkWriter::finish`] has returned.
    ///
    /// `snapshot` makes it for the sequence number that it will have. A crash before the commit
    /// object is there leaves no snapshot; after it, the snapshot is complete.
    pub fn commit(
        mut self,
        uses: Vec<PackUse>,
        handles: &[PackHandle],
        snapshot: impl FnOnce(u64, &Self) -> Snapshot,
    ) -> Result<Committed, RepoError> {
        let _lock = self.repository.state.lock("commit.lock")?;
        let mut history = History::read(&self.repository)?;
        history.require_sound()?;
        let (mut puts, segments) = self.put_index()?;
        let seq = history.head(self.keys.id).map_or(1, |(seq, _)| seq + 1);
        let snapshot = snapshot(seq, &self);
        let entry = self.put_snapshot(&snapshot, uses, &mut puts)?;
        self.check_intents(&history, handles, &entry)?;
        let other_bytes = puts.iter().filter(|put| !is_data(put)).map(|put| put.bytes).sum();
        self.put_commit(&history, puts, Some(entry))?;
        self.chunks.lookup().commit(&segments)?;
        self.repository.state.end_run(&self.run)?;
        Ok(Committed { snapshot: entry.snapshot, seq, other_bytes })
    }

    /// A pack that was reused and is about to be deleted must not be relied on: unless the intent
    /// is young, so that the deletion's own check will see this commit.
    ///
    /// What the time is says the store, by the refs just put: this host's clock may be behind.
    fn check_intents(
        &mut self,
        history: &History,
        handles: &[PackHandle],
        entry: &SnapshotEntry,
    ) -> Result<(), RepoError> {
        let lookup = self.chunks.lookup();
        let rows = handles.iter().filter_map(|handle| lookup.pack_row(handle));
        let names: Vec<ObjectName> = rows.map(|row| ObjectName::Data(row.name)).collect();
        let is_named = |name| history.intents.contains_key(name) || history.deleted.contains(name);
        if !names.iter().any(is_named) {
            return Ok(());
        }
        let refs = ObjectName::Refs(entry.refs_actor, entry.refs).to_string();
        let now = self.repository.store.stat(&refs)?.first_seen;
        let grace = Duration::from_secs(self.repository.roster.grace_seconds);
        let packs = names.iter().filter(|name| history.is_doomed(name, now, grace)).count();
        if packs == 0 { Ok(()) } else { Err(RepoError::PacksIntended { packs }) }
    }

    /// Stores index segments for all packs that no commit names yet.
    fn put_index(&mut self) -> Result<(Vec<PutEntry>, Vec<ObjectId>), RepoError> {
        let numbers = self.chunks.lookup().uncommitted();
        let (mut puts, mut segments) = (Vec::new(), Vec::new());
        let mut packs = Vec::new();
        let mut bytes = 0;
        for number in numbers {
            let pack = self.chunks.lookup().database().pack(number)?;
            let pack = pack.ok_or(RepoError::PackLost { number })?;
            puts.push(PutEntry { name: ObjectName::Data(pack.name), bytes: pack.size });
            bytes += encoded_pack_bytes(pack.table.frames.len(), pack.ids.len());
            packs.push(pack);
            if bytes >= SEGMENT_BYTES || packs.len() as u64 >= limits::PACKS_PER_INDEX_MAX {
                bytes = 0;
                self.put_segment(std::mem::take(&mut packs), &mut puts, &mut segments)?;
            }
        }
        if !packs.is_empty() {
            self.put_segment(packs, &mut puts, &mut segments)?;
        }
        Ok((puts, segments))
    }

    fn put_segment(
        &self,
        packs: Vec<crate::format::index_segment::IndexedPack>,
        puts: &mut Vec<PutEntry>,
        segments: &mut Vec<ObjectId>,
    ) -> Result<(), RepoError> {
        let owner = PackOwner {
            repository: self.repository.id,
            writer: self.keys.id,
            domain: self.keys.domain,
        };
        let content = IndexSegment { owner, packs }.encode();
        let recipient: Recipient = self.domain.index_recipient().into();
        let sealed = seal_small(&[&recipient], &content, 1)?;
        let domain = self.keys.domain;
        let name = put_named(&*self.repository.store, |id| ObjectName::Index(domain, id), &sealed)?;
        puts.push(PutEntry { name, bytes: sealed.len() as u64 });
        segments.push(name.id());
        Ok(())
    }

    fn put_snapshot(
        &self,
        snapshot: &Snapshot,
        packs: Vec<PackUse>,
        puts: &mut Vec<PutEntry>,
    ) -> Result<SnapshotEntry, RepoError> {
        let writer = self.keys.id;
        let store = &*self.repository.store;
        let read = read_recipient(&self.repository, &self.keys, &self.domain)?;
        let sealed = seal_small(&[&read], &snapshot.encode(), SMALL_LEVEL)?;
        let snapshot_name = put_named(store, |id| ObjectName::Snapshot(writer, id), &sealed)?;
        puts.push(PutEntry { name: snapshot_name, bytes: sealed.len() as u64 });
        let (repository, seq) = (self.repository.id, snapshot.seq);
        let refs = Refs { repository, writer, seq, label: Some(label(snapshot)), packs };
        let maintainers = self.repository.roster.maintainers.iter();
        let mut recipients: Vec<Recipient> =
            maintainers.map(|maintainer| maintainer.recipient.clone().into()).collect();
        recipients.push(read);
        let recipients: Vec<&Recipient> = recipients.iter().collect();
        let sealed = seal_small(&recipients, &refs.encode(), SMALL_LEVEL)?;
        let refs_name = put_named(store, |id| ObjectName::Refs(writer, id), &sealed)?;
        puts.push(PutEntry { name: refs_name, bytes: sealed.len() as u64 });
        Ok(SnapshotEntry {
            snapshot: SnapshotName { writer, id: snapshot_name.id() },
            refs_actor: writer,
            refs: refs_name.id(),
        })
    }

    fn put_commit(
        &self,
        history: &History,
        puts: Vec<PutEntry>,
        snapshot: Option<SnapshotEntry>,
    ) -> Result<(), RepoError> {
        let (seq, prev) =
            history.head(self.keys.id).map_or((1, NO_PREVIOUS), |(seq, hash)| (seq + 1, hash));
        let time = jiff::Timestamp::try_from(self.clock.now()).unwrap_or_default();
        let commit = Commit {
            repository: self.repository.id,
            writer: self.keys.id,
            seq,
            prev,
            roster: self.repository.roster_reference(),
            time: without_subseconds(time),
            puts,
            snapshot,
            relocations: Vec::new(),
        };
        let signed = commit.encode_and_sign(&self.keys.key).map_err(RepoError::Sign)?;
        let object = Commit::object_name(self.keys.id, seq);
        let store = &*self.repository.store;
        if store.put(&object, &signed)? == Put::Exists {
            // After a lost answer the commit that is there already is this very one.
            let found = store.get(&object, limits::SIGNED_TEXT_BYTES_MAX)?;
            if found != signed && !self.set_aside(&object, seq, &found, &signed)? {
                return Err(RepoError::DuplicateWriter { object, writer: self.keys.id });
            }
        }
        self.repository.texts.keep_own(&object, &signed);
        let head = (seq, object_id(&signed));
        self.repository.see(|witness| {
            witness.logs.insert(self.keys.id.to_string(), head);
        })
    }
}

impl WriteSession {
    /// A commit of this writer that a promotion has fenced off never counts: where one stands in the
    /// way, it is kept aside, and the new one put in its place. Whether it was one.
    fn set_aside(
        &self,
        object: &str,
        seq: u64,
        found: &[u8],
        signed: &[u8],
    ) -> Result<bool, RepoError> {
        let Self { repository, keys, .. } = self;
        let generation = &repository.roster.generation;
        let old = Commit::open(found, &keys.key.verifying_key(), repository.id);
        let is_fenced = |old: &Commit| !generation.has_commit(keys.id, seq, old.roster.seq);
        if !old.is_ok_and(|old| is_fenced(&old)) {
            return Ok(false);
        }
        let digits: String = object_id(found).to_string().chars().take(16).collect();
        repository.store.put(&format!("aside/{object}-{digits}"), found)?;
        repository.store.delete(object)?;
        Ok(repository.store.put(object, signed)? == Put::Created)
    }
}

fn label(snapshot: &Snapshot) -> SnapshotLabel {
    SnapshotLabel {
        source: snapshot.source.clone(),
        host: snapshot.host.clone(),
        time: snapshot.time.clone(),
        tags: snapshot.tags.clone(),
    }
}

fn is_data(put: &PutEntry) -> bool {
    matches!(put.name, ObjectName::Data(_))
}

/// Signed texts carry whole seconds.
#[must_use]
pub fn without_subseconds(time: jiff::Timestamp) -> jiff::Timestamp {
    jiff::Timestamp::from_second(time.as_second()).unwrap_or(time)
}

fn check_writer(
    repository: &Repository,
    keys: &WriterFile,
    history: &History,
) -> Result<(), RepoError> {
    let next = history.head(keys.id).map_or(1, |(seq, _)| seq + 1);
    let may_sign = repository.roster.writer_may_sign(keys.id, next);
    let is_listed = repository.roster.writer(keys.id).is_some_and(|entry| {
        entry.key == keys.key.verifying_key() && entry.domain == keys.domain && may_sign
    });
    if is_listed && keys.repository == repository.id {
        Ok(())
    } else {
        Err(RepoError::NotInRoster { role: "writer", id: keys.id })
    }
}

/// The recipient of the active epoch, only if ROOT has signed its hash.
fn read_recipient(
    repository: &Repository,
    keys: &WriterFile,
    domain: &DomainKeys,
) -> Result<Recipient, RepoError> {
    let epoch = repository.roster.active_epoch();
    if epoch.has_recipient(&keys.read_recipient) {
        return Ok(keys.read_recipient.clone().into());
    }
    let prefix = format!("keys/epoch-{}-{}-", epoch.number, keys.domain);
    let mut names = Vec::new();
    repository.store.list("keys/", &mut |entry| {
        if entry.name.starts_with(&prefix) {
            names.push(entry.name);
        }
    })?;
    let identity = domain.index_identity();
    for name in names {
        let sealed = repository.store.get(&name, limits::KEY_FILE_BYTES_MAX)?;
        let Ok(text) = open_text(&[&identity], &sealed, limits::KEY_FILE_BYTES_MAX) else {
            continue;
        };
        let file = EpochFile::parse(&text).map_err(refused(&name))?;
        if file.repository == repository.id && epoch.has_recipient(&file.recipient) {
            let recipient: NativeRecipient = file.recipient;
            return Ok(recipient.into());
        }
    }
    Err(RepoError::RecipientUnknown { epoch: epoch.number })
}

/// The index of the run: only packs that the store lists and nobody intends to delete.
fn open_lookup(
    repository: &Repository,
    history: &History,
    keys: &WriterFile,
    domain: &DomainKeys,
    run: &str,
) -> Result<ChunkLookup, RepoError> {
    let database = IndexDatabase::open(&repository.state.index_path(keys.domain))?;
    let believes = |actor| actor == keys.id || repository.roster.maintainer(actor).is_some();
    let identity = domain.index_identity();
    for finding in
        domain_index::update(repository, history, keys.domain, &identity, &database, believes)?
    {
        tracing::warn!("an index segment is passed over: {finding}");
    }
    for dead in repository.state.dead_runs()?.iter().filter(|dead| *dead != run) {
        database.adopt_run(dead, run)?;
        repository.state.end_run(dead)?;
    }
    let mut listed: HashMap<String, u64> = HashMap::new();
    repository.store.list("data/", &mut |entry| {
        listed.insert(entry.name, entry.size);
    })?;
    let mut lookup = ChunkLookup::open(database, run)?;
    let exists =
        |name: &ObjectId, size| listed.get(&ObjectName::Data(*name).to_string()) == Some(&size);
    let lost = lookup.retain_packs(exists)?;
    if lost > 0 {
        tracing::warn!("{lost} packs of the local index are not in the repository");
    }
    let is_doomed =
        |name: &ObjectName| history.intents.contains_key(name) || history.deleted.contains(name);
    // Of a killed run too: such a pack must not pass for committed once this run commits.
    lookup.retain_packs(|name, _| !is_doomed(&ObjectName::Data(*name)))?;
    Ok(lookup)
}
