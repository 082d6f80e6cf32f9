//! Listing, finding, comparing and measuring small snapshots.

use std::ops::ControlFlow;

use crate::format::node::{Node, NodeKind};
use crate::format::snapshot::Snapshot;
use crate::format::tree::EntryKey;
use crate::progress::Progress;
use crate::restore::filter::Patterns;
use crate::restore::fixture::{Entries, Fixture, enter, node, noise, snapshot};
use crate::view::diff::{Change, diff};
use crate::view::list::{Depth, find, list};
use crate::view::sizes::sizes;

fn entries() -> Entries {
    let mut entries = Entries::new();
    for dir in 0..30 {
        enter(&mut entries, "", node(NodeKind::Dir, &format!("d{dir:02}")));
        for file in 0..500 {
            enter(
                &mut entries,
                &format!("d{dir:02}"),
                node(NodeKind::File, &format!("f{file:03}")),
            );
        }
    }
    entries
}

fn text(path: &[u8]) -> String {
    String::from_utf8(path.to_vec()).unwrap()
}

#[test]
fn listings_show_what_is_asked_for() {
    let mut fixture = Fixture::new();
    let roots = vec![fixture.tree("/srv/x", &entries()), fixture.stream("s.sql", b"content")];
    let snapshot = snapshot(roots);
    let access = fixture.access();
    let progress = Progress::default();
    let listed = |path: &str, depth| {
        let mut paths = Vec::new();
        let mut visit = |path: &[u8], _: &Node| {
            paths.push(text(path));
            ControlFlow::Continue(())
        };
        let done = list(&access, &snapshot, path.as_bytes(), depth, &mut visit, &progress).unwrap();
        assert_eq!(done.entries as usize, paths.len());
        (done.is_found, paths)
    };
    assert_eq!(listed("", Depth::Children), (true, vec!["/srv/x".into(), "/s.sql".into()]));
    assert_eq!(listed("/", Depth::All).1.len(), 2 + 30 * 501);
    assert_eq!(listed("srv/x", Depth::Children).1.len(), 30);
    let (_, below) = listed("/srv/x/d07/", Depth::Children);
    assert_eq!((below.len(), &below[0][..]), (500, "/srv/x/d07/f000"));
    assert_eq!(listed("/srv/x/d07/f123", Depth::All).1, ["/srv/x/d07/f123"]);
    assert_eq!(listed("/srv/x/d99", Depth::All), (false, vec![]));
    let mut found = Vec::new();
    let patterns = Patterns::new(&["f12?".into(), "*.sql".into()]).unwrap();
    let mut visit = |path: &[u8], _: &Node| {
        found.push(text(path));
        if found.len() < 301 { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    };
    let done = find(&access, &snapshot, &patterns, &mut visit, &progress).unwrap();
    assert_eq!((done.entries, found.last().unwrap().as_str()), (301, "/s.sql"));
}

fn changes(
    fixture: &mut Fixture,
    old: &Snapshot,
    new: &Snapshot,
    path: &str,
) -> (Vec<(Change, String)>, u64) {
    let access = fixture.access();
    let mut changes = Vec::new();
    let mut visit = |found: &crate::view::diff::Difference<'_>| {
        changes.push((found.change, text(found.path)));
        ControlFlow::Continue(())
    };
    let totals =
        diff(&access, old, new, path.as_bytes(), &mut visit, &Progress::default()).unwrap();
    let sum = totals.added + totals.removed + totals.modified + totals.metadata;
    assert_eq!((sum as usize, totals.lost_parts), (changes.len(), 0));
    (changes, totals.same_unread)
}

#[test]
fn comparison_names_changes_and_passes_over_what_is_the_same() {
    let mut fixture = Fixture::new();
    let before = entries();
    let mut after = before.clone();
    let key = |dir: &str, name: &str| EntryKey { dir: dir.into(), name: name.into() };
    after.remove(&key("d03", "f100"));
    after.get_mut(&key("d03", "f200")).unwrap().mode = 0o600;
    after.get_mut(&key("d20", "f000")).unwrap().kind = NodeKind::Fifo;
    enter(&mut after, "d20", fixture.file("new", &noise(1, 2000)));
    let changed = fixture.file("f300", b"other");
    enter(&mut after, "d20", changed);
    let (stream, other) = (fixture.stream("s", b"1"), fixture.stream("t", b"2"));
    let old = snapshot(vec![fixture.tree("/", &before), stream]);
    let new = snapshot(vec![fixture.tree("/", &after), other]);
    let (found, unread) = changes(&mut fixture, &old, &new, "");
    let expected = [
        (Change::Removed, "/d03/f100"),
        (Change::Metadata, "/d03/f200"),
        (Change::Kind, "/d20/f000"),
        (Change::Content, "/d20/f300"),
        (Change::Added, "/d20/new"),
        (Change::Added, "/t"),
        (Change::Removed, "/s"),
    ];
    assert_eq!(found, expected.map(|(change, path)| (change, path.to_owned())));
    assert!(unread > 10_000, "{unread} of 15030 were passed over");
    let (below, _) = changes(&mut fixture, &old, &new, "/d20/");
    assert_eq!(below, found[2..5]);
    assert_eq!(changes(&mut fixture, &old, &new, "s").0, found[6..]);
    let (found, unread) = changes(&mut fixture, &old, &old, "");
    assert_eq!((found, unread), (vec![], 15_030));
}

#[test]
fn sizes_count_shared_chunks_once() {
    let mut fixture = Fixture::new();
    let mut entries = Entries::new();
    enter(&mut entries, "", fixture.file("a", &noise(1, 100_000)));
    enter(&mut entries, "", fixture.file("b", &noise(1, 100_000)));
    enter(&mut entries, "", fixture.file("c", &noise(2, 5_000)));
    let first = snapshot(vec![fixture.tree("/", &entries)]);
    let second = snapshot(vec![fixture.stream("s", &noise(1, 30_000))]);
    let access = fixture.access();
    let found = sizes(&access, [&first, &second], &Progress::default()).unwrap();
    assert_eq!((found.files, found.directories, found.lost_parts), (4, 1, 0));
    assert_eq!(
        (found.restore_bytes, found.unique_bytes, found.unique_chunks),
        (235_000, 105_000, 11)
    );
    assert!((105_000..106_000).contains(&found.stored_bytes), "{}", found.stored_bytes);
}
