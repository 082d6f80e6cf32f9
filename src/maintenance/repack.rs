//! Writing the used chunks of wasteful packs anew, so that the old packs become unneeded.
//!
//! # Invariants
//! * Every chunk is read through the index, verified by its id, and durable in a new pack before
//!   the commit that names the pack.
//! * One commit of the maintainer gives every needed snapshot that used an old pack newer refs;
//!   references inside the snapshots stay as they are and are resolved by chunk id.
//! * The old packs are not touched: a prune announces and deletes them like any other.
//! * Where a snapshot's refs have changed meanwhile, its old ones stay, and with them the packs.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use crate::crypto::ids::DomainKeys;
use crate::crypto::recipient::{Identity, Recipient};
use crate::crypto::small::seal_small;
use crate::format::commit::{ObjectName, PutEntry, SnapshotEntry, SnapshotName};
use crate::format::index_segment::IndexedPack;
use crate::format::pack::{PackKind, PackOwner};
use crate::format::refs::{ChunkBitmap, PackUse, Refs};
use crate::id::{ActorId, ChunkId, DomainId, ObjectId};
use crate::maintenance::error::MaintenanceError;
use crate::maintenance::maintainer_log::Changes;
use crate::maintenance::maintainer_packs::{NewPlace, PackWriter, put_segments};
use crate::maintenance::pack_catalog::{PackCatalog, PackFacts};
use crate::maintenance::prune_plan::Amount;
use crate::maintenance::prune_plan::repack::RepackCandidate;
use crate::maintenance::prune_state::PruneState;
use crate::maintenance::snapshot_refs::{BATCH, RefsReader};
use crate::maintenance::tombs::Maintainer;
use crate::progress::Progress;
use crate::repo::error::RepoError;
use crate::repo::history::{History, SnapshotRecord};
use crate::repo::objects::put_named;
use crate::repo::read_access::ReadAccess;

/// Level of refs: they are few.
const REFS_LEVEL: i32 = 9;

/// What a repack needs besides the maintainer's keys.
pub struct RepackKeys<'a> {
    /// Reads chunks, with an index that is up to date.
    pub access: &'a Arc<ReadAccess>,
    /// Keys of the domains.
    pub domains: &'a [(DomainId, DomainKeys)],
    /// Read recipient of the active epoch.
    pub recipient: &'a Recipient,
    /// What opens refs.
    pub refs: &'a [Identity],
}

/// What a repack did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RepackReport {
    /// Old packs that nothing needs now.
    pub old: Amount,
    /// New packs.
    pub new: Amount,
    /// Snapshots that got newer refs.
    pub snapshots: u64,
}

/// Which chunks of which old packs are used.
type Uses = BTreeMap<ObjectId, ChunkBitmap>;
/// Where the used chunks of the old packs are now.
type Moves = HashMap<ObjectId, Vec<(u32, ObjectId, u32)>>;

/// Writes the candidates anew. `state` is what the plan was made from.
pub fn repack(
    maintainer: &Maintainer<'_>,
    keys: &RepackKeys<'_>,
    state: &PruneState,
    candidates: &[RepackCandidate],
    grace: Duration,
    progress: &Progress,
) -> Result<RepackReport, MaintenanceError> {
    maintainer.check_rights()?;
    let (catalog, _) = PackCatalog::read(maintainer.repository, &state.history, keys.domains);
    let records: Vec<&SnapshotRecord> = state.needed(grace).collect();
    let reader = RefsReader::new(maintainer.repository, &state.history, keys.refs);
    let uses = used_chunks(&reader, &records, candidates, &catalog)?;
    let groups = by_domain(&uses, &catalog);
    let mut written = Written::default();
    for ((domain, kind), packs) in groups {
        let Some((_, domain_keys)) = keys.domains.iter().find(|(id, _)| *id == domain) else {
            continue;
        };
        let owner =
            PackOwner { repository: maintainer.repository.id, writer: maintainer.keys.id, domain };
        let writer = PackWriter::new(maintainer, owner, keys.recipient.clone(), kind.0, progress)?;
        let new = move_chunks(keys, &uses, &packs, writer, &mut written.moves, progress)?;
        written.take(maintainer, owner, domain_keys, new)?;
    }
    if written.moves.is_empty() {
        return Ok(written.report);
    }
    commit(maintainer, keys, &reader, &records, &mut written)?;
    let old = candidates.iter().filter(|candidate| {
        matches!(candidate.pack.parse(), Ok(ObjectName::Data(id)) if written.moves.contains_key(&id))
    });
    for candidate in old {
        written.report.old.objects += 1;
        written.report.old.bytes += candidate.size_bytes;
    }
    Ok(written.report)
}

