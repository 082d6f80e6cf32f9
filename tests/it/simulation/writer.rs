//! A host that backs up: the steps of `WriteSession`, one store operation at a time.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::SystemTime;

use holdfast::format::commit::{ObjectName, SnapshotEntry, SnapshotName};
use holdfast::format::refs::{ChunkBitmap, PackUse};
use holdfast::id::{ActorId, DomainId, ObjectId};
use holdfast::repo::history::History;
use holdfast::store::Put;

use super::texts::maintainer_id;
use super::world::{Content, GRACE, HOUR, Host, Key, Object, Place, Stop, together};
use super::{Flaw, Focus};

/// Chunks that the files of one host consist of.
pub const CHUNKS: u32 = 9;
const CHUNKS_PER_PACK: usize = 3;

/// A pack as the local index knows it.
#[derive(Debug, Clone)]
struct Known {
    chunks: Vec<u32>,
    /// The run that stored it, while no commit names it.
    run: Option<u64>,
}

/// What is on the disk of the host: it outlives every crash.
#[derive(Default)]
pub struct LocalState {
    packs: BTreeMap<ObjectId, Known>,
    segments: BTreeSet<ObjectName>,
    runs: u64,
    /// When the run that lives has begun, by the host's clock: a maintainer on the same host sees
    /// its lock file.
    pub running: Option<SystemTime>,
    is_locked: bool,
    files: BTreeSet<u32>,
}

pub struct Writer {
    pub host: Host,
    pub id: ActorId,
    pub number: u32,
    pub local: Rc<RefCell<LocalState>>,
    pub maintainers: usize,
    pub flaw: Flaw,
    pub focus: Focus,
    pub backups: u64,
}

/// What a run holds in memory.
struct Run {
    number: u64,
    /// Packs that may be relied on.
    visible: BTreeMap<ObjectId, Vec<u32>>,
}

pub fn domain_of(writer: ActorId) -> DomainId {
    DomainId(writer.0)
}

impl Writer {
    pub async fn run(self) {
        for _ in 0..self.backups {
            self.host.pause(8 * HOUR, 2 * GRACE).await;
            let ended = self.backup().await;
            self.host.hurry(None);
            let mut local = self.local.borrow_mut();
            (local.running, local.is_locked) = (None, false);
            match ended {
                Ok(()) => self.host.count("backup"),
                Err(Stop::Refused(why)) => {
                    self.host.count(why);
                    self.host.note(|| format!("gives up: {why}"));
                }
                Err(_) => {}
            }
            if self.host.chance(30) {
                self.host.note(|| "loses its local state".into());
                *local = LocalState { runs: local.runs, ..LocalState::default() };
            }
        }
    }

    async fn backup(&self) -> Result<(), Stop> {
        let mut run = self.begin().await?;
        let files = self.change_files();
        self.host.note(|| format!("backs up {files:?}"));
        let handles = self.store_chunks(&mut run, &files).await?;
        if self.host.chance(150) {
            self.checkpoint(&mut run).await?;
        }
        // A source that is slow, or a host that sleeps: as long as it likes.
        if self.focus == Focus::LongRuns && self.number == 1 {
            self.host.pause(2 * GRACE, 4 * GRACE).await;
        } else if self.host.chance(500) {
            self.host.pause(8 * HOUR, 4 * GRACE).await;
        }
        self.commit(&run, files, handles).await
    }

    fn change_files(&self) -> Vec<u32> {
        let mut local = self.local.borrow_mut();
        for _ in 0..3 {
            let chunk = self.number * 100 + self.host.below(CHUNKS.into()) as u32;
            if !local.files.remove(&chunk) {
                local.files.insert(chunk);
            }
        }
        if local.files.is_empty() {
            local.files.insert(self.number * 100);
        }
        local.files.iter().copied().collect()
    }

    /// Step 1: the history, the index, what a killed run left, and what must not be relied on.
    async fn begin(&self) -> Result<Run, Stop> {
        let number = {
            let mut local = self.local.borrow_mut();
            local.runs += 1;
            local.running = Some(self.host.now());
            local.runs
        };
        let history = self.host.history(Place::Source).await?;
        self.update_index(&history).await?;
        let is_pack = |key: &Key| matches!(key, Key::Object(ObjectName::Data(_)));
        let listed = self.host.list(Place::Source, is_pack).await?;
        let listed: BTreeSet<Key> = listed.into_iter().map(|(key, _)| key).collect();
        let mut local = self.local.borrow_mut();
        local.packs.retain(|pack, known| {
            known.run.is_none() || listed.contains(&Key::Object(ObjectName::Data(*pack)))
        });
        let mut visible = BTreeMap::new();
        let mut adopted = 0;
        for (pack, known) in &mut local.packs {
            let name = ObjectName::Data(*pack);
            if let Some(run) = &mut known.run {
                *run = number;
                adopted += 1;
            }
            let is_hidden = history.intents.contains_key(&name) || history.deleted.contains(&name);
            if listed.contains(&Key::Object(name)) && !is_hidden {
                visible.insert(*pack, known.chunks.clone());
            }
        }
        if adopted > 0 {
            self.host.count("adopted");
        }
        Ok(Run { number, visible })
    }

