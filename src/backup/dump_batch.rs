//! Some parts of a dump, turned into atoms by a worker.

use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use crate::backup::dump_entry::put_entry;
use crate::format::redis::dump_parts::Kind;
use crate::format::redis::grammar::Dialect;
use crate::format::redis::record::{AtomKind, Canonical, SALT_BYTES};

/// Memory of more than that is not kept.
const SPARE_BYTES_MAX: usize = 8 * 1024 * 1024;

/// Type and key of a large table, as the dump has them.
pub type Table = Arc<(u8, Vec<u8>)>;

/// Parts of a dump, in its order.
pub struct Batch {
    /// Their bytes, and more behind them.
    pub bytes: Vec<u8>,
    /// What each is, its database, and where it ends.
    pub parts: Vec<(Kind, u64, usize)>,
    /// The table that the first elements belong to.
    pub table: Option<Table>,
}

/// What became of a part.
pub enum Sorted {
    /// An atom.
    Atom {
        /// Its hash.
        hash: u64,
        /// Where its entry ends.
        end: usize,
        /// Its bytes in the batch.
        bytes: Range<usize>,
    },
    /// Bytes of the batch that stay where they are.
    Between(Range<usize>),
}

/// A batch that was worked on.
pub struct SortedBatch {
    /// The bytes of the batch.
    pub bytes: Vec<u8>,
    /// Spooled atoms, one after another.
    pub entries: Vec<u8>,
    /// What became of each part.
    pub parts: Vec<Sorted>,
    /// Some of a table is an atom and some stays where it is.
    pub is_torn: bool,
}

/// What workers take turns with.
pub struct Sorter {
    dialect: Dialect,
    salt: [u8; SALT_BYTES],
    spare: Mutex<Vec<Canonical>>,
    /// Memory of entries that were taken.
    spare_entries: Mutex<Vec<Vec<u8>>>,
}

impl Sorter {
    /// For a dump of that kind.
    #[must_use]
    pub fn new(dialect: Dialect, salt: [u8; SALT_BYTES]) -> Self {
        Self { dialect, salt, spare: Mutex::default(), spare_entries: Mutex::default() }
    }

    /// Takes the memory of a batch that was taken back; that of its bytes, which is not cleared, is the
    /// caller's.
    pub fn reuse(&self, batch: SortedBatch) -> Vec<u8> {
        let SortedBatch { bytes, mut entries, .. } = batch;
        entries.clear();
        if entries.capacity() <= SPARE_BYTES_MAX {
            self.spare_entries.lock().unwrap_or_else(PoisonError::into_inner).push(entries);
        }
        bytes
    }

    /// Turns parts into atoms.
    #[must_use]
    pub fn sort(&self, batch: Batch) -> SortedBatch {
        let spare = self.spare.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let mut canonical = spare.unwrap_or_else(|| Canonical::new(self.dialect));
        if let Some(table) = &batch.table {
            canonical.set_table(table.0, &table.1);
        }
        let spare = self.spare_entries.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let mut entries = spare.unwrap_or_else(|| Vec::with_capacity(batch.bytes.len() * 2));
        let mut sorted = Vec::with_capacity(batch.parts.len());
        let (mut start, mut is_torn) = (0, false);
        for (kind, database, end) in batch.parts {
            let range = start..end;
            start = end;
            let bytes = &batch.bytes[range.clone()];
            let atom = match kind {
                Kind::Between | Kind::Unknown => None,
                Kind::Record { prefix } => {
                    canonical.record(AtomKind::Record, database, bytes, prefix)
                }
                Kind::TableHead { prefix } => {
                    canonical.record(AtomKind::Head, database, bytes, prefix)
                }
                Kind::Element => canonical.element(database, bytes),
            };
            let Some((atom, details)) = atom else {
                is_torn |= matches!(kind, Kind::TableHead { .. } | Kind::Element);
                sorted.push(Sorted::Between(range));
                continue;
            };
            let hash = atom.hash(&self.salt, self.dialect);
            put_entry(&mut entries, hash, &atom, details);
            sorted.push(Sorted::Atom { hash, end: entries.len(), bytes: range });
        }
        self.spare.lock().unwrap_or_else(PoisonError::into_inner).push(canonical);
        SortedBatch { bytes: batch.bytes, entries, parts: sorted, is_torn }
    }
}
