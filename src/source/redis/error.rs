//! What can go wrong between us and a Redis or Valkey server.

use std::path::PathBuf;

use crate::format::redis::load_plan::UnfitDump;

/// Why something could not be had from a server.
#[derive(Debug, thiserror::Error)]
pub enum RedisError {
    /// The address cannot be understood.
    #[error("not an address of a Redis server: {what}")]
    Address {
        /// What is wrong with it.
        what: String,
    },
    /// A password was given where others can read it.
    #[error("the address holds a password, which every user of this host can see")]
    PasswordShown,
    /// Nobody answers.
    #[error("cannot connect to {address}")]
    Connect {
        /// Host and port, or the path of a socket.
        address: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// The connection broke.
    #[error("the connection to {address} broke while {doing}")]
    Broken {
        /// Host and port, or the path of a socket.
        address: String,
        /// What was waited for.
        doing: &'static str,
        /// What the system said.
        source: std::io::Error,
    },
    /// The server said an error.
    #[error("{address} says: {message}")]
    Server {
        /// Host and port, or the path of a socket.
        address: String,
        /// Its message, which begins with a code: `NOAUTH`, `WRONGPASS`, `LOADING`.
        message: String,
    },
    /// It said something that the protocol does not have here.
    #[error("{address} does not keep to the protocol: {what}")]
    Protocol {
        /// Host and port, or the path of a socket.
        address: String,
        /// What came, or did not.
        what: String,
    },
    /// No sentinel names a server that agrees.
    #[error("no sentinel names the primary of {name}: {what}")]
    Sentinel {
        /// The name that sentinels have for it.
        name: String,
        /// What each of them said.
        what: String,
    },
    /// A cluster cannot be understood, or is none.
    #[error("the cluster at {address} cannot be saved: {what}")]
    Cluster {
        /// Host and port.
        address: String,
        /// Why.
        what: String,
    },
    /// TLS was asked for and cannot be had.
    #[error("{address} cannot be reached by TLS: {what}")]
    Tls {
        /// Host and port.
        address: String,
        /// What is wrong.
        what: String,
    },
    /// The server is in a state in which its data must not be taken.
    #[error("{address} cannot be saved now: {what}")]
    NotReady {
        /// Host and port, or the path of a socket.
        address: String,
        /// In which.
        what: String,
    },
    /// What came is not a whole dump.
    #[error("the dump from {address} is not whole: {what}")]
    Dump {
        /// Host and port, or the path of a socket.
        address: String,
        /// What is wrong with it.
        what: String,
    },
    /// A dump is not given to this server; nothing was written.
    #[error("nothing is loaded into {address}: {what}")]
    UnfitServer {
        /// Host and port, or the path of a socket.
        address: String,
        /// Why.
        what: String,
    },
    /// A dump is given to no server; nothing was written.
    #[error("the dump cannot be loaded by commands")]
    UnfitDump(#[source] UnfitDump),
    /// The load broke off.
    #[error(
        "{address} holds {keys} of {keys_total} keys and nothing else of the dump is certain: \
         empty it (FLUSHALL) before another try"
    )]
    NotLoaded {
        /// Host and port, or the path of a socket.
        address: String,
        /// Keys that it has acknowledged.
        keys: u64,
        /// Keys of the dump.
        keys_total: u64,
        /// What ended it.
        source: Box<RedisError>,
    },
    /// It has other keys than were sent.
    #[error("{address} does not hold what it was given: {what}")]
    OtherKeys {
        /// Host and port, or the path of a socket.
        address: String,
        /// The difference.
        what: String,
    },
    /// It was asked to stop.
    #[error("it was told to stop")]
    Cancelled,
    /// A server of ours does not run.
    #[error("{what}")]
    LocalServer {
        /// Why.
        what: String,
        /// The end of its log.
        log: String,
    },
    /// What came could not be kept on its way.
    #[error("what {address} sends cannot be kept in {}", folder.display())]
    Spool {
        /// Host and port, or the path of a socket.
        address: String,
        /// Where.
        folder: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
}

impl RedisError {
    /// The code that the server's message begins with.
    #[must_use]
    pub fn code(&self) -> Option<&str> {
        match self {
            Self::Server { message, .. } => message.split(' ').next(),
            _ => None,
        }
    }
}
