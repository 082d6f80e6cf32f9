//! How a cluster sees itself, `CLUSTER NODES`, and whether what was saved of it between two looks
//! is one state.
//!
//! `format-spec/redis.md`, chapter "Clusters". Source: the documentation of `CLUSTER NODES`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::format::snapshot::Facts;

/// Slots of a cluster.
pub const SLOTS: u16 = 16_384;
/// Tag of a snapshot whose dumps are not of one state of the cluster.
pub const INCONSISTENT_TAG: &str = "holdfast:inconsistent";

/// A node that has slots, or may have some.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterNode {
    /// Its name.
    pub id: String,
    /// Where it is, as the cluster says: host, or nothing, and port.
    pub address: String,
    /// Its name in the network, where it has told one.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub hostname: String,
    /// `myself`, `master`, `fail`, …
    pub flags: Vec<String>,
    /// Its epoch: rises with each failover to it, and each slot that it takes over.
    pub epoch: u64,
    /// Ranges of slots, first and last.
    pub slots: Vec<(u16, u16)>,
    /// Slots that are on their way to another node, or from one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub moving: Vec<u16>,
    /// How far it was in its stream of commands.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub offset: Option<u64>,
}

impl ClusterNode {
    /// Whether it says that about itself.
    #[must_use]
    pub fn is(&self, flag: &str) -> bool {
        self.flags.iter().any(|own| own == flag)
    }

    /// Its lowest slot.
    #[must_use]
    pub fn first_slot(&self) -> Option<u16> {
        self.slots.iter().map(|(first, _)| *first).min()
    }

    /// Its slots: `0-5460 5462`.
    #[must_use]
    pub fn slots_text(&self) -> String {
        let text = |(first, last): &(u16, u16)| {
            if first == last { first.to_string() } else { format!("{first}-{last}") }
        };
        self.slots.iter().map(text).collect::<Vec<_>>().join(" ")
    }
}

/// All primaries.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterView {
    /// When it was taken, by our clock (RFC 3339).
    pub moment: String,
    /// The primaries, by their lowest slots.
    pub primaries: Vec<ClusterNode>,
}

/// What cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {0} of the nodes cannot be read")]
pub struct ClusterViewError(pub usize);

/// The primaries in the answer to `CLUSTER NODES`, by their lowest slots; those without slots last.
///
/// # Errors
/// A line that is none.
pub fn primaries_of(nodes: &str) -> Result<Vec<ClusterNode>, ClusterViewError> {
    let mut primaries = Vec::new();
    for (index, line) in nodes.lines().enumerate() {
        let wrong = ClusterViewError(index + 1);
        if line.trim().is_empty() {
            continue;
        }
        let node = node_of(line).ok_or(wrong)?;
        let is_known = !node.is("handshake") && !node.is("noaddr");
        if node.is("master") && is_known {
            primaries.push(node);
        }
    }
    primaries.sort_by_key(|node| (node.first_slot().unwrap_or(SLOTS), node.id.clone()));
    Ok(primaries)
}

fn node_of(line: &str) -> Option<ClusterNode> {
    let mut words = line.split_ascii_whitespace();
    let id = words.next()?.to_owned();
    let place = words.next()?;
    let flags = words.next()?.split(',').map(str::to_owned).collect();
    // Primary, two times, epoch, state of the link.
    let epoch = words.nth(3)?.parse().ok()?;
    words.next()?;
    let mut names = place.split(',');
    let address = names.next()?.split('@').next()?.to_owned();
    let hostname = names.next().filter(|name| !name.contains('=')).unwrap_or_default().to_owned();
    let (mut slots, mut moving) = (Vec::new(), Vec::new());
    for word in words {
        if let Some(inner) = word.strip_prefix('[') {
            moving.push(slot(inner.split('-').next()?)?);
            continue;
        }
        let (first, last) = word.split_once('-').unwrap_or((word, word));
        let (first, last) = (slot(first)?, slot(last)?);
        if last < first {
            return None;
        }
        slots.push((first, last));
    }
    Some(ClusterNode { id, address, hostname, flags, epoch, slots, moving, offset: None })
}

