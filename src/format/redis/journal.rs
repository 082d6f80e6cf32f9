//! A segment of a journal: a line of JSON, then frames of a time, a length, and bytes of the stream
//! of commands.
//!
//! `format-spec/redis.md`, chapter "Journal". A segment begins between two commands, and outside of
//! a transaction. A frame's time is one by which its commands were executed; no frame is older than
//! the one before.

use serde::{Deserialize, Serialize};

use crate::format::limits;

/// Version of the form.
const VERSION: u32 = 1;
/// Bytes before those of a frame: milliseconds since 1970, then the length, little-endian.
pub const FRAME_HEADER_BYTES: usize = 12;

/// Why bytes are no segment.
#[derive(Debug, thiserror::Error)]
pub enum SegmentError {
    /// The line at its beginning is none.
    #[error("a segment of the journal does not begin as one")]
    Header(#[source] Option<serde_json::Error>),
    /// It is newer than this program.
    #[error("a segment of the journal is of version {0}")]
    Version(u32),
    /// A frame is beyond its limit.
    #[error("a frame of the journal has {0} bytes")]
    Frame(u32),
    /// It ends within a frame.
    #[error("a segment of the journal ends within a frame")]
    Torn,
}

/// What a segment says about itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SegmentHeader {
    /// Version of the form: 1.
    pub journal: u32,
    /// Name of the line: what begins with a dump and has no gap since.
    pub line: String,
    /// Number within the line of what is exact, or is not.
    pub session: u64,
    /// Name of the history that positions belong to.
    pub replid: String,
    /// The history before, of which `start` is a position too, where it has another name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<String>,
    /// Position of its first byte.
    pub start: u64,
    /// The database that is selected there; none before the first `SELECT` after a dump.
    pub db: Option<u32>,
    /// All before it was executed by then (milliseconds since 1970).
    pub begun: u64,
    /// From this position on times are exact.
    pub live_from: u64,
}

impl SegmentHeader {
    /// The version that is written.
    pub const VERSION: u32 = VERSION;

    /// Name of its file.
    #[must_use]
    pub fn file_name(&self) -> String {
        format!("{}-{:020}", self.line, self.start)
    }

    /// As it is stored.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut line = serde_json::to_vec(self).expect("writing JSON to memory cannot fail");
        line.push(b'\n');
        line
    }
}

/// What stands before the bytes of a frame.
#[must_use]
pub fn frame_header(time_ms: u64, length: u32) -> [u8; FRAME_HEADER_BYTES] {
    let mut header = [0; FRAME_HEADER_BYTES];
    header[..8].copy_from_slice(&time_ms.to_le_bytes());
    header[8..].copy_from_slice(&length.to_le_bytes());
    header
}

/// Takes a segment apart that comes in any pieces.
#[derive(Debug, Default)]
pub struct SegmentReader {
    header: Option<SegmentHeader>,
    held: Vec<u8>,
    /// Time of the frame that is being read, and bytes of it that have not come.
    frame: Option<(u64, u32)>,
    taken: u64,
    whole: u64,
}

impl SegmentReader {
    /// What the segment says about itself, once that has come.
    #[must_use]
    pub fn header(&self) -> Option<&SegmentHeader> {
        self.header.as_ref()
    }

    /// Bytes of the segment up to the end of the last whole frame.
    #[must_use]
    pub fn whole(&self) -> u64 {
        self.whole
    }

    /// Takes the next bytes; those of the stream are given to `visit` with their time.
    ///
    /// # Errors
    /// [`SegmentError`]; nothing after it can be understood.
    pub fn take(
        &mut self,
        mut bytes: &[u8],
        visit: &mut dyn FnMut(u64, &[u8]),
    ) -> Result<(), SegmentError> {
        while !bytes.is_empty() {
            if let Some((time, left)) = self.frame {
                let now = bytes.len().min(left as usize);
                visit(time, &bytes[..now]);
                bytes = self.used(bytes, now);
                let left = left - now as u32;
                self.frame = (left > 0).then_some((time, left));
                if left == 0 {
                    self.whole = self.taken;
                }
            } else if self.header.is_some() {
                let now = bytes.len().min(FRAME_HEADER_BYTES - self.held.len());
                self.held.extend_from_slice(&bytes[..now]);
                bytes = self.used(bytes, now);
                self.begin_frame()?;
            } else {
                let end = bytes.iter().position(|byte| *byte == b'\n');
                let now = end.map_or(bytes.len(), |end| end + 1);
                self.held.extend_from_slice(&bytes[..now]);
                bytes = self.used(bytes, now);
                if self.held.len() as u64 > limits::JOURNAL_HEADER_BYTES_MAX {
                    return Err(SegmentError::Header(None));
                }
                if end.is_some() {
                    self.end_header()?;
                }
            }
        }
        Ok(())
    }

