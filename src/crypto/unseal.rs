//! Opening sealed objects: whole ones into a given buffer, and parts of one through a reader.
//!
//! Every byte that comes out is authenticated. The header, which is read before anything is, is
//! bounded by [`HEADER_BYTES_MAX`].

use std::io::{self, Read, Seek, SeekFrom};

use age::stream::StreamReader;

use crate::crypto::recipient::{Identity, WORK_FACTOR_MAX};
use crate::crypto::sealed_size::plain_for_payload;

/// Longest header that is read: some forty RSA recipients.
pub const HEADER_BYTES_MAX: u64 = 32 * 1024;

const MAC_LINE_BEGIN: &[u8] = b"\n---";
/// LF, three dashes, a space, 32 bytes in base64 without padding, LF.
const MAC_LINE_BYTES: usize = 1 + 3 + 1 + 43 + 1;
const NONCE_BYTES: usize = 16;
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
/// Seeking beyond the end is an error. Damage is an [`io::Error`], after which the reader is of no
/// more use; [`OpenError::of_read`] tells it from failures of the reader below.
pub struct Opened<R> {
    stream: StreamReader<R>,
    plain_bytes: u64,
}

impl<R> Opened<R> {
    /// Length of the plaintext, computed from the object's length.
    #[must_use]
    pub fn plain_bytes(&self) -> u64 {
        self.plain_bytes
    }
}

impl<R: Read> Read for Opened<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.stream.read(buffer)
    }
}

impl<R: Read + Seek> Seek for Opened<R> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let target = match to {
            SeekFrom::Start(offset) => Some(offset),
            SeekFrom::End(offset) => self.plain_bytes.checked_add_signed(offset),
            SeekFrom::Current(offset) => self.stream.stream_position()?.checked_add_signed(offset),
        };
        // The stream below panics when it reads behind the end of its last segment.
        if target.is_none_or(|target| target > self.plain_bytes) {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "seek out of the plaintext"));
        }
        self.stream.seek(to)
    }
}

/// Opens an object that is read through `reader`, from its current position to its end.
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
    let end = reader.seek(SeekFrom::End(0)).map_err(OpenError::Io)?;
    let plain_bytes = plain_bytes_of(&head, end - start)?;
    reader.seek(SeekFrom::Start(start)).map_err(OpenError::Io)?;
    let stream = decrypt(identities, age::Decryptor::new(reader))?;
    Ok(Opened { stream, plain_bytes })
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
    let plain_bytes = plain_bytes_of(object, object.len() as u64)?;
    let mut stream = decrypt(identities, age::Decryptor::new_buffered(object))?;
    plain.reserve(plain_bytes as usize);
    stream.read_to_end(plain).map(drop).map_err(|error| {
        plain.clear();
        OpenError::of_read(error)
    })
}

