//! A drill of Redis: a dump restored into a folder of ours, and a server started on it that is
//! looked at and thrown away.

use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, chown};
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use jiff::Timestamp;

use crate::cli::command::drill::DrillArgs;
use crate::cli::command::restore_journal::moment_of;
use crate::cli::context::Context;
use crate::cli::error::CommandError;
use crate::cli::explain::{postgres, redis, restore as explain_restore, usage};
use crate::cli::isolated::Stopwatch;
use crate::cli::reading::Reading;
use crate::cli::redis::failed;
use crate::cli::redis_append_only::facts_of as append_only_facts;
use crate::cli::redis_archive::{RedisArchive, shown_ms};
use crate::cli::redis_assertion::Assertion;
use crate::cli::redis_checks::{asking, assertion, digest, keys, newest, replayed};
use crate::cli::redis_found::{FoundDump, find};
use crate::cli::redis_moment::{MomentOptions, MomentServer, Way, not_started, program, user};
use crate::cli::run_folder::run_folder;
use crate::cli::selector::Selector;
use crate::cli::signals::signals;
use crate::format::drill::DrillRecord;
use crate::format::redis::load_plan::{LoadPlan, LoadPlanner};
use crate::format::redis::server_facts::DumpFacts;
use crate::progress::Progress;
use crate::source::postgres::local_server::RunAs;
use crate::source::postgres::private_folder::PrivateFolder;
use crate::source::redis::error::RedisError;
use crate::source::redis::loader::now_ms;
use crate::source::redis::local_server::{DUMP_FILE, LocalServer, ServerOptions};
use crate::source::redis::server::ServerState;

/// What the method of such a drill is called.
const METHOD: &str = "redis";

/// A drill to be made.
pub struct RedisDrill<'a> {
    /// What was asked for.
    pub args: &'a DrillArgs,
    /// For output.
    pub context: &'a Context,
    /// When it began.
    pub begun: Instant,
    /// The same by the clock.
    pub started_at: Timestamp,
}

/// What the server is asked.
struct Questions {
    database: u32,
    asserted: Vec<Assertion>,
    newest: Option<Assertion>,
}

