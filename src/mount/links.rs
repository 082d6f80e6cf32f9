//! Files with several names in one tree: one number and one count for all of them.
//!
//! Which names belong together is known only when the whole tree was read; that is done when the
//! first of them is met.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, Mutex};

use crate::format::node::Node;
use crate::mount::loaded::LoadedTree;
use crate::mount::lru::Lru;
use crate::mount::sync::lock;
use crate::mount::tree::Trees;

/// Tables that are kept, in bytes.
const KEPT_BYTES_MAX: u64 = 48 * 1024 * 1024;

/// A file with several names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Linked {
    group: u64,
    /// The entry that stands for all of them: the one with the content.
    pub ordinal: u64,
    /// Its names in the tree.
    pub names: u32,
}

/// The files with several names of the trees looked at last.
pub struct Links {
    kept: Mutex<Lru<u32, Arc<Vec<Linked>>>>,
    /// Held while a tree is read, so that it is not read twice.
    reading: Mutex<()>,
}

impl Default for Links {
    fn default() -> Self {
        Self { kept: Mutex::new(Lru::new(KEPT_BYTES_MAX)), reading: Mutex::default() }
    }
}

impl Links {
    /// What there is of a group in a tree.
    pub fn find(&self, trees: &Trees, tree: &LoadedTree, group: u64) -> Option<Linked> {
        let table = self.table(trees, tree);
        let index = table.binary_search_by_key(&group, |linked| linked.group).ok()?;
        Some(table[index])
    }

    fn table(&self, trees: &Trees, tree: &LoadedTree) -> Arc<Vec<Linked>> {
        let kept = || lock(&self.kept).find(&tree.number);
        if let Some(table) = kept() {
            return table;
        }
        let _reading = lock(&self.reading);
        kept().unwrap_or_else(|| {
            let table = Arc::new(read(trees, tree));
            let bytes = size_of::<Linked>() * (table.len() + 4);
            lock(&self.kept).keep(tree.number, table.clone(), bytes as u64);
            table
        })
    }
}

/// All groups of a tree, by number. Names in parts that are lost are not counted.
fn read(trees: &Trees, tree: &LoadedTree) -> Vec<Linked> {
    let mut found: HashMap<u64, (Linked, bool)> = HashMap::new();
    let mut ordinal = 0;
    loop {
        match trees.at(&tree.root, ordinal) {
            Ok(None) => break,
            Err(lost) => ordinal = lost.until,
            Ok(Some(mut place)) => loop {
                meet(&mut found, place.node(), place.ordinal());
                ordinal = place.ordinal() + 1;
                if !place.advance() {
                    break;
                }
            },
        }
    }
    let mut table: Vec<Linked> = found.into_values().map(|(linked, _)| linked).collect();
    table.sort_unstable_by_key(|linked| linked.group);
    table
}

fn meet(found: &mut HashMap<u64, (Linked, bool)>, node: &Node, ordinal: u64) {
    let Some(group) = node.link_group else { return };
    let has_content = !node.content.runs.is_empty();
    match found.entry(group) {
        Entry::Vacant(vacant) => {
            vacant.insert((Linked { group, ordinal, names: 1 }, has_content));
        }
        Entry::Occupied(mut occupied) => {
            let (linked, had_content) = occupied.get_mut();
            linked.names = linked.names.saturating_add(1);
            if has_content && !*had_content {
                (linked.ordinal, *had_content) = (ordinal, true);
            }
        }
    }
}
