//! Gives a restored object its attributes, in the one order in which each of them stays.
//!
//! Owner first, because `chown` clears setuid, setgid and capabilities; then inherited or older
//! attributes go (an ACL would take part of the mode for its own); then the mode; then the node's
//! attributes (an ACL refines the mode, a capability must come after `chown`); then flags that
//! forbid nothing; then times; then the flags that forbid all of this (immutable, append-only).
//! Nothing here ends a restore: what cannot be set is reported and counted.

use std::collections::HashMap;
use std::fmt::Display;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};

use rustix::fs::IFlags;
use rustix::io::Errno;

use crate::format::node::{Node, NodeKind};
use crate::progress::Progress;
use crate::restore::metadata_object::Object;
use crate::restore::target_options::Options;
use crate::restore::target_path::escape;

/// Flags that forbid further changes; set after everything else.
const FORBIDDING: IFlags = IFlags::IMMUTABLE.union(IFlags::APPEND);
/// Flags that describe the file: they are set, and taken away where the node has them not.
const DESCRIBING: IFlags =
    IFlags::NODUMP.union(IFlags::NOATIME).union(IFlags::SYNC).union(IFlags::DIRSYNC);
/// Flags that say how a file system stores it: set where the node has them, but never taken away,
/// because a new file has them from the target (compression of a whole directory).
const STORING: IFlags = IFlags::COMPRESSED
    .union(IFlags::NOCOW)
    .union(IFlags::NOTAIL)
    .union(IFlags::TOPDIR)
    .union(IFlags::JOURNALING)
    .union(IFlags::PROJECT_INHERIT);
/// Messages of one kind before the rest is only counted.
const MESSAGES_PER_KIND_MAX: u64 = 100;
/// Names of owners remembered at most; they come from the snapshot.
const NAMES_MAX: usize = 4096;
const SET_ID_BITS: u32 = 0o6000;
const CAPABILITY: &[u8] = b"security.capability";

/// What happens to immutable and append-only flags.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Forbidding {
    /// They are set now: nothing else will be done to the object.
    Now,
    /// They are left for the end of the restore: the object will get further names.
    AtTheEnd,
}

/// Kinds of trouble, each with its own limit of messages.
#[derive(Debug, Clone, Copy)]
enum Trouble {
    Owner,
    Mode,
    Xattr,
    Flags,
    Time,
    Stripped,
}

const TROUBLES: usize = 6;

/// Sets attributes for one restore; its options and what it knows of owners.
pub(super) struct Metadata {
    special_bits: bool,
    numeric_ids: bool,
    is_root: bool,
    users: Mutex<HashMap<String, Option<u32>>>,
    groups: Mutex<HashMap<String, Option<u32>>>,
    troubles: [AtomicU64; TROUBLES],
}

impl Metadata {
    /// For a restore by this process with these options.
    pub(super) fn new(options: &Options) -> Self {
        Self {
            special_bits: options.special_bits,
            numeric_ids: options.numeric_ids,
            is_root: rustix::process::geteuid().is_root(),
            users: Mutex::default(),
            groups: Mutex::default(),
            troubles: Default::default(),
        }
    }

    /// Sets everything that `node` says; `path` is for messages.
    pub(super) fn apply(
        &self,
        object: Object<'_>,
        node: &Node,
        path: &dyn Display,
        forbidding: Forbidding,
        progress: &Progress,
    ) {
        if node.kind == NodeKind::Stream {
            return; // it has none: the file stays its owner's alone
        }
        let item = Item { metadata: self, object, node, path, progress };
        item.owner();
        item.remove_other_xattrs();
        if node.kind != NodeKind::Symlink {
            item.mode();
        }
        item.xattrs();
        item.flags(DESCRIBING | STORING & IFlags::from_bits_retain(node.flags));
        item.modified();
        if forbidding == Forbidding::Now && is_forbidding(node) {
            item.flags(FORBIDDING);
        }
    }

    /// Sets only the flags that [`Forbidding::AtTheEnd`] left.
    pub(super) fn forbid(
        &self,
        object: Object<'_>,
        node: &Node,
        path: &dyn Display,
        progress: &Progress,
    ) {
        Item { metadata: self, object, node, path, progress }.flags(FORBIDDING);
    }

    /// Says how many messages were held back, if any.
    pub(super) fn summarize(&self, progress: &Progress) {
        let held = |count: &AtomicU64| count.load(Relaxed).saturating_sub(MESSAGES_PER_KIND_MAX);
        let more: u64 = self.troubles.iter().map(held).sum();
        for count in &self.troubles {
            count.store(0, Relaxed);
        }
        if more > 0 {
            progress.warn(format!("{more} more attributes could not be restored"));
        }
    }

    fn owner_of(&self, node: &Node) -> (Option<u32>, Option<u32>) {
        let lookup_user = |name: &str| uzers::get_user_by_name(name).map(|user| user.uid());
        let lookup_group = |name: &str| uzers::get_group_by_name(name).map(|group| group.gid());
        let uid = self.id_of(&self.users, node.user.as_deref(), &lookup_user).unwrap_or(node.uid);
        let gid =
            self.id_of(&self.groups, node.group.as_deref(), &lookup_group).unwrap_or(node.gid);
        // All ones means "as it is" to the kernel; no file has it.
        (Some(uid).filter(|id| *id != u32::MAX), Some(gid).filter(|id| *id != u32::MAX))
    }

