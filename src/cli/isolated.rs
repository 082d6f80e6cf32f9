//! Databases that are brought up to be looked at: on the live directory of a base backup, or in a
//! new cluster that a dump is restored into.

use std::fs::{DirBuilder, File, Permissions};
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::cli::context::Context;
use crate::cli::drill_checks::Checked;
use crate::cli::error::CommandError;
use crate::cli::explain::{postgres, restore as explain_restore};
use crate::cli::fetched_dump::{FetchedDump, dump_of, not_restored};
use crate::cli::live_directory::{LiveDirectory, LiveOptions};
use crate::cli::live_server::{LocalServerArgs, not_started, start};
use crate::cli::postgres::failed;
use crate::cli::postgres_recovery::PointArgs;
use crate::cli::reading::Reading;
use crate::cli::run_folder::run_folder;
use crate::cli::signals::signals;
use crate::format::drill::{Check, DrillRecord, Phase};
use crate::format::postgres::dump_tables::DumpTables;
use crate::format::snapshot::Snapshot;
use crate::progress::Progress;
use crate::restore::cat::cat;
use crate::source::postgres::dump_restore::{NewDatabase, Ownership, RestoreTarget};
use crate::source::postgres::dump_tools::{DumpTools, Variables, without_settings};
use crate::source::postgres::error::PostgresError;
use crate::source::postgres::local_server::{LocalServer, MAINTENANCE, RunAs, ServerOptions};
use crate::source::postgres::private_folder::PrivateFolder;

/// How often is looked whether recovery is over.
const POLL: Duration = Duration::from_millis(50);
/// Jobs of `pg_restore`.
const RESTORE_JOBS: u32 = 4;
/// Settings of a server that is thrown away, and that nobody else reaches.
const SETTINGS: [(&str, &str); 6] = [
    ("fsync", "off"),
    ("shared_buffers", "128MB"),
    ("huge_pages", "try"),
    ("statement_timeout", "0"),
    ("autovacuum", "off"),
    ("primary_conninfo", ""),
];

/// Servers that only we reach, and that are gone at the end.
pub struct Isolated<'a> {
    /// For output.
    pub context: &'a Context,
    /// Programs, user and settings of the server.
    pub local: &'a LocalServerArgs,
    /// Where recovery is to end.
    pub point: &'a PointArgs,
    /// Environment of the programs.
    pub variables: Variables,
    /// Who the server runs as.
    pub user: Option<RunAs>,
    /// When it began.
    pub begun: Instant,
}

/// What is done with a database that has come up.
pub type Look<'a> = dyn FnMut(&Checked<'_>, Option<Check>, &mut DrillRecord) + 'a;

/// Notes a part of the drill that has ended.
pub struct Stopwatch(pub Instant);

impl Stopwatch {
    /// It is called so.
    pub fn lap(&mut self, record: &mut DrillRecord, name: &str) {
        let now = Instant::now();
        let seconds = (now - self.0).as_secs_f64();
        record.phases.push(Phase { name: name.to_owned(), seconds });
        self.0 = now;
    }
}

