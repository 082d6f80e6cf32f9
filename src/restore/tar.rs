//! Part of a snapshot as a tar archive, in order, to any output.
//!
//! POSIX.1-2001 (pax): long names, times below a second, and extended attributes as
//! `SCHILY.xattr.*`. A header says a size before the content is read, so a file with lost content
//! keeps its place, is filled with zeros, and is reported: the caller must not call that success.

use std::collections::HashMap;
use std::io::Write;
use std::sync::Arc;

use tar::{Builder, EntryType, Header};

use crate::format::node::{Node, NodeKind};
use crate::format::redis::facts::RecordFacts;
use crate::format::snapshot::{Root, Snapshot};
use crate::progress::Progress;
use crate::repo::read_access::ReadAccess;
use crate::restore::error::{RestoreError, with_causes};
use crate::restore::execute::{RestoreReport, threads_of};
use crate::restore::filter::Filters;
use crate::restore::hard_links::LinkContents;
use crate::restore::read_ahead::{Data, Due, HoleFiller, ReadAhead, read_ahead};
use crate::restore::redis_dump::{dump_facts, read_dump};
use crate::restore::selection::{SelectedEntries, SelectedEntry};
use crate::restore::target_path::escape;

const BLOCK_BYTES: usize = 512;
const NAME_BYTES: usize = 100;
const OWNER_BYTES: usize = 32;

/// The beginning of a member: its header blocks, and what follows them.
struct Member {
    header: Vec<u8>,
    size: u64,
    holes: Vec<(u64, u64)>,
    path: String,
}

/// Puts what is at `path` in the snapshot out as an archive, with the paths that a restore gives.
///
/// # Errors
/// When the output fails or nothing is at `path`; trouble with single entries is reported to
/// `progress` and counted.
pub fn write_tar(
    access: &Arc<ReadAccess>,
    snapshot: &Snapshot,
    path: &[u8],
    filters: &Filters,
    out: &mut dyn Write,
    threads: usize,
    progress: &Progress,
) -> Result<RestoreReport, RestoreError> {
    let entries = SelectedEntries::open(access, snapshot, path, filters)?;
    let entries = entries.ok_or_else(|| RestoreError::NotFound { path: escape(path) })?;
    let mut output = Output { out, current: None, progress, damaged: 0 };
    let mut planner = Planner {
        firsts: HashMap::new(),
        contents: LinkContents::new(access),
        headers: Builder::new(Vec::new()),
        access,
        progress,
        report: RestoreReport::default(),
    };
    read_ahead(access, threads_of(threads, access), |ahead| {
        for entry in entries {
            if progress.is_cancelled() {
                return Err(RestoreError::Cancelled);
            }
            match entry {
                Ok(entry) if entry.is_wanted && !entry.path.is_empty() => {
                    planner.take(entry, ahead, &mut output)?;
                }
                Ok(_) => {}
                Err(error) => planner.trouble(&error),
            }
            ahead.take_due(&mut |due| output.take(due))?;
        }
        ahead.take_all(&mut |due| output.take(due))
    })?;
    output.end()?;
    Ok(RestoreReport { damaged: output.damaged, ..planner.report })
}

struct Planner<'a> {
    /// Paths of files with several names, by root and link group.
    firsts: HashMap<(usize, u64), Vec<u8>>,
    contents: LinkContents<'a>,
    headers: Builder<Vec<u8>>,
    access: &'a Arc<ReadAccess>,
    progress: &'a Progress,
    report: RestoreReport,
}

