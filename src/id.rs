//! Names of things: fixed-size byte strings that print as lower-case hexadecimal.
//!
//! Each kind is its own type, so that a chunk id can never be passed where a pack is meant.

use std::fmt;
use std::str::FromStr;

/// A text that is not the hexadecimal form of the id it should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected {expected_digits} lower-case hexadecimal digits, found {found:?}")]
pub struct IdError {
    /// Digits that the kind of id has.
    pub expected_digits: usize,
    /// The text as given, cut to 80 characters.
    pub found: String,
}

macro_rules! id_type {
    ($(#[$doc:meta])* $name:ident, $bytes:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub [u8; $bytes]);

        impl $name {
            /// Length in bytes.
            pub const BYTES: usize = $bytes;

            /// The raw bytes.
            #[must_use]
            pub const fn as_bytes(&self) -> &[u8; $bytes] {
                &self.0
            }

            /// Takes the id from exactly [`Self::BYTES`] bytes.
            #[must_use]
            pub fn from_slice(bytes: &[u8]) -> Option<Self> {
                bytes.try_into().ok().map(Self)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&data_encoding::HEXLOWER.encode(&self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({self})", stringify!($name))
            }
        }

        impl FromStr for $name {
            type Err = IdError;

            fn from_str(text: &str) -> Result<Self, IdError> {
                data_encoding::HEXLOWER
                    .decode(text.as_bytes())
                    .ok()
                    .and_then(|bytes| Self::from_slice(&bytes))
                    .ok_or_else(|| IdError {
                        expected_digits: 2 * $bytes,
                        found: text.chars().take(80).collect(),
                    })
            }
        }

        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

id_type!(
    /// Name of an object: BLAKE3-256 of its bytes as stored.
    ObjectId, 32
);
id_type!(
    /// Name of a chunk: BLAKE3-256 of its plaintext, keyed by the domain and by the kind of chunk.
    ChunkId, 32
);
id_type!(
    /// BLAKE3-256 of plain content, as `b3sum` prints it; stored only inside sealed objects.
    ContentHash, 32
);
id_type!(
    /// The repository: BLAKE3-256 of its root public key (32 bytes of Ed25519).
    RepositoryId, 32
);
id_type!(
    /// Random name of a pack, drawn when it is begun; references to chunks carry it.
    PackHandle, 16
);
id_type!(
    /// A writer, maintainer or verifier in the roster: random, says nothing about the host.
    ActorId, 8
);
id_type!(
    /// A deduplication domain in the roster: random.
    DomainId, 8
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hexadecimal_is_exact() {
        let id = ActorId([0x0f; 8]);
        assert_eq!(id.to_string(), "0f0f0f0f0f0f0f0f");
        assert_eq!("0f0f0f0f0f0f0f0f".parse(), Ok(id));
        for wrong in ["", "0f", "0F0F0F0F0F0F0F0F", "0f0f0f0f0f0f0f0f0f", "zz0f0f0f0f0f0f0f"] {
            assert!(wrong.parse::<ActorId>().is_err(), "{wrong}");
        }
    }
}
