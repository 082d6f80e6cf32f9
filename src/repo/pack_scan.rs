//! Reading a pack in full: name, footer, every frame, every chunk id.
//!
//! What `check --read-data` and the rebuilding of an index need. Nothing of the index is used.

use std::sync::Arc;

use crate::compress::{CompressError, FrameDecoder};
use crate::crypto::ids::{ChunkKind, DomainKeys, object_id};
use crate::crypto::recipient::Identity;
use crate::crypto::unseal::open_whole;
use crate::format::index_segment::IndexedPack;
use crate::format::limits;
use crate::format::pack::{PackKind, PackOwner, PackTable};
use crate::id::{ChunkId, DomainId, ObjectId};
use crate::repo::pack_map::object_name;
use crate::repo::pack_reader::{PackReadError, decode_footer, footer_length};
use crate::store::Store;

/// What a pack holds, by its own bytes alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScannedPack {
    /// Who it belongs to.
    pub owner: PackOwner,
    /// Its entry for an index: the ids are computed from the chunks.
    pub entry: IndexedPack,
}

/// Reads packs in full; one for each thread. Holds one pack, sealed and plain.
pub struct PackScanner {
    store: Arc<dyn Store>,
    identities: Arc<[Identity]>,
    decoder: FrameDecoder,
    plain: Vec<u8>,
    raw: Vec<u8>,
}

impl PackScanner {
    /// A scanner with empty buffers.
    pub fn new(store: Arc<dyn Store>, identities: Arc<[Identity]>) -> Result<Self, CompressError> {
        let decoder = FrameDecoder::new()?;
        Ok(Self { store, identities, decoder, plain: Vec::new(), raw: Vec::new() })
    }

    /// Fetches a pack, compares its name, decrypts it, decodes all frames and computes all ids.
    ///
    /// `keys_of` gives the keys of the domain that the footer names. The ids are not compared with
    /// any: that is for the caller, who may have an index.
    pub fn scan(
        &mut self,
        pack: &ObjectId,
        keys_of: impl FnOnce(&DomainId) -> Option<DomainKeys>,
    ) -> Result<ScannedPack, PackReadError> {
        let object = self
            .store
            .get(&object_name(pack), limits::PACK_BYTES_MAX)
            .map_err(|source| PackReadError::Store { pack: *pack, source })?;
        let found = object_id(&object);
        if found != *pack {
            return Err(PackReadError::WrongName { pack: *pack, found });
        }
        let identities: Vec<&Identity> = self.identities.iter().collect();
        open_whole(&identities, &object, &mut self.plain)
            .map_err(|source| PackReadError::Open { pack: *pack, source })?;
        let size = object.len() as u64;
        drop(object);
        let (owner, table) = self.footer(pack)?;
        let keys = keys_of(&owner.domain).ok_or(PackReadError::NoDomainKeys { pack: *pack })?;
        let ids = self.chunk_ids(pack, &table, &keys)?;
        Ok(ScannedPack { owner, entry: IndexedPack { name: *pack, size, table, ids } })
    }

    fn footer(&self, pack: &ObjectId) -> Result<(PackOwner, PackTable), PackReadError> {
        let plain_bytes = self.plain.len() as u64;
        let end = self.plain.last_chunk::<8>();
        let end = end.ok_or(PackReadError::FramesTooLong { pack: *pack, plain_bytes })?;
        let length = footer_length(pack, *end, plain_bytes)?;
        decode_footer(pack, &self.plain[(plain_bytes - length) as usize..], plain_bytes)
    }

    fn chunk_ids(
        &mut self,
        pack: &ObjectId,
        table: &PackTable,
        keys: &DomainKeys,
    ) -> Result<Vec<ChunkId>, PackReadError> {
        let kind = match table.kind {
            PackKind::Data => ChunkKind::Data,
            PackKind::Tree => ChunkKind::Tree,
        };
        let mut ids = Vec::with_capacity(table.chunk_bytes.len());
        let mut offset = 0;
        for (number, frame) in table.frames.iter().enumerate() {
            // decode_footer has compared the sum of the frames with the plaintext.
            let stored = &self.plain[offset..offset + frame.stored_bytes as usize];
            offset += frame.stored_bytes as usize;
            self.decoder.decode(stored, frame.raw_bytes as usize, &mut self.raw).map_err(
                |source| PackReadError::Frame { pack: *pack, frame: number as u32, source },
            )?;
            let lengths = &table.chunk_bytes[ids.len()..ids.len() + frame.chunks as usize];
            let mut rest = &self.raw[..];
            for length in lengths {
                let (chunk, after) = rest.split_at(*length as usize);
                ids.push(keys.chunk_id(kind, chunk));
                rest = after;
            }
        }
        Ok(ids)
    }
}