impl Planner<'_> {
    fn trouble(&mut self, error: &dyn std::error::Error) {
        self.report.errors += 1;
        self.progress.warn(with_causes(error));
    }

    fn take(
        &mut self,
        mut entry: SelectedEntry<'_>,
        ahead: &mut ReadAhead<Member>,
        output: &mut Output<'_>,
    ) -> Result<(), RestoreError> {
        let group = entry.node.link_group;
        let group = group.map(|group| (std::ptr::from_ref(entry.root) as usize, group));
        let first = group.and_then(|group| self.firsts.get(&group).cloned());
        let kind = match (entry.node.kind, &first) {
            (NodeKind::Dir, _) => EntryType::Directory,
            (_, Some(_)) => EntryType::Link,
            (NodeKind::File | NodeKind::Stream, _) => EntryType::Regular,
            (NodeKind::Symlink, _) => EntryType::Symlink,
            (NodeKind::Chardev, _) => EntryType::Char,
            (NodeKind::Blockdev, _) => EntryType::Block,
            (NodeKind::Fifo, _) => EntryType::Fifo,
            (NodeKind::Socket, _) => return Ok(()), // tar has none
        };
        let has_content = kind == EntryType::Regular;
        self.count(kind, &entry.node);
        let link = first.or_else(|| entry.node.target.clone()).unwrap_or_default();
        let header = self.header(kind, &entry, &link).map_err(RestoreError::Output)?;
        let size = if has_content { entry.node.size } else { 0 };
        let holes = std::mem::take(&mut entry.node.holes);
        if let Some(group) = group {
            self.firsts.entry(group).or_insert_with(|| entry.path.clone());
        }
        let path = escape(&entry.path);
        if !has_content {
            ahead.mark(Member { header, size, holes, path });
            return Ok(());
        }
        let stored_bytes = size.saturating_sub(holes.iter().map(|(_, length)| length).sum());
        let known = self.contents.complete_node(entry.root, &mut entry.node);
        ahead.mark(Member { header, size, holes, path });
        if let (NodeKind::Stream, true, Some(facts)) =
            (entry.node.kind, entry.is_root, dump_facts(entry.root)?)
        {
            ahead.take_all(&mut |due| output.take(due))?;
            return self.dump(entry.root, &facts, output);
        }
        let content = &entry.node.content;
        let pushed = known
            .map_err(RestoreError::from)
            .and_then(|()| ahead.content(content, stored_bytes, &mut |due| output.take(due)));
        match pushed {
            Err(error @ (RestoreError::Tree(_) | RestoreError::Read(_))) => self.trouble(&error),
            Err(error) => return Err(error),
            Ok(()) => {}
        }
        Ok(())
    }

    /// A dump that is stored as records.
    fn dump(
        &mut self,
        root: &Root,
        facts: &RecordFacts,
        output: &mut Output<'_>,
    ) -> Result<(), RestoreError> {
        let put = read_dump(self.access, root, facts, &mut |bytes| {
            output.take(Due::Data(Data { bytes: bytes.to_vec(), error: None }))
        });
        match put {
            Err(error @ (RestoreError::Output(_) | RestoreError::Cancelled)) => return Err(error),
            Err(error) => self.trouble(&error),
            Ok(()) => {}
        }
        Ok(())
    }

    fn count(&mut self, kind: EntryType, node: &Node) {
        match kind {
            EntryType::Directory => self.report.directories += 1,
            EntryType::Regular => {
                self.report.files += 1;
                self.report.bytes += node.size;
            }
            _ => self.report.others += 1,
        }
    }

    /// Header blocks of a member, those of its pax extensions first.
    fn header(
        &mut self,
        kind: EntryType,
        entry: &SelectedEntry<'_>,
        link: &[u8],
    ) -> std::io::Result<Vec<u8>> {
        let node = &entry.node;
        let mut path = entry.path.clone();
        if kind == EntryType::Directory {
            path.push(b'/');
        }
        let mut pax: Vec<(String, Vec<u8>)> = Vec::new();
        let mut header = Header::new_ustar();
        header.set_entry_type(kind);
        header.set_mode(if node.kind == NodeKind::Stream { 0o600 } else { node.mode });
        header.set_uid(node.uid.into());
        header.set_gid(node.gid.into());
        header.set_size(if kind == EntryType::Regular { node.size } else { 0 });
        header.set_mtime(u64::try_from(node.mtime.0).unwrap_or(0));
        if node.mtime.1 != 0 || node.mtime.0 < 0 {
            pax.push(("mtime".into(), pax_time(node)));
        }
        let names = header.as_old_mut();
        for (field, value, key) in
            [(&mut names.name, &path[..], "path"), (&mut names.linkname, link, "linkpath")]
        {
            let short = value.len().min(NAME_BYTES);
            field[..short].copy_from_slice(&value[..short]);
            if value.len() > NAME_BYTES {
                pax.push((key.into(), value.to_vec()));
            }
        }
        if let Some((major, minor)) = node.device {
            header.set_device_major(major)?;
            header.set_device_minor(minor)?;
        }
        for (name, key) in [(&node.user, "uname"), (&node.group, "gname")] {
            let Some(name) = name else { continue };
            if name.len() >= OWNER_BYTES {
                pax.push((key.into(), name.clone().into_bytes()));
            } else if key == "uname" {
                header.set_username(name)?;
            } else {
                header.set_groupname(name)?;
            }
        }
        if kind != EntryType::Link {
            self.add_xattrs(entry, &mut pax);
        }
        header.set_cksum();
        let pax = pax.iter().map(|(key, value)| (&key[..], &value[..]));
        self.headers.append_pax_extensions(pax)?;
        let mut blocks = std::mem::take(self.headers.get_mut());
        blocks.extend_from_slice(header.as_bytes());
        Ok(blocks)
    }

    fn add_xattrs(&self, entry: &SelectedEntry<'_>, pax: &mut Vec<(String, Vec<u8>)>) {
        for (name, value) in &entry.node.xattrs {
            match std::str::from_utf8(name) {
                Ok(name) if !name.contains('=') => {
                    pax.push((format!("SCHILY.xattr.{name}"), value.clone()));
                }
                _ => {
                    let (path, name) = (escape(&entry.path), escape(name));
                    self.progress.warn(format!("{path}: tar cannot hold the attribute {name}"));
                }
            }
        }
    }
}