#[derive(Default)]
struct Written {
    moves: Moves,
    puts: Vec<PutEntry>,
    /// Chunks of each new pack.
    chunks: HashMap<ObjectId, u32>,
    report: RepackReport,
}

impl Written {
    fn take(
        &mut self,
        maintainer: &Maintainer<'_>,
        owner: PackOwner,
        keys: &DomainKeys,
        packs: Vec<IndexedPack>,
    ) -> Result<(), MaintenanceError> {
        for pack in &packs {
            self.report.new.objects += 1;
            self.report.new.bytes += pack.size;
            self.chunks.insert(pack.name, pack.ids.len() as u32);
        }
        self.puts.extend(put_segments(maintainer, owner, keys, packs)?);
        Ok(())
    }
}

/// Kinds in a fixed order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Kind(PackKind);

fn by_domain<'c>(
    uses: &Uses,
    catalog: &'c PackCatalog,
) -> BTreeMap<(DomainId, Kind), Vec<(ObjectId, &'c PackFacts)>> {
    let mut groups: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for name in uses.keys() {
        if let Some(facts) = catalog.pack(name) {
            groups.entry((facts.domain, Kind(facts.kind))).or_default().push((*name, facts));
        }
    }
    groups
}

/// What all needed snapshots use of the candidates.
fn used_chunks(
    reader: &RefsReader<'_>,
    records: &[&SnapshotRecord],
    candidates: &[RepackCandidate],
    catalog: &PackCatalog,
) -> Result<Uses, MaintenanceError> {
    let mut uses = Uses::new();
    for candidate in candidates {
        if let Ok(ObjectName::Data(name)) = candidate.pack.parse()
            && let Some(facts) = catalog.pack(&name)
        {
            uses.insert(name, ChunkBitmap::new(facts.chunks));
        }
    }
    for batch in records.chunks(BATCH) {
        for refs in reader.read_newest(batch) {
            for line in refs?.packs {
                if let Some(sum) = uses.get_mut(&line.pack) {
                    sum.union(&line.used);
                }
            }
        }
    }
    Ok(uses)
}

/// Reads the used chunks in their order and writes each id once.
fn move_chunks(
    keys: &RepackKeys<'_>,
    uses: &Uses,
    packs: &[(ObjectId, &PackFacts)],
    mut writer: PackWriter<'_>,
    moves: &mut Moves,
    progress: &Progress,
) -> Result<Vec<IndexedPack>, MaintenanceError> {
    let mut reader = keys.access.reader()?;
    let mut numbers: HashMap<ChunkId, usize> = HashMap::new();
    let mut moved: Vec<(ObjectId, u32, usize)> = Vec::new();
    for (name, facts) in packs {
        let map = keys.access.pack(&facts.handle)?;
        let used = &uses[name];
        for ordinal in (0..used.chunks()).filter(|n| used.contains(*n)) {
            if progress.is_cancelled() {
                return Err(MaintenanceError::Cancelled);
            }
            let Some(id) = map.id(ordinal) else { continue };
            let number = if let Some(number) = numbers.get(id) {
                *number
            } else {
                let number = writer.add(*id, reader.chunk(&facts.handle, ordinal)?)?;
                numbers.insert(*id, number);
                number
            };
            moved.push((*name, ordinal, number));
        }
        Progress::add(&progress.items_done, 1);
    }
    let (new, places) = writer.finish()?;
    for (old, ordinal, number) in moved {
        let NewPlace { pack, ordinal: new_ordinal } = places[number];
        let target = (ordinal, new[pack as usize].name, new_ordinal);
        moves.entry(old).or_default().push(target);
    }
    Ok(new)
}

