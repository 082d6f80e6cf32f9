//! The control file of a cluster: whose it is, and a guard against a lost `backup_label`.
//!
//! A restored cluster must begin its recovery where `backup_label` says. Without that file the
//! server would begin at the checkpoint in the control file, silently, and be corrupt. So that
//! position is replaced by one that is none: the server then stops with an error instead.
//! Source: `catalog/pg_control.h`; the checksum (CRC-32C) is found by what it is, because its
//! place differs between versions.

use crate::format::postgres::crc32c::crc32c;

/// Where the position of the last checkpoint stands.
const CHECKPOINT_AT: usize = 32;
/// A position at which no checkpoint can be.
const NO_CHECKPOINT: u64 = 0xDEAD;
/// The values and their checksum end before this offset, in every version.
const VALUES_BYTES_MAX: usize = 512;

/// What is wrong with a control file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the control file has no right checksum")]
pub struct ControlFileError;

/// The system identifier.
#[must_use]
pub fn system_of(control: &[u8]) -> Option<u64> {
    control.get(..8).map(|bytes| u64::from_le_bytes(bytes.try_into().unwrap_or_default()))
}

/// Replaces the position of the last checkpoint.
///
/// # Errors
/// The file is damaged, or of a version whose checksum is another one; it is unchanged then.
pub fn guard(control: &mut [u8]) -> Result<(), ControlFileError> {
    let at = checksum_at(control).ok_or(ControlFileError)?;
    control[CHECKPOINT_AT..CHECKPOINT_AT + 8].copy_from_slice(&NO_CHECKPOINT.to_le_bytes());
    let sum = crc32c(&control[..at]);
    control[at..at + 4].copy_from_slice(&sum.to_le_bytes());
    Ok(())
}

fn checksum_at(control: &[u8]) -> Option<usize> {
    let end = control.len().min(VALUES_BYTES_MAX);
    (CHECKPOINT_AT + 8..end.saturating_sub(3)).step_by(4).find(|at| {
        let said = u32::from_le_bytes(std::array::from_fn(|i| control[at + i]));
        said != 0 && said == crc32c(&control[..*at])
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_guard_keeps_the_file_whole() {
        let mut control: Vec<u8> = (0..8192_u32).map(|i| (i % 251) as u8).collect();
        let sum = crc32c(&control[..288]);
        control[288..292].copy_from_slice(&sum.to_le_bytes());
        let before = control.clone();
        guard(&mut control).unwrap();
        assert_eq!(checksum_at(&control), Some(288));
        assert_eq!(control[32..40], [0xAD, 0xDE, 0, 0, 0, 0, 0, 0]);
        assert_eq!((&control[..32], &control[40..288]), (&before[..32], &before[40..288]));
        assert_eq!(system_of(&control), system_of(&before));
        control[100] ^= 1;
        let damaged = control.clone();
        assert_eq!(guard(&mut control), Err(ControlFileError));
        assert_eq!(control, damaged);
        assert_eq!(guard(&mut []), Err(ControlFileError));
    }
}
