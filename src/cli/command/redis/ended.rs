//! Why a connection of `redis stream` has ended, and whether another one is of any use.

use crate::backup::journal_spool::JournalSpoolError;
use crate::cli::error::CommandError;
use crate::cli::explain::redis;
use crate::cli::redis::failed;
use crate::repo::error::RepoError;
use crate::source::redis::error::RedisError;

/// Why one connection has ended.
pub enum Ended {
    /// We were told to stop, and have saved everything.
    Stopped,
    /// It broke; it is made anew.
    Broken(String),
    /// Nothing helps.
    Failed(CommandError),
}

impl From<CommandError> for Ended {
    fn from(error: CommandError) -> Self {
        Self::Failed(error)
    }
}

impl From<RepoError> for Ended {
    fn from(error: RepoError) -> Self {
        Self::Failed(error.into())
    }
}

impl From<RedisError> for Ended {
    fn from(error: RedisError) -> Self {
        let is_passing = match &error {
            // What else it says, of clients too many or a fork that failed, is over some time.
            RedisError::Server { message, .. } => {
                let is_of_access = matches!(error.code(), Some("NOAUTH" | "WRONGPASS" | "NOPERM"));
                let words = ["password", "unknown command"];
                !is_of_access && !words.iter().any(|word| message.contains(word))
            }
            RedisError::Address { .. } | RedisError::PasswordShown => false,
            _ => true,
        };
        let error = failed(&error);
        if is_passing { Self::Broken(shown(&error)) } else { Self::Failed(error) }
    }
}

impl From<JournalSpoolError> for Ended {
    fn from(error: JournalSpoolError) -> Self {
        let is_passing =
            matches!(error, JournalSpoolError::Full { .. } | JournalSpoolError::Io { .. });
        let error = spool_error(&error);
        if is_passing { Self::Broken(shown(&error)) } else { Self::Failed(error) }
    }
}

/// The error for people.
#[must_use]
pub fn spool_error(error: &JournalSpoolError) -> CommandError {
    let kind = match error {
        JournalSpoolError::Full { .. } => &redis::SPOOL_FULL,
        JournalSpoolError::Io { .. } => &redis::SPOOL,
        JournalSpoolError::NoCommand(_) | JournalSpoolError::Segment { .. } => &redis::JOURNAL,
    };
    CommandError::classify(error, kind)
}

/// An error in a line of what is tried again.
#[must_use]
pub fn shown(error: &CommandError) -> String {
    let why = error.causes().last().map_or(error.what(), String::as_str);
    format!("{why} ({})", error.id())
}