/// Stores newer refs and commits everything.
fn commit(
    maintainer: &Maintainer<'_>,
    keys: &RepackKeys<'_>,
    reader: &RefsReader<'_>,
    records: &[&SnapshotRecord],
    written: &mut Written,
) -> Result<(), MaintenanceError> {
    let mut relocated = 0;
    maintainer.commit(|seq, history| {
        relocated = 0;
        let mut relied: Vec<ObjectName> = written.puts.iter().map(|put| put.name).collect();
        let mut changes = Changes { puts: written.puts.clone(), relocations: Vec::new() };
        for record in records.iter().filter(|record| is_unchanged(history, record)) {
            let refs = reader.read(&record.refs)?;
            let Some(newer) = relocate(refs, maintainer.keys.id, seq, written) else { continue };
            relied.extend(newer.packs.iter().map(|line| ObjectName::Data(line.pack)));
            let (entry, put) = put_refs(maintainer, keys, record.name, &newer)?;
            // Snapshots that use the same have different labels or not; equal refs are one object.
            if !changes.puts.contains(&put) {
                changes.puts.push(put);
            }
            changes.relocations.push(entry);
            relocated += 1;
        }
        check_intents(maintainer, history, &relied, changes.puts.last())?;
        Ok(Some(changes))
    })?;
    written.report.snapshots = relocated;
    Ok(())
}

/// What the commit names and its refs rely on must not be about to be deleted: between the first
/// new pack and here any time may have passed. The newest object put tells the store's time.
fn check_intents(
    maintainer: &Maintainer<'_>,
    history: &History,
    relied: &[ObjectName],
    newest: Option<&PutEntry>,
) -> Result<(), MaintenanceError> {
    let is_named = |name| history.intents.contains_key(name) || history.deleted.contains(name);
    let Some(newest) = newest.filter(|_| relied.iter().any(is_named)) else { return Ok(()) };
    let grace = Duration::from_secs(maintainer.repository.roster.grace_seconds);
    let now = maintainer.repository.store.stat(&newest.name.to_string())?.first_seen;
    // Objects without refs put just now: their own age does not tell the time.
    let now = now.max(maintainer.clock.now());
    match relied.iter().filter(|name| history.is_doomed(name, now, grace)).count() {
        0 => Ok(()),
        packs => Err(RepoError::PacksIntended { packs }.into()),
    }
}

fn is_unchanged(history: &History, record: &SnapshotRecord) -> bool {
    let now = history.snapshots.iter().find(|other| other.name == record.name);
    now.is_some_and(|now| now.refs == record.refs && !now.is_deleted)
}

/// The refs with moved chunks in their new packs; nothing where no old pack is among them.
fn relocate(refs: Refs, actor: ActorId, seq: u64, written: &Written) -> Option<Refs> {
    let (old, mut packs): (Vec<PackUse>, Vec<PackUse>) =
        refs.packs.into_iter().partition(|line| written.moves.contains_key(&line.pack));
    if old.is_empty() {
        return None;
    }
    let mut new: BTreeMap<ObjectId, ChunkBitmap> = BTreeMap::new();
    for line in &old {
        for (ordinal, pack, new_ordinal) in &written.moves[&line.pack] {
            if line.used.contains(*ordinal) {
                let chunks = written.chunks.get(pack).copied().unwrap_or_default();
                let bitmap = new.entry(*pack).or_insert_with(|| ChunkBitmap::new(chunks));
                bitmap.insert_run(*new_ordinal, 1);
            }
        }
    }
    packs.extend(new.into_iter().map(|(pack, used)| PackUse { pack, used }));
    packs.sort_unstable_by_key(|line| line.pack);
    Some(Refs { writer: actor, seq, packs, ..refs })
}

fn put_refs(
    maintainer: &Maintainer<'_>,
    keys: &RepackKeys<'_>,
    snapshot: SnapshotName,
    refs: &Refs,
) -> Result<(SnapshotEntry, PutEntry), MaintenanceError> {
    let roster = &maintainer.repository.roster;
    let mut recipients: Vec<Recipient> =
        roster.maintainers.iter().map(|entry| entry.recipient.clone().into()).collect();
    recipients.push(keys.recipient.clone());
    let recipients: Vec<&Recipient> = recipients.iter().collect();
    let sealed = seal_small(&recipients, &refs.encode(), REFS_LEVEL)?;
    let actor = maintainer.keys.id;
    let store = &*maintainer.repository.store;
    let name = put_named(store, |id| ObjectName::Refs(actor, id), &sealed)?;
    let entry = SnapshotEntry { snapshot, refs_actor: actor, refs: name.id() };
    Ok((entry, PutEntry { name, bytes: sealed.len() as u64 }))
}
