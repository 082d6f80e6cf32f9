//! What a server says of itself, `INFO`, and whether its data may be taken now.

use std::collections::BTreeMap;

use crate::format::redis::command_stream::encode_command;
use crate::source::redis::connection::Connection;
use crate::source::redis::error::RedisError;
use crate::source::redis::reply::Reply;

/// A server.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ServerState {
    fields: BTreeMap<String, String>,
}

impl ServerState {
    /// Asks the server.
    ///
    /// # Errors
    /// The connection broke, or the server does not let us ask.
    pub fn read(connection: &mut Connection) -> Result<Self, RedisError> {
        connection.send(&encode_command(&[b"INFO"]))?;
        Self::answered(connection)
    }

    /// Asks for its history and how far that is only, which costs the server next to nothing.
    ///
    /// # Errors
    /// The connection broke.
    pub fn ask_for_replication(connection: &mut Connection) -> Result<(), RedisError> {
        connection.send(&encode_command(&[b"INFO", b"replication"]))
    }

    /// The answer to a question before.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub fn answered(connection: &mut Connection) -> Result<Self, RedisError> {
        let reply = connection.answer("asking for the state")?;
        if let Reply::Bulk(Some(text)) = reply {
            return Ok(Self::parse(&String::from_utf8_lossy(&text)));
        }
        let address = connection.shown().to_owned();
        Err(RedisError::Protocol { address, what: "INFO gives no text".to_owned() })
    }

    /// Reads lines of `name:value`.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        let fields = text.lines().filter_map(|line| line.split_once(':'));
        let owned = |(name, value): (&str, &str)| (name.to_owned(), value.trim().to_owned());
        Self { fields: fields.map(owned).collect() }
    }

    /// One field, as it is.
    #[must_use]
    pub fn field(&self, name: &str) -> Option<&str> {
        self.fields.get(name).map(String::as_str)
    }

    /// Whether a field is there and not 0.
    #[must_use]
    pub fn is_on(&self, name: &str) -> bool {
        self.field(name).is_some_and(|value| value != "0")
    }

    /// `redis` or `valkey`, and its version.
    #[must_use]
    pub fn version(&self) -> (&str, &str) {
        match self.field("valkey_version") {
            Some(version) => ("valkey", version),
            None => ("redis", self.field("redis_version").unwrap_or_default()),
        }
    }

    /// Whether it sends replicas what a script does while that is at work, as servers before 7 do.
    #[must_use]
    pub fn sends_early(&self) -> bool {
        let (server, version) = self.version();
        let major = version.split('.').next().and_then(|major| major.parse::<u32>().ok());
        server == "redis" && major.is_none_or(|major| major < 7)
    }

    /// Name of its run.
    #[must_use]
    pub fn run_id(&self) -> &str {
        self.field("run_id").unwrap_or_default()
    }

    /// Whether it follows another server.
    #[must_use]
    pub fn is_replica(&self) -> bool {
        self.field("role") == Some("slave")
    }

    /// The history that it writes.
    #[must_use]
    pub fn replid(&self) -> Option<&str> {
        self.field("master_replid")
    }

    /// How far its history is.
    #[must_use]
    pub fn offset(&self) -> Option<u64> {
        let name = if self.is_replica() { "slave_repl_offset" } else { "master_repl_offset" };
        self.field(name)?.parse().ok()
    }

    /// Keys of each database that has any.
    #[must_use]
    pub fn keys(&self) -> BTreeMap<String, u64> {
        let databases = self.fields.iter().filter_map(|(name, value)| {
            let number = name.strip_prefix("db")?;
            number.parse::<u32>().ok()?;
            let keys = value.strip_prefix("keys=")?.split(',').next()?;
            Some((number.to_owned(), keys.parse().ok()?))
        });
        databases.collect()
    }

    /// Whether its append-only file is being written anew, in which it must not be burdened more.
    #[must_use]
    pub fn is_rewriting(&self) -> bool {
        self.is_on("aof_rewrite_in_progress")
    }

    /// Refuses a server whose data are not all there.
    ///
    /// # Errors
    /// [`RedisError::NotReady`].
    pub fn require_ready(&self, address: &str) -> Result<(), RedisError> {
        let refuse = |what: &str| {
            Err(RedisError::NotReady { address: address.to_owned(), what: what.to_owned() })
        };
        if self.is_on("loading") || self.is_on("async_loading") {
            return refuse("it is loading its data");
        }
        if self.is_replica() && self.field("master_link_status") != Some("up") {
            return refuse("it is a replica that has lost its primary, so its data may be old");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const INFO: &str = "# Server\r\nredis_version:7.0.15\r\nrun_id:ab\r\n# Persistence\r\n\
        loading:0\r\nasync_loading:0\r\naof_rewrite_in_progress:0\r\n# Replication\r\n\
        role:master\r\nmaster_replid:cd\r\nmaster_repl_offset:42\r\n# Keyspace\r\n\
        db0:keys=10,expires=1,avg_ttl=0\r\ndb12:keys=3,expires=0,avg_ttl=0\r\n";

    #[test]
    fn the_state_is_read() {
        let state = ServerState::parse(INFO);
        assert_eq!(state.version(), ("redis", "7.0.15"));
        assert_eq!((state.replid(), state.offset()), (Some("cd"), Some(42)));
        assert_eq!(state.keys(), BTreeMap::from([("0".into(), 10), ("12".into(), 3)]));
        assert!(!state.is_replica() && !state.is_rewriting());
        state.require_ready("x").unwrap();
        let valkey = ServerState::parse(&format!("{INFO}valkey_version:9.1.2\r\n"));
        assert_eq!(valkey.version(), ("valkey", "9.1.2"));
    }

    #[test]
    fn a_server_without_all_of_its_data_is_refused() {
        for (from, to) in [
            ("loading:0", "loading:1"),
            ("role:master", "role:slave\r\nmaster_link_status:down"),
            ("role:master", "role:slave"),
        ] {
            assert!(ServerState::parse(&INFO.replace(from, to)).require_ready("x").is_err());
        }
        let up = INFO.replace("role:master", "role:slave\r\nmaster_link_status:up");
        ServerState::parse(&up).require_ready("x").unwrap();
    }
}