    fn id_of(
        &self,
        known: &Mutex<HashMap<String, Option<u32>>>,
        name: Option<&str>,
        lookup: &dyn Fn(&str) -> Option<u32>,
    ) -> Option<u32> {
        let name = name.filter(|_| !self.numeric_ids)?;
        let mut known = known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(id) = known.get(name) {
            return *id;
        }
        if known.len() >= NAMES_MAX {
            known.clear();
        }
        let id = lookup(name);
        known.insert(name.to_owned(), id);
        id
    }
}

/// Flags of a new file that have an effect only while it is empty.
pub(super) fn flags_before_content(node: &Node) -> IFlags {
    IFlags::from_bits_retain(node.flags) & IFlags::NOCOW
}

/// Lets an existing object be changed again: takes immutable and append-only away.
pub(super) fn permit(object: Object<'_>) -> Result<(), Errno> {
    object.set_flags(IFlags::empty(), FORBIDDING)
}

/// Whether the node has flags that are set last.
pub(super) fn is_forbidding(node: &Node) -> bool {
    IFlags::from_bits_retain(node.flags).intersects(FORBIDDING)
}

struct Item<'a> {
    metadata: &'a Metadata,
    object: Object<'a>,
    node: &'a Node,
    path: &'a dyn Display,
    progress: &'a Progress,
}

impl Item<'_> {
    fn owner(&self) {
        let (uid, gid) = self.metadata.owner_of(self.node);
        let Err(error) = self.object.set_owner(uid, gid) else { return };
        if self.metadata.is_root {
            self.warn(Trouble::Owner, &format_args!("owner {uid:?}, group {gid:?}: {error}"));
            return;
        }
        // Only root gives files away; an ordinary user may still choose among its own groups.
        if self.object.set_owner(None, gid).is_err() && error != Errno::PERM {
            self.warn(Trouble::Owner, &format_args!("owner {uid:?}, group {gid:?}: {error}"));
        }
    }

    fn mode(&self) {
        let mut mode = self.node.mode & 0o7777;
        let grants = self.node.kind != NodeKind::Dir && mode & SET_ID_BITS != 0;
        if grants && !self.metadata.special_bits {
            mode &= !SET_ID_BITS;
            self.warn(
                Trouble::Stripped,
                &"setuid and setgid were not restored (--special-bits restores them)",
            );
        }
        if let Err(error) = self.object.set_mode(mode) {
            self.warn(Trouble::Mode, &format_args!("mode {mode:o}: {error}"));
        }
    }

    fn xattrs(&self) {
        for (name, value) in &self.node.xattrs {
            if name == CAPABILITY && !self.metadata.special_bits {
                self.warn(
                    Trouble::Stripped,
                    &"capabilities were not restored (--special-bits restores them)",
                );
                continue;
            }
            if let Err(error) = self.object.set_xattr(name, value)
                && !self.object.has_xattr(name, value)
            {
                self.warn(Trouble::Xattr, &format_args!("attribute {}: {error}", escape(name)));
            }
        }
    }

    /// What an older file of that name had, or what a new one inherited (default ACLs). Labels of
    /// security modules and names that a file system makes up are not ours to remove.
    fn remove_other_xattrs(&self) {
        let names = match self.object.xattr_names() {
            Ok(names) => names,
            Err(error) => {
                self.warn(Trouble::Xattr, &format_args!("attributes: {error}"));
                return;
            }
        };
        for name in names {
            let ours = name.starts_with(b"user.")
                || name.starts_with(b"system.posix_acl_")
                || name == CAPABILITY;
            if !ours || self.node.xattrs.contains_key(&name) {
                continue;
            }
            if let Err(error) = self.object.remove_xattr(&name) {
                self.warn(Trouble::Xattr, &format_args!("attribute {}: {error}", escape(&name)));
            }
        }
    }

    fn flags(&self, mask: IFlags) {
        let wanted = IFlags::from_bits_retain(self.node.flags) & mask;
        if self.object.set_flags(wanted, mask).is_ok() {
            return;
        }
        // One flag that this file system does not know must not cost the others.
        for flag in mask {
            if let Err(error) = self.object.set_flags(wanted, flag) {
                self.warn(Trouble::Flags, &format_args!("flag {:#x}: {error}", flag.bits()));
            }
        }
    }

    fn modified(&self) {
        let time = self.node.mtime;
        let set = if time.1 < 1_000_000_000 {
            self.object.set_modified(time)
        } else {
            Err(Errno::INVAL) // the kernel gives some of these a meaning of their own
        };
        if let Err(error) = set {
            self.warn(Trouble::Time, &format_args!("modification time: {error}"));
        }
    }

    fn warn(&self, trouble: Trouble, what: &dyn Display) {
        let before = self.metadata.troubles[trouble as usize].fetch_add(1, Relaxed);
        if before < MESSAGES_PER_KIND_MAX {
            self.progress.warn(format!("{}: {what}", self.path));
        } else {
            Progress::add(&self.progress.warnings, 1);
        }
    }
}
