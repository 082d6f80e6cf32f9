//! Which chunks of which packs a snapshot needs: what becomes its refs object.

use std::collections::HashMap;

use crate::format::node::ChunkRun;
use crate::format::refs::{ChunkBitmap, PackUse};
use crate::id::PackHandle;
use crate::index::lookup::ChunkLookup;

/// Marks chunks as needed.
#[derive(Debug, Default)]
pub struct Usage {
    packs: HashMap<PackHandle, Vec<u64>>,
}

impl Usage {
    /// Marks the chunks of a run.
    pub fn add(&mut self, run: &ChunkRun) {
        let words = self.packs.entry(run.pack).or_default();
        let end = run.first + run.count;
        let needed = end.div_ceil(64) as usize;
        if words.len() < needed {
            words.resize(needed, 0);
        }
        for ordinal in run.first..end {
            words[ordinal as usize / 64] |= 1 << (ordinal % 64);
        }
    }

    /// Handles of the packs that are needed.
    pub fn handles(&self) -> impl Iterator<Item = &PackHandle> {
        self.packs.keys()
    }

    /// The needed packs by name, in ascending order; the handle of one that the index lacks as error.
    pub fn pack_uses(&self, lookup: &ChunkLookup) -> Result<Vec<PackUse>, PackHandle> {
        let mut uses = self
            .packs
            .iter()
            .map(|(handle, words)| {
                let row = lookup.pack_row(handle).ok_or(*handle)?;
                let mut used = ChunkBitmap::new(row.chunks);
                for (index, word) in words.iter().enumerate() {
                    let mut rest = *word;
                    while rest != 0 {
                        used.insert_run(index as u32 * 64 + rest.trailing_zeros(), 1);
                        rest &= rest - 1;
                    }
                }
                Ok(PackUse { pack: row.name, used })
            })
            .collect::<Result<Vec<_>, PackHandle>>()?;
        uses.sort_unstable_by_key(|pack_use| pack_use.pack);
        Ok(uses)
    }
}
