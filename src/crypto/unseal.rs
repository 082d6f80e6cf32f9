//! Opening sealed objects: whole ones into a given buffer, and parts of one through a reader.
//!
//! Every byte that comes out is authenticated. The header, which is read before anything is, is
//! bounded by [`HEADER_BYTES_MAX`].

use std::io::{self, Read, Seek, SeekFrom};

use age::stream::StreamReader;

use crate::crypto::recipient::{Identity, WORK_FACTOR_MAX};

/// Longest header that is read: some forty RSA recipients.
pub const HEADER_BYTES_MAX: u64 = 32 * 1024;

const MAC_LINE: &[u8] = b"\n---";
const VERSION_LINE: &[u8] = b"age-encryption.org/v1\n";
const INTRODUCTION: &[u8] = b"age-encryption.org/";

/// Why a sealed object does not open.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The bytes do not begin like an age file.
    #[error("not an age file")]
    NotAge,
    /// An age file of a version this program does not know.
    #[error("an age file of an unknown version")]
    UnknownVersion,
    /// None of the identities opens it, or the passphrase is wrong.
    #[error("none of the keys opens it")]
    NoMatchingKey,
    /// It asks for more passphrase work than is safe to do.
    #[error("passphrase work factor {required}, where at most {max} is accepted")]
    ExcessiveWork {
        /// What the object asks for (log2 N).
        required: u8,
        /// What is accepted.
        max: u8,
    },
    /// Changed or cut after it was sealed, or never sealed properly.
    #[error("damaged: {what}")]
    Damaged {
        /// Where it shows.
        what: &'static str,
    },
    /// What it holds is longer than it may be.
    #[error("holds {content_bytes} bytes where at most {content_bytes_max} are accepted")]
    TooLarge {
        /// Declared or found.
        content_bytes: u64,
        /// The caller's limit.
        content_bytes_max: u64,
    },
    /// The program of an age plugin failed.
    #[error("an age plugin failed: {what}")]
    Plugin {
        /// What it says.
        what: String,
    },
    /// The reader below failed.
    #[error("reading a sealed object failed")]
    Io(#[source] io::Error),
}

/// A reader of the plaintext of a sealed object, which can seek.
///
/// Reading decrypts whole segments of 64 KiB, one at a time. What was read from the middle is
/// authentic, but says nothing about the end of the object: seeking to [`SeekFrom::End`] checks it.
/// Damage is an [`io::Error`]; [`OpenError::of_read`] tells it from failures of the reader below.
pub struct Opened<R>(StreamReader<R>);

impl<R: Read> Read for Opened<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read(buffer)
    }
}

impl<R: Read + Seek> Seek for Opened<R> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.0.seek(to)
    }
}

/// Opens an object that is read through `reader`, from its current position on.
///
/// # Errors
/// Any of [`OpenError`] but damage of the payload, which shows when it is read.
pub fn open_stream<R: Read + Seek>(
    identities: &[&Identity],
    mut reader: R,
) -> Result<Opened<R>, OpenError> {
    let start = reader.stream_position().map_err(OpenError::Io)?;
    let mut head = Vec::new();
    reader.by_ref().take(HEADER_BYTES_MAX).read_to_end(&mut head).map_err(OpenError::Io)?;
    check_header(&head)?;
    reader.seek(SeekFrom::Start(start)).map_err(OpenError::Io)?;
    decrypt(identities, age::Decryptor::new(reader)).map(Opened)
}

/// Opens a whole object into `plain`, whose content is discarded and whose allocation is kept.
///
/// # Errors
/// Any of [`OpenError`]; `plain` is empty then.
pub fn open_whole(
    identities: &[&Identity],
    object: &[u8],
    plain: &mut Vec<u8>,
) -> Result<(), OpenError> {
    plain.clear();
    check_header(object)?;
    let mut stream = decrypt(identities, age::Decryptor::new_buffered(object))?;
    plain.reserve(object.len());
    stream.read_to_end(plain).map(drop).map_err(|error| {
        plain.clear();
        OpenError::of_read(error)
    })
}

/// Whether the object is sealed to a passphrase; damage shows only when it is opened.
#[must_use]
pub fn is_sealed_to_passphrase(object: &[u8]) -> bool {
    check_header(object).is_ok()
        && age::Decryptor::new_buffered(object).is_ok_and(|decryptor| decryptor.is_scrypt())
}

impl OpenError {
    /// Sorts an error of reading an [`Opened`].
    #[must_use]
    pub fn of_read(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::InvalidData => Self::Damaged { what: "a segment is not authentic" },
            io::ErrorKind::UnexpectedEof => Self::Damaged { what: "it is cut short" },
            _ => Self::Io(error),
        }
    }
}

/// Bounds the header before age parses it, which takes quadratic time.
fn check_header(object: &[u8]) -> Result<(), OpenError> {
    if !object.starts_with(VERSION_LINE) {
        let unknown = object.starts_with(INTRODUCTION);
        return Err(if unknown { OpenError::UnknownVersion } else { OpenError::NotAge });
    }
    let head = &object[..object.len().min(HEADER_BYTES_MAX as usize)];
    let ends = head.windows(MAC_LINE.len()).any(|window| window == MAC_LINE);
    if ends { Ok(()) } else { Err(OpenError::Damaged { what: "the header has no end" }) }
}

fn decrypt<R: Read>(
    identities: &[&Identity],
    decryptor: Result<age::Decryptor<R>, age::DecryptError>,
) -> Result<StreamReader<R>, OpenError> {
    let identities = identities.iter().map(|identity| identity.as_age());
    decryptor.and_then(|decryptor| decryptor.decrypt(identities)).map_err(open_error)
}

fn open_error(error: age::DecryptError) -> OpenError {
    use age::DecryptError as Age;
    match error {
        Age::NoMatchingKeys | Age::DecryptionFailed | Age::KeyDecryptionFailed => {
            OpenError::NoMatchingKey
        }
        Age::ExcessiveWork { required, .. } => {
            OpenError::ExcessiveWork { required, max: WORK_FACTOR_MAX }
        }
        Age::InvalidHeader => OpenError::Damaged { what: "the header is malformed" },
        Age::InvalidMac => OpenError::Damaged { what: "the header is not authentic" },
        Age::UnknownFormat => OpenError::UnknownVersion,
        Age::Io(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
            OpenError::Damaged { what: "it is cut short" }
        }
        Age::Io(error) => OpenError::Io(error),
        other => OpenError::Plugin { what: other.to_string() },
    }
}
