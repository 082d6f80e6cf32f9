//! Names of the directories above the snapshots: one for each source, one for each time.

use std::fmt::Write as _;

use jiff::Timestamp;

/// Longest name that programs can be expected to take, in bytes.
const NAME_BYTES_MAX: usize = 255;
/// What is left of a longer one before its hash.
const CUT_BYTES: usize = 200;

/// A source's name as one path component; two sources never have the same.
///
/// `/`, `%` and control characters are `%XX`, as are the names `.` and `..`; the empty name is `%`.
/// What would be longer than 255 bytes is cut, and ends in `%~` and a hash of the whole.
#[must_use]
pub fn source_name(source: &str) -> String {
    if source.is_empty() {
        return "%".to_owned();
    }
    let is_dots = matches!(source, "." | "..");
    let mut name = String::with_capacity(source.len());
    for character in source.chars() {
        if is_dots || character.is_ascii_control() || matches!(character, '/' | '%') {
            // Writing to a string cannot fail.
            let _ = write!(name, "%{:02X}", character as u32);
        } else {
            name.push(character);
        }
    }
    if name.len() > NAME_BYTES_MAX {
        let hash = blake3::hash(source.as_bytes()).to_hex();
        name.truncate(name.floor_char_boundary(CUT_BYTES));
        let _ = write!(name, "%~{}", &hash[..32]);
    }
    name
}

/// A time as a path component: `2026-11-23T01-30-00Z`.
#[must_use]
pub fn time_name(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H-%M-%SZ").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_are_safe_components() {
        let cases = [
            ("etc", "etc"),
            ("web/shop", "web%2Fshop"),
            ("100%", "100%25"),
            ("web%2Fshop", "web%252Fshop"),
            ("", "%"),
            (".", "%2E"),
            ("..", "%2E%2E"),
            (".hidden", ".hidden"),
            ("a\nb\0c\x7f", "a%0Ab%00c%7F"),
            ("größe", "größe"),
        ];
        for (source, name) in cases {
            assert_eq!(source_name(source), name);
        }
    }

    #[test]
    fn long_sources_stay_different() {
        let long = "ä".repeat(200);
        let (one, other) = (source_name(&long), source_name(&format!("{long}x")));
        assert!(one.len() <= NAME_BYTES_MAX && other.len() <= NAME_BYTES_MAX);
        assert!(one != other && one.contains("%~"));
    }

    #[test]
    fn times_are_in_utc() {
        let time: Timestamp = "2026-11-23T02:30:00.5+01:00".parse().unwrap();
        assert_eq!(time_name(time), "2026-11-23T01-30-00Z");
    }
}