    /// Segments of the own log, and of the maintainers' for the own domain.
    async fn update_index(&self, history: &History) -> Result<(), Stop> {
        let mut believed: Vec<ActorId> = (0..self.maintainers).map(maintainer_id).collect();
        believed.push(self.id);
        let records = believed.iter().filter_map(|actor| history.logs.get(actor)).flatten();
        let puts = records.flat_map(|record| &record.commit.puts).map(|put| put.name);
        let wanted: Vec<ObjectName> = puts
            .filter(|name| matches!(name, ObjectName::Index(of, _) if *of == domain_of(self.id)))
            .filter(|name| !self.local.borrow().segments.contains(name))
            .filter(|name| !history.deleted.contains(name))
            .collect();
        let gets = wanted.iter().map(|name| {
            Box::pin(self.host.get(Place::Source, Key::Object(*name))) as std::pin::Pin<Box<_>>
        });
        let segments = together(gets.map(|get| get as _).collect()).await?;
        let mut local = self.local.borrow_mut();
        for (name, object) in wanted.iter().zip(segments) {
            let object: Option<Object> = object;
            let Some(object) = object else { continue };
            let Content::Index(packs) = &*object.content else { continue };
            local.segments.insert(*name);
            for (pack, chunks) in packs {
                local.packs.insert(*pack, Known { chunks: chunks.clone(), run: None });
            }
        }
        Ok(())
    }

    /// Step 2: what no visible pack has goes into new ones, stored in any order.
    async fn store_chunks(
        &self,
        run: &mut Run,
        files: &[u32],
    ) -> Result<BTreeMap<ObjectId, Vec<u32>>, Stop> {
        let mut used: BTreeMap<ObjectId, Vec<u32>> = BTreeMap::new();
        let mut fresh = Vec::new();
        for chunk in files {
            match run.visible.iter().find(|(_, chunks)| chunks.contains(chunk)) {
                Some((pack, _)) => used.entry(*pack).or_default().push(*chunk),
                None => fresh.push(*chunk),
            }
        }
        let packs: Vec<(ObjectId, Vec<u32>)> = fresh
            .chunks(CHUNKS_PER_PACK)
            .map(|chunks| (self.host.draw_id(), chunks.to_vec()))
            .collect();
        if self.flaw == Flaw::CommitBeforePacks {
            for (pack, chunks) in packs {
                let known = Known { chunks: chunks.clone(), run: Some(run.number) };
                self.local.borrow_mut().packs.insert(pack, known);
                run.visible.insert(pack, chunks.clone());
                used.insert(pack, chunks);
            }
            return Ok(used);
        }
        let puts = packs.iter().map(|(pack, chunks)| self.store_pack(run.number, *pack, chunks));
        together(puts.map(|put| Box::pin(put) as _).collect()).await?;
        for (pack, chunks) in packs {
            run.visible.insert(pack, chunks.clone());
            used.insert(pack, chunks);
        }
        Ok(used)
    }

    async fn store_pack(&self, run: u64, pack: ObjectId, chunks: &[u32]) -> Result<(), Stop> {
        let content = Content::Pack(chunks.to_vec());
        self.host.put(Place::Source, Key::Object(ObjectName::Data(pack)), content).await?;
        let known = Known { chunks: chunks.to_vec(), run: Some(run) };
        self.local.borrow_mut().packs.insert(pack, known);
        Ok(())
    }

    /// Packs of this run that no commit names.
    fn uncommitted(&self, run: &Run) -> Vec<(ObjectId, Vec<u32>)> {
        let local = self.local.borrow();
        let own = local.packs.iter().filter(|(pack, known)| {
            known.run == Some(run.number) && run.visible.contains_key(pack)
        });
        own.map(|(pack, known)| (*pack, known.chunks.clone())).collect()
    }

