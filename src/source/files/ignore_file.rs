//! Files in the tree that say what is left out: ignore files, cache tags, markers.
//!
//! They are read like any other file of the tree: by the directory's descriptor, bounded, never
//! through a symbolic link. A line that is no pattern is reported; the others count.

use std::ffi::OsStr;
use std::io::Read as _;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use ignore::Match;
use ignore::gitignore::{Gitignore, GitignoreBuilder};
use rustix::fs::OFlags;

use crate::format::node::NodeKind;
use crate::source::error::{PatternError, SourceError};
use crate::source::files::directory::open_without_atime;
use crate::source::files::entry::Parent;
use crate::source::files::exclude::{
    ExcludeOptions, ItemType, PATTERN_FILE_BYTES_MAX, Verdict, check_pattern_file_size,
};
use crate::source::files::listing::Names;
use crate::source::files::stat::Stat;

/// Name of the tag of a cache directory (<https://bford.info/cachedir/>).
const CACHE_TAG_NAME: &[u8] = b"CACHEDIR.TAG";
/// What the tag begins with.
const CACHE_TAG_SIGNATURE: &[u8] = b"Signature: 8a477f597d28d172789f06886806bc55";

/// The ignore files of one directory, for it and what lies below.
#[derive(Debug)]
pub(crate) struct IgnoreScope {
    patterns: Gitignore,
    /// Bytes of a path of the walk that lead to the directory, with the `/` after it.
    base_bytes: usize,
}

impl IgnoreScope {
    /// What they say about an item, by its path relative to the root of the walk.
    pub(crate) fn verdict(&self, path: &[u8], item: ItemType) -> Verdict {
        let path = Path::new(OsStr::from_bytes(&path[self.base_bytes..]));
        match self.patterns.matched(path, item == ItemType::Directory) {
            Match::None => Verdict::Unmatched,
            Match::Ignore(_) => Verdict::Exclude,
            Match::Whitelist(_) => Verdict::Include,
        }
    }

    /// Reads the ignore files among `names`; nothing where there is none.
    pub(crate) fn read(
        options: &ExcludeOptions,
        names: &Names,
        parent: &Parent,
        descriptor: BorrowedFd<'_>,
        errors: &mut Vec<SourceError>,
    ) -> Option<Self> {
        let present = options.ignore_file_names.iter().filter(|name| names.contains(name));
        let mut builder = GitignoreBuilder::new(".");
        let mut found = 0;
        for name in present {
            match read_bounded(descriptor, name, PATTERN_FILE_BYTES_MAX + 1, parent) {
                Ok(Some(text)) => {
                    found += 1;
                    add_lines(&mut builder, &text, &parent.directory.full_path_of(name), errors);
                }
                Ok(None) => {}
                Err(error) => errors.push(error),
            }
        }
        if found == 0 {
            return None;
        }
        let base_bytes = if parent.path.is_empty() { 0 } else { parent.path.len() + 1 };
        match builder.build() {
            Ok(patterns) => Some(Self { patterns, base_bytes }),
            Err(error) => {
                errors.push(bad_line("all of it", &parent.directory.full_path(), error.into()));
                None
            }
        }
    }
}

fn add_lines(
    builder: &mut GitignoreBuilder,
    text: &[u8],
    path: &Path,
    errors: &mut Vec<SourceError>,
) {
    if let Err(error) = check_pattern_file_size(path, text.len()) {
        errors.push(error);
        return;
    }
    for line in text.split(|&byte| byte == b'\n') {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let added = match std::str::from_utf8(line) {
            Ok(line) => builder.add_line(None, line).map(drop).map_err(PatternError::Ignore),
            Err(_) => Err(PatternError::NotUtf8),
        };
        if let Err(error) = added {
            errors.push(bad_line(&String::from_utf8_lossy(line), path, error));
        }
    }
}

fn bad_line(line: &str, path: &Path, source: PatternError) -> SourceError {
    let origin = path.display().to_string();
    SourceError::BadPattern { pattern: line.to_owned(), origin, source }
}

/// The first `bytes_max` bytes of a regular file; nothing where the name is another kind of item.
fn read_bounded(
    directory: BorrowedFd<'_>,
    name: &[u8],
    bytes_max: u64,
    parent: &Parent,
) -> Result<Option<Vec<u8>>, SourceError> {
    use rustix::io::Errno;
    let path = || parent.directory.full_path_of(name);
    let fd = match open_without_atime(directory, name, OFlags::RDONLY) {
        Ok(fd) => fd,
        Err(Errno::LOOP | Errno::NOENT | Errno::NXIO) => return Ok(None),
        Err(errno) => return Err(SourceError::from_errno("open", path(), errno)),
    };
    let kind = Stat::of_fd(fd.as_fd()).map(|stat| stat.kind);
    if kind != Ok(NodeKind::File) {
        return Ok(None);
    }
    let mut bytes = Vec::new();
    let read = std::fs::File::from(fd).take(bytes_max).read_to_end(&mut bytes);
    read.map_err(|source| SourceError::Io { action: "read", path: path(), source })?;
    Ok(Some(bytes))
}

/// The entry because of which all others of the directory are left out, if there is one.
pub(crate) fn find_marker<'o>(
    options: &'o ExcludeOptions,
    names: &Names,
    parent: &Parent,
    descriptor: BorrowedFd<'_>,
    errors: &mut Vec<SourceError>,
) -> Option<&'o [u8]> {
    if let Some(name) = options.if_present.iter().find(|name| names.contains(name)) {
        return Some(name);
    }
    if !options.caches || !names.contains(CACHE_TAG_NAME) {
        return None;
    }
    let bytes_max = CACHE_TAG_SIGNATURE.len() as u64;
    match read_bounded(descriptor, CACHE_TAG_NAME, bytes_max, parent) {
        Ok(text) => (text.as_deref() == Some(CACHE_TAG_SIGNATURE)).then_some(CACHE_TAG_NAME),
        Err(error) => {
            errors.push(error);
            None
        }
    }
}
