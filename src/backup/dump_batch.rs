//! Some parts of a dump, turned into atoms by a worker.

use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use crate::backup::dump_entry::put_entry;
use crate::format::redis::dump_parts::Kind;
use crate::format::redis::grammar::Dialect;
use crate::format::redis::record::{AtomKind, Canonical, SALT_BYTES};

/// Type and key of a large table, as the dump has them.
pub type Table = Arc<(u8, Vec<u8>)>;

/// Parts of a dump, in its order.
pub struct Batch {
    /// Their bytes.
    pub bytes: Vec<u8>,
    /// What each is, its database, and where it ends.
    pub parts: Vec<(Kind, u64, usize)>,
    /// The table that the first elements belong to.
    pub table: Option<Table>,
}

/// What became of a part.
pub enum Sorted {
    /// An atom of that hash; its entry ends there.
    Atom(u64, usize),
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
}

/// What workers take turns with.
pub struct Sorter {
    dialect: Dialect,
    salt: [u8; SALT_BYTES],
    spare: Mutex<Vec<Canonical>>,
}

impl Sorter {
    /// For a dump of that kind.
    #[must_use]
    pub fn new(dialect: Dialect, salt: [u8; SALT_BYTES]) -> Self {
        Self { dialect, salt, spare: Mutex::default() }
    }

    /// Turns parts into atoms.
    #[must_use]
    pub fn sort(&self, batch: Batch) -> SortedBatch {
        let spare = self.spare.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let mut canonical = spare.unwrap_or_else(|| Canonical::new(self.dialect));
        if let Some(table) = &batch.table {
            canonical.set_table(table.0, &table.1);
        }
        let mut entries = Vec::with_capacity(batch.bytes.len() * 2);
        let mut sorted = Vec::with_capacity(batch.parts.len());
        let mut start = 0;
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
                sorted.push(Sorted::Between(range));
                continue;
            };
            let hash = atom.hash(&self.salt, self.dialect);
            put_entry(&mut entries, hash, &atom, details);
            sorted.push(Sorted::Atom(hash, entries.len()));
        }
        self.spare.lock().unwrap_or_else(PoisonError::into_inner).push(canonical);
        SortedBatch { bytes: batch.bytes, entries, parts: sorted }
    }
}
