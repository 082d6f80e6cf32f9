//! What a dump says of itself before its keys: names and texts.
//!
//! Source: `rdb.c`, `rdbSaveInfoAuxFields`.

use crate::format::redis::opcode::AUX;
use crate::format::redis::text::{Front, put_plain, text_length};

/// Bytes before the first field: `REDIS0011`.
const MAGIC_BYTES: usize = 9;
/// No name and no value that is looked for is longer.
const TEXT_BYTES_MAX: u64 = 1024;

/// The database that the commands behind a dump are for, from the front of the dump: a replica that
/// sends it passes on what its primary sends, and that says only when it is another one.
#[must_use]
pub fn stream_database(front: &[u8]) -> Option<u32> {
    let mut rest = front.get(MAGIC_BYTES..)?;
    while let Some((&AUX, behind)) = rest.split_first() {
        let (name, behind) = text(behind)?;
        let (value, behind) = text(behind)?;
        if name == b"repl-stream-db" {
            return std::str::from_utf8(&value).ok()?.parse().ok();
        }
        rest = behind;
    }
    None
}

/// The text at the front, and what is behind it.
fn text(bytes: &[u8]) -> Option<(Vec<u8>, &[u8])> {
    let Front::Is((), length) = text_length(bytes) else { return None };
    let (text, rest) = bytes.split_at_checked(usize::try_from(length).ok()?)?;
    let mut plain = Vec::new();
    put_plain(text, TEXT_BYTES_MAX, &mut plain)?;
    Some((plain, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_database_of_what_follows_stands_among_the_fields() {
        let dump = b"REDIS0011\xfa\x09redis-ver\x056.2.5\xfa\x0erepl-stream-db\xc0\x05\xfe\x00";
        assert_eq!(stream_database(dump), Some(5));
        for cut in 0..dump.len() - 2 {
            assert_eq!(stream_database(&dump[..cut]), None, "{cut}");
        }
        assert_eq!(stream_database(b"REDIS0011\xfa\x0erepl-stream-db\x0212\xff"), Some(12));
        assert_eq!(stream_database(b"REDIS0011\xfa\x0erepl-stream-db\x02-1\xff"), None);
        assert_eq!(stream_database(b"REDIS0011\xfe\x00"), None);
    }
}
