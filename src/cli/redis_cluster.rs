//! A cluster of Redis or Valkey: the dumps of all its primaries in one snapshot.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use crate::backup::redis_cluster::ClusterRoot;
use crate::backup::redis_dump::{SharedFacts, dump_root, shard_name};
use crate::backup::run::{BackupSummary, RootSource, SnapshotLabel};
use crate::cli::context::Context;
use crate::cli::error::CommandError;
use crate::cli::explain::redis;
use crate::cli::redis::{
    NamedRedis, facts_of_state, failed, is_shrunken, now, open_dump, ready_state, remember,
};
use crate::format::redis::cluster_view::{ClusterFacts, inconsistencies};
use crate::format::redis::server_facts::DumpFacts;
use crate::repo::state::StateDir;
use crate::source::redis::cluster::{ClusterPrimary, find, look_again};
use crate::source::redis::error::RedisError;
use crate::source::redis::server::ServerState;

/// Looks at all primaries before anything is saved; what is to be saved. `total` becomes what all of
/// them have.
pub fn prepare(
    context: &Context,
    local: &StateDir,
    (server, nodes): (&NamedRedis, &[(String, u16)]),
    total: &SharedFacts,
    label: &mut SnapshotLabel,
) -> Result<Vec<Box<dyn RootSource>>, CommandError> {
    let found = find(&server.access, nodes, &now());
    let (primaries, before) = found.map_err(|error| failed(&error))?;
    let mut keys = BTreeMap::<String, u64>::new();
    let mut dumps = Vec::new();
    for primary in &primaries {
        let state = state_of(primary).map_err(|error| failed(&error))?;
        let facts = DumpFacts {
            node: Some(primary.node.id.clone()),
            slots: Some(primary.node.slots_text()),
            ..facts_of_state(&state)
        };
        for (database, count) in &facts.keys {
            *keys.entry(database.clone()).or_default() += count;
        }
        dumps.push((primary, facts));
    }
    let shrunken = is_shrunken(context, &server.name, keys.values().sum(), local, label)?;
    *total.lock().unwrap_or_else(PoisonError::into_inner) =
        DumpFacts { keys, shrunken, ..DumpFacts::default() };
    remember(context, local, server, None);
    let mut roots = Vec::new();
    for (primary, facts) in dumps {
        let name = shard_name(&server.name, primary.node.first_slot().unwrap_or_default());
        let facts: SharedFacts = Arc::new(Mutex::new(DumpFacts { shrunken, ..facts }));
        let shard = NamedRedis { access: primary.access.clone(), ..server.clone() };
        let open = open_dump(&shard, local.path(), &facts);
        roots.push(dump_root(&name, server.order, open, facts));
    }
    let look = Box::new(move || {
        let (after, mut inconsistent) = look_again(&primaries, &now());
        inconsistent.extend(inconsistencies(&before, &after));
        ClusterFacts { before, after, inconsistent }
    });
    roots.push(Box::new(ClusterRoot::new(&server.name, look)));
    Ok(roots)
}

/// The state of a primary whose data may be taken.
fn state_of(primary: &ClusterPrimary) -> Result<ServerState, RedisError> {
    if primary.state.is_rewriting() {
        return ready_state(&primary.access);
    }
    primary.state.require_ready(&primary.access.address.host.to_string())?;
    Ok(primary.state.clone())
}

/// Says why the dumps of a cluster are not one state of it, and whether that is so.
pub fn report_changes(context: &Context, summary: &BackupSummary) -> bool {
    let mut is_inconsistent = false;
    for reason in
        summary.facts.iter().filter_map(ClusterFacts::decode).flat_map(|facts| facts.inconsistent)
    {
        is_inconsistent = true;
        let id = redis::CLUSTER_CHANGED.id;
        context
            .output
            .warning(&format!("the dumps are not one state of the cluster: {reason} ({id})"));
    }
    is_inconsistent
}
