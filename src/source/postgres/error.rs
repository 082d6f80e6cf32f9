//! What can go wrong between us and a `PostgreSQL` server.

use std::path::PathBuf;

use crate::source::error::SourceError;

/// Why something could not be had from a server.
#[derive(Debug, thiserror::Error)]
pub enum PostgresError {
    /// The connection string cannot be understood.
    #[error("not a connection string: {what}")]
    Address {
        /// What is wrong with it.
        what: String,
    },
    /// A password was given where others can read it.
    #[error("the connection string holds a password, which every user of this host can see")]
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
    #[error("{address} says: {severity} {code}: {message}{}", hint_text(hint))]
    Server {
        /// Host and port, or the path of a socket.
        address: String,
        /// `ERROR`, `FATAL`.
        severity: String,
        /// SQLSTATE.
        code: String,
        /// Its message.
        message: String,
        /// Its hint, perhaps empty.
        hint: String,
    },
    /// It said something that the protocol does not have here.
    #[error("{address} does not keep to the protocol: {what}")]
    Protocol {
        /// Host and port, or the path of a socket.
        address: String,
        /// What came, or did not.
        what: String,
    },
    /// The way of proving who we are is not known here.
    #[error("{address} wants {method} for authentication, which is not known here")]
    Authentication {
        /// Host and port, or the path of a socket.
        address: String,
        /// Its name.
        method: &'static str,
    },
    /// It wants a password and there is none.
    #[error("{address} wants a password for {user}, and none was found")]
    NoPassword {
        /// Host and port, or the path of a socket.
        address: String,
        /// For whom.
        user: String,
    },
    /// TLS was asked for and cannot be had.
    #[error("{address} cannot be reached by TLS: {what}")]
    Tls {
        /// Host and port.
        address: String,
        /// What is wrong.
        what: String,
    },
    /// A file of the client cannot be used.
    #[error("{} cannot be used: {what}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
    /// The server is another one than before.
    #[error("{address} is cluster {found}, and {name} was cluster {expected} so far")]
    OtherCluster {
        /// Host and port, or the path of a socket.
        address: String,
        /// Name of the source.
        name: String,
        /// System identifier that was saved before.
        expected: String,
        /// System identifier of the server.
        found: String,
    },
    /// No fitting `pg_dump` and its kin.
    #[error("PostgreSQL {major} needs pg_dump of version {major} or later: {found}")]
    Tools {
        /// Major version of the server.
        major: u32,
        /// What there is instead.
        found: String,
    },
    /// The role does not see every row.
    #[error("{role} does not see every row of {tables}: row security hides some")]
    RowSecurity {
        /// The role.
        role: String,
        /// Names of the first tables.
        tables: String,
    },
    /// A database of the name is there already.
    #[error("{address} has a database {name} already")]
    Exists {
        /// Host and port, or the path of a socket.
        address: String,
        /// Its name.
        name: String,
    },
    /// A dump that is not what it should be.
    #[error("the dump is not whole: {what}")]
    Dump {
        /// What is wrong with it.
        what: String,
    },
    /// A server that we have started has ended.
    #[error("PostgreSQL has ended by itself ({status})")]
    Ended {
        /// How.
        status: String,
        /// The end of its log.
        log: String,
    },
    /// Changes that do not go together with what was saved before.
    #[error("what changed in {path} since the last base backup cannot be used")]
    Increment {
        /// The file.
        path: String,
        /// What is wrong.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A client program of `PostgreSQL` that we use in our place.
    #[error("{address} could not be asked")]
    Program {
        /// Where the server is.
        address: String,
        /// What the program said.
        source: Box<SourceError>,
    },
    /// The server is older or other than what is spoken here.
    #[error("{address}: {what}")]
    Unfit {
        /// Host and port, or the path of a socket.
        address: String,
        /// What is missing.
        what: String,
    },
}

impl PostgresError {
    /// SQLSTATE, where the server said one.
    #[must_use]
    pub fn code(&self) -> Option<&str> {
        match self {
            Self::Server { code, .. } => Some(code),
            _ => None,
        }
    }
}

fn hint_text(hint: &str) -> String {
    if hint.is_empty() { String::new() } else { format!(" ({hint})") }
}