/// Whether the object is sealed to a passphrase; damage shows only when it is opened.
#[must_use]
pub fn is_sealed_to_passphrase(object: &[u8]) -> bool {
    header_bytes(object).is_ok()
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

/// Bounds the header before age parses it, which takes quadratic time; its length, nonce included.
fn header_bytes(object: &[u8]) -> Result<u64, OpenError> {
    if !object.starts_with(VERSION_LINE) {
        let unknown = object.starts_with(INTRODUCTION);
        return Err(if unknown { OpenError::UnknownVersion } else { OpenError::NotAge });
    }
    let head = &object[..object.len().min(HEADER_BYTES_MAX as usize)];
    head.windows(MAC_LINE_BEGIN.len())
        .position(|window| window == MAC_LINE_BEGIN)
        .map(|at| (at + MAC_LINE_BYTES + NONCE_BYTES) as u64)
        .ok_or(OpenError::Damaged { what: "the header has no end" })
}

fn plain_bytes_of(head: &[u8], object_bytes: u64) -> Result<u64, OpenError> {
    let payload = object_bytes
        .checked_sub(header_bytes(head)?)
        .ok_or(OpenError::Damaged { what: "it is cut short" })?;
    plain_for_payload(payload).ok_or(OpenError::Damaged { what: "no payload has its length" })
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::recipient::{ReadIdentity, Recipient, WORK_FACTOR_WRITTEN};
    use crate::crypto::seal::{ObjectSize, SealError, Sealer};
    use crate::crypto::sealed_size::padme;
    use crate::crypto::secret::Secret32;
    use secrecy::SecretString;
    use std::io::Cursor;

    fn pair() -> (Recipient, Identity) {
        let identity = ReadIdentity::from_secret(&Secret32::from_bytes(&[9; 32]));
        (identity.recipient().into(), identity.to_identity())
    }

    fn content(length: usize) -> Vec<u8> {
        (0..length).map(|i| (i * 31 % 251) as u8).collect()
    }

    fn seal(length: usize) -> Vec<u8> {
        let mut sealer = Sealer::begin(&[&pair().0], Vec::new(), ObjectSize::Free).unwrap();
        sealer.write(&content(length)).unwrap();
        sealer.finish()
    }

    #[test]
    fn round_trip_at_every_edge_of_a_segment() {
        let mut plain = Vec::new();
        for length in [0, 1, 65_535, 65_536, 65_537, 131_071, 131_072, 131_073] {
            open_whole(&[&pair().1], &seal(length), &mut plain).unwrap();
            assert!(plain == content(length), "{length}");
        }
    }

    #[test]
    fn a_full_object_has_exactly_the_size_asked_for() {
        // One byte more than a segment: only headers of certain lengths leave a plaintext length.
        for size in [65_552 + 230, 65_552 * 3 + 240, 1 << 20] {
            for _ in 0..20 {
                let size_asked = ObjectSize::Exactly(size);
                let mut sealer = Sealer::begin(&[&pair().0], vec![1; 77], size_asked).unwrap();
                let capacity = sealer.plain_capacity();
                assert_eq!(plain_for_payload(size - sealer.header_bytes()), Some(capacity));
                sealer.write(&content(capacity as usize)).unwrap();
                let error = sealer.write(b"x").unwrap_err();
                assert!(matches!(error, SealError::OverCapacity { .. }));
                let object = sealer.finish();
                assert_eq!(object.len() as u64, size);
                let mut plain = Vec::new();
                open_whole(&[&pair().1], &object, &mut plain).unwrap();
                assert!(plain == content(capacity as usize));
            }
        }
        let error = Sealer::begin(&[&pair().0], Vec::new(), ObjectSize::Exactly(100)).unwrap_err();
        assert!(matches!(error, SealError::NoRoom { object_bytes: 100 }));
    }

    #[test]
    fn a_tail_has_a_padme_size() {
        for used in [8, 16_000, 65_536, 130_000, 131_000, 900_000] {
            let size = ObjectSize::Exactly(1 << 20);
            let mut sealer = Sealer::begin(&[&pair().0], Vec::new(), size).unwrap();
            let plain = sealer.tail_plain_bytes(used);
            assert!(plain >= used && plain <= sealer.plain_capacity());
            sealer.write(&content(plain as usize)).unwrap();
            assert_eq!(sealer.written(), plain);
            let object_bytes = sealer.finish().len() as u64;
            assert_eq!(padme(object_bytes), object_bytes, "{used}");
        }
    }

    #[test]
    fn the_buffer_is_reused() {
        let out = Vec::with_capacity(300_000);
        let address = out.as_ptr();
        let mut sealer = Sealer::begin(&[&pair().0], out, ObjectSize::Exactly(262_144)).unwrap();
        sealer.write(&content(200_000)).unwrap();
        let object = sealer.finish();
        assert_eq!(object.as_ptr(), address);
        let mut plain = Vec::with_capacity(300_000);
        let address = plain.as_ptr();
        open_whole(&[&pair().1], &seal(200_000), &mut plain).unwrap();
        assert_eq!(plain.as_ptr(), address);
    }

    #[test]
    fn a_reader_reaches_every_part() {
        let object = seal(200_000);
        let mut opened = open_stream(&[&pair().1], Cursor::new(&object)).unwrap();
        for (offset, length) in [(0, 10), (199_990, 10), (65_530, 20), (70_000, 130_000), (5, 1)] {
            opened.seek(SeekFrom::Start(offset as u64)).unwrap();
            let mut part = vec![0; length];
            opened.read_exact(&mut part).unwrap();
            assert!(part == content(200_000)[offset..offset + length], "{offset}");
        }
        assert_eq!(opened.seek(SeekFrom::End(0)).unwrap(), 200_000);
        assert_eq!(opened.plain_bytes(), 200_000);
        for length in [0, 100, 65_536, 65_537, 131_072] {
            let object = seal(length as usize);
            let mut opened = open_stream(&[&pair().1], Cursor::new(&object)).unwrap();
            assert_eq!(opened.plain_bytes(), length);
            assert!(opened.seek(SeekFrom::Start(length + 1)).is_err(), "{length}");
            assert!(opened.seek(SeekFrom::Current(-1)).is_err());
            assert_eq!(opened.seek(SeekFrom::Start(length)).unwrap(), length);
            assert_eq!(opened.read(&mut [0; 8]).unwrap(), 0, "{length}");
        }
    }

    #[test]
    fn a_reader_sees_damage_where_it_is() {
        let mut object = seal(200_000);
        let third_segment = object.len() - 60_000;
        object[third_segment] ^= 1;
        let mut opened = open_stream(&[&pair().1], Cursor::new(&object)).unwrap();
        let mut part = [0; 100];
        opened.read_exact(&mut part).unwrap();
        assert_eq!(part[..], content(100));
        let error = opened.seek(SeekFrom::Start(150_000)).and_then(|_| opened.read(&mut part));
        let error = OpenError::of_read(error.unwrap_err());
        assert!(matches!(error, OpenError::Damaged { .. }), "{error}");
        let cut = &object[..object.len() - 70_000];
        let mut opened = open_stream(&[&pair().1], Cursor::new(cut)).unwrap();
        assert!(opened.seek(SeekFrom::End(0)).is_err());
    }

    #[test]
    fn all_may_be_used_from_any_thread() {
        fn check<T: Send + Sync>() {}
        fn check_send<T: Send>() {}
        check::<Identity>();
        check::<Recipient>();
        check::<ReadIdentity>();
        check_send::<Sealer>();
        check_send::<Opened<Cursor<Vec<u8>>>>();
    }

    fn open(identities: &[&Identity], object: &[u8]) -> Result<Vec<u8>, OpenError> {
        let mut plain = vec![1];
        let result = open_whole(identities, object, &mut plain);
        assert!(result.is_ok() || plain.is_empty());
        result.map(|()| plain)
    }

    #[test]
    fn every_flip_and_every_cut_is_refused() {
        let object = seal(300);
        for at in 0..object.len() {
            let mut flipped = object.clone();
            flipped[at] ^= 0x01;
            assert!(open(&[&pair().1], &flipped).is_err(), "byte {at}");
            assert!(open(&[&pair().1], &object[..at]).is_err(), "cut at {at}");
        }
        let longer = [&object[..], b"x"].concat();
        assert!(matches!(open(&[&pair().1], &longer), Err(OpenError::Damaged { .. })));
        let two = seal(65_536);
        let longer = [&two[..], b"x"].concat();
        assert!(open(&[&pair().1], &longer).is_err());
    }

    #[test]
    fn errors_say_what_is_wrong() {
        let object = seal(300);
        let other = ReadIdentity::generate().unwrap().to_identity();
        assert!(matches!(open(&[&other], &object), Err(OpenError::NoMatchingKey)));
        assert!(matches!(open(&[], &object), Err(OpenError::NoMatchingKey)));
        assert!(open(&[&other, &pair().1], &object).is_ok());
        let table = [
            (&b""[..], "not an age file"),
            (b"holdfast 1", "not an age file"),
            (b"age-encryption.org/v2\n", "an age file of an unknown version"),
            (b"age-encryption.org/v1\n", "damaged: the header has no end"),
            (&object[..object.len() - 320], "damaged: it is cut short"),
        ];
        for (bytes, expected) in table {
            assert_eq!(open(&[&pair().1], bytes).unwrap_err().to_string(), expected);
        }
        let mut endless = b"age-encryption.org/v1\n-> X25519 ".to_vec();
        endless.resize(1 << 20, b'a');
        assert!(matches!(open(&[&pair().1], &endless), Err(OpenError::Damaged { .. })));
    }

    #[test]
    fn passphrases_are_bounded_and_alone() {
        let passphrase = SecretString::from("correct horse");
        let recipient = Recipient::passphrase(passphrase.clone());
        let mut sealer = Sealer::begin(&[&recipient], Vec::new(), ObjectSize::Free).unwrap();
        sealer.write(b"text").unwrap();
        let object = sealer.finish();
        let header = String::from_utf8_lossy(&object).into_owned();
        assert!(header.lines().nth(1).unwrap().ends_with(&format!(" {WORK_FACTOR_WRITTEN}")));
        assert!(is_sealed_to_passphrase(&object) && !is_sealed_to_passphrase(&seal(1)));
        assert_eq!(open(&[&Identity::passphrase(passphrase)], &object).unwrap(), b"text");
        let wrong = Identity::passphrase(SecretString::from("wrong"));
        assert!(matches!(open(&[&wrong], &object), Err(OpenError::NoMatchingKey)));
        let mixed = Sealer::begin(&[&recipient, &pair().0], Vec::new(), ObjectSize::Free);
        assert!(matches!(mixed, Err(SealError::Incompatible { .. })));
        let none = Sealer::begin(&[], Vec::new(), ObjectSize::Free);
        assert!(matches!(none, Err(SealError::NoRecipient)));
    }

    #[test]
    fn excessive_passphrase_work_is_not_begun() {
        let stanza = "-> scrypt AAAAAAAAAAAAAAAAAAAAAA 23\n\
                      AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA\n\
                      --- AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA\n";
        let object = [b"age-encryption.org/v1\n", stanza.as_bytes(), &[0; 64]].concat();
        let identity = Identity::passphrase(SecretString::from("any"));
        let error = open(&[&identity], &object).unwrap_err();
        assert!(matches!(error, OpenError::ExcessiveWork { required: 23, max: 22 }), "{error}");
    }
}
