//! A dump given to an empty server by commands, key by key, and more commands after it.
//!
//! What is in the dump is in the server when [`Loader::finish_dump`] has said so: every answer was
//! looked at, and the keys of each database were counted. Before the first key nothing is written,
//! and nothing that is not fit is begun with. Memory: a window of commands; a value of any length
//! passes in pieces.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::format::redis::crc64::Crc64;
use crate::format::redis::dump_items::{DumpItems, Head, Item, Key};
use crate::format::redis::load_plan::LoadPlan;
use crate::source::redis::connection::{Access, Connection};
use crate::source::redis::error::RedisError;
use crate::source::redis::pipeline::Pipeline;
use crate::source::redis::reply::Reply;
use crate::source::redis::server::ServerState;
use crate::source::redis::server_fitness::{FOOTER_BYTES, footer, require_fit};

/// A server takes in a large value so fast.
const PATIENCE: Duration = Duration::from_mins(10);

/// What was loaded.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Loaded {
    /// Keys of each database, as the server counts them.
    pub keys: BTreeMap<String, u64>,
    /// Keys of the dump that have expired since, and were left out.
    pub expired: u64,
    /// Libraries of functions.
    pub functions: u64,
}

/// A load in progress.
pub struct Loader {
    items: DumpItems,
    sending: Sending,
}

/// What is being sent.
enum Value {
    Nothing,
    /// It is left out.
    Skipped,
    /// The sum of what was sent, what follows the value, and how many keys it is.
    Sent(Crc64, Vec<u8>, u64),
}

struct Sending {
    pipeline: Pipeline,
    plan: LoadPlan,
    /// Values of known length so far.
    long: usize,
    database: u64,
    value: Value,
    takes_scripts: bool,
}

impl Loader {
    /// Connects to the server, and looks that it is empty and takes all that the dump has. The
    /// bytes that come are those that `plan` was made of.
    ///
    /// # Errors
    /// [`RedisError::UnfitServer`], [`RedisError::UnfitDump`], or it cannot be reached; nothing
    /// was written.
    pub fn prepare(access: &Access, mut plan: LoadPlan) -> Result<Self, RedisError> {
        if let Some(unfit) = plan.unfit.take() {
            return Err(RedisError::UnfitDump(unfit));
        }
        let mut connection = access.connect()?;
        let state = require_fit(&mut connection, &plan)?;
        connection.set_patience(PATIENCE)?;
        let (server, version) = state.version();
        let major = version.split('.').next().and_then(|major| major.parse::<u32>().ok());
        // Since 7.0 a server that loads a dump leaves them out.
        let takes_scripts = server == "redis" && major.is_some_and(|major| major < 7);
        let pipeline = Pipeline::new(connection, "loading");
        let value = Value::Nothing;
        let sending = Sending { pipeline, plan, long: 0, database: 0, value, takes_scripts };
        Ok(Self { items: DumpItems::default(), sending })
    }

    /// Takes the next bytes of the dump.
    ///
    /// # Errors
    /// [`RedisError::NotLoaded`].
    pub fn take(&mut self, bytes: &[u8]) -> Result<(), RedisError> {
        let Self { items, sending } = self;
        let taken = items.take(bytes, &mut |item| sending.send(item));
        taken.map_err(|error| self.failed(error))
    }

    /// All bytes of the dump were taken: waits for the last answer and counts the keys.
    ///
    /// # Errors
    /// [`RedisError::NotLoaded`], [`RedisError::OtherKeys`].
    pub fn finish_dump(&mut self) -> Result<Loaded, RedisError> {
        let Self { items, sending } = self;
        let finished = items.finish(&mut |item| sending.send(item));
        let counted = finished.and_then(|_| self.sending.count());
        match counted {
            Ok(loaded) => Ok(loaded),
            Err(error @ RedisError::OtherKeys { .. }) => Err(error),
            Err(error) => Err(self.failed(error)),
        }
    }

    /// A command as it is, of which the answer must be no error; in the database that the commands
    /// before it have selected, first of all 0.
    ///
    /// # Errors
    /// [`RedisError::NotLoaded`]: an answer to one of the last commands, or to this.
    pub fn command(&mut self, command: &[u8]) -> Result<(), RedisError> {
        let pipeline = &mut self.sending.pipeline;
        let put = pipeline.put(command).and_then(|()| pipeline.end_command(0));
        put.map_err(|error| self.failed(error))
    }

    /// Waits until all commands are answered.
    ///
    /// # Errors
    /// [`RedisError::NotLoaded`].
    pub fn finish_commands(&mut self) -> Result<(), RedisError> {
        let settled = self.sending.pipeline.settled().map(drop);
        settled.map_err(|error| self.failed(error))
    }

    /// The error that says what the server holds now, for one that ended the load.
    #[must_use]
    pub fn failed(&self, error: RedisError) -> RedisError {
        RedisError::NotLoaded {
            address: self.sending.pipeline.shown().to_owned(),
            keys: self.sending.pipeline.acknowledged(),
            keys_total: self.sending.plan.keys.total(),
            source: Box::new(error),
        }
    }
}

