//! The label of a base backup, `backup_label`: lines of `KEY: VALUE`.
//!
//! Source: `access/transam/xlogbackup.c`, and `write_backup_label` of `pg_combinebackup`.

/// Lines that only the label of an increment has; a server does not start on a label with them.
const OF_INCREMENTS: [&[u8]; 2] = [b"INCREMENTAL FROM LSN: ", b"INCREMENTAL FROM TLI: "];

/// The label of the whole backup that an increment was folded into.
#[must_use]
pub fn whole_label(label: &[u8]) -> Vec<u8> {
    let of_whole = |line: &&[u8]| !OF_INCREMENTS.iter().any(|key| line.starts_with(key));
    label.split_inclusive(|byte| *byte == b'\n').filter(of_whole).flatten().copied().collect()
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
}
