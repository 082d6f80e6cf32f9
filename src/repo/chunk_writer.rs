//! Chunks in, packs out: deduplicates, gathers new chunks into frames, compresses, seals, stores.
//!
//! Chunk → frame happens in the caller's thread and in its order; frames are compressed by the
//! workers, put in order again and sealed by one thread, stored by others (one where the store is a disk). A frame counts only
//! after it was decoded and compared (zstd had bugs: restic#4523). Where a chunk ends up is known
//! when its frame is sealed: until then it is *pending* under its frame's number.
//! Memory: two packs, one tree pack, and a few frames for each worker.

mod upload;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::thread::JoinHandle;

use crossbeam_channel::{Receiver, Sender, bounded, unbounded};

use crate::compress::{CompressError, Level};
use crate::crypto::ids::{ChunkKind, DomainKeys};
use crate::format::index_segment::IndexedPack;
use crate::format::node::ChunkRun;
use crate::format::pack::PackKind;
use crate::id::{ChunkId, PackHandle};
use crate::index::database::IndexError;
use crate::index::lookup::ChunkLookup;
use crate::repo::pack_builder::{Frame, PackBuildError, PackBuilder, PackSettings, SealedPack};
use crate::repo::workers::{Tools, Workers};
use crate::repo::write_counts::WriteCounts;
use crate::store::{Store, StoreError};

/// A frame is closed when it has at least this many plain bytes…
const FRAME_BYTES: u64 = 1024 * 1024;
/// …or this part of a pack, so that one which does not compress fits into a small pack.
const FRAMES_PER_PACK: u64 = 4;

/// Packs on their way to the store at once: each is held in memory.
const UPLOADS_MAX: usize = 3;

/// Plain bytes at which a frame is closed, in a repository of packs of that size.
#[must_use]
pub fn frame_bytes(pack_bytes: u64) -> usize {
    FRAME_BYTES.min(pack_bytes / FRAMES_PER_PACK) as usize
}