impl Sending {
    fn send(&mut self, item: Item<'_>) -> Result<(), RedisError> {
        match item {
            Item::Begin(head, length) => {
                let length = length.or_else(|| {
                    self.long += 1;
                    self.plan.long_bytes.get(self.long - 1).copied()
                });
                let Some(length) = length else { return Err(self.other_dump()) };
                match head {
                    Head::Key(key) => self.begin_key(key, length + FOOTER_BYTES),
                    Head::Function => self.begin_function(length + FOOTER_BYTES),
                }
            }
            Item::Bytes(bytes) => match &mut self.value {
                Value::Sent(sum, ..) => {
                    sum.update(bytes);
                    self.pipeline.put(bytes)
                }
                Value::Nothing | Value::Skipped => Ok(()),
            },
            Item::End => match std::mem::replace(&mut self.value, Value::Nothing) {
                Value::Sent(sum, after, keys) => {
                    self.pipeline.put(&footer(self.plan.version, sum))?;
                    self.pipeline.put(&after)?;
                    self.pipeline.end_command(keys)
                }
                Value::Nothing | Value::Skipped => Ok(()),
            },
            Item::Script(script) if self.takes_scripts => {
                self.pipeline.put_words(3)?;
                for word in [&b"SCRIPT"[..], b"LOAD", script] {
                    self.pipeline.put_word(word)?;
                }
                self.pipeline.end_command(0)
            }
            Item::Script(_) => Ok(()),
        }
    }

    fn other_dump(&self) -> RedisError {
        let address = self.pipeline.shown().to_owned();
        RedisError::Dump { address, what: "it is another one than was looked at".to_owned() }
    }

    fn begin_key(&mut self, key: &Key, length: u64) -> Result<(), RedisError> {
        if key.is_empty || key.is_expired(self.plan.keys.start_ms()) {
            self.value = Value::Skipped;
            return Ok(());
        }
        if key.database != self.database {
            self.database = key.database;
            self.pipeline.put_words(2)?;
            self.pipeline.put_word(b"SELECT")?;
            self.pipeline.put_word(key.database.to_string().as_bytes())?;
            self.pipeline.end_command(0)?;
        }
        let mut after = Vec::new();
        if key.expiry_ms.is_some() {
            after.push(b"ABSTTL".to_vec());
        }
        if let Some(seconds) = key.idle_seconds {
            after.extend([b"IDLETIME".to_vec(), seconds.to_string().into_bytes()]);
        } else if let Some(frequency) = key.frequency {
            after.extend([b"FREQ".to_vec(), frequency.to_string().into_bytes()]);
        }
        self.pipeline.put_words(4 + after.len())?;
        self.pipeline.put_word(b"RESTORE")?;
        self.pipeline.put_word(&key.name)?;
        self.pipeline.put_word(key.expiry_ms.unwrap_or(0).to_string().as_bytes())?;
        self.pipeline.put_length(length)?;
        let mut tail = b"\r\n".to_vec();
        for word in after {
            tail.extend_from_slice(format!("${}\r\n", word.len()).as_bytes());
            tail.extend_from_slice(&word);
            tail.extend_from_slice(b"\r\n");
        }
        self.value = Value::Sent(Crc64::default(), tail, 1);
        Ok(())
    }

    fn begin_function(&mut self, length: u64) -> Result<(), RedisError> {
        self.pipeline.put_words(3)?;
        self.pipeline.put_word(b"FUNCTION")?;
        self.pipeline.put_word(b"RESTORE")?;
        self.pipeline.put_length(length)?;
        self.value = Value::Sent(Crc64::default(), b"\r\n".to_vec(), 0);
        Ok(())
    }

    /// Compares what the server has with what it was given.
    fn count(&mut self) -> Result<Loaded, RedisError> {
        let connection = self.pipeline.settled()?;
        connection.command(&[b"SELECT", b"0"], "loading")?;
        self.database = 0;
        let state = ServerState::read(connection)?;
        let now_ms = now_ms().max(server_ms(connection)?.unwrap_or(0));
        let (counts, keys) = (&self.plan.keys, state.keys());
        let mut wrong = Vec::new();
        for database in counts.databases() {
            let found = keys.get(&database.to_string()).copied().unwrap_or(0);
            let left = counts.left(database, now_ms);
            if !left.contains(&found) {
                let (least, most) = (left.start(), left.end());
                wrong.push(format!(
                    "database {database} has {found} keys, {least} to {most} are right"
                ));
            }
        }
        let others = keys.iter().filter(|(database, keys)| {
            let number = database.parse::<u64>().ok();
            **keys > 0 && number.is_none_or(|number| counts.databases().all(|it| it != number))
        });
        wrong.extend(others.map(|(database, keys)| {
            format!("database {database} has {keys} keys that were not in the dump")
        }));
        if wrong.is_empty() {
            let (expired, functions) = (counts.expired(), self.plan.functions);
            return Ok(Loaded { keys, expired, functions });
        }
        let address = self.pipeline.shown().to_owned();
        Err(RedisError::OtherKeys { address, what: wrong.join("; ") })
    }
}

/// Now, by our clock, in milliseconds since 1970.
#[must_use]
pub fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

/// Now, by the server's clock; nothing where it does not say.
fn server_ms(connection: &mut Connection) -> Result<Option<i64>, RedisError> {
    match connection.command(&[b"TIME"], "asking for the time") {
        Ok(Reply::Array(parts)) => match parts.first() {
            Some(Reply::Bulk(Some(seconds))) => {
                let seconds = String::from_utf8_lossy(seconds).parse::<i64>().ok();
                Ok(seconds.map(|seconds| (seconds + 1) * 1000))
            }
            _ => Ok(None),
        },
        Ok(_) | Err(RedisError::Server { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}
