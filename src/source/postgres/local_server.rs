//! A server of our own on this host: started on a data directory, reached by a socket, and ended
//! with the value.

use std::fs::{File, OpenOptions};
use std::io::{Read as _, Seek as _, SeekFrom};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::source::postgres::address::{Address, Host};
use crate::source::postgres::connection::{Connection, Purpose};
use crate::source::postgres::dump_tools::{Variables, without_settings};
use crate::source::postgres::error::PostgresError;
use crate::source::tls::TlsMode;

/// How long a connection may take to come about.
const PATIENCE: Duration = Duration::from_secs(30);
/// A database that every cluster has.
pub const MAINTENANCE: &str = "template1";
/// How often is looked whether it answers.
const POLL: Duration = Duration::from_millis(20);
/// `cannot_connect_now`: the server starts, recovers, or ends.
const NOT_YET: &str = "57P03";
/// How long a server may take to stop before it is killed.
const STOP_PATIENCE: Duration = Duration::from_mins(10);
/// How long one that is told to drop everything may take.
const QUIT_PATIENCE: Duration = Duration::from_secs(5);
/// Bytes of the log's end that are kept for the message.
const LOG_TAIL_BYTES: u64 = 64 * 1024;

/// Who a process runs as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RunAs {
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

/// How a server is started.
#[derive(Debug, Clone)]
pub struct ServerOptions {
    /// Folder of its programs.
    pub programs: PathBuf,
    /// Its data directory.
    pub data: PathBuf,
    /// Folder of its socket.
    pub socket: PathBuf,
    /// The number in the socket's name; nothing listens on the network.
    pub port: u16,
    /// Where its log goes; what is there stays.
    pub log: PathBuf,
    /// Another user than ours, which takes root.
    pub user: Option<RunAs>,
    /// Settings that outweigh those of its files.
    pub settings: Vec<(String, String)>,
    /// Its environment.
    pub variables: Variables,
}

/// A running server. Dropped, it ends at once, as if it had crashed.
pub struct LocalServer {
    options: ServerOptions,
    child: Child,
    log_start: u64,
}

/// How far a server is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Readiness {
    /// It takes connections; perhaps not ours.
    Ready,
    /// Not yet.
    Starting,
}

