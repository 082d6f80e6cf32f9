//! Answers of a server, taken from the front of what came.
//!
//! Source: the Redis protocol, RESP2.

/// Longest line of an answer.
const LINE_BYTES_MAX: usize = 64 * 1024;
/// Longest bulk string that is taken as an answer; `INFO` of a large cluster has some hundred KiB.
const BULK_BYTES_MAX: i64 = 64 * 1024 * 1024;
/// Most elements of a list that is taken as an answer.
const ELEMENTS_MAX: i64 = 1024 * 1024;
/// Deepest list within lists.
const DEPTH_MAX: u32 = 16;

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// `+OK`
    Line(String),
    /// `-ERR …`, without the sign
    Error(String),
    /// `:5`
    Number(i64),
    /// `$5…`; none for `$-1` and `*-1`
    Bulk(Option<Vec<u8>>),
    /// `*2…`
    Array(Vec<Reply>),
}

/// What is at the front.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Front {
    /// An answer of that many bytes.
    Whole(Reply, usize),
    /// More bytes are needed.
    Incomplete,
    /// No answer that is known here.
    Unknown,
}

/// The line at the front, without its end, and the bytes that it takes.
#[must_use]
pub fn front_line(bytes: &[u8]) -> Option<(&[u8], usize)> {
    let end = bytes.iter().position(|byte| *byte == b'\n')?;
    let line = &bytes[..end];
    Some((line.strip_suffix(b"\r").unwrap_or(line), end + 1))
}

/// The answer at the front.
#[must_use]
pub fn front(bytes: &[u8]) -> Front {
    front_within(bytes, 0)
}

fn front_within(bytes: &[u8], depth: u32) -> Front {
    let Some((line, used)) = front_line(bytes) else {
        return if bytes.len() > LINE_BYTES_MAX { Front::Unknown } else { Front::Incomplete };
    };
    let Some((sign, rest)) = line.split_first() else { return Front::Unknown };
    let text = || String::from_utf8_lossy(rest).into_owned();
    let number = std::str::from_utf8(rest).ok().and_then(|digits| digits.parse::<i64>().ok());
    match (sign, number) {
        (b'+', _) => Front::Whole(Reply::Line(text()), used),
        (b'-', _) => Front::Whole(Reply::Error(text()), used),
        (b':', Some(number)) => Front::Whole(Reply::Number(number), used),
        (b'$' | b'*', Some(-1)) => Front::Whole(Reply::Bulk(None), used),
        (b'*', Some(length @ 0..=ELEMENTS_MAX)) if depth < DEPTH_MAX => {
            array(bytes, used, length, depth)
        }
        (b'$', Some(length @ 0..=BULK_BYTES_MAX)) => {
            let end = used + length.unsigned_abs() as usize;
            match bytes.get(end..end + 2) {
                None => Front::Incomplete,
                Some(_) => Front::Whole(Reply::Bulk(Some(bytes[used..end].to_vec())), end + 2),
            }
        }
        _ => Front::Unknown,
    }
}

fn array(bytes: &[u8], mut used: usize, length: i64, depth: u32) -> Front {
    let mut elements = Vec::new();
    for _ in 0..length {
        match front_within(&bytes[used..], depth + 1) {
            Front::Whole(element, bytes) => {
                elements.push(element);
                used += bytes;
            }
            other => return other,
        }
    }
    Front::Whole(Reply::Array(elements), used)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_taken_when_they_are_whole() {
        let bulk = |text: &str| Reply::Bulk(Some(text.into()));
        let table = [
            ("+OK\r\n", Reply::Line("OK".into())),
            ("-ERR no\r\n", Reply::Error("ERR no".into())),
            (":-7\r\n", Reply::Number(-7)),
            ("$5\r\na\r\nbc\r\n", bulk("a\r\nbc")),
            ("$0\r\n\r\n", bulk("")),
            ("$-1\r\n", Reply::Bulk(None)),
            ("*-1\r\n", Reply::Bulk(None)),
            ("*0\r\n", Reply::Array(Vec::new())),
            (
                "*2\r\n$1\r\na\r\n*1\r\n:5\r\n",
                Reply::Array(vec![bulk("a"), Reply::Array(vec![Reply::Number(5)])]),
            ),
        ];
        for (text, reply) in table {
            let more = format!("{text}+X");
            assert_eq!(front(more.as_bytes()), Front::Whole(reply, text.len()));
            for cut in 0..text.len() {
                assert_eq!(front(&text.as_bytes()[..cut]), Front::Incomplete, "{text:?} {cut}");
            }
        }
        let deep = "*1\r\n".repeat(100);
        for text in ["*-2\r\n", "\r\n", ":x\r\n", "$-2\r\n", "$99999999999\r\n", &deep] {
            assert_eq!(front(text.as_bytes()), Front::Unknown, "{text:?}");
        }
    }
}
