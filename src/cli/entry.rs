//! One entry of a snapshot as commands show it: a line in the manner of `ls -l`, and JSON.
//!
//! Lines are of fixed width up to the path, so that none has to wait for the others; names are
//! escaped.

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use crate::cli::context::Context;
use crate::cli::escape::escape;
use crate::cli::output::json_bytes;
use crate::cli::time::{format_local, format_rfc3339};
use crate::format::node::{Node, NodeKind, UnixTime};

/// The line of an entry: mode, owner, group, size, time, path and the target of a symbolic link.
#[must_use]
pub fn long_line(context: &Context, path: &[u8], node: &Node) -> String {
    let size = match (node.kind, node.device) {
        (_, Some((major, minor))) => format!("{major}, {minor}"),
        (NodeKind::File | NodeKind::Stream, None) => context.output.size(node.size),
        _ => String::new(),
    };
    let mut line = if node.kind == NodeKind::Stream {
        format!("{:<10} {:<8} {:<8} {size:>10} {:<26}", "stream", "-", "-", "-")
    } else {
        let owner = |name: &Option<String>, id: u32| {
            name.as_ref().map_or_else(|| id.to_string(), |name| escape(name.as_bytes()))
        };
        let (user, group) = (owner(&node.user, node.uid), owner(&node.group, node.gid));
        let time = moment(node.mtime).map(|time| format_local(time, &context.now));
        let time = time.unwrap_or_else(|| format!("@{}", node.mtime.0));
        format!("{} {user:<8} {group:<8} {size:>10} {time:<26}", mode_text(node))
    };
    line.push(' ');
    line.push_str(&escape(path));
    if let Some(target) = &node.target {
        line.push_str(" -> ");
        line.push_str(&escape(target));
    }
    line
}

/// The members of an entry's JSON, its path aside.
#[must_use]
pub fn node_json(node: &Node) -> Map<String, Value> {
    let mut members = Map::new();
    let mut put = |key: &str, value: Value| drop(members.insert(key.to_owned(), value));
    put("kind", json!(node.kind));
    if matches!(node.kind, NodeKind::File | NodeKind::Stream) {
        put("size", json!(node.size));
        put("hash", json!(node.hash.map(|hash| hash.to_string())));
    }
    if node.kind != NodeKind::Stream {
        put("mode", json!(node.mode));
        put("uid", json!(node.uid));
        put("gid", json!(node.gid));
        put("user", json!(node.user));
        put("group", json!(node.group));
        put("mtime", json!(moment(node.mtime).map(format_rfc3339)));
    }
    if let Some((major, minor)) = node.device {
        put("device", json!([major, minor]));
    }
    if let Some(target) = &node.target {
        let (key, target) = json_bytes("target", target);
        put(&key, target);
    }
    members
}

/// The JSON of an entry of a snapshot.
#[must_use]
pub fn entry_json(snapshot: &str, path: &[u8], node: &Node) -> Value {
    let (key, path) = json_bytes("path", path);
    let mut members = node_json(node);
    members.insert("snapshot".to_owned(), snapshot.into());
    members.insert(key, path);
    Value::Object(members)
}

/// Type and permissions as `ls -l` has them.
fn mode_text(node: &Node) -> String {
    let kind = match node.kind {
        NodeKind::File | NodeKind::Stream => '-',
        NodeKind::Dir => 'd',
        NodeKind::Symlink => 'l',
        NodeKind::Chardev => 'c',
        NodeKind::Blockdev => 'b',
        NodeKind::Fifo => 'p',
        NodeKind::Socket => 's',
    };
    let mut text = String::from(kind);
    for (shift, special, letter) in [(6, 0o4000, 's'), (3, 0o2000, 's'), (0, 0o1000, 't')] {
        let bits = node.mode >> shift;
        text.push(if bits & 4 != 0 { 'r' } else { '-' });
        text.push(if bits & 2 != 0 { 'w' } else { '-' });
        text.push(match (bits & 1 != 0, node.mode & special != 0) {
            (true, true) => letter,
            (false, true) => letter.to_ascii_uppercase(),
            (true, false) => 'x',
            (false, false) => '-',
        });
    }
    text
}

fn moment(time: UnixTime) -> Option<Timestamp> {
    Timestamp::new(time.0, i32::try_from(time.1).ok()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_are_those_of_ls() {
        let cases = [
            (NodeKind::File, 0o644, "-rw-r--r--"),
            (NodeKind::Dir, 0o1777, "drwxrwxrwt"),
            (NodeKind::File, 0o4755, "-rwsr-xr-x"),
            (NodeKind::File, 0o6640, "-rwSr-S---"),
            (NodeKind::Dir, 0o1770, "drwxrwx--T"),
            (NodeKind::Symlink, 0o777, "lrwxrwxrwx"),
            (NodeKind::Socket, 0o7000, "s--S--S--T"),
        ];
        for (kind, mode, text) in cases {
            let node = Node { mode, ..Node::new(kind, *b"x") };
            assert_eq!(mode_text(&node), text);
        }
    }

    #[test]
    fn times_that_cannot_be_counted_are_none() {
        assert!(moment(UnixTime(i64::MAX, 0)).is_none());
        assert_eq!(moment(UnixTime(-1, 500_000_000)).unwrap().as_nanosecond(), -500_000_000);
    }
}
