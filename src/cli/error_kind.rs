//! Which id, and so which exit code, an error of the library stands for.
//!
//! An error that only says where another one happened has no kind: its source decides.

use std::error::Error;
use std::io::ErrorKind;

use crate::cli::explain::{
    Explanation, check, key, postgres, prune, redis, repository, store, trust, usage,
};
use crate::crypto::recipient::KeyTextError;
use crate::crypto::seal::SealError;
use crate::crypto::unseal::OpenError;
use crate::format::signed_text::TextError;
use crate::format::snapshot::SnapshotError;
use crate::index::database::IndexError;
use crate::repo::chunk_writer::WriteError;
use crate::repo::error::RepoError;
use crate::repo::pack_reader::PackReadError;
use crate::source::error::SourceError;
use crate::source::postgres::error::PostgresError;
use crate::source::redis::aof::AofError;
use crate::source::redis::error::RedisError;
use crate::store::StoreError;

/// The kind of one error, its sources aside.
pub fn known_kind(error: &(dyn Error + 'static)) -> Option<&'static Explanation> {
    if let Some(error) = error.downcast_ref::<StoreError>() {
        return Some(store_kind(error));
    }
    if let Some(error) = error.downcast_ref::<RepoError>() {
        return repository_kind(error);
    }
    if let Some(error) = error.downcast_ref::<TextError>() {
        return Some(text_kind(error));
    }
    if let Some(error) = error.downcast_ref::<OpenError>() {
        return open_kind(error);
    }
    if let Some(error) = error.downcast_ref::<SealError>() {
        return Some(seal_kind(error));
    }
    if let Some(error) = error.downcast_ref::<KeyTextError>() {
        return Some(key_text_kind(error));
    }
    if let Some(error) = error.downcast_ref::<IndexError>() {
        return Some(index_kind(error));
    }
    if let Some(error) = error.downcast_ref::<PostgresError>() {
        return Some(postgres_kind(error));
    }
    if let Some(error) = error.downcast_ref::<RedisError>() {
        return Some(redis_kind(error));
    }
    if let Some(error) = error.downcast_ref::<AofError>() {
        return Some(aof_kind(error));
    }
    if let Some(SourceError::Aof(error)) = error.downcast_ref() {
        return Some(aof_kind(error));
    }
    if let Some(SourceError::Redis(error)) = error.downcast_ref() {
        return Some(redis_kind(error));
    }
    if let Some(PackReadError::Chunk { .. }) = error.downcast_ref() {
        return Some(&trust::CONTENT);
    }
    match error.downcast_ref::<WriteError>() {
        Some(WriteError::FrameMismatch { .. } | WriteError::WorkerLost) => Some(&usage::INTERNAL),
        Some(_) => None,
        None => error.downcast_ref::<std::io::Error>().and_then(io_kind),
    }
}

fn io_kind(error: &std::io::Error) -> Option<&'static Explanation> {
    match error.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => Some(&store::NO_SPACE),
        _ => None,
    }
}

fn postgres_kind(error: &PostgresError) -> &'static Explanation {
    match error {
        PostgresError::Address { .. } | PostgresError::PasswordShown => &postgres::ADDRESS,
        PostgresError::Connect { .. }
        | PostgresError::Broken { .. }
        | PostgresError::Tls { .. }
        | PostgresError::Protocol { .. } => &postgres::UNREACHABLE,
        PostgresError::Authentication { .. }
        | PostgresError::NoPassword { .. }
        | PostgresError::File { .. } => &postgres::LOGIN,
        // Classes 28 (authorization) and 42501 (insufficient privilege).
        PostgresError::Server { code, .. } if code.starts_with("28") || code == "42501" => {
            &postgres::LOGIN
        }
        PostgresError::Server { .. } => &postgres::SERVER,
        PostgresError::OtherCluster { .. } => &postgres::OTHER_CLUSTER,
        PostgresError::Unfit { .. } => &postgres::UNFIT,
        PostgresError::Increment { .. } => &postgres::INCREMENT,
        PostgresError::Tools { .. } => &postgres::TOOLS,
        PostgresError::RowSecurity { .. } => &postgres::ROW_SECURITY,
        PostgresError::Dump { .. } => &postgres::DUMP,
        PostgresError::Exists { .. } => &postgres::EXISTS,
        PostgresError::Ended { .. } => &postgres::NOT_STARTED,
        PostgresError::Program { .. } => &postgres::PROGRAM,
    }
}

