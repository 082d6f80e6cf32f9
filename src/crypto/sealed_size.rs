//! Sizes of sealed objects: Padmé rounding, and the lengths that an age payload can have.
//!
//! Pure arithmetic. Padmé is from Nikitin et al., "Reducing Metadata Leakage from Encrypted Files
//! and Communication with PURBs" (2019), section 4; the payload is that of <https://c2sp.org/age>.

/// Smallest sealed object. `format::limits` has the same number, and a test there compares them.
pub const SEALED_BYTES_MIN: u64 = 16 * 1024;
/// Plaintext bytes of every segment of an age payload but the last.
pub const SEGMENT_PLAIN_BYTES: u64 = 64 * 1024;
/// Bytes that a segment takes beyond its plaintext.
pub const SEGMENT_TAG_BYTES: u64 = 16;
const SEGMENT_BYTES: u64 = SEGMENT_PLAIN_BYTES + SEGMENT_TAG_BYTES;

/// The size of an object that needs `length` bytes: at least [`SEALED_BYTES_MIN`], at most 12 %
/// more than `length`, beyond that minimum.
#[must_use]
pub fn padme(length: u64) -> u64 {
    let length = length.max(SEALED_BYTES_MIN);
    let exponent = u64::from(length.ilog2());
    let kept_bits = u64::from(exponent.ilog2()) + 1;
    let step = 1_u64 << (exponent - kept_bits);
    length.next_multiple_of(step)
}

/// Bytes of the payload that holds `plain` bytes.
#[must_use]
pub fn payload_bytes(plain: u64) -> u64 {
    plain + SEGMENT_TAG_BYTES * plain.div_ceil(SEGMENT_PLAIN_BYTES).max(1)
}

/// The plaintext length of a payload; `None` where no plaintext makes a payload of that length,
/// which is so below 16 bytes, and where the last of several segments would be empty.
#[must_use]
pub fn plain_for_payload(payload: u64) -> Option<u64> {
    let segments = payload.div_ceil(SEGMENT_BYTES).max(1);
    let plain = payload.checked_sub(SEGMENT_TAG_BYTES * segments)?;
    (payload_bytes(plain) == payload).then_some(plain)
}

/// The plaintext length, at least `used_plain`, of the smallest Padmé-sized object that has a
/// header of `header` bytes (nonce included).
#[must_use]
pub fn padded_plain_bytes(header: u64, used_plain: u64) -> u64 {
    let mut size = padme(header + payload_bytes(used_plain));
    loop {
        if let Some(plain) = plain_for_payload(size - header) {
            return plain;
        }
        size = padme(size + 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn padme_sizes() {
        let table = [
            (0, 16_384),
            (16_384, 16_384),
            (16_385, 17_408),
            (17_408, 17_408),
            (100_000, 100_352),
            (1_000_000, 1_015_808),
            (33_554_432, 33_554_432),
            (33_554_433, 34_603_008),
        ];
        for (length, size) in table {
            assert_eq!(padme(length), size, "{length}");
            assert_eq!(padme(size), size, "{length}");
        }
    }

    #[test]
    fn payload_lengths_and_back() {
        let table = [
            (0, 16),
            (1, 17),
            (65_536, 65_552),
            (65_537, 65_569),
            (131_072, 131_104),
            (131_073, 131_121),
        ];
        for (plain, payload) in table {
            assert_eq!(payload_bytes(plain), payload);
            assert_eq!(plain_for_payload(payload), Some(plain));
        }
        for impossible in (0..16).chain(65_553..=65_568).chain(131_105..=131_120) {
            assert_eq!(plain_for_payload(impossible), None, "{impossible}");
        }
    }

    #[test]
    fn padded_plain_is_never_less_than_used() {
        for header in [200, 216, 290, 333, 1_700] {
            for used in (0..200_000).step_by(37) {
                let plain = padded_plain_bytes(header, used);
                let size = header + payload_bytes(plain);
                assert!(plain >= used, "{header} {used}");
                assert_eq!(padme(size), size, "{header} {used}");
            }
        }
    }
}
