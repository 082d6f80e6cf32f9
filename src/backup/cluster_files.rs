//! Takes the archives of a base backup apart into files, and gives each as it belongs into the tree.

use std::fs::File;
use std::io::Read;
use std::sync::Arc;

use crate::backup::cluster_feed::{
    Failure, Feed, SMALL_FILE_BYTES, entry_of, fill, node_of, of_stream,
};
use crate::backup::folded_pages::{Fold, FoldError};
use crate::backup::item::{CutBytes, Ended, Entry, Item, KnownContent, SmallFile, Step};
use crate::backup::manifest_stream::ManifestStream;
use crate::backup::page_watch::PageWatch;
use crate::backup::pages::{PageFile, read_pages};
use crate::backup::previous_files::PreviousFiles;
use crate::backup::sole_archive::SoleArchive;
use crate::crypto::ids::{content_hash, content_hasher};
use crate::format::node::{Node, NodeKind};
use crate::format::postgres::increment::INCREMENT_PREFIX;
use crate::format::postgres::label::whole_label;
use crate::format::postgres::manifest::{LABEL_NAME, MANIFEST_NAME, ManifestRewriter};
use crate::format::tree::{EntryKey, is_name};
use crate::index::previous_tree::PreviousEntry;
use crate::source::files::postgres_directory::is_page_file;
use crate::source::postgres::base_backup::BaseBackup;
use crate::source::postgres::error::PostgresError;
use crate::source::postgres::server::ServerFacts;

/// The files of a cluster while they come; every function gives `false` when nobody takes any more.
pub struct ClusterFiles<'a> {
    /// What is compared with.
    pub previous: Option<&'a mut PreviousFiles>,
    /// The server.
    pub server: &'a ServerFacts,
    /// Looks at pages.
    pub watch: Arc<PageWatch>,
    /// Only changes come; makes the manifest whole.
    pub rewriter: Option<ManifestRewriter>,
    /// All comes in one archive, which has to say itself what the server says otherwise.
    pub sole: Option<SoleArchive>,
}

