//! What a drill of Redis looks at on the server that it has started.

use jiff::Timestamp;

use crate::cli::redis_assertion::{Assertion, shown};
use crate::format::drill::{Check, Outcome};
use crate::format::redis::load_plan::LoadPlan;
use crate::format::redis::server_facts::DumpFacts;
use crate::source::redis::connection::Connection;
use crate::source::redis::digest::{PATIENCE, digest_of};
use crate::source::redis::error::RedisError;
use crate::source::redis::local_server::LocalServer;
use crate::source::redis::reply::Reply;
use crate::source::redis::server::ServerState;

/// From this number on, a time is in milliseconds: in seconds it would be the year 5138.
const MILLISECONDS_MIN: i64 = 100_000_000_000;

fn check(name: &str, outcome: Outcome, detail: impl Into<String>) -> Check {
    Check { name: name.to_owned(), outcome, detail: detail.into() }
}

/// The server has loaded a dump and the commands after it to their end, or an append-only file.
#[must_use]
pub fn replayed(state: &ServerState, commands: Option<u64>) -> Check {
    let keys: u64 = state.keys().values().sum();
    match commands {
        Some(commands) => {
            let detail = format!("{keys} keys after {commands} commands of the journal");
            check("dump and journal", Outcome::Passed, detail)
        }
        None => check("append-only file", Outcome::Passed, format!("{keys} keys, as it is loaded")),
    }
}

/// The server has the keys of the dump, all of them: it lets none expire yet.
#[must_use]
pub fn keys(state: &ServerState, plan: &LoadPlan) -> Check {
    let name = "keys of each database";
    let (found, counts) = (state.keys(), &plan.keys);
    let total: u64 = found.values().sum();
    if !plan.is_counted {
        let detail = format!("{total} are there, but the dump has parts that are not known here");
        return check(name, Outcome::Skipped, detail);
    }
    let mut wrong = Vec::new();
    for database in counts.databases() {
        let keys = found.get(&database.to_string()).copied().unwrap_or(0);
        let kept = counts.kept(database);
        if !kept.contains(&keys) {
            wrong.push(format!("database {database} has {keys} keys, the dump {}", kept.end()));
        }
    }
    let is_other = |database: &String| {
        let number = database.parse::<u64>().ok();
        number.is_none_or(|number| counts.databases().all(|it| it != number))
    };
    let others = found.keys().filter(|database| is_other(database));
    wrong.extend(others.map(|database| format!("database {database} is not in the dump")));
    if !wrong.is_empty() {
        return check(name, Outcome::Failed, wrong.join("; "));
    }
    let (databases, expired) = (counts.databases().count(), counts.expired());
    let detail = format!("{total} of {databases} databases, of which {expired} have expired since");
    check(name, Outcome::Passed, detail)
}

/// The digest of all data is the one that was saved with them.
#[must_use]
pub fn digest(server: &LocalServer, shown: &str, saved: Option<&DumpFacts>) -> Check {
    let name = "digest of all data";
    let Some((saved, wanted)) = saved.and_then(|saved| Some((saved, saved.digest.as_ref()?)))
    else {
        return check(name, Outcome::Skipped, "none was saved: backup --redis-digest");
    };
    let of_source = format!("{} {}", saved.server, saved.version);
    if major(&of_source) != major(shown) {
        let detail = format!("it was saved by {of_source}, this is {shown}");
        return check(name, Outcome::Skipped, detail);
    }
    match server.connect().and_then(|mut connection| digest_of(&mut connection)) {
        Ok(found) if found == *wanted => check(name, Outcome::Passed, found),
        Ok(found) => check(name, Outcome::Failed, format!("it is {found}, {wanted} was saved")),
        Err(error @ RedisError::Server { .. }) => check(name, Outcome::Skipped, error.to_string()),
        Err(error) => check(name, Outcome::Failed, error.to_string()),
    }
}

/// `redis 7` of `redis 7.0.15`.
fn major(shown: &str) -> &str {
    shown.split('.').next().unwrap_or_default()
}

/// A connection to the database that questions are for.
///
/// # Errors
/// There is no such database.
pub fn asking(server: &LocalServer, database: u32) -> Result<Connection, RedisError> {
    let mut connection = server.connect()?;
    connection.set_patience(PATIENCE)?;
    connection.command(&[b"SELECT", database.to_string().as_bytes()], "asking")?;
    Ok(connection)
}

fn answer(connection: &mut Connection, words: &[String]) -> Result<Reply, RedisError> {
    let words: Vec<&[u8]> = words.iter().map(String::as_bytes).collect();
    connection.command(&words, "asking")
}

/// A command of the user must say yes.
#[must_use]
pub fn assertion(connection: &mut Connection, asked: &Assertion) -> Check {
    match answer(connection, &asked.command) {
        Ok(reply) => match asked.judge(&reply) {
            Ok(said) => check(&asked.text, Outcome::Passed, said),
            Err(said) => check(&asked.text, Outcome::Failed, format!("it says {said}")),
        },
        Err(error) => check(&asked.text, Outcome::Failed, error.to_string()),
    }
}

/// The moment that a command of the user gives: that of the newest data.
pub fn newest(connection: &mut Connection, asked: &Assertion) -> Result<Timestamp, Check> {
    let name = "age of the newest data";
    let failed = |detail: String| check(name, Outcome::Failed, detail);
    let reply = answer(connection, &asked.command).map_err(|error| failed(error.to_string()))?;
    let text = shown(&reply);
    moment(&text).ok_or_else(|| failed(format!("{text} is no moment")))
}

fn moment(text: &str) -> Option<Timestamp> {
    let text = text.trim();
    match text.parse::<i64>() {
        Ok(number) if number >= MILLISECONDS_MIN => Timestamp::from_millisecond(number).ok(),
        Ok(number) => Timestamp::from_second(number).ok(),
        Err(_) => text.parse().ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_seconds_milliseconds_or_texts() {
        let wanted = Some("2026-01-02T03:04:05Z".parse::<Timestamp>().unwrap());
        for text in ["1767323045", "1767323045000", "2026-01-02T03:04:05Z\n"] {
            assert_eq!(moment(text), wanted, "{text}");
        }
        assert_eq!(moment("yesterday"), None);
        assert_eq!(major("redis 7.0.15"), major("redis 7.2"));
    }
}
