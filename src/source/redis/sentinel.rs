//! The server that sentinels name: asked for anew each time, and believed only where the server
//! itself says the same.
//!
//! Source: the Sentinel documentation, "Guidelines for Redis clients with support for Redis
//! Sentinel". A sentinel may know of a failover later than others.

use std::time::{Duration, Instant};

use crate::source::redis::address::{Address, Host, Preferred, Sentinels};
use crate::source::redis::connection::{Access, Connection};
use crate::source::redis::error::RedisError;
use crate::source::redis::reply::Reply;
use crate::source::redis::server::ServerState;

/// A failover is waited for so long.
const PATIENCE: Duration = Duration::from_mins(1);
const PAUSE: Duration = Duration::from_millis(500);
/// A sentinel that does not answer so fast is not waited for: there are others.
const SENTINEL_PATIENCE: Duration = Duration::from_secs(5);

/// The way to the server that the sentinels of `access` name just now.
///
/// # Errors
/// [`RedisError::Sentinel`] where none of them names one that agrees, even after a minute; that the
/// server does not let us in.
pub fn find(access: &Access, sentinels: &Sentinels) -> Result<Access, RedisError> {
    let begun = Instant::now();
    loop {
        let mut reasons = Vec::new();
        let mut is_known = false;
        for (name, port) in &sentinels.places {
            match ask(access, sentinels, (name, *port)) {
                Ok(Some(found)) => return Ok(found),
                Ok(None) => {
                    is_known = true;
                    reasons.push(format!("{name}:{port} names a server that is no primary"));
                }
                Err(Failed::Unknown) => {
                    reasons.push(format!("{name}:{port} knows no {}", sentinels.primary));
                }
                Err(Failed::Sentinel(error)) => reasons.push(said(&error)),
                // It may be the old primary, which is gone.
                Err(Failed::Server(error @ RedisError::Connect { .. })) => {
                    is_known = true;
                    reasons.push(said(&error));
                }
                Err(Failed::Server(error)) => return Err(error),
            }
        }
        if !is_known || begun.elapsed() > PATIENCE {
            let (name, what) = (sentinels.primary.clone(), reasons.join("; "));
            return Err(RedisError::Sentinel { name, what });
        }
        std::thread::sleep(PAUSE);
    }
}

fn said(error: &RedisError) -> String {
    match std::error::Error::source(error) {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}

enum Failed {
    /// The sentinel does not watch a primary of that name.
    Unknown,
    Sentinel(RedisError),
    Server(RedisError),
}

/// Asks one sentinel, and the server that it names; nothing where that is no primary.
fn ask(
    access: &Access,
    sentinels: &Sentinels,
    (name, port): (&str, u16),
) -> Result<Option<Access>, Failed> {
    let host = Host::Tcp(name.to_owned(), port);
    let user = sentinels.user.clone();
    let of_sentinel = Access {
        address: Address { host, user, ..access.address.clone() },
        password: access.sentinel_password.clone(),
        sentinel_password: None,
    };
    let mut sentinel = of_sentinel.connect_within(SENTINEL_PATIENCE).map_err(Failed::Sentinel)?;
    let words: [&[u8]; 3] = [b"SENTINEL", b"GET-MASTER-ADDR-BY-NAME", sentinels.primary.as_bytes()];
    let reply = sentinel.command(&words, "asking a sentinel").map_err(Failed::Sentinel)?;
    let primary = place_of(&texts(&reply)).ok_or(Failed::Unknown)?;
    let at = |host| Access {
        address: Address { host, ..access.address.clone() },
        password: access.password.clone(),
        sentinel_password: None,
    };
    if sentinels.preferred == Preferred::Replica
        && let Some(replica) = healthy_replica(&mut sentinel, sentinels).map(at)
        && is_in_step(&replica)
    {
        return Ok(Some(replica));
    }
    let primary = at(primary);
    let mut connection = primary.connect_within(SENTINEL_PATIENCE).map_err(Failed::Server)?;
    let state = ServerState::read(&mut connection).map_err(Failed::Server)?;
    Ok((!state.is_replica()).then_some(primary))
}

/// Whether the replica itself says that it follows its primary.
fn is_in_step(replica: &Access) -> bool {
    let state = replica
        .connect_within(SENTINEL_PATIENCE)
        .and_then(|mut connection| ServerState::read(&mut connection));
    state.is_ok_and(|state| state.is_replica() && state.require_ready("").is_ok())
}

/// The replica that is furthest, of those that the sentinel finds healthy.
fn healthy_replica(sentinel: &mut Connection, sentinels: &Sentinels) -> Option<Host> {
    let asked = |sentinel: &mut Connection, word: &[u8]| {
        let words: [&[u8]; 3] = [b"SENTINEL", word, sentinels.primary.as_bytes()];
        sentinel.command(&words, "asking a sentinel for replicas")
    };
    // The older word is the only one before 5.0.
    let reply = asked(sentinel, b"REPLICAS").or_else(|_| asked(sentinel, b"SLAVES")).ok()?;
    let Reply::Array(replicas) = reply else { return None };
    best_replica(&replicas.iter().map(texts).collect::<Vec<_>>())
}

/// Each is a sequence of names and values.
fn best_replica(replicas: &[Vec<String>]) -> Option<Host> {
    let healthy = replicas.iter().filter_map(|fields| {
        let (pairs, _) = fields.as_chunks::<2>();
        let value = |name: &str| pairs.iter().find(|pair| pair[0] == name).map(|pair| &*pair[1]);
        let mut flags = value("flags")?.split(',');
        let is_up = value("master-link-status") == Some("ok")
            && !flags.any(|flag| matches!(flag, "s_down" | "o_down" | "disconnected"));
        let offset: u64 = value("slave-repl-offset")?.parse().ok()?;
        let host = Host::Tcp(value("ip")?.to_owned(), value("port")?.parse().ok()?);
        is_up.then_some((offset, host))
    });
    healthy.max_by_key(|(offset, _)| *offset).map(|(_, host)| host)
}

fn place_of(words: &[String]) -> Option<Host> {
    let [name, port] = words else { return None };
    Some(Host::Tcp(name.clone(), port.parse().ok()?))
}

/// The texts of a list.
fn texts(reply: &Reply) -> Vec<String> {
    let Reply::Array(items) = reply else { return Vec::new() };
    let text = |item: &Reply| match item {
        Reply::Bulk(Some(bytes)) => String::from_utf8_lossy(bytes).into_owned(),
        Reply::Line(text) => text.clone(),
        _ => String::new(),
    };
    items.iter().map(text).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_healthy_replica_that_is_furthest_is_taken() {
        let replica = |port: &str, flags: &str, link: &str, offset: &str| {
            let fields = [
                ["name", "x"],
                ["ip", "10.0.0.1"],
                ["port", port],
                ["flags", flags],
                ["master-link-status", link],
                ["slave-repl-offset", offset],
            ];
            fields.concat().iter().map(|text| (*text).to_owned()).collect::<Vec<_>>()
        };
        let replicas = [
            replica("1", "slave", "ok", "90"),
            replica("2", "slave", "ok", "100"),
            replica("3", "s_down,slave,disconnected", "ok", "200"),
            replica("4", "slave", "err", "200"),
        ];
        assert_eq!(best_replica(&replicas), Some(Host::Tcp("10.0.0.1".into(), 2)));
        assert_eq!(best_replica(&replicas[2..]), None);
        assert_eq!(best_replica(&[]), None);
    }
}