impl ClusterFiles<'_> {
    /// Takes the archive of the data directory, or of a tablespace.
    pub fn take_archive(
        &mut self,
        base: &mut BaseBackup,
        tablespace: Option<u32>,
        feed: &mut Feed<'_>,
    ) -> Result<bool, Failure> {
        let prefix = tablespace.map(|oid| format!("pg_tblspc/{oid}"));
        if let Some(prefix) = &prefix {
            let node = feed.own_folder();
            if !feed.give_known(prefix.as_bytes(), node) {
                return Ok(false);
            }
        }
        let mut archive = tar::Archive::new(&mut *base as &mut dyn Read);
        let read = self.take_entries(&mut archive, prefix.as_deref(), feed);
        read.map_err(|error| base.take_failure().map_or(error, Failure::Server))
    }

    /// Takes what is in an archive; those of tablespaces belong below a `prefix`.
    pub fn take_entries(
        &mut self,
        archive: &mut tar::Archive<&mut dyn Read>,
        prefix: Option<&str>,
        feed: &mut Feed<'_>,
    ) -> Result<bool, Failure> {
        for entry in archive.entries()? {
            let mut entry = entry?;
            let name = entry.path_bytes();
            // Folders that the server makes up, such as that of the log, begin with `./`.
            let name = name.strip_prefix(b"./").unwrap_or(&name);
            let name = name.strip_suffix(b"/").unwrap_or(name);
            let path = match prefix {
                Some(prefix) => [prefix.as_bytes(), b"/", name].concat(),
                None => name.to_vec(),
            };
            if !path.split(|byte| *byte == b'/').all(is_name) {
                let what = format!("a file of the name {:?}", String::from_utf8_lossy(&path));
                return Err(std::io::Error::new(std::io::ErrorKind::InvalidData, what).into());
            }
            let node = node_of(entry.header())?;
            feed.see(&node);
            let goes_on = match (node.kind, &mut self.sole) {
                (NodeKind::File, Some(_)) if path == MANIFEST_NAME => {
                    self.take_sole_manifest(&mut entry, node, feed)?
                }
                (NodeKind::File, _) => self.take_file(&mut entry, &path, node, feed)?,
                _ => feed.give_known(&path, node),
            };
            if !goes_on {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn take_file(
        &mut self,
        read: &mut dyn Read,
        path: &[u8],
        node: Node,
        feed: &mut Feed<'_>,
    ) -> Result<bool, Failure> {
        if let Some(sole) = &mut self.sole {
            sole.see(path)?;
        }
        if is_page_file(path) {
            return self.take_pages(read, path, node, feed);
        }
        match self.rewriter.is_some().then(|| whole_path(path)).flatten() {
            Some(whole) => self.take_increment(read, &whole, node, feed),
            None if node.size > SMALL_FILE_BYTES => take_stream(read, path, node, feed),
            None => self.take_small(read, path, node, feed),
        }
    }

    fn take_pages(
        &mut self,
        read: &mut dyn Read,
        path: &[u8],
        node: Node,
        feed: &mut Feed<'_>,
    ) -> Result<bool, Failure> {
        let mut entry = entry_of(path, node);
        let previous = self.previous.as_mut().and_then(|previous| previous.find(&key_of(&entry)));
        if !feed.flush() || !feed.items.give(Item::Begin(Box::new(entry.clone()))) {
            return Ok(false);
        }
        let size = entry.node.size;
        let mut left = size;
        let mut read_full = |buffer: &mut [u8]| {
            let length = fill(read, buffer).map_err(|source| of_stream(path, source))?;
            left -= length as u64;
            Ok(length)
        };
        let check = Some(self.watch.of_file(path, self.server));
        let page_bytes = self.server.page_bytes;
        let pages = PageFile { page_bytes, previous: previous.as_ref(), check };
        let mut hasher = content_hasher();
        if !read_pages(&mut read_full, &pages, feed.reading, feed.items, &mut hasher)? {
            return Ok(false);
        }
        if left != 0 {
            return Err(Failure::Archive(std::io::ErrorKind::UnexpectedEof.into()));
        }
        let hash = hasher.content_hash();
        entry.node.hash = Some(hash);
        let is_known = previous.is_some();
        let ended = Ended { entry, hash: Some(hash), is_known, discard: None };
        Ok(feed.items.give(Item::End(Box::new(ended))))
    }

    /// Puts what changed in a file of pages into the file of before.
    fn take_increment(
        &mut self,
        read: &mut dyn Read,
        path: &[u8],
        node: Node,
        feed: &mut Feed<'_>,
    ) -> Result<bool, Failure> {
        let sent_bytes = node.size;
        let mut entry = entry_of(path, node);
        let previous = self.previous.as_mut().and_then(|previous| previous.find(&key_of(&entry)));
        let previous = previous.ok_or_else(|| unusable(path, FoldError::Remembered))?;
        let fold = Fold {
            page_bytes: self.server.page_bytes,
            segment_pages: self.server.segment_pages,
            previous: &previous,
            check: self.watch.of_file(path, self.server),
        };
        let increment = fold.begin(read, sent_bytes).map_err(|error| unusable(path, error))?;
        entry.node.size = u64::from(increment.pages) * u64::from(fold.page_bytes);
        let is_same = fold.is_same(&increment);
        if let Some(rewriter) = &mut self.rewriter {
            rewriter.fold(path, entry.node.size, is_same);
        }
        if is_same {
            let PreviousEntry { node, fingerprints, .. } = previous;
            entry.node.hash = node.hash;
            let content = KnownContent::Same { runs: node.content.runs, fingerprints };
            return Ok(feed.push(Step::Known(entry, content)));
        }
        if !feed.flush() || !feed.items.give(Item::Begin(Box::new(entry.clone()))) {
            return Ok(false);
        }
        let given = fold.give(read, &increment, feed.reading, feed.items);
        if !given.map_err(|error| unusable(path, error))? {
            return Ok(false);
        }
        let ended = Ended { entry, hash: None, is_known: true, discard: None };
        Ok(feed.items.give(Item::End(Box::new(ended))))
    }

    fn take_small(
        &mut self,
        read: &mut dyn Read,
        path: &[u8],
        mut node: Node,
        feed: &mut Feed<'_>,
    ) -> Result<bool, Failure> {
        let mut bytes = vec![0; node.size as usize];
        read.read_exact(&mut bytes)?;
        if path == LABEL_NAME
            && let Some(rewriter) = &mut self.rewriter
        {
            bytes = whole_label(&bytes);
            node.size = bytes.len() as u64;
            rewriter.set_label(bytes.clone());
        }
        if let Some(sole) = &mut self.sole {
            sole.take(path, &bytes, &self.watch)?;
        }
        let mut entry = entry_of(path, node);
        if bytes.is_empty() {
            return Ok(feed.push(Step::Known(entry, KnownContent::None)));
        }
        let is_known = self.previous.as_ref().is_some_and(|previous| previous.has(&key_of(&entry)));
        entry.node.hash = Some(content_hash(&bytes));
        let lengths = feed.lengths(&bytes);
        let cut = CutBytes::hash(&feed.reading.keys, bytes.into(), &lengths);
        Ok(feed.push(Step::Small(SmallFile { entry, cut, is_known })))
    }

    /// Takes the list of all files as an entry of the archive.
    fn take_sole_manifest(
        &mut self,
        read: &mut dyn Read,
        node: Node,
        feed: &mut Feed<'_>,
    ) -> Result<bool, Failure> {
        let Some(sole) = &mut self.sole else { return Ok(true) };
        let copy = sole.copy.take();
        let mut stream = ManifestStream::new(sole.ranges.of(read), None, copy);
        take_stream(&mut stream, MANIFEST_NAME, node, feed)
    }

    /// Takes the list of all files, and copies it.
    pub fn take_manifest(
        &mut self,
        base: &mut BaseBackup,
        copy: Option<File>,
        feed: &mut Feed<'_>,
    ) -> Result<bool, Failure> {
        let mut node = Node::new(NodeKind::File, Vec::new());
        node.mode = 0o600;
        let mut stream = ManifestStream::new(&mut *base, self.rewriter.as_mut(), copy);
        let read = take_stream(&mut stream, MANIFEST_NAME, node, feed);
        let failure = stream.take_failure();
        read.map_err(|error| match failure {
            Some(failure) => unusable(MANIFEST_NAME, failure),
            None => base.take_failure().map_or(error, Failure::Server),
        })
    }
}

/// A file of any length; its size is what comes.
fn take_stream(
    read: &mut dyn Read,
    path: &[u8],
    node: Node,
    feed: &mut Feed<'_>,
) -> Result<bool, Failure> {
    let expected = Some(node.size).filter(|size| *size > 0);
    let mut entry = entry_of(path, node);
    if !feed.flush() || !feed.items.give(Item::Begin(Box::new(entry.clone()))) {
        return Ok(false);
    }
    let mut size = 0;
    let mut counted = |buffer: &mut [u8]| {
        let length = read.read(buffer).map_err(|source| of_stream(path, source))?;
        size += length as u64;
        Ok(length)
    };
    if !feed.reading.cut_all(&mut counted, feed.chunker, feed.items)? {
        return Ok(false);
    }
    if expected.is_some_and(|expected| expected != size) {
        return Err(Failure::Archive(std::io::ErrorKind::UnexpectedEof.into()));
    }
    entry.node.size = size;
    let ended = Ended { entry, hash: None, is_known: false, discard: None };
    Ok(feed.items.give(Item::End(Box::new(ended))))
}

/// The file that an increment is of, if its name is that of one.
fn whole_path(path: &[u8]) -> Option<Vec<u8>> {
    let at = path.iter().rposition(|byte| *byte == b'/').map_or(0, |at| at + 1);
    let whole = [&path[..at], path[at..].strip_prefix(INCREMENT_PREFIX)?].concat();
    is_page_file(&whole).then_some(whole)
}

fn key_of(entry: &Entry) -> EntryKey {
    EntryKey { dir: entry.dir.to_vec(), name: entry.node.name.clone() }
}

fn unusable(path: &[u8], source: impl std::error::Error + Send + Sync + 'static) -> Failure {
    let path = String::from_utf8_lossy(path).into_owned();
    PostgresError::Increment { path, source: Box::new(source) }.into()
}
