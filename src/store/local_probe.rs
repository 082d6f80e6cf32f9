//! Looks what the file system of a folder really does.

use std::os::unix::fs::MetadataExt as _;

use crate::store::capabilities::{Capabilities, CreateIfAbsent};
use crate::store::local::LocalStore;
use crate::store::{Put, Store, StoreError};

/// Permission bits by which others may change a folder.
const WRITABLE_BY_OTHERS: u32 = 0o022;

/// Stores a file durably below `tmp/`, tries to do it again, and removes it.
///
/// # Errors
/// What the system says when nothing can be stored there.
pub fn probe(store: &LocalStore) -> Result<Capabilities, StoreError> {
    let name = format!("probe-{}", std::process::id());
    let first = store.put_temporary(&name, b"the first of two\n");
    let second = first.and_then(|_| store.put_temporary(&name, b"the second of two\n"));
    store.remove_temporary(&name)?;
    let create_if_absent = match second? {
        Put::Exists => CreateIfAbsent::Atomic,
        Put::Created => CreateIfAbsent::Ignored,
    };
    let mode = std::fs::metadata(store.path()).map(|folder| folder.mode()).ok();
    Ok(Capabilities {
        create_if_absent,
        winners_of_20: None,
        ranges: None,
        list_after_put: None,
        can_overwrite: None,
        can_delete: None,
        lock: None,
        clock_skew_seconds: None,
        free_bytes: store.free_bytes(),
        open_to_others: mode.map(|mode| mode & WRITABLE_BY_OTHERS != 0),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_gives_a_name_once_and_is_left_as_it_was() {
        let folder = tempfile::tempdir().unwrap();
        let store = LocalStore::create(folder.path().join("repo"), 0).unwrap();
        let found = probe(&store).unwrap();
        assert_eq!(found.create_if_absent, CreateIfAbsent::Atomic);
        assert_eq!(found.open_to_others, Some(false));
        assert!(found.free_bytes.is_some_and(|bytes| bytes > 0));
        let left = std::fs::read_dir(store.path().join("tmp")).unwrap().count();
        assert_eq!(left, 0);
    }
}