fn redis_kind(error: &RedisError) -> &'static Explanation {
    match error {
        RedisError::Address { .. } | RedisError::PasswordShown => &redis::ADDRESS,
        RedisError::Connect { .. }
        | RedisError::Broken { .. }
        | RedisError::Tls { .. }
        | RedisError::Protocol { .. } => &redis::UNREACHABLE,
        RedisError::Server { .. } => match error.code() {
            Some("NOAUTH" | "WRONGPASS" | "NOPERM") => &redis::LOGIN,
            Some("LOADING" | "NOMASTERLINK" | "MASTERDOWN") => &redis::NOT_READY,
            // A server before 6.0, or without users: ERR invalid password, ERR Client sent AUTH, …
            Some("ERR") if is_about_login(error) => &redis::LOGIN,
            _ => &redis::SERVER,
        },
        RedisError::Sentinel { .. } => &redis::SENTINEL,
        RedisError::Cluster { .. } => &redis::CLUSTER,
        RedisError::NotReady { .. } => &redis::NOT_READY,
        RedisError::Dump { .. } => &redis::DUMP,
        RedisError::Spool { .. } => &redis::SPOOL,
        RedisError::UnfitServer { .. } => &redis::UNFIT_SERVER,
        RedisError::UnfitDump(_) => &redis::UNFIT_DUMP,
        RedisError::NotLoaded { .. } | RedisError::Cancelled => &redis::NOT_LOADED,
        RedisError::OtherKeys { .. } => &redis::OTHER_KEYS,
        RedisError::LocalServer { .. } => &redis::NOT_STARTED,
    }
}

fn aof_kind(error: &AofError) -> &'static Explanation {
    match error {
        AofError::Missing { .. } | AofError::Several { .. } | AofError::Io { .. } => &redis::NO_AOF,
        AofError::Manifest { .. }
        | AofError::FileMissing { .. }
        | AofError::Damaged { .. }
        | AofError::Cut { .. } => &redis::AOF_DAMAGED,
        AofError::Restless { .. } => &redis::AOF_RESTLESS,
    }
}

fn is_about_login(error: &RedisError) -> bool {
    let text = error.to_string();
    ["AUTH", "password", "Authentication"].iter().any(|word| text.contains(word))
}

fn store_kind(error: &StoreError) -> &'static Explanation {
    match error {
        StoreError::NotFound { name } if name == "FORMAT" => &repository::MISSING,
        StoreError::NotFound { .. } => &store::OBJECT_MISSING,
        StoreError::WrongSize { .. } => &store::OBJECT_SIZE,
        StoreError::BadName { .. } => &usage::INTERNAL,
        StoreError::NoSpace { .. } => &store::NO_SPACE,
        StoreError::Refused { .. } => &store::REFUSED,
        StoreError::Unsupported { .. } => &store::UNSUPPORTED,
        StoreError::Io { source, .. } if source.kind() == ErrorKind::TimedOut => {
            &store::UNREACHABLE
        }
        StoreError::Io { .. } => &store::IO,
    }
}

fn repository_kind(error: &RepoError) -> Option<&'static Explanation> {
    Some(match error {
        RepoError::NotThere { .. } => &repository::MISSING,
        RepoError::Exists { .. } => &repository::EXISTS,
        RepoError::Unfinished { .. } => &repository::UNFINISHED,
        RepoError::RosterTaken { .. } => &repository::ROSTER_TAKEN,
        RepoError::NotFound { kind: "writer", .. } => &repository::NO_SUCH_WRITER,
        RepoError::NotFound { .. } => &key::NOT_FOUND,
        RepoError::OtherWriter { .. } => &repository::WRITER_PRESENT,
        RepoError::LastKey => &key::LAST,
        RepoError::FormatUnknown { .. }
        | RepoError::Snapshot { source: SnapshotError::Unsupported(_), .. } => &repository::TOO_NEW,
        RepoError::Replaced { .. } => &trust::SWAPPED,
        RepoError::IsReplica { .. } => &repository::IS_REPLICA,
        RepoError::Rollback { .. } => &trust::ROLLBACK,
        RepoError::Chain { .. } => &trust::CHAIN,
        RepoError::DuplicateWriter { .. } => &trust::FORK,
        RepoError::WrongName { .. } => &trust::NAME,
        RepoError::Misplaced { .. } => &trust::MISPLACED,
        RepoError::Snapshot { .. }
        | RepoError::Refs { .. }
        | RepoError::Segment { .. }
        | RepoError::PackUnknown { .. } => &check::DAMAGE,
        RepoError::NoKey { role: "writer", .. } => &repository::NOT_A_WRITER,
        RepoError::NoKey { role: "root", .. } => &key::NO_ROOT,
        RepoError::NotInRoster { role: "writer", .. } => &repository::REVOKED,
        RepoError::NoKey { .. } | RepoError::NotInRoster { .. } => &prune::NOT_MAINTAINER,
        RepoError::WrongKey { .. } => &key::WRONG,
        RepoError::RecipientUnknown { .. } => &trust::RECIPIENT,
        RepoError::PacksIntended { .. } | RepoError::PackLost { .. } => &repository::BUSY,
        RepoError::State { source, .. } => return io_kind(source).or(Some(&usage::STATE)),
        RepoError::StateContent { .. } => &usage::STATE,
        RepoError::Randomness(_) => &usage::INTERNAL,
        RepoError::Text { .. }
        | RepoError::Open { .. }
        | RepoError::Unreadable { .. }
        | RepoError::Store(_)
        | RepoError::Index(_)
        | RepoError::Write(_)
        | RepoError::Seal(_)
        | RepoError::KeyText(_)
        | RepoError::Sign(_) => return None,
    })
}

