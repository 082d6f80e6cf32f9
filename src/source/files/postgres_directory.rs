//! Recognises a `PostgreSQL` data directory, and its files that are made of pages.
//!
//! Only names and two small files are looked at; whether a server runs there does not matter, and
//! a copy of a running one is no consistent backup by itself.

use std::fs::File;
use std::io::Read as _;
use std::os::fd::AsFd;
use std::sync::Arc;

use rustix::fs::OFlags;

use crate::format::node::NodeKind;
use crate::source::files::directory::{Directory, open_without_atime};
use crate::source::files::stat::{Stat, kind_of, lstat};

/// Page size of every `PostgreSQL` that was not built otherwise.
pub const PAGE_BYTES_DEFAULT: u32 = 8192;
/// `pg_control` is that long, and its values lie in the first sector.
const CONTROL_BYTES: usize = 8192;
/// `FLOATFORMAT_VALUE` of `catalog/pg_control.h`; the field after it is `blcksz`.
const FLOAT_FORMAT: f64 = 1_234_567.0;
/// The values end before this offset, in every version.
const CONTROL_VALUES_BYTES_MAX: usize = 512;

/// A recognised data directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PostgresDirectory {
    /// What `PG_VERSION` says: `17`, `9.6`.
    pub version: String,
    /// Size of a page in bytes.
    pub page_bytes: u32,
}

impl PostgresDirectory {
    /// Looks whether `directory` is a data directory: `PG_VERSION`, `global/pg_control`, `base/`.
    ///
    /// What cannot be read makes it none: the walk will say what is wrong with it.
    #[must_use]
    pub fn probe(directory: &Arc<Directory>) -> Option<Self> {
        let version = read_front(directory, b"PG_VERSION", 64)?;
        let version = std::str::from_utf8(&version).ok()?.trim();
        let numeric = |text: &str| {
            !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.')
        };
        if !numeric(version) || !has_directory(directory, b"base") {
            return None;
        }
        let global = directory.open_child(b"global").ok()?;
        let control = read_front(&global, b"pg_control", CONTROL_BYTES)?;
        // A control file torn by a running server leaves the block size unknown only in theory:
        // it never changes. The default is right for nearly every server there is.
        let page_bytes = page_bytes_of(&control).unwrap_or(PAGE_BYTES_DEFAULT);
        Some(Self { version: version.to_owned(), page_bytes })
    }
}

/// The block size in a control file of any version and either byte order.
///
/// The offset differs between versions, but the double before it is a constant by which the server
/// itself recognises its format: it is searched at the multiples of 8 where it can lie.
fn page_bytes_of(control: &[u8]) -> Option<u32> {
    let values = &control[..control.len().min(CONTROL_VALUES_BYTES_MAX)];
    let plausible = |bytes: &u32| bytes.is_power_of_two() && (1024..=32_768).contains(bytes);
    values.chunks_exact(8).zip(values.chunks_exact(8).skip(1)).find_map(|(float, next)| {
        let float: [u8; 8] = float.try_into().ok()?;
        let size: [u8; 4] = next[..4].try_into().ok()?;
        if float == FLOAT_FORMAT.to_le_bytes() {
            Some(u32::from_le_bytes(size)).filter(plausible)
        } else if float == FLOAT_FORMAT.to_be_bytes() {
            Some(u32::from_be_bytes(size)).filter(plausible)
        } else {
            None
        }
    })
}

/// Whether a file, by its path relative to the data directory, is a relation made of pages.
///
/// Those are `base/<database>/<file>`, `global/<file>` and
/// `pg_tblspc/<tablespace>/PG_<version>/<database>/<file>`, where `<file>` is digits, then perhaps
/// `_fsm`, `_vm` or `_init`, then perhaps `.` and a segment number. Temporary relations
/// (`t3_16384`) are emptied at the next start and do not count.
#[must_use]
pub fn is_page_file(path: &[u8]) -> bool {
    let components: Vec<&[u8]> = path.split(|&byte| byte == b'/').collect();
    match components[..] {
        [b"base", database, file] => is_number(database) && is_relation_name(file),
        [b"global", file] => is_relation_name(file),
        [b"pg_tblspc", tablespace, version, database, file] => {
            is_number(tablespace)
                && version.starts_with(b"PG_")
                && is_number(database)
                && is_relation_name(file)
        }
        _ => false,
    }
}

fn is_relation_name(name: &[u8]) -> bool {
    let mut parts = name.split(|&byte| byte == b'.');
    let (fork, segment) = (parts.next().unwrap_or_default(), parts.next());
    let number = [&b"_fsm"[..], b"_vm", b"_init"]
        .into_iter()
        .find_map(|suffix| fork.strip_suffix(suffix))
        .unwrap_or(fork);
    is_number(number) && segment.is_none_or(is_number) && parts.next().is_none()
}

