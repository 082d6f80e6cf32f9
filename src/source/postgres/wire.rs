//! The server's messages, taken apart from bytes as they arrive.
//!
//! No input or output here, and bounded memory: a message of `COPY` may be as long as it likes, it
//! comes in pieces; any other one above a limit is refused before it is waited for.
//! Source: the manual of `PostgreSQL`, "Message Formats".

use bytes::{Buf as _, Bytes, BytesMut};
use fallible_iterator::FallibleIterator as _;
use postgres_protocol::message::backend::{COPY_DATA_TAG, DataRowBody, Header, Message};

/// Longest message but those of `COPY`.
const MESSAGE_BYTES_MAX: usize = 64 * 1024 * 1024;
/// A message of `COPY` up to this length comes whole; of a longer one no piece but the last is
/// shorter.
pub const COPY_WHOLE_BYTES: usize = 256 * 1024;
/// A tag and a length.
const HEADER_BYTES: usize = 5;
/// `CopyBothResponse`, which the protocol's crate does not have.
const COPY_BOTH_TAG: u8 = b'W';

/// A row of text values; `None` is SQL's NULL.
pub type Row = Vec<Option<String>>;

/// What arrived.
pub enum Incoming {
    /// Both sides may send from here on: replication streams.
    CopyBoth,
    /// Bytes of a message of `COPY`.
    Copy(CopyPiece),
    /// Any other message.
    Message(Message),
}

/// A message of `COPY`, or a part of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CopyPiece {
    /// The bytes.
    pub bytes: Bytes,
    /// A message begins with them.
    pub is_first: bool,
    /// A message ends with them.
    pub is_last: bool,
}

/// Bytes that came and were not taken yet.
#[derive(Default)]
pub struct Inbox {
    buffer: BytesMut,
    /// Bytes of a message of `COPY` that are still to come.
    copy_left: usize,
    is_begun: bool,
}

impl Inbox {
    /// Where the next bytes are to be put.
    pub fn buffer(&mut self) -> &mut BytesMut {
        &mut self.buffer
    }

    /// Bytes that wait.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.buffer.len()
    }

    /// The next message or piece; `None` when more bytes are needed.
    ///
    /// # Errors
    /// What is no message, or one that is too long.
    pub fn take(&mut self) -> std::io::Result<Option<Incoming>> {
        if self.is_begun {
            return Ok(self.copy_piece(false));
        }
        let Some(header) = Header::parse(&self.buffer)? else { return Ok(None) };
        let length = usize::try_from(header.len()).unwrap_or(usize::MAX);
        if header.tag() == COPY_DATA_TAG {
            let body = length - (HEADER_BYTES - 1);
            if self.buffer.len() - HEADER_BYTES < body.min(COPY_WHOLE_BYTES) {
                return Ok(None);
            }
            self.buffer.advance(HEADER_BYTES);
            self.copy_left = body;
            self.is_begun = true;
            return Ok(self.copy_piece(true));
        }
        if length > MESSAGE_BYTES_MAX {
            let what = format!("a message of {length} bytes");
            return Err(std::io::Error::new(std::io::ErrorKind::InvalidData, what));
        }
        if self.buffer.len() < length + 1 {
            return Ok(None);
        }
        if header.tag() == COPY_BOTH_TAG {
            self.buffer.advance(length + 1);
            return Ok(Some(Incoming::CopyBoth));
        }
        Ok(Message::parse(&mut self.buffer)?.map(Incoming::Message))
    }

    /// The next message as it came, whole; `None` when more bytes are needed.
    ///
    /// # Errors
    /// What is no message, or one that is too long.
    pub fn take_raw(&mut self) -> std::io::Result<Option<Bytes>> {
        let Some(header) = Header::parse(&self.buffer)? else { return Ok(None) };
        let length = usize::try_from(header.len()).unwrap_or(usize::MAX);
        if length > MESSAGE_BYTES_MAX {
            let what = format!("a message of {length} bytes");
            return Err(std::io::Error::new(std::io::ErrorKind::InvalidData, what));
        }
        let is_whole = self.buffer.len() > length;
        Ok(is_whole.then(|| self.buffer.split_to(length + 1).freeze()))
    }

    fn copy_piece(&mut self, is_first: bool) -> Option<Incoming> {
        let length = self.copy_left.min(self.buffer.len());
        if length < self.copy_left.min(COPY_WHOLE_BYTES) {
            return None;
        }
        self.copy_left -= length;
        let is_last = self.copy_left == 0;
        self.is_begun = !is_last;
        let bytes = self.buffer.split_to(length).freeze();
        Some(Incoming::Copy(CopyPiece { bytes, is_first, is_last }))
    }
}

/// The values of a row as text; `None` where it is malformed.
#[must_use]
pub fn values(row: &DataRowBody) -> Option<Row> {
    let buffer = row.buffer();
    let mut values = Vec::new();
    let mut ranges = row.ranges();
    while let Some(range) = ranges.next().ok()? {
        values.push(range.map(|range| String::from_utf8_lossy(&buffer[range]).into_owned()));
    }
    Some(values)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(tag: u8, body: &[u8]) -> Vec<u8> {
        let length = (body.len() as u32 + 4).to_be_bytes();
        [&[tag][..], &length, body].concat()
    }

    /// What comes out when the bytes arrive in parts of that size.
    fn heard(bytes: &[u8], part: usize) -> Vec<String> {
        let mut inbox = Inbox::default();
        let mut heard = Vec::new();
        let mut copied = Vec::new();
        for part in bytes.chunks(part) {
            inbox.buffer().extend_from_slice(part);
            while let Some(next) = inbox.take().unwrap() {
                match next {
                    Incoming::CopyBoth => heard.push("both".to_owned()),
                    Incoming::Message(Message::CopyDone) => heard.push("done".to_owned()),
                    Incoming::Message(_) => heard.push("other".to_owned()),
                    Incoming::Copy(piece) => {
                        assert_eq!(piece.is_first, copied.is_empty());
                        assert!(piece.is_last || piece.bytes.len() >= COPY_WHOLE_BYTES);
                        copied.extend_from_slice(&piece.bytes);
                        if piece.is_last {
                            heard.push(format!("copy {} {:?}", copied.len(), copied.last()));
                            copied.clear();
                        }
                    }
                }
            }
        }
        assert_eq!(inbox.waiting(), 0);
        heard
    }

    #[test]
    fn any_way_of_arriving_gives_the_same_messages() {
        let long = vec![7; 3 * COPY_WHOLE_BYTES + 5];
        let bytes = [
            message(b'W', &[0, 0, 0]),
            message(b'd', &[1, 2]),
            message(b'd', &[]),
            message(b'd', &long),
            message(b'c', &[]),
            message(b'I', &[]),
        ]
        .concat();
        let expected =
            ["both", "copy 2 Some(2)", "copy 0 None", "copy 786437 Some(7)", "done", "other"];
        for part in [1, 7, 4096, COPY_WHOLE_BYTES, bytes.len()] {
            assert_eq!(heard(&bytes, part), expected, "{part}");
        }
    }

    #[test]
    fn what_is_too_long_or_none_is_refused() {
        for bytes in [b"D\x7f\xff\xff\xff".to_vec(), b"D\0\0\0\x03".to_vec(), message(b'?', b"x")] {
            let mut inbox = Inbox::default();
            inbox.buffer().extend_from_slice(&bytes);
            assert!(inbox.take().is_err(), "{bytes:?}");
        }
    }
}
