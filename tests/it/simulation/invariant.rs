//! INV: what must hold after every step, judged from all that is in the store, and by no actor.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use holdfast::format::commit::{ObjectName, SnapshotName};
use holdfast::format::refs::PackUse;
use holdfast::id::ObjectId;
use holdfast::maintenance::prune_plan::input::is_older;
use holdfast::repo::history::{History, SnapshotRecord};

use super::texts::history_of;
use super::world::{Content, GRACE, Key, Object, Place, time};

type Objects = BTreeMap<Key, Object>;

/// What the store says by now, and what each snapshot needs.
#[derive(Default)]
pub struct Truth {
    history: History,
    /// Refs that were there once: the needs of a snapshot do not change with their loss.
    refs: BTreeMap<ObjectId, Vec<PackUse>>,
    chunks: BTreeMap<ObjectId, Vec<u32>>,
    /// Packs of every segment that was ever there.
    segments: BTreeMap<ObjectName, Vec<(ObjectId, Vec<u32>)>>,
}

impl Truth {
    pub fn after_put(
        &mut self,
        place: Place,
        key: &Key,
        objects: &Objects,
        now: u64,
    ) -> Option<String> {
        match (key, &*objects[key].content) {
            (Key::Object(name), Content::Refs(packs)) => {
                self.refs.insert(name.id(), packs.clone());
            }
            (Key::Object(name), Content::Snapshot(chunks)) => {
                self.chunks.insert(name.id(), chunks.clone());
            }
            (Key::Object(name), Content::Index(packs)) => {
                self.segments.insert(*name, packs.clone());
            }
            (_, Content::Commit(_) | Content::Tomb(_)) => {
                self.history =
                    history_of(objects.iter().map(|(key, object)| (*key, object.clone())));
                return self.check(place, objects, now, |_| true);
            }
            _ => {}
        }
        None
    }

    pub fn after_delete(
        &mut self,
        place: Place,
        key: &Key,
        objects: &Objects,
        now: u64,
    ) -> Option<String> {
        let Key::Object(name) = key else { return Some(format!("{key:?} was deleted")) };
        let touches = |record: &SnapshotRecord| match name {
            ObjectName::Data(pack) => {
                let refs = self.refs.get(&record.refs.refs);
                refs.is_none_or(|lines| lines.iter().any(|line| line.pack == *pack))
                    || place == Place::Replica
            }
            ObjectName::Snapshot(_, id) => record.name.id == *id,
            ObjectName::Refs(_, id) => record.refs.refs == *id || record.original.refs == *id,
            _ => true,
        };
        self.check(place, objects, now, touches)
    }

    fn check(
        &self,
        place: Place,
        objects: &Objects,
        now: u64,
        touches: impl Fn(&SnapshotRecord) -> bool,
    ) -> Option<String> {
        let grace = Duration::from_secs(GRACE);
        let records = self.history.snapshots.iter().filter(|record| touches(record));
        for record in records {
            let gone = record.forgotten.is_some_and(|since| is_older(time(now), since, grace));
            if gone {
                continue;
            }
            let what = match place {
                Place::Source => self.lacks(record, objects),
                // What the source did with a forgotten one is over.
                Place::Replica if record.forgotten.is_some() => None,
                Place::Replica => self.lacks_chunks(record, objects),
            };
            if let Some(what) = what {
                let SnapshotName { writer, id } = record.name;
                return Some(format!("{place:?}: snapshot {writer}/{id} lacks {what}"));
            }
        }
        None
    }

    fn lacks(&self, record: &SnapshotRecord, objects: &Objects) -> Option<String> {
        let has = |name: ObjectName| objects.contains_key(&Key::Object(name));
        let newest = ObjectName::Refs(record.refs.refs_actor, record.refs.refs);
        let first = ObjectName::Refs(record.original.refs_actor, record.original.refs);
        for name in [record.name.object_name(), newest, first] {
            if !has(name) {
                return Some(format!("{name:?}"));
            }
        }
        let mut held = BTreeSet::new();
        for line in &self.refs[&record.refs.refs] {
            let Some(pack) = objects.get(&Key::Object(ObjectName::Data(line.pack))) else {
                return Some(format!("{:?}", ObjectName::Data(line.pack)));
            };
            let Content::Pack(chunks) = &*pack.content else { unreachable!("data is packs") };
            if !self.is_described(line.pack, objects) {
                return Some(format!("a segment of pack {}", line.pack));
            }
            let used = |ordinal: &usize| line.used.contains(*ordinal as u32);
            held.extend((0..chunks.len()).filter(used).map(|ordinal| chunks[ordinal]));
        }
        let addressed = self.refs[&record.original.refs].iter().map(|line| line.pack);
        if let Some(pack) = addressed.into_iter().find(|pack| !self.is_described(*pack, objects)) {
            return Some(format!("a segment of pack {pack}, whose handle it carries"));
        }
        let chunks = &self.chunks[&record.name.id];
        chunks.iter().find(|chunk| !held.contains(chunk)).map(|chunk| format!("chunk {chunk}"))
    }

    /// Whether a stored segment that a commit names describes the pack.
    fn is_described(&self, pack: ObjectId, objects: &Objects) -> bool {
        self.committed_segments(objects).any(|packs| packs.iter().any(|(name, _)| *name == pack))
    }

    fn committed_segments<'a>(
        &'a self,
        objects: &'a Objects,
    ) -> impl Iterator<Item = &'a Vec<(ObjectId, Vec<u32>)>> {
        let puts = self.history.logs.values().flatten().flat_map(|record| &record.commit.puts);
        let names = puts.filter(|put| matches!(put.name, ObjectName::Index(..)));
        let stored = names.filter(|put| objects.contains_key(&Key::Object(put.name)));
        stored.filter_map(|put| self.segments.get(&put.name))
    }

    /// A replica may hold older packs than the newest refs name: what counts is that every chunk
    /// can be read.
    fn lacks_chunks(&self, record: &SnapshotRecord, objects: &Objects) -> Option<String> {
        let name = record.name.object_name();
        let Some(chunks) = self.chunks.get(&record.name.id) else {
            return Some(format!("{name:?}"));
        };
        if !objects.contains_key(&Key::Object(name)) {
            return Some(format!("{name:?}"));
        }
        let mut held = BTreeSet::<u32>::new();
        for (pack, chunks) in self.committed_segments(objects).flatten() {
            if objects.contains_key(&Key::Object(ObjectName::Data(*pack))) {
                held.extend(chunks);
            }
        }
        chunks.iter().find(|chunk| !held.contains(chunk)).map(|chunk| format!("chunk {chunk}"))
    }
}
