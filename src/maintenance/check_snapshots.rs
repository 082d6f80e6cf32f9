//! Walking every snapshot: all references lead to chunks of the index, their bytes add up, and the
//! refs say exactly what the trees use.
//!
//! Leaves that several snapshots share are decoded once, within a bound of memory.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};

use rayon::iter::{IntoParallelRefIterator, ParallelIterator};

use crate::format::commit::ObjectName;
use crate::format::node::{ChunkRun, Content, Node};
use crate::format::refs::{ChunkBitmap, Refs};
use crate::format::snapshot::{Root, Snapshot, SnapshotError};
use crate::format::tree::decode_list;
use crate::id::{ChunkId, ObjectId, PackHandle};
use crate::maintenance::check::Checking;
use crate::maintenance::error::MaintenanceError;
use crate::maintenance::finding::{Finding, Problem};
use crate::maintenance::listing::{read_snapshot, words};
use crate::maintenance::pack_catalog::PackCatalog;
use crate::maintenance::snapshot_refs::RefsReader;
use crate::repo::chunk_reader::ChunkReader;
use crate::repo::error::RepoError;
use crate::repo::history::SnapshotRecord;
use crate::repo::read_access::{ReadAccess, ReadError};
use crate::repo::tree_reader::{TreeReadError, TreeReader};
use crate::store::StoreError;

/// Runs of shared leaves that are remembered (32 bytes each).
const REMEMBERED_RUNS_MAX: usize = 2_000_000;
/// Findings about the trees of one snapshot.
const FINDINGS_MAX: usize = 20;

/// What the leaves that were seen use.
#[derive(Default)]
struct LeafMemory {
    leaves: HashMap<(PackHandle, u32), Arc<Vec<ChunkRun>>>,
    runs: usize,
}

/// Checks all snapshots that are listed.
pub fn check_all(
    checking: &Checking<'_>,
    access: &Arc<ReadAccess>,
    catalog: &PackCatalog,
    findings: &mut Vec<Finding>,
) -> Result<(), MaintenanceError> {
    let memory = Mutex::new(LeafMemory::default());
    let records: Vec<&SnapshotRecord> = checking.history.live().collect();
    let checker = Checker { checking, access, catalog, memory: &memory };
    let found: Vec<Result<Vec<Finding>, MaintenanceError>> =
        records.par_iter().map(|record| checker.check(record)).collect();
    for list in found {
        findings.extend(list?);
    }
    Ok(())
}

struct Checker<'a> {
    checking: &'a Checking<'a>,
    access: &'a Arc<ReadAccess>,
    catalog: &'a PackCatalog,
    memory: &'a Mutex<LeafMemory>,
}

/// What the trees of one snapshot use, and what is wrong with them.
struct Walk {
    used: HashMap<PackHandle, ChunkBitmap>,
    troubles: Vec<String>,
    more: usize,
    links: Links,
}

/// The files with several names of one root: one of the names has the content.
#[derive(Default)]
struct Links {
    /// Plain bytes of the content, by group.
    found: HashMap<u64, u64>,
    /// Plain bytes and a path of a name without content, by group.
    wanted: HashMap<u64, (u64, String)>,
}

/// The lists of one content.
struct Lists<'a> {
    /// Plain bytes below each that was opened; a chunk is a list of one depth only.
    seen: HashMap<(PackHandle, u32), u64>,
    out: &'a mut Vec<ChunkRun>,
}

impl Walk {
    /// Whether the node is a further name, whose content stands with another one.
    fn is_further_name(&mut self, node: &Node, path: &str) -> bool {
        let Some(group) = node.link_group else { return false };
        let bytes = node.stored_bytes();
        if node.content.runs.is_empty() && bytes > 0 {
            self.links.wanted.entry(group).or_insert_with(|| (bytes, path.to_owned()));
            return true;
        }
        self.links.found.entry(group).or_insert(bytes);
        false
    }

    /// Compares the names of the root that ends.
    fn end_links(&mut self) {
        let Links { found, wanted } = std::mem::take(&mut self.links);
        for (group, (bytes, path)) in wanted {
            if found.get(&group) != Some(&bytes) {
                self.trouble(format!("{path}: no other name of the file has its {bytes} bytes"));
            }
        }
    }

    fn trouble(&mut self, what: String) {
        if self.troubles.len() < FINDINGS_MAX {
            self.troubles.push(what);
        } else {
            self.more += 1;
        }
    }
}