    fn used<'a>(&mut self, bytes: &'a [u8], count: usize) -> &'a [u8] {
        self.taken += count as u64;
        &bytes[count..]
    }

    fn end_header(&mut self) -> Result<(), SegmentError> {
        #[derive(Deserialize)]
        struct Version {
            journal: u32,
        }
        let wrong = |error| SegmentError::Header(Some(error));
        let version: Version = serde_json::from_slice(&self.held).map_err(wrong)?;
        if version.journal != VERSION {
            return Err(SegmentError::Version(version.journal));
        }
        self.header = Some(serde_json::from_slice(&self.held).map_err(wrong)?);
        self.held.clear();
        self.whole = self.taken;
        Ok(())
    }

    fn begin_frame(&mut self) -> Result<(), SegmentError> {
        let Some((time, length)) = self.held.split_first_chunk::<8>() else { return Ok(()) };
        let Ok(length) = <[u8; 4]>::try_from(length) else { return Ok(()) };
        let (time, length) = (u64::from_le_bytes(*time), u32::from_le_bytes(length));
        if length == 0 || u64::from(length) > limits::JOURNAL_FRAME_BYTES_MAX {
            return Err(SegmentError::Frame(length));
        }
        self.frame = Some((time, length));
        self.held.clear();
        Ok(())
    }

    /// All has come.
    ///
    /// # Errors
    /// [`SegmentError::Torn`].
    pub fn finish(&self) -> Result<(), SegmentError> {
        let is_whole = self.header.is_some() && self.frame.is_none() && self.held.is_empty();
        if is_whole { Ok(()) } else { Err(SegmentError::Torn) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> SegmentHeader {
        SegmentHeader {
            journal: 1,
            line: "00112233aabbccdd".into(),
            session: 2,
            replid: "ab".into(),
            after: None,
            start: 70,
            db: Some(3),
            begun: 4,
            live_from: 72,
        }
    }

    fn segment() -> Vec<u8> {
        let mut bytes = header().encode();
        for (time, text) in [(5, &b"abc"[..]), (5, b"d"), (9, b"efgh")] {
            bytes.extend(frame_header(time, text.len() as u32));
            bytes.extend_from_slice(text);
        }
        bytes
    }

    /// The header, the bytes, and the time of each.
    fn read(pieces: &[&[u8]]) -> Result<(SegmentReader, Vec<u8>, Vec<u64>), SegmentError> {
        let (mut reader, mut stream, mut times) =
            (SegmentReader::default(), Vec::new(), Vec::new());
        for piece in pieces {
            reader.take(piece, &mut |time, bytes| {
                stream.extend_from_slice(bytes);
                times.extend(bytes.iter().map(|_| time));
            })?;
        }
        Ok((reader, stream, times))
    }

    #[test]
    fn a_segment_comes_back_in_any_pieces() {
        let bytes = segment();
        for cut in 0..=bytes.len() {
            let (reader, stream, times) = read(&[&bytes[..cut], &bytes[cut..]]).unwrap();
            assert_eq!(reader.header(), Some(&header()));
            assert_eq!((&*stream, &*times), (&b"abcdefgh"[..], &[5, 5, 5, 5, 9, 9, 9, 9][..]));
            reader.finish().unwrap();
            assert_eq!(reader.whole(), bytes.len() as u64);
            let part = read(&[&bytes[..cut]]).unwrap().0;
            assert!(part.whole() <= cut as u64);
            assert_eq!(part.finish().is_ok(), part.whole() == cut as u64 && cut > 0, "{cut}");
        }
        assert_eq!(header().file_name(), "00112233aabbccdd-00000000000000000070");
    }

    #[test]
    fn what_is_no_segment_is_refused() {
        for text in [&b"{}\n"[..], b"x\n", &[b' '; 10_000], b"{\"journal\":1}\n"] {
            assert!(matches!(read(&[text]), Err(SegmentError::Header(_))));
        }
        assert!(matches!(read(&[b"{\"journal\":2}\n"]), Err(SegmentError::Version(2))));
        for length in [0, u32::MAX] {
            let mut bytes = header().encode();
            bytes.extend(frame_header(1, length));
            assert!(matches!(read(&[&bytes]), Err(SegmentError::Frame(_))));
        }
    }
}
