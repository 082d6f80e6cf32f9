//! Sealing: an age v1 file (<https://c2sp.org/age>) written piece by piece into a given buffer.
//!
//! Every object has a fresh file key of the operating system's generator. The header's length is
//! random (age greases it), so all sizes are computed after it is written.

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use age::stream::StreamWriter;

use crate::crypto::recipient::Recipient;
use crate::crypto::sealed_size::{padded_plain_bytes, payload_bytes, plain_for_payload};

/// Headers that are tried for one that leaves a payload length which a plaintext has. Each fails
/// with a probability below one in a thousand, unless the target is too small for any.
const HEADER_TRIES: u32 = 16;

/// Why something could not be sealed.
#[derive(Debug, thiserror::Error)]
pub enum SealError {
    /// No recipient was given.
    #[error("there is no recipient to seal to")]
    NoRecipient,
    /// A passphrase beside another recipient, or a post-quantum recipient beside a classical one.
    #[error("these recipients cannot be combined in one file: {what}")]
    Incompatible {
        /// What age says about it.
        what: String,
    },
    /// The program of an age plugin failed.
    #[error("an age plugin failed: {what}")]
    Plugin {
        /// What it says.
        what: String,
    },
    /// No header leaves room for any plaintext in an object of that size.
    #[error("an object of {object_bytes} bytes has no room for these recipients")]
    NoRoom {
        /// The size asked for.
        object_bytes: u64,
    },
    /// More plaintext than an object of the fixed size holds.
    #[error("{plain_bytes} bytes of plaintext where the object holds {capacity_bytes}")]
    OverCapacity {
        /// What it would be with the bytes to be written.
        plain_bytes: u64,
        /// What fits.
        capacity_bytes: u64,
    },
    /// The compressor refuses.
    #[error("compressing {content_bytes} bytes failed")]
    Compress {
        /// Length of the content.
        content_bytes: u64,
        /// What it says.
        source: io::Error,
    },
    /// Content whose padding cannot be described by one skippable frame.
    #[error("content of {content_bytes} bytes is too large to be sealed at once")]
    TooLarge {
        /// Length of the content.
        content_bytes: u64,
    },
}

/// How large the sealed object is to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ObjectSize {
    /// Exactly so many bytes: a full pack.
    Exactly(u64),
    /// As large as what is written; the caller pads to [`Sealer::tail_plain_bytes`].
    Free,
}

/// An object that is being sealed.
pub struct Sealer {
    stream: StreamWriter<Counted>,
    header_bytes: u64,
    plain_written: u64,
    plain_capacity: u64,
}

struct Counted {
    out: Vec<u8>,
    length: Arc<AtomicU64>,
}

impl Write for Counted {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.out.extend_from_slice(bytes);
        self.length.store(self.out.len() as u64, Relaxed);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Sealer {
    /// Writes the header into `out`, whose content is discarded and whose allocation is kept.
    ///
    /// With a fixed size, headers are drawn until the rest of the object is a length that a
    /// plaintext can have.
    ///
    /// # Errors
    /// The recipients do not go together, or the object is too small for them.
    pub fn begin(
        recipients: &[&Recipient],
        mut out: Vec<u8>,
        size: ObjectSize,
    ) -> Result<Self, SealError> {
        for _ in 0..HEADER_TRIES {
            let (stream, header_bytes) = write_header(recipients, out)?;
            let plain_capacity = match size {
                ObjectSize::Free => Some(u64::MAX),
                ObjectSize::Exactly(bytes) => {
                    bytes.checked_sub(header_bytes).and_then(plain_for_payload)
                }
            };
            if let Some(plain_capacity) = plain_capacity {
                return Ok(Self { stream, header_bytes, plain_written: 0, plain_capacity });
            }
            out = finish_stream(stream);
        }
        let ObjectSize::Exactly(object_bytes) = size else {
            unreachable!("a free size takes the first header")
        };
        Err(SealError::NoRoom { object_bytes })
    }

    /// Bytes before the payload: header and nonce.
    #[must_use]
    pub fn header_bytes(&self) -> u64 {
        self.header_bytes
    }

    /// Plaintext bytes that make the object exactly as large as asked; `u64::MAX` for a free size.
    #[must_use]
    pub fn plain_capacity(&self) -> u64 {
        self.plain_capacity
    }

    /// Plaintext bytes written so far.
    #[must_use]
    pub fn written(&self) -> u64 {
        self.plain_written
    }

    /// The plaintext length, at least `used`, that gives the smallest Padmé-sized object; never
    /// more than [`Sealer::plain_capacity`]. The caller fills up to it, and counts the 8 bytes of
    /// its padding frame as used.
    #[must_use]
    pub fn tail_plain_bytes(&self, used: u64) -> u64 {
        padded_plain_bytes(self.header_bytes, used).min(self.plain_capacity)
    }

    /// Seals the next bytes of the plaintext.
    ///
    /// # Errors
    /// They would exceed the capacity; then none of them is written.
    pub fn write(&mut self, plain: &[u8]) -> Result<(), SealError> {
        let plain_bytes = self.plain_written + plain.len() as u64;
        if plain_bytes > self.plain_capacity {
            let capacity_bytes = self.plain_capacity;
            return Err(SealError::OverCapacity { plain_bytes, capacity_bytes });
        }
        self.stream.write_all(plain).expect("writing to memory does not fail");
        self.plain_written = plain_bytes;
        Ok(())
    }

    /// Ends the object and gives its bytes, in the buffer that [`Sealer::begin`] was given.
    #[must_use]
    pub fn finish(self) -> Vec<u8> {
        let expected_bytes = self.header_bytes + payload_bytes(self.plain_written);
        let object = finish_stream(self.stream);
        assert_eq!(object.len() as u64, expected_bytes, "length of a sealed object");
        object
    }
}

impl std::fmt::Debug for Sealer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Sealer({} of {} bytes)", self.plain_written, self.plain_capacity)
    }
}

fn write_header(
    recipients: &[&Recipient],
    mut out: Vec<u8>,
) -> Result<(StreamWriter<Counted>, u64), SealError> {
    out.clear();
    let length = Arc::new(AtomicU64::new(0));
    let counted = Counted { out, length: Arc::clone(&length) };
    let stream = age::Encryptor::with_recipients(recipients.iter().map(|r| r.as_age()))
        .map_err(|error| seal_error(&error))?
        .wrap_output(counted)
        .expect("writing to memory does not fail");
    Ok((stream, length.load(Relaxed)))
}

fn finish_stream(stream: StreamWriter<Counted>) -> Vec<u8> {
    stream.finish().expect("writing to memory does not fail").out
}

fn seal_error(error: &age::EncryptError) -> SealError {
    use age::EncryptError::{
        IncompatibleRecipients, MissingRecipients, MixedRecipientAndPassphrase,
    };
    let what = error.to_string();
    match error {
        MissingRecipients => SealError::NoRecipient,
        MixedRecipientAndPassphrase | IncompatibleRecipients { .. } => {
            SealError::Incompatible { what }
        }
        _ => SealError::Plugin { what },
    }
}