impl Checker<'_> {
    fn check(&self, record: &SnapshotRecord) -> Result<Vec<Finding>, MaintenanceError> {
        if self.checking.progress.is_cancelled() {
            return Err(MaintenanceError::Cancelled);
        }
        let object = record.name.object_name().to_string();
        let identities = self.access.identities();
        let snapshot = match read_snapshot(self.checking.repository, record, identities) {
            Ok(snapshot) => snapshot,
            Err(error) => return Ok(unreadable(&object, record, error)?.into_iter().collect()),
        };
        let mut walk =
            Walk { used: HashMap::new(), troubles: Vec::new(), more: 0, links: Links::default() };
        for root in &snapshot.roots {
            self.walk_root(root, &mut walk)?;
        }
        let mut findings = self.check_refs(record, &snapshot, &mut walk)?;
        if walk.more > 0 {
            walk.troubles.push(format!("{} more of the kind", walk.more));
        }
        let troubles = walk.troubles.into_iter();
        findings.extend(
            troubles.map(|what| Finding::new(&object, Problem::Reference, what).of([record.name])),
        );
        Ok(findings)
    }

    fn walk_root(&self, root: &Root, walk: &mut Walk) -> Result<(), MaintenanceError> {
        let mut reader = match TreeReader::open(self.access, root) {
            Ok(reader) => reader,
            Err(error) => {
                walk.trouble(format!("{}: {}", root.name, words(&error)));
                return Ok(());
            }
        };
        let mut runs = Vec::new();
        self.node_runs(&root.node, reader.chunks(), &mut runs, walk, &root.name);
        for run in &runs {
            self.add(run, walk);
        }
        loop {
            let pending = reader.pending();
            let Some(node) = pending else {
                // At the end, since every leaf is emptied below.
                walk.end_links();
                return Ok(());
            };
            self.add(&node.chunk, walk);
            let key = (node.chunk.pack, node.chunk.first);
            let known =
                if node.level == 0 { self.memory().leaves.get(&key).cloned() } else { None };
            if let Some(runs) = known {
                for run in runs.iter() {
                    self.add(run, walk);
                }
                reader.skip_pending();
                continue;
            }
            if let Err(error) = reader.open_pending() {
                walk.trouble(format!("{}: {}", root.name, trouble_of(error)?));
            } else if node.level == 0 {
                self.walk_leaf(&mut reader, key, walk);
            }
        }
    }

    /// Takes all entries of the leaf that was opened.
    fn walk_leaf(&self, reader: &mut TreeReader, key: (PackHandle, u32), walk: &mut Walk) {
        let troubles = walk.troubles.len() + walk.more;
        let mut runs = Vec::new();
        let mut has_links = false;
        while reader.pending().is_none() {
            let Some(Ok((place, node))) = reader.next() else { break };
            let path = [&place.dir[..], b"/", &place.name[..]].concat();
            let path = String::from_utf8_lossy(&path).into_owned();
            has_links |= node.link_group.is_some();
            if walk.is_further_name(&node, &path) {
                continue;
            }
            self.node_runs(&node, reader.chunks(), &mut runs, walk, &path);
        }
        for run in &runs {
            self.add(run, walk);
        }
        let mut memory = self.memory();
        // The names of a file lie in several leaves: such leaves are looked at in each snapshot.
        if walk.troubles.len() + walk.more == troubles
            && !has_links
            && memory.runs + runs.len() <= REMEMBERED_RUNS_MAX
        {
            memory.runs += runs.len();
            memory.leaves.insert(key, Arc::new(runs));
        }
    }

    fn memory(&self) -> std::sync::MutexGuard<'_, LeafMemory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Appends all references of a node, those to lists too, and compares the sum of its bytes.
    fn node_runs(
        &self,
        node: &Node,
        chunks: &mut ChunkReader,
        out: &mut Vec<ChunkRun>,
        walk: &mut Walk,
        path: &str,
    ) {
        match self.content_runs(&node.content, chunks, out) {
            Ok(bytes) if bytes == node.stored_bytes() => {}
            Ok(bytes) => walk.trouble(format!(
                "{path}: its references have {bytes} bytes, not {}",
                node.stored_bytes()
            )),
            Err(error) => walk.trouble(format!("{path}: {}", words(&error))),
        }
    }

    fn content_runs(
        &self,
        content: &Content,
        chunks: &mut ChunkReader,
        out: &mut Vec<ChunkRun>,
    ) -> Result<u64, TreeReadError> {
        if u64::from(content.depth) > crate::format::limits::LIST_LEVELS_MAX {
            return Err(TreeReadError::Shape);
        }
        self.list_runs(
            &content.runs,
            content.depth,
            chunks,
            &mut Lists { seen: HashMap::new(), out },
        )
    }

    fn list_runs(
        &self,
        runs: &[ChunkRun],
        depth: u8,
        chunks: &mut ChunkReader,
        lists: &mut Lists<'_>,
    ) -> Result<u64, TreeReadError> {
        let mut bytes = 0_u64;
        for run in runs {
            bytes = bytes.checked_add(self.run_bytes(run)?).ok_or(TreeReadError::Shape)?;
            push_joined(lists.out, run);
        }
        let Some(below) = depth.checked_sub(1) else { return Ok(bytes) };
        let mut bytes = 0_u64;
        for run in runs {
            for ordinal in run.first..run.first + run.count {
                let inside = self.list_bytes(run.pack, ordinal, below, chunks, lists)?;
                bytes = bytes.checked_add(inside).ok_or(TreeReadError::Shape)?;
            }
        }
        Ok(bytes)
    }

    /// Plain bytes below a list chunk. One that is referenced many times is opened once.
    fn list_bytes(
        &self,
        pack: PackHandle,
        ordinal: u32,
        depth: u8,
        chunks: &mut ChunkReader,
        lists: &mut Lists<'_>,
    ) -> Result<u64, TreeReadError> {
        if let Some(bytes) = lists.seen.get(&(pack, ordinal)) {
            return Ok(*bytes);
        }
        let list = decode_list(chunks.chunk(&pack, ordinal)?, depth)
            .map_err(|source| TreeReadError::Document { pack, ordinal, source })?;
        let bytes = self.list_runs(&list, depth, chunks, lists)?;
        lists.seen.insert((pack, ordinal), bytes);
        Ok(bytes)
    }

    /// Plain bytes of a run; its pack is in the index and has these chunks.
    fn run_bytes(&self, run: &ChunkRun) -> Result<u64, ReadError> {
        let map = self.access.pack(&run.pack)?;
        let out_of_range = ReadError::OutOfRange { pack: run.pack, ordinal: run.first };
        let Some(end) = run.first.checked_add(run.count).filter(|end| *end <= map.chunks()) else {
            return Err(out_of_range);
        };
        let whole = (run.first..end).map(|n| u64::from(map.chunk_bytes(n).unwrap_or(0))).sum();
        match run.slice {
            None => Ok(whole),
            Some((offset, length))
                if run.count == 1 && u64::from(offset) + u64::from(length) <= whole =>
            {
                Ok(u64::from(length))
            }
            Some(_) => Err(out_of_range),
        }
    }

    fn add(&self, run: &ChunkRun, walk: &mut Walk) {
        if let Some(bitmap) = walk.used.get_mut(&run.pack) {
            bitmap.insert_run(run.first, run.count);
            return;
        }
        match self.access.pack(&run.pack) {
            Ok(map) => {
                let mut bitmap = ChunkBitmap::new(map.chunks());
                bitmap.insert_run(run.first, run.count);
                walk.used.insert(run.pack, bitmap);
            }
            Err(error) => walk.trouble(error.to_string()),
        }
    }

    /// The first refs are what the trees use; the newest ones keep all of it.
    fn check_refs(
        &self,
        record: &SnapshotRecord,
        snapshot: &Snapshot,
        walk: &mut Walk,
    ) -> Result<Vec<Finding>, MaintenanceError> {
        let checking = self.checking;
        let reader =
            RefsReader::new(checking.repository, &checking.history, self.access.identities());
        let mut findings = Vec::new();
        let mut read = |entry| match reader.read(entry) {
            Ok(refs) => Ok(Some(refs)),
            Err(error) => {
                let object = RefsReader::name(entry).to_string();
                findings.extend(unreadable(&object, record, error)?);
                Ok::<_, MaintenanceError>(None)
            }
        };
        let (first, newest) = (read(&record.original)?, read(&record.refs)?);
        let is_complete = walk.troubles.is_empty();
        if let Some(refs) = &first {
            let lacking = self.compare(refs, walk, is_complete, record.original == record.refs);
            let is_labelled = refs.label.as_ref().is_none_or(|l| l.source == snapshot.source);
            let label = (!is_labelled).then(|| "its label is not the snapshot's".to_owned());
            let object = RefsReader::name(&record.original).to_string();
            findings.extend(
                lacking
                    .into_iter()
                    .chain(label)
                    .map(|what| Finding::new(&object, Problem::Refs, what).of([record.name])),
            );
        }
        if let Some(refs) = &newest {
            findings.extend(self.missing_packs(refs, record));
            if record.refs != record.original && is_complete {
                let object = RefsReader::name(&record.refs).to_string();
                findings.extend(
                    self.lost_by_relocation(refs, walk)
                        .map(|what| Finding::new(object, Problem::Refs, what).of([record.name])),
                );
            }
        }
        Ok(findings)
    }

    fn compare(&self, refs: &Refs, walk: &Walk, is_complete: bool, holds: bool) -> Option<String> {
        let listed: HashMap<ObjectId, &ChunkBitmap> =
            refs.packs.iter().map(|line| (line.pack, &line.used)).collect();
        let (mut lacking, mut used) = (0, 0);
        for (handle, bitmap) in &walk.used {
            let name = self.access.pack(handle).ok().map(|map| *map.name());
            let line = name.and_then(|name| listed.get(&name));
            used += u64::from(bitmap.used());
            lacking += (0..bitmap.chunks())
                .filter(|n| bitmap.contains(*n) && !line.is_some_and(|line| line.contains(*n)))
                .count();
        }
        let kept: u64 = refs.packs.iter().map(|line| u64::from(line.used.used())).sum();
        if lacking > 0 {
            let danger = if holds { "; a prune could delete them" } else { "" };
            return Some(format!("they lack {lacking} chunks that the snapshot uses{danger}"));
        }
        (is_complete && kept > used)
            .then(|| format!("they keep {} chunks that the snapshot does not use", kept - used))
    }

    fn missing_packs(&self, refs: &Refs, record: &SnapshotRecord) -> Vec<Finding> {
        let packs = refs.packs.iter().map(|line| ObjectName::Data(line.pack));
        let missing = packs.filter(|name| !self.checking.has(name));
        missing
            .map(|name| {
                let what = "a snapshot needs it, and the store has not got it";
                Finding::new(name.to_string(), Problem::Missing, what).of([record.name])
            })
            .collect()
    }

    /// After a repack: every chunk that is used is, under some pack of the newest refs, kept.
    fn lost_by_relocation(&self, newest: &Refs, walk: &Walk) -> Option<String> {
        let lines: HashMap<ObjectId, &ChunkBitmap> =
            newest.packs.iter().map(|line| (line.pack, &line.used)).collect();
        let mut moved: HashSet<ChunkId> = HashSet::new();
        for line in &newest.packs {
            let Some(facts) = self.catalog.pack(&line.pack) else { continue };
            if walk.used.contains_key(&facts.handle) {
                continue;
            }
            let Ok(map) = self.access.pack(&facts.handle) else { continue };
            let kept = (0..map.chunks()).filter(|n| line.used.contains(*n));
            moved.extend(kept.filter_map(|n| map.id(n)));
        }
        let mut lost = 0;
        for (handle, bitmap) in &walk.used {
            let Ok(map) = self.access.pack(handle) else { continue };
            let line = lines.get(map.name());
            lost += (0..bitmap.chunks())
                .filter(|n| bitmap.contains(*n) && !line.is_some_and(|line| line.contains(*n)))
                .filter(|n| !map.id(*n).is_some_and(|id| moved.contains(id)))
                .count();
        }
        (lost > 0)
            .then(|| format!("after a repack they lack {lost} chunks; a prune could delete them"))
    }
}