impl LocalServer {
    /// Starts the process.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn start(options: ServerOptions) -> Result<Self, PostgresError> {
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |error: std::io::Error| PostgresError::File { path, what: error.to_string() }
        };
        let mut open = OpenOptions::new();
        let log = open.create(true).append(true).mode(0o600).open(&options.log);
        let log = log.map_err(failed(&options.log))?;
        let log_start = log.metadata().map_err(failed(&options.log))?.len();
        let errors = log.try_clone().map_err(failed(&options.log))?;
        let program = options.programs.join("postgres");
        let mut command = Command::new(&program);
        command.arg("-D").arg(&options.data);
        for (name, value) in options.own_settings().into_iter().chain(options.settings.clone()) {
            command.arg("-c").arg(format!("{name}={value}"));
        }
        command
            .env_clear()
            .envs(without_settings(&options.variables))
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(errors)
            .process_group(0);
        if let Some(RunAs { uid, gid }) = options.user {
            command.uid(uid).gid(gid);
        }
        let child = command.spawn().map_err(failed(&program))?;
        Ok(Self { options, child, log_start })
    }

    /// How to reach a database of it, as that role.
    #[must_use]
    pub fn address(&self, role: &str, database: &str) -> Address {
        Address {
            hosts: vec![Host::Socket(self.options.socket.clone(), self.options.port)],
            user: role.to_owned(),
            database: database.to_owned(),
            tls: TlsMode::Disable,
            root_certificates: None,
            password_file: None,
            patience: PATIENCE,
        }
    }

    /// Connects to a database of it.
    pub fn connect(&self, role: &str, database: &str) -> Result<Connection, PostgresError> {
        Connection::open(&self.address(role, database), Purpose::Sql, None)
    }

    /// Whether it takes connections.
    ///
    /// # Errors
    /// [`PostgresError::Ended`].
    pub fn readiness(&mut self, role: &str) -> Result<Readiness, PostgresError> {
        if let Some(status) = self.ended()? {
            return Err(PostgresError::Ended { status: status.to_string(), log: self.log_tail() });
        }
        Ok(match self.connect(role, MAINTENANCE) {
            Err(PostgresError::Connect { .. } | PostgresError::Broken { .. }) => {
                Readiness::Starting
            }
            Err(error) if error.code() == Some(NOT_YET) => Readiness::Starting,
            // Perhaps it does not let us in, but it is there.
            _ => Readiness::Ready,
        })
    }

    /// Waits until it takes connections, or `is_over`.
    ///
    /// # Errors
    /// [`PostgresError::Ended`].
    pub fn wait_until_ready(
        &mut self,
        role: &str,
        is_over: &dyn Fn() -> bool,
    ) -> Result<Readiness, PostgresError> {
        loop {
            let readiness = self.readiness(role)?;
            if readiness == Readiness::Ready || is_over() {
                return Ok(readiness);
            }
            std::thread::sleep(POLL);
        }
    }

    /// How it has ended, if it has.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>, PostgresError> {
        let failed = |error: std::io::Error| PostgresError::File {
            path: self.options.programs.join("postgres"),
            what: error.to_string(),
        };
        self.child.try_wait().map_err(failed)
    }

    /// Stops it with a last checkpoint, and waits for its end.
    ///
    /// # Errors
    /// It had ended before, or does not end as it should.
    pub fn stop(mut self) -> Result<(), PostgresError> {
        if self.ended()?.is_none() {
            self.signal(Signal::INT);
            self.wait(STOP_PATIENCE);
        }
        match self.ended()? {
            Some(status) if status.success() => Ok(()),
            status => {
                let status = status.map_or("it does not stop".to_owned(), |s| s.to_string());
                Err(PostgresError::Ended { status, log: self.log_tail() })
            }
        }
    }

    fn wait(&mut self, patience: Duration) {
        let begun = Instant::now();
        while matches!(self.ended(), Ok(None)) && begun.elapsed() < patience {
            std::thread::sleep(POLL);
        }
    }

    fn signal(&self, signal: Signal) {
        // It has not been reaped: the number is its own.
        if let Some(pid) = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw) {
            let _ = kill_process(pid, signal);
        }
    }

    /// The end of what it has logged since it was started.
    #[must_use]
    pub fn log_tail(&self) -> String {
        let mut text = Vec::new();
        if let Ok(mut file) = File::open(&self.options.log) {
            let length = file.metadata().map_or(0, |metadata| metadata.len());
            let from = self.log_start.max(length.saturating_sub(LOG_TAIL_BYTES));
            let read = file.seek(SeekFrom::Start(from));
            let _ = read.and_then(|_| file.take(LOG_TAIL_BYTES).read_to_end(&mut text));
        }
        String::from_utf8_lossy(&text).into_owned()
    }
}

