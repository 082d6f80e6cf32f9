//! Names computed from bytes, and the keys derived from a domain secret.
//!
//! Ids are BLAKE3-256 and never truncated in stored data; data and tree chunks have keys of their
//! own, so that a chunk of one kind is never taken for one of the other.

use std::sync::Arc;

use secrecy::SecretString;
use zeroize::Zeroizing;

use crate::crypto::recipient::{Identity, NativeRecipient, ReadIdentity};
use crate::crypto::secret::Secret32;
use crate::crypto::signature::VerifyingKey;
use crate::id::{ChunkId, ContentHash, ObjectId, RepositoryId};

const CONTEXT_CHUNK_DATA: &str = "holdfast v1 chunk id data";
const CONTEXT_CHUNK_TREE: &str = "holdfast v1 chunk id tree";
const CONTEXT_GEAR: &str = "holdfast v1 gear";
const CONTEXT_INDEX_IDENTITY: &str = "holdfast v1 index identity";
const CONTEXT_FINGERPRINT: &str = "holdfast v1 fingerprint";

/// The name of an object: BLAKE3-256 of its bytes as stored.
#[must_use]
pub fn object_id(stored: &[u8]) -> ObjectId {
    ObjectId(*blake3::hash(stored).as_bytes())
}

/// The hash of plain content, as `b3sum` prints it.
#[must_use]
pub fn content_hash(content: &[u8]) -> ContentHash {
    ContentHash(*blake3::hash(content).as_bytes())
}

/// Hashes content or an object that comes in pieces.
#[derive(Debug, Clone, Default)]
pub struct ContentHasher(blake3::Hasher);

/// Begins the hash of content that comes in pieces.
#[must_use]
pub fn content_hasher() -> ContentHasher {
    ContentHasher::default()
}

impl ContentHasher {
    /// Takes the next piece.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// The hash of the pieces so far, as of plain content.
    #[must_use]
    pub fn content_hash(&self) -> ContentHash {
        ContentHash(*self.0.finalize().as_bytes())
    }

    /// The hash of the pieces so far, as the name of an object.
    #[must_use]
    pub fn object_id(&self) -> ObjectId {
        ObjectId(*self.0.finalize().as_bytes())
    }
}

/// The repository that a root key makes: BLAKE3-256 of the key's 32 bytes.
#[must_use]
pub fn repository_id(root: &VerifyingKey) -> RepositoryId {
    RepositoryId(*blake3::hash(root.as_bytes()).as_bytes())
}

/// What a chunk holds; each kind has its own id key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ChunkKind {
    /// Bytes of a source.
    Data,
    /// A tree leaf, an index node, or a list chunk.
    Tree,
}

/// Everything derived from the secret of a domain. Cloning shares it.
#[derive(Debug, Clone)]
pub struct DomainKeys(Arc<Derived>);

#[derive(Debug)]
struct Derived {
    chunk_data: Secret32,
    chunk_tree: Secret32,
    fingerprint: Secret32,
    index: ReadIdentity,
    domain: Secret32,
}

impl DomainKeys {
    /// Derives the keys (`format-spec`, "Keys derived from the domain secret").
    #[must_use]
    pub fn derive(domain: &Secret32) -> Self {
        Self(Arc::new(Derived {
            chunk_data: derive(CONTEXT_CHUNK_DATA, domain),
            chunk_tree: derive(CONTEXT_CHUNK_TREE, domain),
            fingerprint: derive(CONTEXT_FINGERPRINT, domain),
            index: ReadIdentity::from_secret(&derive(CONTEXT_INDEX_IDENTITY, domain)),
            domain: domain.clone(),
        }))
    }

    /// The id of a chunk, from its plaintext.
    #[must_use]
    pub fn chunk_id(&self, kind: ChunkKind, plaintext: &[u8]) -> ChunkId {
        let key = match kind {
            ChunkKind::Data => &self.0.chunk_data,
            ChunkKind::Tree => &self.0.chunk_tree,
        };
        ChunkId(*blake3::keyed_hash(key.expose_secret(), plaintext).as_bytes())
    }