fn push_joined(out: &mut Vec<ChunkRun>, run: &ChunkRun) {
    let run = ChunkRun { slice: None, ..*run };
    match out.last_mut() {
        Some(last) if last.pack == run.pack && last.first + last.count == run.first => {
            last.count += run.count;
        }
        _ => out.push(run),
    }
}

/// A failure of the store ends the check; everything else is a finding.
fn unreadable(
    object: &str,
    record: &SnapshotRecord,
    error: RepoError,
) -> Result<Option<Finding>, MaintenanceError> {
    let problem = match &error {
        RepoError::Snapshot { source: SnapshotError::Unsupported(_), .. } => Problem::Unsupported,
        RepoError::Store(StoreError::NotFound { .. }) => Problem::Missing,
        RepoError::WrongName { .. } => Problem::WrongName,
        RepoError::Store(StoreError::WrongSize { .. }) => Problem::WrongSize,
        RepoError::Store(_) => return Err(error.into()),
        _ => Problem::Unreadable,
    };
    Ok(Some(Finding::new(object, problem, words(&error)).of([record.name])))
}

/// What is wrong with a tree; failures of this host end the check.
fn trouble_of(error: TreeReadError) -> Result<String, MaintenanceError> {
    match error {
        TreeReadError::Read {
            source: source @ (ReadError::Index(_) | ReadError::Decoder(_)),
            ..
        } => Err(source.into()),
        error => Ok(words(&error)),
    }
}