/// Why chunks could not be written; the run is over, what it stored can be adopted by the next.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// The local index failed.
    #[error("the local index failed")]
    Index(#[from] IndexError),
    /// The store failed.
    #[error("the repository could not be written")]
    Store(#[from] StoreError),
    /// A pack could not be built.
    #[error("a pack could not be built")]
    Pack(#[from] PackBuildError),
    /// A frame could not be compressed.
    #[error("data could not be compressed")]
    Compress(#[from] CompressError),
    /// What was compressed does not decode to what went in: bad memory or a bug in zstd.
    #[error("a frame of {raw_bytes} bytes does not decode to what was compressed")]
    FrameMismatch {
        /// Length of its content.
        raw_bytes: usize,
    },
    /// A thread of the run ended early.
    #[error("a worker of the run has ended unexpectedly")]
    WorkerLost,
}

/// Where a chunk is, or will be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChunkPlace {
    /// In a pack.
    At {
        /// The pack.
        pack: PackHandle,
        /// Ordinal of the chunk.
        ordinal: u32,
    },
    /// In a frame that is not sealed yet.
    Pending {
        /// Number of the frame.
        frame: u64,
        /// Place of the chunk in it.
        index: u32,
    },
}

enum Event {
    Assigned { frame: u64, pack: PackHandle, first: u32 },
    Stored { pack: Box<IndexedPack>, created: bool },
    Failed(WriteError),
}

type FrameResult = (u64, Result<Frame, WriteError>);

/// Writes the chunks of one run.
pub struct ChunkWriter {
    settings: PackSettings,
    keys: DomainKeys,
    lookup: ChunkLookup,
    workers: Workers,
    tools: Tools,
    frames: Option<Sender<FrameResult>>,
    packs: Option<Sender<SealedPack>>,
    events: Receiver<Event>,
    threads: Vec<JoinHandle<()>>,
    frame_bytes: usize,
    open: OpenFrame,
    raw_home: Sender<Vec<u8>>,
    raw_spare: Receiver<Vec<u8>>,
    next_frame: u64,
    pending: HashMap<ChunkId, (u64, u32)>,
    assigned: BTreeMap<u64, (PackHandle, u32)>,
    assigned_count: u64,
    released: u64,
    stored: HashSet<PackHandle>,
    tree: TreePacks,
    packs_in_flight: u64,
    counts: WriteCounts,
}

#[derive(Default)]
struct OpenFrame {
    raw: Vec<u8>,
    chunks: Vec<(ChunkId, u32)>,
}

#[derive(Default)]
struct TreePacks {
    builder: Option<PackBuilder>,
    frame: OpenFrame,
    pending: HashMap<ChunkId, ChunkRun>,
}

impl ChunkWriter {
    /// Starts the threads of a run.
    pub fn start(
        settings: PackSettings,
        keys: DomainKeys,
        store: &Arc<dyn Store>,
        lookup: ChunkLookup,
        threads: usize,
        level: Level,
    ) -> Result<Self, WriteError> {
        let workers = Workers::start(threads, level)?;
        let frame_bytes = frame_bytes(settings.pack_bytes);
        let (frames, frame_results) = bounded::<FrameResult>(threads);
        let (packs, sealed) = bounded::<SealedPack>(0);
        let (event_sender, events) = unbounded();
        let (spare_sender, spare) = unbounded::<Vec<u8>>();
        let (raw_home, raw_spare) = unbounded();
        let sealing = Sealing {
            settings: settings.clone(),
            packs: packs.clone(),
            events: event_sender.clone(),
            spare,
            builder: None,
        };
        let mut threads = vec![std::thread::spawn(move || sealing.run(&frame_results))];
        for _ in 0..store.upload_slots().clamp(1, UPLOADS_MAX) {
            let (store, sealed) = (Arc::clone(store), sealed.clone());
            let (events, spare) = (event_sender.clone(), spare_sender.clone());
            threads.push(std::thread::spawn(move || {
                upload::store_packs(&*store, &sealed, &events, &spare);
            }));
        }
        drop((event_sender, spare_sender, sealed));
        Ok(Self {
            settings,
            keys,
            lookup,
            workers,
            tools: Tools::new(level)?,
            frames: Some(frames),
            packs: Some(packs),
            events,
            threads,
            frame_bytes,
            open: OpenFrame::default(),
            raw_home,
            raw_spare,
            next_frame: 0,
            pending: HashMap::new(),
            assigned: BTreeMap::new(),
            assigned_count: 0,
            released: 0,
            stored: HashSet::new(),
            tree: TreePacks::default(),
            packs_in_flight: 0,
            counts: WriteCounts::default(),
        })
    }

    /// The pool, for the jobs of whoever reads.
    #[must_use]
    pub fn workers(&self) -> &Workers {
        &self.workers
    }

    /// The index of the run.
    pub fn lookup(&mut self) -> &mut ChunkLookup {
        &mut self.lookup
    }

    /// Counts so far.
    #[must_use]
    pub fn counts(&self) -> WriteCounts {
        self.counts
    }

    /// Stores a data chunk unless the repository has it.
    pub fn put_data(&mut self, id: ChunkId, bytes: &[u8]) -> Result<ChunkPlace, WriteError> {
        if let Some((frame, index)) = self.pending.get(&id) {
            self.counts.known_chunks += 1;
            return Ok(self.place(*frame, *index));
        }
        if let Some(found) = self.lookup.find(&id, PackKind::Data)? {
            self.counts.known_chunks += 1;
            return Ok(ChunkPlace::At { pack: found.pack, ordinal: found.ordinal });
        }
        self.counts.new_chunks += 1;
        self.counts.new_bytes += bytes.len() as u64;
        let place = (self.next_frame, self.open.chunks.len() as u32);
        self.open.raw.extend_from_slice(bytes);
        self.open.chunks.push((id, bytes.len() as u32));
        self.pending.insert(id, place);
        if self.open.raw.len() >= self.frame_bytes {
            self.flush_frame()?;
        }
        Ok(ChunkPlace::Pending { frame: place.0, index: place.1 })
    }

    fn place(&self, frame: u64, index: u32) -> ChunkPlace {
        match self.assigned.get(&frame) {
            Some((pack, first)) => ChunkPlace::At { pack: *pack, ordinal: first + index },
            None => ChunkPlace::Pending { frame, index },
        }
    }

    /// Where the chunks of a frame are, once it is sealed.
    #[must_use]
    pub fn assignment(&self, frame: u64) -> Option<(PackHandle, u32)> {
        self.assigned.get(&frame).copied()
    }

    /// Frames that are sealed: all those with smaller numbers have their places.
    #[must_use]
    pub fn assigned_frames(&self) -> u64 {
        self.assigned_count
    }

    /// Says that frames before that number will not be asked for any more.
    pub fn release_before(&mut self, frame: u64) {
        self.released = frame;
        while let Some(entry) = self.assigned.first_entry() {
            if *entry.key() >= self.released || !self.stored.contains(&entry.get().0) {
                break;
            }
            entry.remove();
        }
    }

    /// Closes the open frame, so that its chunks will be assigned.
    pub fn flush_frame(&mut self) -> Result<(), WriteError> {
        if self.open.chunks.is_empty() {
            return self.poll();
        }
        // Memory of an earlier frame, so that no page is touched for the first time.
        let next = OpenFrame {
            raw: self.raw_spare.try_recv().unwrap_or_default(),
            chunks: Vec::with_capacity(self.open.chunks.len()),
        };
        let OpenFrame { mut raw, chunks } = std::mem::replace(&mut self.open, next);
        let home = self.raw_home.clone();
        let number = self.next_frame;
        self.next_frame += 1;
        let frames = self.frames.clone().ok_or(WriteError::WorkerLost)?;
        self.workers.urgent(move |tools| {
            let compress = std::panic::AssertUnwindSafe(|| compress_frame(tools, &raw, chunks));
            let result = std::panic::catch_unwind(compress).unwrap_or(Err(WriteError::WorkerLost));
            raw.clear();
            // Fail only when the run, or the sealing thread, has ended, which has said why.
            drop(home.send(raw));
            drop(frames.send((number, result)));
        });
        self.poll()
    }

    /// Takes note of what the threads have done meanwhile.
    pub fn poll(&mut self) -> Result<(), WriteError> {
        while let Ok(event) = self.events.try_recv() {
            self.take(event)?;
        }
        Ok(())
    }

    /// Waits for the next thing that the threads do.
    pub fn wait(&mut self) -> Result<(), WriteError> {
        let event = self.events.recv().map_err(|_| WriteError::WorkerLost)?;
        self.take(event)
    }

    fn take(&mut self, event: Event) -> Result<(), WriteError> {
        match event {
            Event::Assigned { frame, pack, first } => {
                self.assigned.insert(frame, (pack, first));
                self.assigned_count += 1;
            }
            Event::Stored { pack, created } => {
                self.counts.stored_packs += 1;
                self.counts.stored_bytes += if created { pack.size } else { 0 };
                self.lookup.add_stored(&pack)?;
                for id in &pack.ids {
                    self.pending.remove(id);
                    self.tree.pending.remove(id);
                }
                self.stored.insert(pack.table.handle);
                if pack.table.kind == PackKind::Tree {
                    self.packs_in_flight -= 1;
                }
                self.release_before(self.released);
            }
            Event::Failed(error) => return Err(error),
        }
        Ok(())
    }

    /// Closes the open frame and waits until every chunk has its place.
    pub fn settle(&mut self) -> Result<(), WriteError> {
        self.flush_frame()?;
        while self.assigned_count < self.next_frame {
            self.wait()?;
        }
        Ok(())
    }

    /// Stores a tree chunk unless the repository has it.
    pub fn put_tree(&mut self, bytes: &[u8]) -> Result<ChunkRun, WriteError> {
        let id = self.keys.chunk_id(ChunkKind::Tree, bytes);
        if let Some(run) = self.tree.pending.get(&id) {
            return Ok(*run);
        }
        if let Some(found) = self.lookup.find(&id, PackKind::Tree)? {
            return Ok(single(found.pack, found.ordinal));
        }
        self.make_room_for_tree_chunk(bytes.len())?;
        let builder = match &mut self.tree.builder {
            Some(builder) => builder,
            none => none.insert(PackBuilder::begin(&self.settings, PackKind::Tree, Vec::new())?),
        };
        let ordinal = builder.chunks() + self.tree.frame.chunks.len() as u32;
        let run = single(builder.handle(), ordinal);
        self.tree.frame.raw.extend_from_slice(bytes);
        self.tree.frame.chunks.push((id, bytes.len() as u32));
        self.tree.pending.insert(id, run);
        Ok(run)
    }

    /// A tree chunk is numbered before it is compressed, so there must be room in the worst case.
    fn make_room_for_tree_chunk(&mut self, bytes: usize) -> Result<(), WriteError> {
        let raw = self.tree.frame.raw.len() + bytes;
        if raw > self.frame_bytes && !self.tree.frame.chunks.is_empty() {
            self.flush_tree_frame()?;
        }
        let worst = zstd::zstd_safe::compress_bound(self.tree.frame.raw.len() + bytes);
        let chunks = self.tree.frame.chunks.len() + 1;
        if self.tree.builder.as_ref().is_some_and(|builder| !builder.fits(worst, chunks)) {
            self.flush_tree_frame()?;
            if let Some(builder) = self.tree.builder.take() {
                self.send_pack(builder.finish_full()?)?;
            }
        }
        Ok(())
    }

    fn flush_tree_frame(&mut self) -> Result<(), WriteError> {
        if self.tree.frame.chunks.is_empty() {
            return Ok(());
        }
        let OpenFrame { raw, chunks } = std::mem::take(&mut self.tree.frame);
        let frame = compress_frame(&mut self.tools, &raw, chunks)?;
        let builder = self.tree.builder.as_mut().expect("a tree frame belongs to a pack");
        builder.push(&frame)?;
        Ok(())
    }

    fn send_pack(&mut self, pack: SealedPack) -> Result<(), WriteError> {
        self.packs_in_flight += 1;
        let packs = self.packs.as_ref().ok_or(WriteError::WorkerLost)?;
        let sent = packs.send(pack);
        sent.map_err(|_| self.failure())
    }

    /// Why nobody takes packs any more: whoever ended has said so before its queue closed.
    fn failure(&mut self) -> WriteError {
        let failed = |event| match event {
            Event::Failed(error) => Some(error),
            Event::Assigned { .. } | Event::Stored { .. } => None,
        };
        self.events.try_iter().find_map(failed).unwrap_or(WriteError::WorkerLost)
    }

    /// Seals and stores what is open, and waits until everything is durable.
    pub fn finish(&mut self) -> Result<(), WriteError> {
        self.settle()?;
        self.frames = None;
        self.flush_tree_frame()?;
        if let Some(builder) = self.tree.builder.take() {
            self.send_pack(builder.finish_tail()?)?;
        }
        self.packs = None;
        while let Ok(event) = self.events.recv() {
            self.take(event)?;
        }
        for thread in self.threads.drain(..) {
            thread.join().map_err(|_| WriteError::WorkerLost)?;
        }
        self.lookup.flush()?;
        Ok(())
    }
}

fn single(pack: PackHandle, ordinal: u32) -> ChunkRun {
    ChunkRun { pack, first: ordinal, count: 1, slice: None }
}

fn compress_frame(
    tools: &mut Tools,
    raw: &[u8],
    chunks: Vec<(ChunkId, u32)>,
) -> Result<Frame, WriteError> {
    tools.encoder.encode(raw, &mut tools.encoded)?;
    let stored = tools.encoded.clone();
    tools.decoder.decode(&stored, raw.len(), &mut tools.scratch)?;
    if tools.scratch != raw {
        return Err(WriteError::FrameMismatch { raw_bytes: raw.len() });
    }
    Ok(Frame { stored, raw_bytes: raw.len() as u32, chunks })
}

/// The thread that puts frames in order and seals them.
struct Sealing {
    settings: PackSettings,
    packs: Sender<SealedPack>,
    events: Sender<Event>,
    spare: Receiver<Vec<u8>>,
    builder: Option<PackBuilder>,
}

impl Sealing {
    fn run(mut self, frames: &Receiver<FrameResult>) {
        if let Err(error) = self.seal_all(frames) {
            // Nobody listens only when the run is over anyway.
            drop(self.events.send(Event::Failed(error)));
        }
    }

    fn seal_all(&mut self, frames: &Receiver<FrameResult>) -> Result<(), WriteError> {
        let mut early: BTreeMap<u64, Frame> = BTreeMap::new();
        let mut next = 0;
        for (number, frame) in frames {
            early.insert(number, frame?);
            while let Some(frame) = early.remove(&next) {
                self.seal(next, &frame)?;
                next += 1;
            }
        }
        match self.builder.take() {
            Some(builder) => self.store(builder.finish_tail()?),
            None => Ok(()),
        }
    }

    fn seal(&mut self, number: u64, frame: &Frame) -> Result<(), WriteError> {
        let fits = |builder: &PackBuilder| builder.fits(frame.stored.len(), frame.chunks.len());
        if let Some(full) = self.builder.take_if(|builder| !fits(builder)) {
            self.store(full.finish_full()?)?;
        }
        let builder = match &mut self.builder {
            Some(builder) => builder,
            none => {
                let buffer = self.spare.try_recv().unwrap_or_default();
                none.insert(PackBuilder::begin(&self.settings, PackKind::Data, buffer)?)
            }
        };
        let first = builder.push(frame)?;
        let pack = builder.handle();
        drop(self.events.send(Event::Assigned { frame: number, pack, first }));
        Ok(())
    }

    fn store(&self, pack: SealedPack) -> Result<(), WriteError> {
        self.packs.send(pack).map_err(|_| WriteError::WorkerLost)
    }
}