fn slot(text: &str) -> Option<u16> {
    text.parse().ok().filter(|slot| *slot < SLOTS)
}

/// The primary of each slot.
fn owners(view: &ClusterView) -> Vec<Option<&ClusterNode>> {
    let mut owners = vec![None; usize::from(SLOTS)];
    for node in &view.primaries {
        for (first, last) in &node.slots {
            let range = usize::from(*first)..=usize::from((*last).min(SLOTS - 1));
            owners.get_mut(range).into_iter().flatten().for_each(|owner| *owner = Some(node));
        }
    }
    owners
}

/// Why dumps of all primaries that were taken between two looks are not one state of the cluster;
/// empty where they are.
#[must_use]
pub fn inconsistencies(before: &ClusterView, after: &ClusterView) -> Vec<String> {
    let mut found = Vec::new();
    let (owners_before, owners_after) = (owners(before), owners(after));
    let uncovered = owners_before.iter().filter(|owner| owner.is_none()).count();
    if uncovered > 0 {
        found.push(format!("{uncovered} slots had no primary, so no keys"));
    }
    let id = |owner: Option<&ClusterNode>| owner.map(|node| node.id.clone());
    let has_moved = |slot: &usize| id(owners_before[*slot]) != id(owners_after[*slot]);
    let moved: Vec<usize> = (0..usize::from(SLOTS)).filter(has_moved).collect();
    if let Some(first) = moved.first() {
        let count = moved.len();
        found.push(format!("{count} slots have another primary than before, {first} is the first"));
    }
    for (when, view) in [("before", before), ("afterwards", after)] {
        let moving: Vec<u16> = view.primaries.iter().flat_map(|node| node.moving.clone()).collect();
        if let Some(first) = moving.first() {
            found.push(format!("slot {first} was being moved {when}"));
        }
        for node in view.primaries.iter().filter(|node| !node.slots.is_empty()) {
            if node.is("fail") || node.is("fail?") {
                found.push(format!("the primary {} had failed {when}", node.address));
            }
        }
    }
    let epochs = |view: &ClusterView| -> BTreeMap<String, u64> {
        let with_slots = view.primaries.iter().filter(|node| !node.slots.is_empty());
        with_slots.map(|node| (node.id.clone(), node.epoch)).collect()
    };
    let later = epochs(after);
    for (id, epoch) in epochs(before) {
        if let Some(later) = later.get(&id).filter(|later| **later != epoch) {
            found.push(format!(
                "the primary {id} has taken something over meanwhile: epoch {epoch}, then {later}"
            ));
        }
    }
    found
}

/// What the root with the two looks says about itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename = "redis-cluster")]
pub struct ClusterFacts {
    /// Before the first dump.
    pub before: ClusterView,
    /// After the last.
    pub after: ClusterView,
    /// Why the dumps are not one state of the cluster.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub inconsistent: Vec<String>,
}

impl ClusterFacts {
    /// As the snapshot carries it.
    #[must_use]
    pub fn encode(&self) -> Facts {
        match serde_json::to_value(self) {
            Ok(serde_json::Value::Object(facts)) => facts,
            _ => unreachable!("a struct is written as an object, which cannot fail in memory"),
        }
    }

