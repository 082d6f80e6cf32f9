//! A checked path below a restore target.
//!
//! Names come from a repository, so from whoever wrote it: a [`TargetPath`] exists only if each of
//! its components is one plain file name.

use std::fmt;

use crate::format::limits::{NAME_BYTES_MAX, PATH_BYTES_MAX, TREE_DEPTH_MAX};

/// A name or path that must not be restored.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("refused entry {entry}: {reason}")]
pub struct BadPath {
    /// The entry as it would be called, escaped, cut to 300 bytes.
    pub entry: String,
    /// What is wrong with it.
    pub reason: &'static str,
}

/// A path relative to the target: components joined by `/`, none of them empty, `.` or `..`;
/// empty for the target itself.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct TargetPath {
    bytes: Vec<u8>,
}

impl TargetPath {
    /// The target itself.
    #[must_use]
    pub fn root() -> Self {
        Self::default()
    }

    /// Checks a path of components joined by `/`, as a tree says where its entries lie.
    ///
    /// # Errors
    /// [`BadPath`] for an absolute path, a bad component, or one past the limits.
    pub fn parse(path: &[u8]) -> Result<Self, BadPath> {
        if path.is_empty() {
            return Ok(Self::root());
        }
        let components = path.split(|byte| *byte == b'/');
        let fault = components.clone().find_map(fault_of_name).or_else(|| fault_of_path(path));
        match fault {
            Some(reason) => Err(bad(path, reason)),
            None => Ok(Self { bytes: path.to_vec() }),
        }
    }

    /// The path of the entry `name` in this directory.
    ///
    /// # Errors
    /// [`BadPath`], naming the entry, unless `name` is one plain file name.
    pub fn join(&self, name: &[u8]) -> Result<Self, BadPath> {
        let mut bytes = Vec::with_capacity(self.bytes.len() + 1 + name.len());
        bytes.extend_from_slice(&self.bytes);
        if !bytes.is_empty() {
            bytes.push(b'/');
        }
        bytes.extend_from_slice(name);
        match fault_of_name(name).or_else(|| fault_of_path(&bytes)) {
            Some(reason) => Err(bad(&bytes, reason)),
            None => Ok(Self { bytes }),
        }
    }

    /// The path as bytes, empty for the target itself.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Parent's path and own name; both empty for the target itself.
    #[must_use]
    pub fn split(&self) -> (&[u8], &[u8]) {
        split_path(&self.bytes)
    }
}

/// Parent's path and last component.
pub(super) fn split_path(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|byte| *byte == b'/') {
        Some(slash) => (&path[..slash], &path[slash + 1..]),
        None => (b"", path),
    }
}

impl fmt::Display for TargetPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.bytes.is_empty() { f.write_str(".") } else { f.write_str(&escape(&self.bytes)) }
    }
}

impl fmt::Debug for TargetPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TargetPath({self})")
    }
}

fn fault_of_name(name: &[u8]) -> Option<&'static str> {
    match name {
        b"" => Some("a name is empty"),
        b"." | b".." => Some("a name is a dot or two"),
        _ if name.contains(&b'/') => Some("a name contains a slash"),
        _ if name.contains(&0) => Some("a name contains a zero byte"),
        _ if name.len() as u64 > NAME_BYTES_MAX => Some("a name is longer than 255 bytes"),
        _ => None,
    }
}

fn fault_of_path(path: &[u8]) -> Option<&'static str> {
    let depth = path.split(|byte| *byte == b'/').count() as u64;
    match path.len() as u64 {
        0..=PATH_BYTES_MAX if depth <= TREE_DEPTH_MAX => None,
        0..=PATH_BYTES_MAX => Some("it lies deeper than 4096 directories"),
        _ => Some("the path is longer than 65536 bytes"),
    }
}

fn bad(path: &[u8], reason: &'static str) -> BadPath {
    BadPath { entry: escape(&path[..path.len().min(300)]), reason }
}

/// Bytes for people: text as it is, but control and direction characters, quotes, backslashes and
/// what is not UTF-8 escaped, so that a name cannot play with a terminal.
#[must_use]
pub fn escape(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        text.extend(chunk.valid().escape_debug());
        for byte in chunk.invalid() {
            text.extend(["\\x", &data_encoding::HEXLOWER.encode(&[*byte])]);
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::{TargetPath, escape};

    #[test]
    fn hostile_names_are_refused_and_named() {
        let dir = TargetPath::parse(b"a/b").unwrap();
        let long = [b'x'; 256];
        let names: [&[u8]; 9] =
            [b"", b".", b"..", b"../x", b"/etc/passwd", b"x/y", b"x\0y", b"/", &long];
        for name in names {
            let error = dir.join(name).unwrap_err();
            assert!(error.entry.starts_with("a/b/"), "{error}");
            TargetPath::root().join(name).unwrap_err();
        }
        for good in [&b"..."[..], b"..x", b"-rf", b"a\\..\\b", b"\xff\xfe", b"C:", &long[..255]] {
            assert_eq!(dir.join(good).unwrap().split(), (&b"a/b"[..], good));
        }
        assert_eq!(dir.join(b"\x1b]0;x").unwrap().to_string(), "a/b/\\u{1b}]0;x");
    }

    #[test]
    fn paths_are_relative_and_plain() {
        for bad in [&b"/"[..], b"/a", b"a/", b"a//b", b"a/../b", b"./a", b"a/\0"] {
            assert!(TargetPath::parse(bad).is_err(), "{}", escape(bad));
        }
        let deep = |depth: usize| vec!["d"; depth].join("/").into_bytes();
        assert!(TargetPath::parse(&deep(4096)).is_ok());
        assert!(TargetPath::parse(&deep(4097)).is_err());
        let wide = |depth: usize| vec!["d".repeat(255); depth].join("/").into_bytes();
        assert!(TargetPath::parse(&wide(256)).is_ok());
        assert!(TargetPath::parse(&wide(257)).is_err());
        assert_eq!(TargetPath::parse(b"").unwrap(), TargetPath::root());
    }

    #[test]
    fn escaping_leaves_text_and_shows_the_rest() {
        assert_eq!(escape("größe".as_bytes()), "größe");
        assert_eq!(escape(b"a\x1b[2J\xff\n"), "a\\u{1b}[2J\\xff\\n");
        assert_eq!(escape("\u{202e}txt".as_bytes()), "\\u{202e}txt");
    }
}