impl ServerOptions {
    /// What keeps it to itself: no network, no archive, no file elsewhere.
    fn own_settings(&self) -> Vec<(String, String)> {
        let socket = self.socket.display().to_string();
        let port = self.port.to_string();
        let pid_file = self.socket.join("holdfast.pid").display().to_string();
        let in_data = |name: &str| self.data.join(name).display().to_string();
        let data = self.data.display().to_string();
        let (hba, ident) = (in_data("pg_hba.conf"), in_data("pg_ident.conf"));
        let pairs = [
            // The original's configuration may name its own.
            ("data_directory", &*data),
            ("hba_file", &hba),
            ("ident_file", &ident),
            ("listen_addresses", ""),
            ("unix_socket_directories", &socket),
            ("port", &port),
            ("archive_mode", "off"),
            ("hot_standby", "on"),
            ("ssl", "off"),
            ("logging_collector", "off"),
            ("log_destination", "stderr"),
            ("external_pid_file", &pid_file),
            // What is durable here depends on what the server makes durable.
            ("fsync", "on"),
            ("full_page_writes", "on"),
            // Each file of its own would be opened, and what was laid out is durable.
            ("recovery_init_sync_method", "syncfs"),
            ("allow_in_place_tablespaces", "on"),
            ("unix_socket_group", ""),
            // What is damaged is to be seen.
            ("zero_damaged_pages", "off"),
            ("ignore_checksum_failure", "off"),
            // What would reach out to the original's surroundings, or wait for them.
            ("archive_cleanup_command", ""),
            ("recovery_end_command", ""),
            ("synchronous_standby_names", ""),
            ("max_logical_replication_workers", "0"),
            ("cron.launch_active_jobs", "off"),
        ];
        pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec()
    }
}

impl Drop for LocalServer {
    fn drop(&mut self) {
        if matches!(self.ended(), Ok(None)) {
            self.signal(Signal::QUIT);
            self.wait(QUIT_PATIENCE);
        }
        if matches!(self.ended(), Ok(None)) {
            drop(self.child.kill());
            drop(self.child.wait());
        }
    }
}

/// Numbers of a user of this host.
///
/// # Errors
/// There is none of that name.
pub fn user_of(name: &str) -> Result<RunAs, PostgresError> {
    let user = uzers::get_user_by_name(name);
    let found = user.map(|user| RunAs { uid: user.uid(), gid: user.primary_group_id() });
    found.ok_or_else(|| PostgresError::File {
        path: PathBuf::from(name),
        what: "there is no user of that name".to_owned(),
    })
}

/// Ends the server that an earlier run has left on a data directory, and says where it saw that
/// directory. Only one whose command line names that place is taken for it.
///
/// # Errors
/// It does not end.
pub fn end_left_server(
    pid_file: &Path,
    owner: u32,
    is_own_place: &dyn Fn(&Path) -> bool,
) -> Result<Option<PathBuf>, PostgresError> {
    let Ok(text) = std::fs::read_to_string(pid_file) else { return Ok(None) };
    let mut lines = text.lines();
    let pid = lines.next().and_then(|line| line.trim().parse().ok()).and_then(Pid::from_raw);
    let (Some(pid), Some(data)) = (pid, lines.next()) else { return Ok(None) };
    if !is_own_place(Path::new(data)) {
        return Ok(None);
    }
    let process = format!("/proc/{}", pid.as_raw_nonzero());
    // One that nobody has waited for is none any more.
    let is_there = || {
        let stat = std::fs::read_to_string(format!("{process}/stat"));
        stat.is_ok_and(|stat| !stat.contains(") Z "))
    };
    let arguments = std::fs::read(format!("{process}/cmdline")).unwrap_or_default();
    let is_owners = std::fs::metadata(&process).is_ok_and(|found| found.uid() == owner);
    let program = std::fs::read_link(format!("{process}/exe")).unwrap_or_default();
    let is_it = is_owners
        && program.file_name().is_some_and(|name| name == "postgres")
        && arguments.split(|byte| *byte == 0).any(|word| word == data.as_bytes());
    for signal in [Signal::QUIT, Signal::KILL] {
        if !is_it || !is_there() {
            break;
        }
        let _ = kill_process(pid, signal);
        let begun = Instant::now();
        while is_there() && begun.elapsed() < QUIT_PATIENCE {
            std::thread::sleep(POLL);
        }
    }
    if is_it && is_there() {
        let what = format!("the server of an earlier run, process {pid:?}, does not end");
        return Err(PostgresError::File { path: pid_file.to_owned(), what });
    }
    if !is_there() {
        drop(std::fs::remove_file(pid_file));
    }
    Ok(Some(PathBuf::from(data)))
}
