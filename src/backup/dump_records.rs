//! A dump of Redis or Valkey as a root: taken apart into records, which are sorted and compared with
//! those of the previous snapshot one by one.
//!
//! Files, in `format-spec/redis.md`: what lies between the records, records and columns part by
//! part, the order of the dump. Each atom was turned back into its bytes before it was taken, and
//! whatever is built of atoms is read back before it is given away. Memory: a fixed number of bytes
//! of spooled atoms, one part, and what is kept of its pieces.

use crate::backup::dump_by_keys::ByKeys;
use crate::backup::dump_files::Files;
use crate::backup::dump_parallel::Parts;
use crate::backup::dump_part::PartPlan;
use crate::backup::dump_spool::{SPOOL_LANE_BITS, Spooled, Spooler};
use crate::backup::error::BackupError;
use crate::backup::item::{Entry, Item, KnownContent, Step};
use crate::backup::ordered::Giver;
use crate::backup::previous_files::PreviousFiles;
use crate::backup::run::{RootSource, SnapshotLabel};
use crate::backup::stream::{OpenStream, Reading};
use crate::backup::successor::Successor;
use crate::chunker::{ChunkSizes, Chunker};
use crate::crypto::ids::{ChunkKind, DomainKeys};
use crate::format::node::{Node, NodeKind, UnixTime};
use crate::format::redis::bits::BitWriter;
use crate::format::redis::dump_end::Ending;
use crate::format::redis::facts::{
    DumpOrder, FRAME_FILE, RecordFacts, column_file, dialect_word, records_file,
};
use crate::format::redis::order::prefix_bits;
use crate::format::redis::record::SALT_BYTES;
use crate::format::snapshot::Facts;
use crate::repo::lanes::LaneError;
use crate::repo::session::WriteSession;
use crate::source::error::SourceError;
use std::path::PathBuf;
use std::sync::Arc;

/// Why a dump was not saved.
#[derive(Debug, thiserror::Error)]
pub enum DumpError {
    /// The source failed.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// The temporary file failed.
    #[error("the dump could not be sorted")]
    Lane(#[from] LaneError),
    /// The dump ends in the middle.
    #[error("the dump ends in the middle, after {bytes} bytes")]
    Truncated {
        /// Its length.
        bytes: u64,
    },
    /// The dump is damaged.
    #[error("the dump of {bytes} bytes is damaged: its checksum is another than it says")]
    WrongSum {
        /// Its length.
        bytes: u64,
    },
    /// What was built of the records does not give the dump back.
    #[error("{what} of the dump would not come back as it was")]
    Inverse {
        /// What.
        what: &'static str,
    },
}

/// What is known of a dump beside the dump itself; asked for when it was read.
pub type FactsOf = Box<dyn Fn() -> Facts + Send>;

/// What may stand behind a dump.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Behind {
    /// Nothing that is known.
    Nothing,
    /// Commands, as in an append-only file of old.
    Commands,
}

/// A dump that comes as a stream.
pub struct RedisRecords {
    root: String,
    name: String,
    path: String,
    behind: Behind,
    open: Option<OpenStream>,
    facts: FactsOf,
    previous: Option<PreviousFiles>,
    folder: PathBuf,
    order: DumpOrder,
    records: Option<RecordFacts>,
}

impl RedisRecords {
    /// The root of that name (`redis:cache`), whose file is called `name`.
    #[must_use]
    pub fn new(
        root: String,
        name: String,
        order: DumpOrder,
        open: OpenStream,
        facts: FactsOf,
    ) -> Self {
        Self {
            root,
            path: name.clone(),
            name,
            behind: Behind::Nothing,
            open: Some(open),
            facts,
            previous: None,
            folder: PathBuf::new(),
            order,
            records: None,
        }
    }

    /// The same at another path, which may be another one each time: what it is compared with is
    /// found by its name.
    #[must_use]
    pub fn at(self, path: String) -> Self {
        Self { path, ..self }
    }

    /// The same with something behind it that is no part of a dump.
    #[must_use]
    pub fn with(self, behind: Behind) -> Self {
        Self { behind, ..self }
    }

    fn receive(
        &mut self,
        reading: &Reading,
        chunker: &Chunker,
        items: &mut Giver<Item>,
    ) -> Result<Option<()>, DumpError> {
        let unfinished = || SourceError::Unfinished { name: self.name.clone() };
        let stream = self.open.take().ok_or_else(unfinished)?()?;
        if !give_root(items) {
            return Ok(None);
        }
        let salt = salt(&reading.keys);
        let mut spooler = Spooler::new(stream, &self.folder, salt, reading);
        let mut files = Files { previous: self.previous.take(), reading, chunker };
        let mut frame = |buffer: &mut [u8]| spooler.read_frame(buffer);
        let given = files.give_cut(FRAME_FILE, items, &mut frame);
        if let Some(error) = spooler.take_failure() {
            return Err(error);
        }
        if given?.is_none() {
            return Ok(None);
        }
        let spooled = Arc::new(spooler.finish()?);
        match spooled.ending {
            Ending::Truncated => return Err(DumpError::Truncated { bytes: spooled.bytes }),
            Ending::WrongSum => return Err(DumpError::WrongSum { bytes: spooled.bytes }),
            Ending::Whole | Ending::Unknown => {}
        }
        self.store(&mut files, items, &spooled, salt)
    }