fn text_kind(error: &TextError) -> &'static Explanation {
    match error {
        TextError::Unsupported { .. } => &repository::TOO_NEW,
        TextError::WrongRepository { .. } => &trust::MISPLACED,
        TextError::TooLong { .. }
        | TextError::NotSigned
        | TextError::Signature(_)
        | TextError::Malformed { .. }
        | TextError::Missing { .. }
        | TextError::Repeated { .. }
        | TextError::Contradiction { .. } => &trust::SIGNATURE,
    }
}

fn open_kind(error: &OpenError) -> Option<&'static Explanation> {
    match error {
        OpenError::NoMatchingKey => Some(&key::WRONG),
        OpenError::UnknownVersion => Some(&repository::TOO_NEW),
        OpenError::Plugin { .. } => Some(&key::PLUGIN),
        OpenError::NotAge
        | OpenError::ExcessiveWork { .. }
        | OpenError::Damaged { .. }
        | OpenError::TooLarge { .. } => Some(&check::DAMAGE),
        OpenError::Io(_) => None,
    }
}

fn seal_kind(error: &SealError) -> &'static Explanation {
    match error {
        SealError::NoRecipient | SealError::Incompatible { .. } => &key::RECIPIENT,
        SealError::Plugin { .. } => &key::PLUGIN,
        _ => &usage::INTERNAL,
    }
}

fn key_text_kind(error: &KeyTextError) -> &'static Explanation {
    match error {
        KeyTextError::Recipient { .. } => &key::RECIPIENT,
        KeyTextError::PluginMissing { .. } => &key::PLUGIN,
        KeyTextError::Identity { .. } | KeyTextError::NoIdentity | KeyTextError::SshKey => {
            &key::IDENTITY
        }
    }
}

fn index_kind(error: &IndexError) -> &'static Explanation {
    let IndexError::Database { source, .. } = error else { return &repository::LOCAL_INDEX };
    match source.sqlite_error_code() {
        Some(rusqlite::ErrorCode::DiskFull) => &store::NO_SPACE,
        Some(rusqlite::ErrorCode::DatabaseBusy | rusqlite::ErrorCode::DatabaseLocked) => {
            &repository::BUSY
        }
        _ => &repository::LOCAL_INDEX,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::error::{CommandError, Exit};
    use crate::id::{ActorId, RepositoryId};

    #[test]
    fn errors_of_a_repository_end_with_their_codes() {
        let (repository, writer) = (RepositoryId([1; 32]), ActorId([2; 8]));
        let object = || "log/x".to_owned();
        let full = || std::io::Error::from(ErrorKind::StorageFull);
        let cases = [
            (RepoError::NotThere { location: object() }, Exit::RepositoryMissing),
            (RepoError::WrongKey { tried: 1 }, Exit::WrongKey),
            (RepoError::FormatUnknown { found: object() }, Exit::FormatTooNew),
            (RepoError::Rollback { what: object() }, Exit::Rollback),
            (RepoError::Chain { object: object() }, Exit::Rollback),
            (RepoError::DuplicateWriter { object: object(), writer }, Exit::Rollback),
            (RepoError::WrongName { object: object() }, Exit::Findings),
            (RepoError::Misplaced { object: object(), what: "x" }, Exit::Rollback),
            (
                RepoError::Replaced { location: object(), pinned: repository, found: repository },
                Exit::Rollback,
            ),
            (RepoError::NoKey { role: "writer", repository }, Exit::WrongKey),
            (RepoError::NotInRoster { role: "writer", id: writer }, Exit::Refused),
            (RepoError::RosterTaken { object: object() }, Exit::Busy),
            (
                RepoError::State { action: "write", path: "/x".into(), source: full() },
                Exit::NoSpace,
            ),
            (
                RepoError::Store(StoreError::NoSpace { name: object(), source: full() }),
                Exit::NoSpace,
            ),
            (
                RepoError::Text {
                    object: object(),
                    source: TextError::Unsupported { line: 1, what: object() },
                },
                Exit::FormatTooNew,
            ),
            (
                RepoError::Open { object: object(), source: OpenError::NoMatchingKey },
                Exit::WrongKey,
            ),
            (RepoError::KeyText(KeyTextError::NoIdentity), Exit::WrongKey),
            (RepoError::Seal(SealError::NoRecipient), Exit::Usage),
        ];
        for (error, exit) in cases {
            let shown = error.to_string();
            assert_eq!(CommandError::from(error).exit(), exit, "{shown}");
        }
    }
}