fn is_number(text: &[u8]) -> bool {
    !text.is_empty() && text.iter().all(u8::is_ascii_digit)
}

fn has_directory(directory: &Arc<Directory>, name: &[u8]) -> bool {
    let found = directory.descriptor().ok().and_then(|fd| lstat(fd.as_fd(), name).ok());
    found.is_some_and(|raw| kind_of(&raw) == Some(NodeKind::Dir))
}

fn read_front(directory: &Arc<Directory>, name: &[u8], bytes_max: usize) -> Option<Vec<u8>> {
    let parent = directory.descriptor().ok()?;
    let fd = open_without_atime(parent.as_fd(), name, OFlags::RDONLY).ok()?;
    if Stat::of_fd(fd.as_fd()).ok()?.kind != NodeKind::File {
        return None;
    }
    let mut bytes = Vec::new();
    File::from(fd).take(bytes_max as u64).read_to_end(&mut bytes).ok()?;
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn page_files_by_their_names() {
        let table: &[(&[u8], bool)] = &[
            (b"base/5/16384", true),
            (b"base/5/16384.1", true),
            (b"base/5/16384_fsm", true),
            (b"base/5/16384_vm.2", true),
            (b"base/5/16384_init", true),
            (b"base/5/16384_fsm_vm", false),
            (b"base/5/_fsm", false),
            (b"base/5/16384.", false),
            (b"base/5/16384.1.2", false),
            (b"base/5/t3_16384", false),
            (b"base/5/PG_VERSION", false),
            (b"base/5/pg_filenode.map", false),
            (b"base/pgsql_tmp/1", false),
            (b"base/5", false),
            (b"global/1262", true),
            (b"global/pg_control", false),
            (b"pg_tblspc/16390/PG_17_202406281/5/16391", true),
            (b"pg_tblspc/16390/5/16391", false),
            (b"pg_xact/0000", false),
            (b"pg_wal/000000010000000000000001", false),
            (b"x/base/5/16384", false),
            (b"", false),
        ];
        for (path, expected) in table {
            assert_eq!(is_page_file(path), *expected, "{}", String::from_utf8_lossy(path));
        }
    }

    /// A control file of which only the two values matter, at an offset as some version has it.
    fn control(offset: usize, float: [u8; 8], size: [u8; 4]) -> Vec<u8> {
        let mut bytes = vec![0; CONTROL_BYTES];
        bytes[offset..offset + 8].copy_from_slice(&float);
        bytes[offset + 8..offset + 12].copy_from_slice(&size);
        bytes
    }

    #[test]
    fn block_size_is_found_by_the_constant_before_it() {
        let little = FLOAT_FORMAT.to_le_bytes();
        let table = [
            (control(208, little, 8192_u32.to_le_bytes()), Some(8192)),
            (control(224, little, 32_768_u32.to_le_bytes()), Some(32_768)),
            (control(216, FLOAT_FORMAT.to_be_bytes(), 4096_u32.to_be_bytes()), Some(4096)),
            (control(208, little, 5000_u32.to_le_bytes()), None),
            (control(208, little, 65_536_u32.to_le_bytes()), None),
            (control(208, [0; 8], 8192_u32.to_le_bytes()), None),
            (vec![], None),
            (little.to_vec(), None),
        ];
        for (at, (bytes, expected)) in table.into_iter().enumerate() {
            assert_eq!(page_bytes_of(&bytes), expected, "row {at}");
        }
    }

    #[test]
    fn only_a_whole_data_directory_is_one() {
        let root = tempfile::tempdir().unwrap();
        let probe = || PostgresDirectory::probe(&Directory::open_root(root.path()).unwrap());
        assert_eq!(probe(), None);
        fs::write(root.path().join("PG_VERSION"), "17\n").unwrap();
        fs::create_dir(root.path().join("global")).unwrap();
        let bytes = control(208, FLOAT_FORMAT.to_le_bytes(), 16_384_u32.to_le_bytes());
        fs::write(root.path().join("global/pg_control"), bytes).unwrap();
        assert_eq!(probe(), None, "base is missing");
        fs::create_dir(root.path().join("base")).unwrap();
        let expected = PostgresDirectory { version: "17".to_owned(), page_bytes: 16_384 };
        assert_eq!(probe(), Some(expected));
        fs::write(root.path().join("PG_VERSION"), "seventeen\n").unwrap();
        assert_eq!(probe(), None);
    }
}
