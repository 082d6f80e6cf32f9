//! What an object may be called, the same in every store.
//!
//! A name that passes is a relative path without surprises on any file system and a legal S3 key.

use crate::store::StoreError;

/// Longest object name in bytes (that of an S3 key).
pub const OBJECT_NAME_BYTES_MAX: usize = 1024;
/// Longest component of an object name in bytes (that of a file name).
const COMPONENT_BYTES_MAX: usize = 255;
/// Folder of unfinished uploads; no object lies in it.
pub(super) const TEMPORARY_FOLDER: &str = "tmp";
/// File that holds space for pruning on a full disk; not an object.
pub(super) const RESERVE_FILE: &str = "reserve";

/// Checks the name of an object.
///
/// # Errors
/// [`StoreError::BadName`]: empty or too long, a component that is empty, `.` or `..`, a byte
/// outside `[a-zA-Z0-9._/-]`, or a name that stores keep for themselves (`tmp`, `tmp/…`, `reserve`).
pub fn check_object_name(name: &str) -> Result<(), StoreError> {
    let first = name.split('/').next().unwrap_or_default();
    let kept = first == TEMPORARY_FOLDER || name == RESERVE_FILE;
    let legal = name.len() <= OBJECT_NAME_BYTES_MAX && name.split('/').all(is_component);
    if legal && !kept { Ok(()) } else { Err(bad_name(name)) }
}

/// Checks what [`crate::store::Store::list`] may be asked for: nothing, or a folder's name and `/`.
///
/// # Errors
/// [`StoreError::BadName`].
pub fn check_prefix(prefix: &str) -> Result<(), StoreError> {
    if prefix.is_empty() {
        return Ok(());
    }
    let folder = prefix.strip_suffix('/').ok_or_else(|| bad_name(prefix))?;
    check_object_name(folder)
}

/// Whether `text` can be one component of an object name.
pub(super) fn is_component(text: &str) -> bool {
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    !matches!(text, "" | "." | "..") && text.len() <= COMPONENT_BYTES_MAX && text.bytes().all(legal)
}

fn bad_name(name: &str) -> StoreError {
    StoreError::BadName { name: name.chars().take(OBJECT_NAME_BYTES_MAX).collect() }
}

#[cfg(test)]
mod tests {
    use super::{check_object_name, check_prefix};

    #[test]
    fn prefixes_are_folders() {
        for good in ["", "data/", "data/0f/", "snap/00ff/"] {
            assert!(check_prefix(good).is_ok(), "{good:?}");
        }
        for bad in ["data", "/", "data//", "../", "data/../", "tmp/"] {
            assert!(check_prefix(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn lengths_have_an_end() {
        assert!(check_object_name(&"a".repeat(255)).is_ok());
        assert!(check_object_name(&"a".repeat(256)).is_err());
        assert!(check_object_name(&"a/".repeat(512)).is_err(), "ends in an empty component");
        assert!(check_object_name(&vec!["a"; 513].join("/")).is_err());
        assert!(check_object_name(&vec!["a"; 512].join("/")).is_ok());
    }
}