impl Isolated<'_> {
    /// A base backup.
    ///
    /// # Errors
    /// It does not come up; the record has what was seen until then.
    pub fn base(
        &self,
        reading: Reading,
        source: &str,
        (only, major): (Option<&str>, u32),
        record: &mut DrillRecord,
        look: &mut Look<'_>,
    ) -> Result<(), CommandError> {
        let mut watch = Stopwatch(self.begun);
        let tools = self.local.programs(&self.variables, major)?;
        let workspace = self.local.workspace();
        // One that waits at the point would be waited for.
        let point = PointArgs { then: None, ..self.point.clone() };
        let options = LiveOptions {
            owner: self.user,
            hydrate: None,
            workspace: &workspace,
            point: &point,
            only,
        };
        let mut directory = LiveDirectory::open(self.context, reading, source, &options)?;
        record.snapshot.clone_from(&directory.snapshot);
        let data = directory.data().to_owned();
        let folder = directory.workspace().to_owned();
        let socket = run_folder(&folder, self.user)?;
        record.checks.push(Checked::pages(directory.facts.bad_pages_count));
        watch.lap(record, "prepare");
        let server = self.server(&tools, &data, &folder, &socket)?;
        watch.lap(record, "start");
        let ended = self.recovered(server, record, &mut watch).map(|server| {
            let checked = self.checked(&server, &tools, &socket);
            look(&checked, None, record);
            watch.lap(record, "check");
            // It is thrown away: no last checkpoint.
            drop(server);
        });
        directory.pass_messages(self.context);
        if directory.damaged() > 0 && ended.is_ok() {
            let what = format!("{} parts of the backup cannot be read", directory.damaged());
            return Err(CommandError::new(&explain_restore::DAMAGED, what));
        }
        let unmounted = directory.unmount();
        drop(directory);
        watch.lap(record, "clean up");
        ended.and(unmounted)
    }

    fn checked<'b>(
        &'b self,
        server: &'b LocalServer,
        tools: &'b DumpTools,
        socket: &'b Path,
    ) -> Checked<'b> {
        let role = &self.local.role;
        Checked { server, role, tools, variables: &self.variables, socket }
    }

    /// Starts a server that only we reach, by a socket in a folder of ours.
    fn server(
        &self,
        tools: &DumpTools,
        data: &Path,
        folder: &Path,
        socket: &Path,
    ) -> Result<LocalServer, CommandError> {
        let hba = Self::private_file(folder, "hba", b"local all all trust\n")?;
        let ident = Self::private_file(folder, "ident", b"")?;
        let mut settings: Vec<(String, String)> = SETTINGS
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect();
        settings.push(("hba_file".to_owned(), hba.display().to_string()));
        settings.push(("ident_file".to_owned(), ident.display().to_string()));
        settings.extend(self.local.settings()?);
        let options = ServerOptions {
            programs: tools.folder.clone(),
            data: data.to_owned(),
            socket: socket.to_owned(),
            port: 5432,
            log: folder.join("log"),
            user: self.user,
            settings,
            variables: self.variables.clone(),
        };
        start(options, &self.local.role)?.ok_or_else(interrupted)
    }

    /// A file that the server reads, and that only we write.
    fn private_file(folder: &Path, name: &str, content: &[u8]) -> Result<PathBuf, CommandError> {
        let path = folder.join(name);
        let mut options = File::options();
        let made = options.write(true).create_new(true).open(&path);
        let made = made.and_then(|mut file| {
            file.set_permissions(Permissions::from_mode(0o644))?;
            file.write_all(content)
        });
        made.map(|()| path.clone()).map_err(|error| {
            CommandError::new(&postgres::LAYER, format!("cannot make {}", path.display()))
                .because(&error)
        })
    }

    /// Waits until recovery is over and the server takes writes.
    fn recovered(
        &self,
        mut server: LocalServer,
        record: &mut DrillRecord,
        watch: &mut Stopwatch,
    ) -> Result<LocalServer, CommandError> {
        loop {
            if let Some(status) = server.ended().map_err(|error| not_started(&error))? {
                let (status, log) = (status.to_string(), server.log_tail());
                return Err(not_started(&PostgresError::Ended { status, log }));
            }
            let asked = server.connect(&self.local.role, MAINTENANCE);
            let is_over = asked.and_then(|mut sql| sql.value("SELECT pg_is_in_recovery()"));
            match is_over {
                Ok(answer) if answer == "f" => break,
                Err(error) if is_final(&error) => return Err(failed(&error)),
                // It is on its way, or ends.
                _ => {}
            }
            if signals().came().is_some() {
                return Err(interrupted());
            }
            std::thread::sleep(POLL);
        }
        watch.lap(record, "recover");
        record.ready_seconds = Some(self.begun.elapsed().as_secs_f64());
        Ok(server)
    }

    /// A dump, into a cluster of its own.
    ///
    /// # Errors
    /// It does not come up; the record has what was seen until then.
    pub fn dump(
        &self,
        reading: &Reading,
        (snapshot, path): (&Snapshot, Option<&str>),
        record: &mut DrillRecord,
        look: &mut Look<'_>,
    ) -> Result<(), CommandError> {
        let mut watch = Stopwatch(self.begun);
        let (root, facts) = dump_of(snapshot, path)?;
        let major = facts.cluster.major().max(facts.tool);
        let tools = self.local.programs(&self.variables, major)?;
        let folder = PrivateFolder::create(&self.local.workspace());
        let folder = folder.map_err(|error| CommandError::classify(&error, &postgres::LAYER))?;
        let own = folder.path();
        let socket = run_folder(own, self.user)?;
        let saved = own.join("saved");
        DirBuilder::new().mode(0o700).create(&saved).map_err(|error| {
            CommandError::new(&postgres::LAYER, "cannot make a folder").because(&error)
        })?;
        let dump = FetchedDump { reading, snapshot, root, folder: &saved };
        let (toc, _) = dump.fetch(&[], self.context)?;
        let beside = |ending: &str| {
            let name = String::from_utf8_lossy(&root.path).into_owned();
            let path = format!("/{name}.{ending}");
            let mut bytes = Vec::new();
            let progress = Progress::default();
            cat(&reading.access, snapshot, path.as_bytes(), &mut bytes, 1, &progress)
                .map(|_| bytes)
                .map_err(|error| CommandError::classify(&error, &explain_restore::DAMAGED))
        };
        let tables: DumpTables =
            serde_json::from_slice(&beside("tables.json")?).map_err(|error| {
                CommandError::new(&postgres::NOT_A_DUMP, "tables.json cannot be understood")
                    .because(&error)
            })?;
        let globals = beside("globals.sql")?;
        watch.lap(record, "prepare");
        let data = socket.join("cluster");
        self.init_cluster(&tools, &data)?;
        let server = self.server(&tools, &data, own, &socket)?;
        watch.lap(record, "start");
        self.add_roles(&server, &globals)?;
        let target = RestoreTarget {
            address: server.address(&self.local.role, &facts.database),
            password: None,
            variables: self.variables.clone(),
        };
        let major = facts.cluster.major();
        let target = match facts.database.as_str() {
            // That one is there already.
            "postgres" => RestoreTarget {
                address: target.address.with_database("postgres_restored"),
                ..target
            },
            _ => target,
        };
        let name = target.address.database.clone();
        let mut database = NewDatabase::prepare(target, major).map_err(|error| failed(&error))?;
        database.create(&toc).map_err(|error| failed(&error))?;
        let place = dump.place();
        let ownership = Ownership::AsSavedWithoutTablespaces;
        let said = database.restore(&tools, &place, None, RESTORE_JOBS, ownership);
        for line in said.map_err(|error| not_restored(&error))? {
            self.context.output.warning(&line);
        }
        database.rename().map_err(|error| failed(&error))?;
        watch.lap(record, "restore");
        record.ready_seconds = Some(self.begun.elapsed().as_secs_f64());
        let checked = self.checked(&server, &tools, &socket);
        let rows = checked.rows_of_dump(&name, &toc, &tables);
        record.newest = Some(facts.moment);
        look(&checked, Some(rows), record);
        watch.lap(record, "check");
        drop(server);
        drop(folder);
        watch.lap(record, "clean up");
        Ok(())
    }

    /// Runs a program of the server's as the server's user.
    fn run(&self, mut command: Command, name: &str) -> Result<(), CommandError> {
        if let Some(RunAs { uid, gid }) = self.user {
            std::os::unix::process::CommandExt::uid(&mut command, uid);
            std::os::unix::process::CommandExt::gid(&mut command, gid);
        }
        command.env_clear().envs(without_settings(&self.variables)).current_dir("/");
        let failed = |what: String| CommandError::new(&postgres::NOT_STARTED, what);
        let output = command.stdin(Stdio::null()).output();
        let output = output.map_err(|error| failed(format!("{name}: {error}")))?;
        if output.status.success() {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        let error = failed(format!("{name} failed ({})", output.status));
        Err(said.lines().fold(error, CommandError::because_text))
    }

    fn init_cluster(&self, tools: &DumpTools, data: &Path) -> Result<(), CommandError> {
        let mut command = Command::new(tools.program("initdb"));
        command.args(["--auth=trust", "--no-sync", "--encoding=UTF8", "--locale=C", "-U"]);
        command.arg(&self.local.role).arg("-D").arg(data);
        self.run(command, "initdb")
    }

    /// Makes the roles that the dump names. Tablespaces are left out: they lie in folders that the
    /// original may still use.
    fn add_roles(&self, server: &LocalServer, globals: &[u8]) -> Result<(), CommandError> {
        let mut sql = server.connect(&self.local.role, MAINTENANCE);
        let sql = sql.as_mut().map_err(|error| failed(error))?;
        let is_kept = |line: &&[u8]| {
            [&b"CREATE ROLE "[..], b"ALTER ROLE ", b"GRANT "]
                .iter()
                .any(|word| line.starts_with(word))
        };
        // The superuser is there already, so that one fails; a role that is missing is seen when
        // what it owns is restored.
        let lines = globals.split(|byte| *byte == b'\n').filter(is_kept);
        for error in lines.filter_map(|line| sql.query_bytes(line).err()) {
            if error.code().is_none() {
                return Err(failed(&error));
            }
        }
        Ok(())
    }
}

/// Whether asking again is of no use: classes 57 (starting, ending) and 53 (busy) pass by.
fn is_final(error: &PostgresError) -> bool {
    error.code().is_some_and(|code| !code.starts_with("57") && !code.starts_with("53"))
}

fn interrupted() -> CommandError {
    CommandError::new(&postgres::NOT_STARTED, "it was told to stop")
}