impl RedisDrill<'_> {
    /// Makes it: the record has what was seen, and the error what ended it early.
    ///
    /// # Errors
    /// It was not begun: the arguments are wrong, or there is no dump.
    pub fn run(
        &self,
        reading: &Reading,
        selector: &Selector,
    ) -> Result<(DrillRecord, Result<(), CommandError>), CommandError> {
        let questions = self.questions()?;
        let user = user(self.args.server.user.as_deref())?;
        let (newest, snapshot) = reading.select(self.context, selector)?;
        if let Some(facts) = append_only_facts(&snapshot) {
            if self.args.point.is_given() {
                let what = "an append-only file has no other point in time than its end";
                return Err(CommandError::new(&usage::ARGUMENT, what));
            }
            let mut record = self.record(&snapshot.source, newest.name.id.to_string());
            record.newest = Some(facts.moment);
            return Ok(self.loaded(reading, Way::Files(&snapshot), (user, &questions), record));
        }
        let found = find(reading, self.context, selector)?;
        if self.args.point.is_given() {
            let moment = moment_of(&self.args.point, self.context)?;
            let archive = RedisArchive::read(reading, self.context, &found.snapshot.source)?;
            let plan = archive.plan(moment)?;
            let id = archive.dumps[plan.dump].found.0.name.id.to_string();
            let mut record = self.record(&found.snapshot.source, id);
            record.newest = Some(shown_ms(plan.moment));
            let way = Way::Journal(&archive, &plan);
            return Ok(self.loaded(reading, way, (user, &questions), record));
        }
        let mut record = self.record(&found.snapshot.source, found.id.clone());
        record.newest = found.facts.as_ref().map(|facts| facts.moment.clone());
        let ended = self.brought_up(reading, &found, (user, &questions), &mut record);
        self.set_age(&mut record);
        Ok((record, ended))
    }

    fn questions(&self) -> Result<Questions, CommandError> {
        let args = self.args;
        let wrong = |what: String| Err(CommandError::new(&usage::ARGUMENT, what));
        if args.method.is_some() {
            return wrong("--method is for PostgreSQL".to_owned());
        }
        let database = args.database.as_deref().unwrap_or("0");
        let Ok(database) = database.parse() else {
            return wrong(format!("--database {database}: a database of Redis is a number"));
        };
        let parse = |text: &String| {
            Assertion::parse(text)
                .map_err(|error| CommandError::new(&redis::ASSERTION, format!("{text:?}: {error}")))
        };
        let asserted = args.assert.iter().map(parse).collect::<Result<_, _>>()?;
        let newest = args.newest.as_ref().map(parse).transpose()?;
        Ok(Questions { database, asserted, newest })
    }

    fn record(&self, source: &str, snapshot: String) -> DrillRecord {
        let mut record = DrillRecord::new(source, self.started_at.to_string());
        record.snapshot = snapshot;
        METHOD.clone_into(&mut record.method);
        METHOD.clone_into(&mut record.server);
        record.point = self.args.point.shown();
        record
    }

    /// The same of what a server loads from more than a dump.
    fn loaded(
        &self,
        reading: &Reading,
        way: Way<'_>,
        (user, questions): (Option<RunAs>, &Questions),
        mut record: DrillRecord,
    ) -> (DrillRecord, Result<(), CommandError>) {
        signals().arm();
        let mut looked = || -> Result<(), CommandError> {
            let mut watch = Stopwatch(self.begun);
            let options = MomentOptions {
                workspace: &self.args.server.workspace(),
                user,
                program: self.args.redis_server.as_deref(),
                settings: self.args.server.settings()?,
            };
            let started = MomentServer::start(self.context, reading, way, options)?;
            watch.lap(&mut record, "restore and load");
            record.server.clone_from(&started.shown);
            record.ready_seconds = Some(self.begun.elapsed().as_secs_f64());
            record.checks.push(replayed(&started.state, started.commands));
            ask(&started.server, questions, &mut record)?;
            watch.lap(&mut record, "check");
            drop(started);
            watch.lap(&mut record, "clean up");
            Ok(())
        };
        let ended = looked();
        self.set_age(&mut record);
        (record, ended)
    }

    fn brought_up(
        &self,
        reading: &Reading,
        found: &FoundDump,
        (user, questions): (Option<RunAs>, &Questions),
        record: &mut DrillRecord,
    ) -> Result<(), CommandError> {
        let mut watch = Stopwatch(self.begun);
        let folder = PrivateFolder::create(&self.args.server.workspace());
        let folder = folder.map_err(|error| CommandError::classify(&error, &postgres::LAYER))?;
        let run = run_folder(folder.path(), user)?;
        let plan = self.restore(found, reading, &run.join(DUMP_FILE), user)?;
        if record.newest.is_none() {
            let created = plan.created.and_then(|seconds| i64::try_from(seconds).ok());
            let created = created.and_then(|seconds| Timestamp::from_second(seconds).ok());
            record.newest = created.map(|created| created.to_string());
        }
        let named = (&*found.snapshot.source, self.args.redis_server.as_deref());
        let program = program(self.context, named, (plan.dialect, plan.version))?;
        record.server = program.shown();
        watch.lap(record, "restore");
        let options = ServerOptions {
            program,
            folder: run,
            log: folder.path().join("log"),
            user,
            settings: self.args.server.settings()?,
            database_max: plan.keys.databases().last().unwrap_or(0),
        };
        let mut server = LocalServer::start(&options).map_err(|error| not_started(&error))?;
        let loaded = server.wait_until_loaded(&|| signals().came().is_some());
        let loaded = loaded.map_err(|error| not_started(&error))?;
        let Some(state) = loaded else { return Err(not_started(&RedisError::Cancelled)) };
        watch.lap(record, "load");
        record.ready_seconds = Some(self.begun.elapsed().as_secs_f64());
        self.look(&server, (&state, &plan), found.facts.as_ref(), questions, record)?;
        watch.lap(record, "check");
        drop(server);
        drop(folder);
        watch.lap(record, "clean up");
        Ok(())
    }

    /// Puts the dump where the server finds it, and counts what is in it.
    fn restore(
        &self,
        found: &FoundDump,
        reading: &Reading,
        path: &Path,
        user: Option<RunAs>,
    ) -> Result<LoadPlan, CommandError> {
        let unwritable = |error: std::io::Error| {
            let what = format!("cannot write {}", path.display());
            CommandError::new(&explain_restore::TARGET, what).because(&error)
        };
        let mut options = File::options();
        let file = options.write(true).create_new(true).mode(0o600).open(path);
        let mut file = BufWriter::new(file.map_err(unwritable)?);
        let mut planner = LoadPlanner::new(now_ms());
        let progress = Arc::new(Progress::default());
        let watch = self.context.watch(&progress);
        let mut failure = None;
        let fed = found.feed(reading, &progress, &mut |bytes| {
            planner.take(bytes);
            file.write_all(bytes).map_err(|error| {
                failure = Some(error);
                RedisError::Cancelled
            })
        });
        watch.finish();
        // A signal is looked for from here on too: a server must not stay behind.
        signals().arm();
        if let Some(error) = failure {
            return Err(unwritable(error));
        }
        fed?;
        file.flush().map_err(unwritable)?;
        if let Some(RunAs { uid, gid }) = user {
            chown(path, Some(uid), Some(gid)).map_err(unwritable)?;
        }
        Ok(planner.finish())
    }

    fn look(
        &self,
        server: &LocalServer,
        (state, plan): (&ServerState, &LoadPlan),
        saved: Option<&DumpFacts>,
        questions: &Questions,
        record: &mut DrillRecord,
    ) -> Result<(), CommandError> {
        record.checks.push(keys(state, plan));
        if !self.args.quick {
            record.checks.push(digest(server, &record.server, saved));
        }
        ask(server, questions, record)
    }

    fn set_age(&self, record: &mut DrillRecord) {
        let newest = record.newest.as_ref().and_then(|text| text.parse::<Timestamp>().ok());
        record.data_age_seconds =
            newest.map(|newest| self.started_at.duration_since(newest).as_secs_f64().max(0.0));
    }
}

/// Asks the questions of a server that is to be as any other from now on.
fn ask(
    server: &LocalServer,
    questions: &Questions,
    record: &mut DrillRecord,
) -> Result<(), CommandError> {
    // From here on it is a server as any other: what has expired goes.
    let mut connection = server
        .connect()
        .and_then(|mut connection| {
            let words: [&[u8]; 3] = [b"REPLICAOF", b"NO", b"ONE"];
            connection.command(&words, "asking")?;
            asking(server, questions.database)
        })
        .map_err(|error| failed(&error))?;
    if let Some(asked) = &questions.newest {
        match newest(&mut connection, asked) {
            Ok(moment) => record.newest = Some(moment.to_string()),
            Err(check) => record.checks.push(check),
        }
    }
    for asked in &questions.asserted {
        record.checks.push(assertion(&mut connection, asked));
    }
    Ok(())
}