fn pax_time(node: &Node) -> Vec<u8> {
    let (seconds, nanoseconds) = (node.mtime.0, node.mtime.1);
    if seconds < 0 && nanoseconds > 0 {
        let (whole, part) = (-(seconds + 1), 1_000_000_000 - nanoseconds);
        return format!("-{whole}.{part:09}").into_bytes();
    }
    format!("{seconds}.{nanoseconds:09}").into_bytes()
}

struct Output<'a> {
    out: &'a mut dyn Write,
    current: Option<Current>,
    progress: &'a Progress,
    damaged: u64,
}

struct Current {
    filler: HoleFiller,
    size: u64,
    path: String,
    is_damaged: bool,
}

impl Output<'_> {
    fn take(&mut self, due: Due<Member>) -> Result<(), RestoreError> {
        match due {
            Due::Mark(member) => {
                self.finish_member()?;
                self.out.write_all(&member.header).map_err(RestoreError::Output)?;
                let filler = HoleFiller::new(member.size, &member.holes);
                let Member { size, path, .. } = member;
                self.current = Some(Current { filler, size, path, is_damaged: false });
                Ok(())
            }
            Due::Data(data) => self.data(&data),
        }
    }

    fn data(&mut self, data: &Data) -> Result<(), RestoreError> {
        let Some(current) = &mut self.current else { return Ok(()) };
        if let Some(error) = &data.error
            && !std::mem::replace(&mut current.is_damaged, true)
        {
            let path = &current.path;
            self.progress.warn(format!("{path} is damaged: {}", with_causes(error)));
        }
        Progress::add(&self.progress.bytes_done, data.bytes.len() as u64);
        current.filler.write(self.out, &data.bytes).map_err(RestoreError::Output)
    }

    fn finish_member(&mut self) -> Result<(), RestoreError> {
        let Some(mut current) = self.current.take() else { return Ok(()) };
        let missing = current.filler.finish(self.out).map_err(RestoreError::Output)?;
        if missing > 0 && !current.is_damaged {
            let path = &current.path;
            self.progress.warn(format!("{path} is damaged: {missing} bytes are missing"));
        }
        self.damaged += u64::from(current.is_damaged || missing > 0);
        let padding = (current.size as usize).wrapping_neg() % BLOCK_BYTES;
        let padded = self.out.write_all(&[0; BLOCK_BYTES][..padding]);
        Progress::add(&self.progress.items_done, 1);
        padded.map_err(RestoreError::Output)
    }

    fn end(&mut self) -> Result<(), RestoreError> {
        self.finish_member()?;
        let end = self.out.write_all(&[0; 2 * BLOCK_BYTES]).and_then(|()| self.out.flush());
        end.map_err(RestoreError::Output)
    }
}
