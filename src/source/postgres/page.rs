//! Checksums of pages, as the server computes them.
//!
//! Source: `storage/checksum_impl.h`: 32 FNV-1a sums side by side over the words of the page, with
//! the checksum field taken as zero, folded to 16 bits with the block number.

use crate::format::postgres::lsn::Lsn;

const SUMS: usize = 32;
const PRIME: u32 = 16_777_619;
const OFFSETS: [u32; SUMS] = [
    0x5B1F_36E9,
    0xB852_5960,
    0x02AB_50AA,
    0x1DE6_6D2A,
    0x79FF_467A,
    0x9BB9_F8A3,
    0x217E_7CD2,
    0x83E1_3D2C,
    0xF8D4_474F,
    0xE39E_B970,
    0x42C6_AE16,
    0x9932_16FA,
    0x7B09_3B5D,
    0x98DA_FF3C,
    0xF718_902A,
    0x0B1C_9CDB,
    0xE58F_764B,
    0x1876_36BC,
    0x5D7B_3BB1,
    0xE73D_E7DE,
    0x92BE_C979,
    0xCCA6_C0B2,
    0x304A_0979,
    0x85AA_43D4,
    0x7831_25BB,
    0x6CA8_EAA2,
    0xE407_EAC6,
    0x4B5C_FC3E,
    0x9FBF_8C76,
    0x15CA_20BE,
    0xF2CA_9FD3,
    0x959B_D756,
];
/// Where the checksum stands in the header of a page.
const CHECKSUM_AT: usize = 8;
/// Bytes of the header that tell an unused page.
const UPPER_AT: usize = 14;

/// What a page says and whether it holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PageState {
    /// Never written, all zeros.
    New,
    /// Its checksum is right.
    Sound,
    /// It is not.
    Bad,
}

/// Position of the last change of a page, from its header.
#[must_use]
pub fn page_lsn(page: &[u8]) -> Lsn {
    let part = |at: usize| u64::from(u32::from_le_bytes(std::array::from_fn(|i| page[at + i])));
    Lsn(part(0) << 32 | part(4))
}

/// Looks at a whole page; `block` is its number in the relation fork, segments counted through.
#[must_use]
pub fn check_page(page: &[u8], block: u32) -> PageState {
    if page[UPPER_AT] == 0 && page[UPPER_AT + 1] == 0 {
        let is_empty = page.iter().all(|byte| *byte == 0);
        return if is_empty { PageState::New } else { PageState::Bad };
    }
    let said = u16::from_le_bytes([page[CHECKSUM_AT], page[CHECKSUM_AT + 1]]);
    if said == checksum(page, block) { PageState::Sound } else { PageState::Bad }
}

/// The checksum of a page.
#[must_use]
pub fn checksum(page: &[u8], block: u32) -> u16 {
    let mut sums = OFFSETS;
    for (number, row) in page.chunks_exact(SUMS * 4).enumerate() {
        let mut words = [0; SUMS];
        for (word, bytes) in words.iter_mut().zip(row.chunks_exact(4)) {
            *word = u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
        }
        if number == 0 {
            // The checksum is in the low half of the third word.
            words[CHECKSUM_AT / 4] &= 0xFFFF_0000;
        }
        mix(&mut sums, &words);
    }
    mix(&mut sums, &[0; SUMS]);
    mix(&mut sums, &[0; SUMS]);
    let folded = sums.iter().fold(0, |all, sum| all ^ sum) ^ block;
    (folded % 65_535 + 1) as u16
}

fn mix(sums: &mut [u32; SUMS], words: &[u32; SUMS]) {
    for (sum, word) in sums.iter_mut().zip(words) {
        let mixed = *sum ^ word;
        *sum = mixed.wrapping_mul(PRIME) ^ (mixed >> 17);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_changed_bit_and_a_wrong_place_are_seen() {
        let mut page: Vec<u8> = (0..8192_u32).map(|i| (i * 7 % 251) as u8).collect();
        let sum = checksum(&page, 5);
        page[CHECKSUM_AT..CHECKSUM_AT + 2].copy_from_slice(&sum.to_le_bytes());
        assert_eq!(check_page(&page, 5), PageState::Sound);
        assert_eq!(check_page(&page, 6), PageState::Bad);
        for at in [0, 100, 8191] {
            page[at] ^= 1;
            assert_eq!(check_page(&page, 5), PageState::Bad, "{at}");
            page[at] ^= 1;
        }
        assert_eq!(check_page(&[0; 8192], 5), PageState::New);
        let mut torn = vec![0; 8192];
        torn[8000] = 1;
        assert_eq!(check_page(&torn, 5), PageState::Bad);
    }

    #[test]
    fn the_position_is_in_the_header() {
        let mut page = vec![0; 8192];
        page[..8].copy_from_slice(&[0x16, 0, 0, 0, 0x48, 0xD8, 0x74, 0xB3]);
        assert_eq!(page_lsn(&page).to_string(), "16/B374D848");
    }
}
