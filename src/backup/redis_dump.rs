//! The dump of a Redis server as a root.

use std::sync::{Arc, Mutex, PoisonError};

use crate::backup::dump_records::RedisRecords;
use crate::backup::run::RootSource;
use crate::backup::stream::OpenStream;
use crate::format::redis::facts::DumpOrder;
use crate::format::redis::server_facts::{DumpFacts, RedisFacts};

/// What a dump says about itself; complete when it was read.
pub type SharedFacts = Arc<Mutex<DumpFacts>>;

/// The root `redis:NAME`, whose one stream is `NAME.rdb`, stored as records.
#[must_use]
pub fn dump_root(
    name: &str,
    order: DumpOrder,
    open: OpenStream,
    facts: SharedFacts,
) -> Box<dyn RootSource> {
    let facts = move || {
        let facts = facts.lock().unwrap_or_else(PoisonError::into_inner);
        RedisFacts::Redis(facts.clone()).encode()
    };
    let root = format!("redis:{name}");
    Box::new(RedisRecords::new(root, dump_path(name), order, open, Box::new(facts)))
}

/// Name of the dump of a primary of the cluster `name` whose lowest slot that is: the same for
/// whatever server has the slot, so that it is compared with what was there before.
#[must_use]
pub fn shard_name(name: &str, first_slot: u16) -> String {
    format!("{name}.{first_slot:05}")
}

/// Path of the dump in its snapshot.
#[must_use]
pub fn dump_path(name: &str) -> String {
    format!("{name}.rdb")
}
