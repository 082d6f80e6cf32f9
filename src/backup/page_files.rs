//! Which files of a tree are cut on page boundaries: relations of a PostgreSQL data directory.
//!
//! A directory with a file `PG_VERSION` may be one; its relation files are known by their place
//! and name (PostgreSQL documentation, "Database File Layout"). Being wrong costs nothing but
//! deduplication: the content is the same, cut elsewhere.

use std::collections::HashSet;

use crate::format::node::{Bytes, NodeKind};

/// Block size of nearly every PostgreSQL; with another one, pages still are runs of the file.
const PAGE_BYTES: u32 = 8192;

/// The data directories met so far, in the order of the walk.
#[derive(Debug, Default)]
pub struct PageFiles {
    directories: HashSet<Bytes>,
}

impl PageFiles {
    /// Length of the pages of an entry, where it is cut in pages. Entries come in tree order, so
    /// a directory's `PG_VERSION` comes before anything below its subdirectories.
    pub fn page_bytes(&mut self, dir: &[u8], name: &[u8], kind: NodeKind) -> Option<u32> {
        if kind != NodeKind::File {
            return None;
        }
        if name == b"PG_VERSION" {
            self.directories.insert(dir.to_vec());
            return None;
        }
        (is_relation_name(name) && self.is_below_data_directory(dir)).then_some(PAGE_BYTES)
    }

    fn is_below_data_directory(&self, dir: &[u8]) -> bool {
        let components: Vec<&[u8]> = dir.split(|byte| *byte == b'/').collect();
        let depth = match components[..] {
            [.., b"global"] => 1,
            [.., b"base", database] if is_number(database) => 2,
            [.., b"pg_tblspc", space, version, database]
                if is_number(space) && version.starts_with(b"PG_") && is_number(database) =>
            {
                4
            }
            _ => return false,
        };
        self.directories.contains(&components[..components.len() - depth].join(&b'/'))
    }
}

/// `16384`, `16384.1`, `16384_fsm`, `16384_vm.2`, `16384_init`, `t3_16384` (temporary).
fn is_relation_name(name: &[u8]) -> bool {
    let mut parts = name.splitn(2, |byte| *byte == b'.');
    let stem = parts.next().unwrap_or_default();
    if parts.next().is_some_and(|segment| !is_number(segment)) {
        return false;
    }
    let mut words = stem.split(|byte| *byte == b'_');
    let mut first = words.next().unwrap_or_default();
    if let Some(backend) = first.strip_prefix(b"t") {
        if !is_number(backend) {
            return false;
        }
        first = words.next().unwrap_or_default();
    }
    let fork = words.next();
    is_number(first)
        && fork.is_none_or(|fork| matches!(fork, b"fsm" | b"vm" | b"init"))
        && words.next().is_none()
}

fn is_number(text: &[u8]) -> bool {
    !text.is_empty() && text.iter().all(u8::is_ascii_digit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn relations_are_known_by_place_and_name() {
        let mut files = PageFiles::default();
        for dir in ["", "srv/pg"] {
            assert_eq!(files.page_bytes(dir.as_bytes(), b"PG_VERSION", NodeKind::File), None);
        }
        let table = [
            ("base/5", "16384", true),
            ("base/5", "16384.1", true),
            ("base/5", "16384_fsm", true),
            ("base/5", "16384_vm.2", true),
            ("base/5", "t3_16384", true),
            ("global", "1262", true),
            ("srv/pg/base/5", "1", true),
            ("srv/pg/pg_tblspc/9/PG_15_1/5", "1", true),
            ("pg_tblspc/9/other/5", "1", false),
            ("base/5", "pg_filenode.map", false),
            ("base/5", "16384_xyz", false),
            ("base/5", "16384.x", false),
            ("base", "1", false),
            ("base/x", "1", false),
            ("other/base/5", "1", false),
            ("pg_wal", "000000010000000000000001", false),
        ];
        for (dir, name, expected) in table {
            let found = files.page_bytes(dir.as_bytes(), name.as_bytes(), NodeKind::File);
            assert_eq!(found.is_some(), expected, "{dir}/{name}");
        }
        assert_eq!(files.page_bytes(b"base/5", b"16384", NodeKind::Dir), None);
    }
}
