//! Attributes that are set at the end of a restore: those of directories, which every entry made
//! below would change again, and flags that would forbid a file further names.
//!
//! Read back in reverse order, so a directory comes after everything in it. Memory is bounded: past
//! a budget the records go to a nameless file in the target, block by block, and come back the
//! same way from its end.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;

use serde::{Deserialize, Serialize};

use crate::format::node::{Node, NodeKind, UnixTime};
use crate::restore::metadata_object::Identity;

/// One object and what it shall get.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Later {
    /// Checked path in the target.
    pub path: Vec<u8>,
    kind: NodeKind,
    device: u64,
    inode: u64,
    mode: u32,
    uid: u32,
    gid: u32,
    user: Option<String>,
    group: Option<String>,
    mtime: UnixTime,
    flags: u32,
    xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Later {
    /// Takes what is needed of `node` for the object at `path`.
    pub(super) fn new(path: &[u8], identity: Identity, node: &Node) -> Self {
        Self {
            path: path.to_vec(),
            kind: node.kind,
            device: identity.device,
            inode: identity.inode,
            mode: node.mode,
            uid: node.uid,
            gid: node.gid,
            user: node.user.clone(),
            group: node.group.clone(),
            mtime: node.mtime,
            flags: node.flags,
            xattrs: node.xattrs.iter().map(|(name, value)| (name.clone(), value.clone())).collect(),
        }
    }

    /// Which object was meant.
    pub(super) fn identity(&self) -> Identity {
        Identity { device: self.device, inode: self.inode }
    }

    /// The attributes as a node again.
    pub(super) fn into_node(self) -> Node {
        let mut node = Node::new(self.kind, Vec::new());
        (node.mode, node.uid, node.gid) = (self.mode, self.uid, self.gid);
        (node.user, node.group) = (self.user, self.group);
        (node.mtime, node.flags) = (self.mtime, self.flags);
        node.xattrs = self.xattrs.into_iter().collect();
        node
    }

    fn memory_bytes(&self) -> usize {
        let xattrs = self.xattrs.iter().map(|(name, value)| name.len() + value.len() + 64);
        size_of::<Self>() + self.path.len() + 64 + xattrs.sum::<usize>()
    }
}

/// A stack of records, most of it possibly in a file.
pub(super) struct LaterStack {
    in_memory: Vec<Later>,
    memory_bytes: usize,
    memory_bytes_max: usize,
    file: Option<File>,
    /// Length of every block in the file, in order.
    blocks: Vec<usize>,
    file_bytes: u64,
}

impl LaterStack {
    /// Holds at most about `memory_bytes_max` in memory, and one record.
    pub(super) fn new(memory_bytes_max: usize) -> Self {
        Self {
            in_memory: Vec::new(),
            memory_bytes: 0,
            memory_bytes_max,
            file: None,
            blocks: Vec::new(),
            file_bytes: 0,
        }
    }

    /// Adds a record; `make_file` is called once, when memory is full.
    pub(super) fn push(
        &mut self,
        later: Later,
        make_file: &dyn Fn() -> io::Result<File>,
    ) -> io::Result<()> {
        self.memory_bytes += later.memory_bytes();
        self.in_memory.push(later);
        if self.memory_bytes <= self.memory_bytes_max {
            return Ok(());
        }
        let block = serde_json::to_vec(&self.in_memory)?;
        if self.file.is_none() {
            self.file = Some(make_file()?);
        }
        if let Some(file) = &self.file {
            file.write_all_at(&block, self.file_bytes)?;
        }
        self.blocks.push(block.len());
        self.file_bytes += block.len() as u64;
        self.in_memory.clear();
        self.memory_bytes = 0;
        Ok(())
    }

    /// Takes the record added last.
    pub(super) fn pop(&mut self) -> io::Result<Option<Later>> {
        if self.in_memory.is_empty()
            && let (Some(file), Some(length)) = (&self.file, self.blocks.pop())
        {
            self.file_bytes -= length as u64;
            let mut block = vec![0; length];
            file.read_exact_at(&mut block, self.file_bytes)?;
            self.in_memory = serde_json::from_slice(&block)?;
        }
        self.memory_bytes = 0;
        Ok(self.in_memory.pop())
    }
}

#[cfg(test)]
mod tests {
    use super::{Later, LaterStack};
    use crate::format::node::{Node, NodeKind, UnixTime};
    use crate::restore::metadata_object::Identity;

    fn record(number: u32) -> Later {
        let mut node = Node::new(NodeKind::Dir, Vec::new());
        node.mode = number;
        node.user = Some(format!("user{number}"));
        node.mtime = UnixTime(-1, number);
        node.xattrs.insert(vec![0xff, 0x00], vec![number as u8; 9]);
        let identity = Identity { device: 1, inode: u64::from(number) };
        Later::new(format!("dir/{number}").as_bytes(), identity, &node)
    }

    #[test]
    fn comes_back_in_reverse_through_memory_and_file() {
        for memory_bytes_max in [0, 1000, 1 << 20] {
            let mut stack = LaterStack::new(memory_bytes_max);
            for number in 0..100 {
                stack.push(record(number), &tempfile::tempfile).unwrap();
            }
            assert_eq!(stack.file.is_none(), memory_bytes_max == 1 << 20);
            for number in (50..100).rev() {
                assert_eq!(stack.pop().unwrap(), Some(record(number)), "{memory_bytes_max}");
            }
            stack.push(record(1000), &tempfile::tempfile).unwrap();
            assert_eq!(stack.pop().unwrap(), Some(record(1000)));
            for number in (0..50).rev() {
                assert_eq!(stack.pop().unwrap(), Some(record(number)));
            }
            assert_eq!(stack.pop().unwrap(), None);
        }
    }

    #[test]
    fn a_node_comes_back_with_its_attributes() {
        let node = record(7).into_node();
        assert_eq!(
            (node.mode, node.mtime, node.user.as_deref()),
            (7, UnixTime(-1, 7), Some("user7"))
        );
        assert_eq!(node.xattrs[&vec![0xff, 0x00]], [7; 9]);
    }
}
