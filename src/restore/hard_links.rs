//! Further names of files: made once the first name is there, with content that may stand with a
//! name which is not wanted.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;

use crate::format::node::{Content, Node};
use crate::format::snapshot::Root;
use crate::progress::Progress;
use crate::repo::read_access::ReadAccess;
use crate::repo::tree_reader::{TreeReadError, TreeReader};
use crate::restore::crew::Shared;
use crate::restore::file_state::FileState;
use crate::restore::selection::SelectedEntry;
use crate::restore::target_file::Restored;
use crate::restore::target_path::TargetPath;

/// A link group is one of its root.
type Group = (usize, u64);

enum First {
    Planned(Arc<FileState>),
    Made(Restored),
    /// It is not there, or only counted.
    Missing,
}

/// The names of files with several.
#[derive(Default)]
pub(super) struct Names {
    firsts: HashMap<Group, First>,
    planned: Vec<Group>,
    waiting: Vec<(Group, TargetPath)>,
}

fn group(entry: &SelectedEntry<'_>) -> Option<Group> {
    entry.node.link_group.map(|number| (std::ptr::from_ref(entry.root) as usize, number))
}

impl Names {
    /// Whether the entry is a further name of a file already met; then it will be linked.
    pub(super) fn defer(&mut self, entry: &SelectedEntry<'_>, path: &TargetPath) -> bool {
        let Some(group) = group(entry).filter(|group| self.firsts.contains_key(group)) else {
            return false;
        };
        if !matches!(self.firsts.get(&group), Some(First::Missing)) {
            self.waiting.push((group, path.clone()));
        }
        true
    }

    /// The entry is going to be made.
    pub(super) fn planned(&mut self, entry: &SelectedEntry<'_>, file: &Arc<FileState>) {
        if let Some(group) = group(entry) {
            self.firsts.insert(group, First::Planned(file.clone()));
            self.planned.push(group);
        }
    }

    /// The entry is there, or will never be.
    pub(super) fn made(&mut self, entry: &SelectedEntry<'_>, restored: Option<Restored>) {
        if let Some(group) = group(entry) {
            self.firsts.insert(group, restored.map_or(First::Missing, First::Made));
        }
    }

    /// Makes the names whose first is there by now.
    pub(super) fn link_ready(&mut self, shared: &Shared<'_>) {
        let firsts = &mut self.firsts;
        self.planned.retain(|group| match firsts.get_mut(group) {
            Some(first @ First::Planned(_)) => !settle(first),
            _ => false,
        });
        self.waiting.retain(|(group, path)| {
            let Some(First::Made(restored)) = firsts.get(group) else { return true };
            if let Err(error) = shared.target.hard_link(restored, path) {
                shared.trouble(error);
            }
            Progress::add(&shared.progress.items_done, 1);
            false
        });
    }

    /// Makes all names that are left; those whose first could not be made are reported.
    pub(super) fn link_all(&mut self, shared: &Shared<'_>) {
        self.link_ready(shared);
        for (_, path) in self.waiting.drain(..) {
            Progress::add(&shared.failed, 1);
            shared.progress.warn(format!("{path} is a further name of a file that is not there"));
        }
    }
}

/// Turns a planned file into a made one, if it is.
fn settle(first: &mut First) -> bool {
    let First::Planned(file) = first else { return true };
    let Some(restored) = file.restored().cloned() else { return false };
    *first = First::Made(restored);
    true
}

/// Content of files whose first name is not wanted; a root is searched when the first is missed.
pub(super) struct LinkContents<'a> {
    access: &'a Arc<ReadAccess>,
    searched: HashMap<usize, HashMap<u64, Content>>,
}

impl<'a> LinkContents<'a> {
    pub(super) fn new(access: &'a Arc<ReadAccess>) -> Self {
        Self { access, searched: HashMap::new() }
    }

    /// Gives an entry whose content stands with another name its references.
    pub(super) fn complete(&mut self, entry: &mut SelectedEntry<'_>) -> Result<(), TreeReadError> {
        self.complete_node(entry.root, &mut entry.node)
    }

    /// The same of a node below `root`.
    pub(super) fn complete_node(
        &mut self,
        root: &Root,
        node: &mut Node,
    ) -> Result<(), TreeReadError> {
        let Some(number) = node.link_group else { return Ok(()) };
        if !node.content.runs.is_empty() || node.stored_bytes() == 0 {
            return Ok(());
        }
        let place = std::ptr::from_ref(root) as usize;
        if let Entry::Vacant(vacant) = self.searched.entry(place) {
            vacant.insert(search(self.access, root)?);
        }
        if let Some(content) = self.searched.get(&place).and_then(|found| found.get(&number)) {
            node.content = content.clone();
        }
        Ok(())
    }
}

fn search(access: &Arc<ReadAccess>, root: &Root) -> Result<HashMap<u64, Content>, TreeReadError> {
    let mut found = HashMap::new();
    for entry in TreeReader::open(access, root)? {
        // A leaf that is lost may hold it: then the content is missed, and that is reported.
        let Ok((_, node)) = entry else { continue };
        if let Some(number) = node.link_group
            && !node.content.runs.is_empty()
        {
            found.entry(number).or_insert(node.content);
        }
    }
    Ok(found)
}
