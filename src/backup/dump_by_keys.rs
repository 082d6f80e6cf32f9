//! Length and hash of a dump that is sorted by keys; each of its atoms was turned back for that.

use std::collections::BTreeSet;

use crate::backup::dump_part::MadePart;
use crate::backup::dump_records::DumpError;
use crate::backup::dump_spool::Spooled;
use crate::crypto::ids::ContentHasher;
use crate::format::redis::dump_parts::put_select;
use crate::id::ContentHash;

/// What is said of a dump by keys, as far as its parts were given.
pub struct ByKeys {
    hasher: ContentHasher,
    bytes: u64,
    databases: BTreeSet<u64>,
}

impl ByKeys {
    /// Before the first part.
    #[must_use]
    pub fn new(spooled: &Spooled) -> Self {
        Self { hasher: spooled.frame.clone(), bytes: 0, databases: BTreeSet::new() }
    }

    /// Adds the next part.
    pub fn add(&mut self, part: &mut MadePart) {
        let (bytes, databases) = std::mem::take(&mut part.by_keys);
        self.hasher.update(&bytes);
        self.bytes += bytes.len() as u64;
        self.databases.extend(databases);
    }

    /// Length, hash, and number of files of the order.
    pub fn finish(self, spooled: &Spooled) -> Result<(u64, ContentHash, u32), DumpError> {
        if self.bytes != spooled.plain_atom_bytes {
            return Err(DumpError::Inverse { what: "a record" });
        }
        let mut selects = Vec::new();
        for database in &self.databases {
            put_select(&mut selects, *database);
        }
        Ok((spooled.bytes + selects.len() as u64, self.hasher.content_hash(), 0))
    }
}
