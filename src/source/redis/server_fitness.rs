//! Whether a dump may be loaded into a server: empty, alone, and able to understand it.
//!
//! Nothing is written to find that out. Whether a version of dumps is understood is asked with a
//! value of a type that does not exist: the server looks at the version first.

use crate::format::redis::crc64::Crc64;
use crate::format::redis::grammar::Dialect;
use crate::format::redis::load_plan::LoadPlan;
use crate::source::redis::connection::Connection;
use crate::source::redis::error::RedisError;
use crate::source::redis::reply::Reply;
use crate::source::redis::server::ServerState;

/// A type that no server has.
const NO_TYPE: u8 = 0xef;
/// Name that a value is asked for with that never comes to be.
const PROBE_KEY: &[u8] = b"holdfast:probe";
/// Longest word of a command, where the server does not say.
const WORD_BYTES_MAX: u64 = 512 * 1024 * 1024;
const SLOTS: u64 = 16384;
/// What a value is followed by: version and checksum.
pub const FOOTER_BYTES: u64 = 10;

/// What follows a value in the form that `DUMP` gives; `sum` is over the value.
#[must_use]
pub fn footer(version: u32, mut sum: Crc64) -> [u8; FOOTER_BYTES as usize] {
    let version = (version as u16).to_le_bytes();
    sum.update(&version);
    let mut footer = [0; FOOTER_BYTES as usize];
    footer[..2].copy_from_slice(&version);
    footer[2..].copy_from_slice(&sum.value().to_le_bytes());
    footer
}

/// Refuses a server that has data, or takes none from us.
///
/// # Errors
/// [`RedisError::UnfitServer`].
pub fn require_empty(connection: &mut Connection) -> Result<ServerState, RedisError> {
    let state = ServerState::read(connection)?;
    let refuse = |what: String| {
        Err(RedisError::UnfitServer { address: connection.shown().to_owned(), what })
    };
    if state.field("redis_mode").or(state.field("server_mode")) == Some("sentinel") {
        return refuse("it is a Sentinel, which holds no data".to_owned());
    }
    if state.is_on("loading") || state.is_on("async_loading") {
        return refuse("it is loading its own data".to_owned());
    }
    if state.is_replica() {
        return refuse("it is a replica: it takes what its primary has".to_owned());
    }
    let keys = state.keys();
    if let Some((database, keys)) = keys.iter().find(|(_, keys)| **keys > 0) {
        return refuse(format!("its database {database} has {keys} keys already"));
    }
    if state.is_on("cluster_enabled") {
        let slots = own_slots(connection)?;
        if slots != SLOTS {
            let address = connection.shown().to_owned();
            let what = format!("it is a node of a cluster and owns {slots} of {SLOTS} slots");
            return Err(RedisError::UnfitServer { address, what });
        }
    }
    Ok(state)
}

/// Refuses a server that must not, or cannot, take the dump.
///
/// # Errors
/// [`RedisError::UnfitServer`]; nothing was written.
pub fn require_fit(
    connection: &mut Connection,
    plan: &LoadPlan,
) -> Result<ServerState, RedisError> {
    let state = require_empty(connection)?;
    require_version(connection, plan, &state)?;
    require_room(connection, plan)?;
    Ok(state)
}

fn require_version(
    connection: &mut Connection,
    plan: &LoadPlan,
    state: &ServerState,
) -> Result<(), RedisError> {
    let mut sum = Crc64::default();
    sum.update(&[NO_TYPE]);
    let payload = [&[NO_TYPE][..], &footer(plan.version, sum)].concat();
    let asked = connection.command(&[b"RESTORE", PROBE_KEY, b"0", &payload], "asking");
    let error = match asked {
        Err(error) if error.code() == Some("ERR") => error,
        Err(error) => return Err(error),
        Ok(_) => {
            let what = "it takes a value of a type that does not exist".to_owned();
            return Err(RedisError::Protocol { address: connection.shown().to_owned(), what });
        }
    };
    let RedisError::Server { address, message } = &error else { return Err(error) };
    if message.contains("Bad data format") {
        return Ok(());
    }
    if !message.contains("version") {
        return Err(error);
    }
    let (server, version) = state.version();
    let whose = match plan.dialect {
        Dialect::Redis => "Redis",
        Dialect::Valkey => "Valkey",
    };
    let what = format!(
        "it is {server} {version}, which cannot read dumps of version {} of {whose}",
        plan.version
    );
    Err(RedisError::UnfitServer { address: address.clone(), what })
}

fn require_room(connection: &mut Connection, plan: &LoadPlan) -> Result<(), RedisError> {
    let asked = [&b"CONFIG"[..], b"GET", b"proto-max-bulk-len"];
    let said = match connection.command(&asked, "asking") {
        Ok(Reply::Array(pair)) => match pair.get(1) {
            Some(Reply::Bulk(Some(value))) => String::from_utf8_lossy(value).parse().ok(),
            _ => None,
        },
        // It may be forbidden to ask.
        Ok(_) | Err(RedisError::Server { .. }) => None,
        Err(error) => return Err(error),
    };
    let (needed, most) = (plan.longest_bytes + FOOTER_BYTES, said.unwrap_or(WORD_BYTES_MAX));
    let address = connection.shown().to_owned();
    if needed > most {
        let what = format!("a value takes {needed} bytes, proto-max-bulk-len is {most}");
        return Err(RedisError::UnfitServer { address, what });
    }
    let Some(last) = plan.keys.databases().last().filter(|last| *last > 0) else { return Ok(()) };
    let select = |connection: &mut Connection, database: u64| {
        connection.command(&[b"SELECT", database.to_string().as_bytes()], "asking")
    };
    match select(connection, last) {
        Ok(_) => select(connection, 0).map(drop),
        Err(RedisError::Server { message, .. }) => {
            let what = format!("the dump has a database {last}, it says: {message}");
            Err(RedisError::UnfitServer { address, what })
        }
        Err(error) => Err(error),
    }
}

/// Slots of a cluster that are this node's own.
fn own_slots(connection: &mut Connection) -> Result<u64, RedisError> {
    let reply = connection.command(&[b"CLUSTER", b"NODES"], "asking for the cluster")?;
    let Reply::Bulk(Some(nodes)) = reply else { return Ok(0) };
    Ok(slots_of(&String::from_utf8_lossy(&nodes)))
}

fn slots_of(nodes: &str) -> u64 {
    let is_own = |line: &&str| {
        line.split(' ').nth(2).is_some_and(|flags| flags.split(',').any(|flag| flag == "myself"))
    };
    let Some(own) = nodes.lines().find(is_own) else { return 0 };
    // Slots in brackets are on their way.
    let ranges = own.split(' ').skip(8).filter(|word| !word.starts_with('['));
    let slots = ranges.filter_map(|range| {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let (first, last) = (first.parse::<u64>().ok()?, last.parse::<u64>().ok()?);
        last.checked_sub(first).map(|more| more + 1)
    });
    slots.sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_of_this_node_are_counted() {
        let nodes = "aa :1@2 master - 0 0 1 connected 0-99\n\
            bb :3@4 myself,master - 0 0 2 connected 100-199 300 [400->-aa]\n";
        assert_eq!(slots_of(nodes), 101);
        assert_eq!(slots_of("bb :3@4 myself,master - 0 0 0 connected\n"), 0);
        assert_eq!(slots_of("bb :3@4 myself,master - 0 0 0 connected 0-16383\n"), SLOTS);
        assert_eq!(slots_of(""), 0);
    }
}