    async fn put_index(&self, run: &Run) -> Result<Vec<ObjectName>, Stop> {
        let packs = self.uncommitted(run);
        if packs.is_empty() {
            return Ok(Vec::new());
        }
        let name = ObjectName::Index(domain_of(self.id), self.host.draw_id());
        let mut puts: Vec<ObjectName> =
            packs.iter().map(|(pack, _)| ObjectName::Data(*pack)).collect();
        self.host.put(Place::Source, Key::Object(name), Content::Index(packs)).await?;
        puts.push(name);
        Ok(puts)
    }

    fn committed(&self, run: &Run) {
        let mut local = self.local.borrow_mut();
        for known in local.packs.values_mut().filter(|known| known.run == Some(run.number)) {
            known.run = None;
        }
    }

    async fn checkpoint(&self, run: &mut Run) -> Result<(), Stop> {
        let history = self.host.history(Place::Source).await?;
        self.host.hurry(Some(GRACE / 2 - 1));
        let puts = self.put_index(run).await?;
        if !puts.is_empty() {
            self.put_commit(&history, puts, None).await?;
            self.committed(run);
            self.host.count("checkpoint");
        }
        self.host.hurry(None);
        Ok(())
    }

    async fn put_commit(
        &self,
        history: &History,
        puts: Vec<ObjectName>,
        snapshot: Option<SnapshotEntry>,
    ) -> Result<(), Stop> {
        match self.host.put_commit(self.id, history, puts, snapshot, Vec::new()).await? {
            Put::Created => Ok(()),
            Put::Exists => Err(Stop::Refused("a commit of a lost answer")),
        }
    }

    /// Steps 3 to 7.
    async fn commit(
        &self,
        run: &Run,
        files: Vec<u32>,
        used: BTreeMap<ObjectId, Vec<u32>>,
    ) -> Result<(), Stop> {
        let history = self.host.history(Place::Source).await?;
        // The assumption: from here to the commit less than half the grace time passes.
        self.host.hurry(Some(GRACE / 2 - 1));
        let mut puts = self.put_index(run).await?;
        let (snapshot, refs) = (self.host.draw_id(), self.host.draw_id());
        let name = SnapshotName { writer: self.id, id: snapshot };
        let object = Key::Object(name.object_name());
        self.host.put(Place::Source, object, Content::Snapshot(files)).await?;
        let lines: Vec<PackUse> =
            used.iter().map(|(pack, chunks)| pack_use(*pack, &run.visible[pack], chunks)).collect();
        let object = Key::Object(ObjectName::Refs(self.id, refs));
        self.host.put(Place::Source, object, Content::Refs(lines)).await?;
        self.host.sleep_at_times().await;
        self.check_intents(&history, object, used.keys()).await?;
        self.host.sleep_at_times().await;
        puts.extend([name.object_name(), ObjectName::Refs(self.id, refs)]);
        let entry = SnapshotEntry { snapshot: name, refs_actor: self.id, refs };
        self.put_commit(&history, puts, Some(entry)).await?;
        self.committed(run);
        if self.flaw == Flaw::CommitBeforePacks {
            for (pack, chunks) in used {
                let pack = Key::Object(ObjectName::Data(pack));
                self.host.put(Place::Source, pack, Content::Pack(chunks)).await?;
            }
        }
        Ok(())
    }

    async fn check_intents(
        &self,
        history: &History,
        refs: Key,
        used: impl Iterator<Item = &ObjectId>,
    ) -> Result<(), Stop> {
        if self.flaw == Flaw::NoIntentCheck {
            return Ok(());
        }
        let names: Vec<ObjectName> = used.map(|pack| ObjectName::Data(*pack)).collect();
        let is_named = |name: &ObjectName| {
            history.intents.contains_key(name) || history.deleted.contains(name)
        };
        if !names.iter().any(is_named) {
            return Ok(());
        }
        let now = if self.flaw == Flaw::WriterClock {
            self.host.now()
        } else {
            let refs = self.host.get(Place::Source, refs).await?;
            super::world::time(refs.ok_or(Stop::Refused("its refs are gone"))?.first_seen)
        };
        let grace = std::time::Duration::from_secs(GRACE);
        if names.iter().any(|name| history.is_doomed(name, now, grace)) {
            return Err(Stop::Refused("refused: packs intended"));
        }
        self.host.count("young intent accepted");
        Ok(())
    }
}

pub fn pack_use(pack: ObjectId, all: &[u32], used: &[u32]) -> PackUse {
    let mut bitmap = ChunkBitmap::new(all.len() as u32);
    for (ordinal, chunk) in all.iter().enumerate() {
        if used.contains(chunk) {
            bitmap.insert_run(ordinal as u32, 1);
        }
    }
    PackUse { pack, used: bitmap }
}