    /// The order that the dump is stored in.
    fn order_of(&self, spooled: &Spooled, reading: &Reading) -> DumpOrder {
        if self.order == DumpOrder::Server {
            return DumpOrder::Server;
        }
        let is_understood = spooled.ending == Ending::Whole && spooled.unknown_bytes == 0;
        if is_understood && !spooled.is_bound {
            return DumpOrder::Keys;
        }
        let name = &self.name;
        let what = "holds something that depends on its order, which is kept";
        reading.progress.warn(format!("{name}: the dump {what}"));
        DumpOrder::Server
    }

    /// Gives the files of a dump that was read.
    fn store(
        &mut self,
        files: &mut Files<'_>,
        items: &mut Giver<Item>,
        spooled: &Arc<Spooled>,
        salt: [u8; SALT_BYTES],
    ) -> Result<Option<()>, DumpError> {
        let order = self.order_of(spooled, files.reading);
        let plan = PartPlan {
            order,
            bits: files.part_bits(spooled),
            order_bits: prefix_bits(spooled.atoms as usize),
            made: spooled.created.unwrap_or(0) as u32,
        };
        let mut by_keys = ByKeys::new(spooled);
        let mut ties = BitWriter::default();
        let mut parts = Parts::new(Arc::clone(spooled), plan);
        for number in 0..1 << plan.bits {
            let mut part = parts.next(files)?;
            by_keys.add(&mut part);
            for (member, bits) in part.ties {
                ties.put(member, bits);
            }
            let name = records_file(plan.bits, number);
            if files.give_compared(&name, items, part.records).is_none() {
                return Ok(None);
            }
            let name = column_file(plan.bits, number);
            if files.give_compared(&name, items, part.column).is_none() {
                return Ok(None);
            }
        }
        let (bytes, hash, order_files) = match order {
            DumpOrder::Keys => by_keys.finish(spooled)?,
            DumpOrder::Server => {
                let given = files.give_order(items, &spooled.lanes, plan.order_bits)?;
                let Some(order_files) = given else { return Ok(None) };
                if files.give_ties(ties, items)?.is_none() {
                    return Ok(None);
                }
                (spooled.bytes, spooled.hash, order_files)
            }
        };
        if spooled.unknown_bytes > 0 && self.behind == Behind::Nothing {
            files.reading.progress.warn(format!(
                "{}: {} of {} bytes are of a form that is not known, and are kept as they are",
                self.name, spooled.unknown_bytes, spooled.bytes
            ));
        }
        self.records = Some(RecordFacts {
            form: 1,
            dialect: dialect_word(spooled.dialect).into(),
            bytes,
            hash,
            order,
            salt: data_encoding::HEXLOWER.encode(&salt),
            atoms: spooled.atoms,
            order_bits: plan.order_bits,
            order_files,
            part_bits: plan.bits,
            made: plan.made,
            unknown_bytes: spooled.unknown_bytes,
        });
        Ok(Some(()))
    }
}

impl RootSource for RedisRecords {
    fn name(&self) -> String {
        self.root.clone()
    }

    fn path(&self) -> Vec<u8> {
        self.path.clone().into_bytes()
    }

    fn chunk_sizes(&self) -> ChunkSizes {
        ChunkSizes::STREAM
    }

    fn previous(
        &mut self,
        session: &mut WriteSession,
        label: &SnapshotLabel,
    ) -> Result<Option<Successor>, BackupError> {
        session.repository.state.path().clone_into(&mut self.folder);
        let (previous, successor) = PreviousFiles::open(session, label, self.name.as_bytes())?;
        self.previous = previous;
        Ok(Some(successor))
    }

    fn facts(&self) -> Option<Facts> {
        let mut facts = (self.facts)();
        self.records.as_ref()?.put(&mut facts);
        Some(facts)
    }

    fn read(&mut self, reading: &Reading, chunker: &Chunker, items: &mut Giver<Item>) {
        let name = self.name.clone();
        match self.receive(reading, chunker, items) {
            Ok(_) => {}
            Err(DumpError::Source(source)) => {
                items.give(Item::Failed(BackupError::Source { name, source }));
            }
            Err(source) => {
                items.give(Item::Failed(BackupError::Dump { name, source }));
            }
        }
    }
}

/// Hashes must be the same from one snapshot to the next, and not to be foreseen.
fn salt(keys: &DomainKeys) -> [u8; SALT_BYTES] {
    let id = keys.chunk_id(ChunkKind::Tree, b"salt of the order of a dump");
    id.as_bytes().first_chunk().copied().unwrap_or_default()
}

fn give_root(items: &mut Giver<Item>) -> bool {
    let mut node = Node::new(NodeKind::Dir, Vec::new());
    node.mode = 0o700;
    node.mtime = UnixTime::default();
    let entry = Entry { dir: Arc::from([]), node, device: 0, inode: 0, link_group: None };
    items.give(Item::Batch(vec![Step::Known(entry, KnownContent::None)]))
}

/// Lane of the atoms of that hash.
#[must_use]
pub fn lane_of(hash: u64) -> usize {
    (hash >> (u64::BITS - SPOOL_LANE_BITS)) as usize
}
