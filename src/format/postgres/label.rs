//! The label of a base backup, `backup_label`: lines of `KEY: VALUE`.
//!
//! Source: `access/transam/xlogbackup.c`, and `write_backup_label` of `pg_combinebackup`.

use crate::format::postgres::lsn::Lsn;

/// The line that says where recovery has to begin.
const START: &[u8] = b"START WAL LOCATION: ";
/// Lines that only the label of an increment has; a server does not start on a label with them.
const OF_INCREMENTS: [&[u8]; 2] = [b"INCREMENTAL FROM LSN: ", b"INCREMENTAL FROM TLI: "];

/// The label of the whole backup that an increment was folded into.
#[must_use]
pub fn whole_label(label: &[u8]) -> Vec<u8> {
    let of_whole = |line: &&[u8]| !OF_INCREMENTS.iter().any(|key| line.starts_with(key));
    label.split_inclusive(|byte| *byte == b'\n').filter(of_whole).flatten().copied().collect()
}

/// Where recovery has to begin.
#[must_use]
pub fn start_of_label(label: &[u8]) -> Option<Lsn> {
    let rest = label.split(|byte| *byte == b'\n').find_map(|line| line.strip_prefix(START))?;
    let text = rest.split(|byte| *byte == b' ').next()?;
    std::str::from_utf8(text).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_lines_of_increments_go() {
        let table: [(&[u8], &[u8]); 4] = [
            (b"", b""),
            (b"START TIMELINE: 1\n", b"START TIMELINE: 1\n"),
            (
                b"LABEL: INCREMENTAL FROM LSN: x\nINCREMENTAL FROM LSN: 0/2000028\n\
                  INCREMENTAL FROM TLI: 1\n",
                b"LABEL: INCREMENTAL FROM LSN: x\n",
            ),
            (b"INCREMENTAL FROM TLI: 1\nSTART TIMELINE: 1", b"START TIMELINE: 1"),
        ];
        for (label, expected) in table {
            assert_eq!(whole_label(label), expected, "{}", String::from_utf8_lossy(label));
        }
    }

    #[test]
    fn a_label_says_where_it_begins() {
        let label = b"START WAL LOCATION: 16/2000028 (file 000000010000001600000002)\nLABEL: x\n";
        assert_eq!(start_of_label(label), Some(Lsn(0x16_0200_0028)));
        for label in [&b""[..], b"START WAL LOCATION: \n", b"LABEL: START WAL LOCATION: 0/1\n"] {
            assert_eq!(start_of_label(label), None);
        }
    }
}