    /// A fingerprint for local state (16 bytes of keyed BLAKE3); never stored in a repository.
    #[must_use]
    pub fn fingerprint(&self, bytes: &[u8]) -> [u8; 16] {
        let hash = blake3::keyed_hash(self.0.fingerprint.expose_secret(), bytes);
        let mut first = [0; 16];
        first.copy_from_slice(&hash.as_bytes()[..16]);
        first
    }

    /// The gear table of the chunker as stored bytes: 256 integers of 8 bytes, little-endian.
    #[must_use]
    pub fn gear_bytes(&self) -> [u8; 2048] {
        let mut hasher = blake3::Hasher::new_derive_key(CONTEXT_GEAR);
        hasher.update(self.0.domain.expose_secret());
        let mut bytes = [0; 2048];
        hasher.finalize_xof().fill(&mut bytes);
        bytes
    }

    /// The gear table of the chunker as integers.
    #[must_use]
    pub fn gear_table(&self) -> [u64; 256] {
        let bytes = self.gear_bytes();
        std::array::from_fn(|i| {
            let entry = bytes[8 * i..8 * i + 8].try_into().expect("eight bytes of 2048");
            u64::from_le_bytes(entry)
        })
    }

    /// The identity that opens the index segments of the domain.
    #[must_use]
    pub fn index_identity(&self) -> Identity {
        self.0.index.to_identity()
    }

    /// The text of the index identity, `AGE-SECRET-KEY-1…`, for a recovery kit.
    #[must_use]
    pub fn index_identity_text(&self) -> SecretString {
        self.0.index.to_secret_text()
    }

    /// The recipient that index segments of the domain are sealed to.
    #[must_use]
    pub fn index_recipient(&self) -> NativeRecipient {
        self.0.index.recipient()
    }
}

fn derive(context: &str, domain: &Secret32) -> Secret32 {
    let bytes = Zeroizing::new(blake3::derive_key(context, domain.expose_secret()));
    Secret32::from_bytes(&bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use secrecy::ExposeSecret;

    fn keys() -> DomainKeys {
        DomainKeys::derive(&Secret32::from_bytes(&[7; 32]))
    }

    #[test]
    fn an_object_id_is_plain_blake3() {
        let empty = "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262";
        assert_eq!(object_id(b"").to_string(), empty);
        let mut pieces = content_hasher();
        pieces.update(b"hold");
        pieces.update(b"fast");
        assert_eq!(pieces.object_id(), object_id(b"holdfast"));
        assert_eq!(pieces.content_hash(), content_hash(b"holdfast"));
    }

    #[test]
    fn derived_keys_are_those_of_the_format_page() {
        let keys = keys();
        let key = blake3::derive_key("holdfast v1 chunk id tree", &[7; 32]);
        let expected = *blake3::keyed_hash(&key, b"leaf").as_bytes();
        assert_eq!(keys.chunk_id(ChunkKind::Tree, b"leaf"), ChunkId(expected));
        assert_ne!(keys.chunk_id(ChunkKind::Data, b"leaf"), ChunkId(expected));
        assert_ne!(keys.fingerprint(b"leaf")[..], expected[..16]);
        let other = DomainKeys::derive(&Secret32::from_bytes(&[8; 32]));
        assert_ne!(other.chunk_id(ChunkKind::Tree, b"leaf"), ChunkId(expected));
    }

    #[test]
    fn the_gear_table_is_little_endian() {
        let (bytes, table) = (keys().gear_bytes(), keys().gear_table());
        for (i, entry) in table.iter().enumerate() {
            assert_eq!(entry.to_le_bytes(), bytes[8 * i..8 * i + 8]);
        }
        assert_eq!(bytes[..32], blake3::derive_key("holdfast v1 gear", &[7; 32]));
    }

    #[test]
    fn the_index_identity_belongs_to_the_index_recipient() {
        let text = keys().index_identity_text();
        let identity = ReadIdentity::parse(text.expose_secret()).unwrap();
        assert_eq!(identity.recipient(), keys().index_recipient());
        assert!(text.expose_secret().starts_with("AGE-SECRET-KEY-1"));
    }
}