    /// Reads what a snapshot carries; nothing where it is about something else, or not understood.
    #[must_use]
    pub fn decode(facts: &Facts) -> Option<Self> {
        let kind = facts.get("kind").and_then(serde_json::Value::as_str);
        let read = serde_json::from_value(serde_json::Value::Object(facts.clone())).ok();
        read.filter(|_| kind == Some("redis-cluster"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NODES: &str = "\
07c3 127.0.0.1:30004@31004,hostname4 slave e7d1 0 1426238317239 4 connected\n\
67ed 10.0.0.2:30002@31002,hostname2,shard-id=69bc master - 0 1426238316232 2 connected 5461-10922\n\
292f 10.0.0.3:30003@31003,,shard-id=114f master - 0 1426238318243 3 connected 10923-16383\n\
6ec2 10.0.0.5:30005@31005 slave 67ed 0 1426238316232 5 connected\n\
e7d1 127.0.0.1:30001@31001 myself,master - 0 0 1 connected 0-5459 5460 [93->-67ed] [77-<-292f]\n\
aaaa :0@0 master,noaddr - 0 0 0 disconnected\n\
bbbb 10.0.0.9:1@2 master - 0 0 0 connected\n";

    fn view(nodes: &str) -> ClusterView {
        ClusterView { moment: "m".into(), primaries: primaries_of(nodes).unwrap() }
    }

    fn still() -> String {
        NODES.replace(" [93->-67ed] [77-<-292f]", "")
    }

    #[test]
    fn the_primaries_are_found_by_their_slots() {
        let view = view(NODES);
        let ids: Vec<&str> = view.primaries.iter().map(|node| &*node.id).collect();
        assert_eq!(ids, ["e7d1", "67ed", "292f", "bbbb"]);
        let first = &view.primaries[0];
        assert_eq!((&*first.address, first.epoch), ("127.0.0.1:30001", 1));
        assert_eq!(first.slots_text(), "0-5459 5460");
        assert_eq!(first.moving, [93, 77]);
        assert_eq!(view.primaries[1].hostname, "hostname2");
        assert_eq!(view.primaries[2].hostname, "");
        for line in
            ["e7d1 1:1@2 master - 0 0 1", "a b master - 0 0 1 c 9-3", "a b c - 0 0 1 c 16384"]
        {
            assert_eq!(primaries_of(line), Err(ClusterViewError(1)), "{line}");
        }
    }

    #[test]
    fn a_cluster_that_stays_as_it_is_is_consistent() {
        let before = view(&still());
        assert_eq!(inconsistencies(&before, &before), [""; 0]);
        // Nodes without slots come and go.
        let after = view(&still().replace("bbbb", "cccc").replace("318243", "319999"));
        assert_eq!(inconsistencies(&before, &after), [""; 0]);
    }

    #[test]
    fn whatever_moves_or_fails_is_told() {
        let before = view(&still());
        let table = [
            ("connected 0-5459 5460", "connected 0-5459", "1 slots have another primary"),
            ("10923-16383", "5460 10923-16383", "1 slots have another primary"),
            ("e7d1 127.0.0.1:30001@31001 myself", "ffff 1.1.1.1:1@2 myself", "5461 slots have"),
            ("0 0 1 connected", "0 0 7 connected", "epoch 1, then 7"),
            ("0-5459 5460", "0-5460 [93->-67ed]", "slot 93 was being moved afterwards"),
            ("myself,master", "myself,master,fail?", "had failed afterwards"),
        ];
        for (from, to, said) in table {
            let after = view(&still().replace(from, to));
            let found = inconsistencies(&before, &after).join("; ");
            assert!(found.contains(said), "{to}: {found}");
        }
        let gap = view(&still().replace("10923-16383", "10923-16000"));
        assert!(inconsistencies(&gap, &gap)[0].contains("383 slots had no primary"));
        let found = inconsistencies(&view(NODES), &before).join("; ");
        assert!(found.contains("slot 93 was being moved before"), "{found}");
    }

    #[test]
    fn facts_come_back() {
        let (before, after) = (view(NODES), view(&still()));
        let inconsistent = vec!["something".to_owned()];
        let written = ClusterFacts { before, after, inconsistent };
        let mut facts = written.encode();
        assert_eq!(ClusterFacts::decode(&facts), Some(written));
        facts.insert("kind".into(), "redis".into());
        assert_eq!(ClusterFacts::decode(&facts), None);
    }
}
