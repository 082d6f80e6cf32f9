//! The history of a timeline: from which ancestors it came, and where each was left.
//!
//! Source: `access/transam/timeline.c`. Lines of `PARENT<tab>POSITION<tab>REASON`, oldest first;
//! `#` begins a comment.

use crate::format::limits;
use crate::format::postgres::lsn::{Lsn, Timeline};

/// Why a history is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line} of the history of timeline {timeline} cannot be understood")]
pub struct HistoryFileError {
    /// Whose history.
    pub timeline: Timeline,
    /// Line, from 1; 0 where the whole is too long.
    pub line: usize,
}

/// One stretch of the way to a timeline.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stretch {
    /// On this timeline…
    pub timeline: Timeline,
    /// …from here…
    pub begin: Lsn,
    /// …up to here; `None` for the timeline whose history it is.
    pub end: Option<Lsn>,
}

/// The way to `timeline`, oldest stretch first; it always ends with `timeline` itself.
///
/// # Errors
/// A line that is none, timelines or positions that do not ascend.
pub fn parse_history(timeline: Timeline, text: &[u8]) -> Result<Vec<Stretch>, HistoryFileError> {
    let wrong = |line| HistoryFileError { timeline, line };
    if text.len() as u64 > limits::TIMELINE_HISTORY_BYTES_MAX {
        return Err(wrong(0));
    }
    let mut way: Vec<Stretch> = Vec::new();
    let mut begin = Lsn(0);
    for (number, line) in text.split(|byte| *byte == b'\n').enumerate() {
        let line = std::str::from_utf8(line).map_err(|_| wrong(number + 1))?.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let mut words = line.split_whitespace();
        let parent = words.next().and_then(|word| word.parse().ok()).map(Timeline);
        let end = words.next().and_then(|word| word.parse::<Lsn>().ok());
        let (Some(parent), Some(end)) = (parent, end) else { return Err(wrong(number + 1)) };
        let ascends = way.last().is_none_or(|last| last.timeline < parent);
        if !ascends || parent >= timeline || end < begin {
            return Err(wrong(number + 1));
        }
        way.push(Stretch { timeline: parent, begin, end: Some(end) });
        begin = end;
    }
    way.push(Stretch { timeline, begin, end: None });
    Ok(way)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_way_is_read_and_nonsense_refused() {
        let text =
            b"1\t0/5000000\tno recovery target specified\n\n# x\n2\t0/7000000\tbefore 2026\n";
        let way = parse_history(Timeline(3), text).unwrap();
        let of = |way: &[Stretch]| -> Vec<(u32, u64, Option<u64>)> {
            way.iter().map(|s| (s.timeline.0, s.begin.0, s.end.map(|end| end.0))).collect()
        };
        let expected = vec![
            (1, 0, Some(0x500_0000)),
            (2, 0x500_0000, Some(0x700_0000)),
            (3, 0x700_0000, None),
        ];
        assert_eq!(of(&way), expected);
        assert_eq!(of(&parse_history(Timeline(1), b"").unwrap()), [(1, 0, None)]);
        for wrong in ["1", "x\t0/1", "1\tx", "3\t0/1", "2\t0/2\n1\t0/3", "1\t0/3\n2\t0/2", "\u{ff}"]
        {
            assert!(parse_history(Timeline(3), wrong.as_bytes()).is_err(), "{wrong:?}");
        }
    }
}
