//! Real `PostgreSQL` servers for tests, each of one test: in a folder of their own, reached by a
//! socket in it, and ended with the test by their process. As root they run as user `postgres`.

use std::ffi::OsStr;
use std::fmt::Write as _;
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{Read, Seek, SeekFrom, Write as _};
use std::net::TcpListener;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, lchown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

/// Longest time that anything takes on a busy machine.
const PATIENCE: Duration = Duration::from_mins(1);
const POLL: Duration = Duration::from_millis(20);
const SOCKET_PORT: u16 = 5432;

/// The setting with which a server listens on a free port of loopback too.
pub const ON_LOOPBACK: &str = "listen_addresses=127.0.0.1";

/// What every server has where nothing else is asked for. Shared memory lies in files of the data
/// folder, where a killed server leaves nothing behind on the machine.
const DEFAULT_SETTINGS: [&str; 3] =
    ["fsync=off", "full_page_writes=on", "dynamic_shared_memory_type=mmap"];

/// The major versions that tests run with: the oldest, and those with incremental base backups.
pub fn versions() -> &'static [u32] {
    &[15, 17, 18]
}

/// A program of one version.
pub fn bin(version: u32, program: &str) -> PathBuf {
    let folder = match version {
        15 => PathBuf::from("/usr/lib/postgresql/15"),
        _ => cache().join(format!("postgres-{version}")),
    };
    let path = folder.join("bin").join(program);
    assert!(path.is_file(), "{} is not there: tests/run installs it", path.display());
    path
}

/// Where `tests/run` puts the servers that are no packages of the system.
fn cache() -> PathBuf {
    if server_user().is_some() {
        return PathBuf::from("/var/cache/holdfast-tests");
    }
    let cache = std::env::var_os("XDG_CACHE_HOME").filter(|path| !path.is_empty());
    let home = || PathBuf::from(std::env::var_os("HOME").expect("there is a home")).join(".cache");
    cache.map_or_else(home, PathBuf::from).join("holdfast-tests")
}

/// User and group that servers run as, if it is not the user of the tests.
pub fn server_user() -> Option<(u32, u32)> {
    static USER: OnceLock<Option<(u32, u32)>> = OnceLock::new();
    *USER.get_or_init(|| {
        let id = |arguments: &[&str]| {
            let output = Command::new("id").args(arguments).output().unwrap();
            let text = String::from_utf8(output.stdout).unwrap();
            text.trim().parse::<u32>().expect("the user postgres is there: tests/run makes it")
        };
        (id(&["-u"]) == 0).then(|| (id(&["-u", "postgres"]), id(&["-g", "postgres"])))
    })
}

/// An empty folder with a short name that belongs to the servers' user, for restored data
/// directories, repositories of an `archive_command` and the like.
pub fn servers_folder() -> TempDir {
    // The name of a socket has 107 bytes at most, and the parents of a data directory are entered
    // by the servers' user: $TMPDIR promises neither.
    let folder = tempfile::Builder::new().prefix("pg").tempdir_in("/tmp").unwrap();
    hand_over(folder.path());
    folder
}

/// Gives a tree to the servers' user, and lets only that user enter it. Symbolic links are given
/// away, what they lead to is not. Temporary folders above it can be entered from then on.
pub fn hand_over(path: &Path) {
    if let Some((user, group)) = server_user() {
        give(path, user, group);
        let temporary = std::env::temp_dir();
        for parent in path.ancestors().skip(1) {
            let is_inside = |top: &Path| parent.starts_with(top) && parent != top;
            if is_inside(Path::new("/tmp")) || is_inside(&temporary) {
                let mode = fs::metadata(parent).unwrap().permissions().mode() | 0o001;
                fs::set_permissions(parent, Permissions::from_mode(mode)).unwrap();
            }
        }
    }
    fs::set_permissions(path, Permissions::from_mode(0o700)).unwrap();
}

fn give(path: &Path, user: u32, group: u32) {
    lchown(path, Some(user), Some(group)).unwrap();
    if fs::symlink_metadata(path).unwrap().is_dir() {
        for entry in fs::read_dir(path).unwrap() {
            give(&entry.unwrap().path(), user, group);
        }
    }
}

/// A program as the servers' user, without settings of `PostgreSQL` from outside.
fn as_server_user(program: &Path, folder: &Path) -> Command {
    let mut command = Command::new(program);
    for (name, _) in std::env::vars_os() {
        if name.as_bytes().starts_with(b"PG") {
            command.env_remove(name);
        }
    }
    if let Some((user, group)) = server_user() {
        command.uid(user).gid(group);
    }
    command.env("LC_ALL", "C").env("HOME", folder).current_dir(folder);
    command
}

/// A port that nothing listens on, below those that the system hands out itself.
fn free_port() -> u16 {
    for _ in 0..1000 {
        let port = 6000 + (getrandom::u32().unwrap() % 5000) as u16;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
    panic!("no free port");
}

/// A server, and the folder that its socket, its log and, if it is new, its data lie in. It ends
/// with the value, and with the thread that started it.
pub struct PostgresServer {
    version: u32,
    data: PathBuf,
    /// Given on its command line, where they outweigh the configuration file.
    arguments: Vec<String>,
    port: u16,
    process: Option<Child>,
    /// Length of the log when the server was started last.
    log_start: u64,
    /// Segment of shared memory that a killed server left: the next start removes it.
    left_segment: Option<String>,
    folder: TempDir,
}

impl PostgresServer {
    /// A new server with the default settings.
    pub fn start(version: u32) -> Self {
        Self::with(version, &[], &[])
    }

    /// A new server: settings as `name=value`, which go to `postgresql.conf`, and further words for
    /// `initdb`, where the last one counts.
    pub fn with(version: u32, settings: &[&str], initdb_arguments: &[&str]) -> Self {
        let folder = servers_folder();
        let data = folder.path().join("data");
        let output = as_server_user(&bin(version, "initdb"), folder.path())
            .args(["-A", "trust", "-U", "postgres", "-k", "--no-sync", "-E", "UTF8"])
            .args(["--locale=C", "-D"])
            .arg(&data)
            .args(initdb_arguments)
            .output()
            .unwrap();
        assert!(output.status.success(), "initdb {version}: {}", said(&output));
        let mut lines = String::new();
        for setting in DEFAULT_SETTINGS.iter().chain(settings) {
            let (name, value) = setting.split_once('=').expect("a setting is name=value");
            let value = value.replace('\\', "\\\\").replace('\'', "''");
            writeln!(lines, "{name} = '{value}'").unwrap();
        }
        let configuration = data.join("postgresql.conf");
        let mut configuration = OpenOptions::new().append(true).open(configuration).unwrap();
        configuration.write_all(lines.as_bytes()).unwrap();
        let mut this = Self::of(version, &data, folder, settings);
        this.start_again();
        this
    }

    /// A server on a data directory that is there, such as a restored one, which belongs to the
    /// servers' user. Settings go to the command line: nothing in it outweighs them. What its own
    /// `postgresql.conf` says of archiving holds: give `archive_mode=off` for a copy.
    pub fn on(version: u32, data_dir: &Path, settings: &[&str]) -> Self {
        Self::try_on(version, data_dir, settings)
            .unwrap_or_else(|log| panic!("PostgreSQL {version} does not start:\n{log}"))
    }

    /// As [`Self::on`], or what the log says if the server ends before it accepts connections.
    pub fn try_on(version: u32, data_dir: &Path, settings: &[&str]) -> Result<Self, String> {
        let mut this = Self::of(version, data_dir, servers_folder(), settings);
        for setting in DEFAULT_SETTINGS.iter().chain(settings) {
            this.arguments.extend(["-c".to_owned(), (*setting).to_owned()]);
        }
        this.launch()?;
        Ok(this)
    }

    fn of(version: u32, data: &Path, folder: TempDir, settings: &[&str]) -> Self {
        let is_on_loopback = settings.contains(&ON_LOOPBACK);
        let port = if is_on_loopback { free_port() } else { SOCKET_PORT };
        let listen = if is_on_loopback { ON_LOOPBACK } else { "listen_addresses=" };
        let mut arguments = Vec::new();
        for setting in [
            &format!("port={port}"),
            &format!("unix_socket_directories={}", folder.path().display()),
            listen,
            "logging_collector=off",
            "log_destination=stderr",
        ] {
            arguments.extend(["-c".to_owned(), setting.to_owned()]);
        }
        Self {
            version,
            data: fs::canonicalize(data).expect("the data directory is there"),
            arguments,
            port,
            process: None,
            log_start: 0,
            left_segment: None,
            folder,
        }
    }

    /// The major version.
    pub fn version(&self) -> u32 {
        self.version
    }

    /// Folder of the socket, which belongs to the servers' user and goes with the value: the place
    /// for tablespaces too. Client programs run in it.
    pub fn socket_dir(&self) -> &Path {
        self.folder.path()
    }

    /// The data directory.
    pub fn data_dir(&self) -> &Path {
        &self.data
    }

    /// The port, which is in the name of the socket too.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Address of a database, by the socket.
    pub fn uri(&self, database: &str) -> String {
        let (folder, port) = (self.socket_dir().display(), self.port);
        format!("postgresql:///{database}?host={folder}&port={port}&user=postgres")
    }

    /// Id of the server's first process.
    pub fn pid(&self) -> u32 {
        self.process.as_ref().expect("the server runs").id()
    }

    /// Whether the server was started and has not ended.
    pub fn is_running(&mut self) -> bool {
        self.process.as_mut().is_some_and(|process| process.try_wait().unwrap().is_none())
    }

    /// What the server has logged since it was started last.
    pub fn log(&self) -> String {
        let mut text = Vec::new();
        if let Ok(mut file) = File::open(self.log_path()) {
            file.seek(SeekFrom::Start(self.log_start)).unwrap();
            file.read_to_end(&mut text).unwrap();
        }
        String::from_utf8_lossy(&text).into_owned()
    }

    fn log_path(&self) -> PathBuf {
        self.folder.path().join("server.log")
    }

    /// Rows of the last statements: columns parted by `|`, without the last line end. Statements
    /// are transactions of their own, and `psql` knows its `\` commands.
    pub fn sql(&self, database: &str, text: &str) -> String {
        self.try_sql(database, text).unwrap_or_else(|error| {
            panic!("{error}\nin: {text}\nthe log of the server:\n{}", self.log())
        })
    }

    /// As [`Self::sql`], or what `psql` said of the statement that failed.
    pub fn try_sql(&self, database: &str, text: &str) -> Result<String, String> {
        let mut child = self
            .command("psql")
            .args(["-XAtq", "-v", "ON_ERROR_STOP=1", "-d", database, "-f", "-"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdin = child.stdin.take().expect("it is piped");
        let output = std::thread::scope(|scope| {
            // It reads no further than to an error.
            scope.spawn(move || stdin.write_all(text.as_bytes()));
            child.wait_with_output().unwrap()
        });
        if !output.status.success() {
            return Err(String::from_utf8_lossy(&output.stderr).trim_end().to_owned());
        }
        Ok(String::from_utf8(output.stdout).unwrap().trim_end_matches('\n').to_owned())
    }

    /// A client program of the server's version, as the servers' user in [`Self::socket_dir`],
    /// with the server and database `postgres` in its environment.
    pub fn command(&self, program: &str) -> Command {
        let mut command = as_server_user(&bin(self.version, program), self.folder.path());
        command
            .env("PGHOST", self.socket_dir())
            .env("PGPORT", self.port.to_string())
            .env("PGUSER", "postgres")
            .env("PGDATABASE", "postgres");
        command
    }

    /// Output of a client program that succeeds.
    pub fn run(&self, program: &str, arguments: &[impl AsRef<OsStr>]) -> String {
        let output = self.try_run(program, arguments);
        assert!(output.status.success(), "{program}: {}\n{}", said(&output), self.log());
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Outcome of a client program.
    pub fn try_run(&self, program: &str, arguments: &[impl AsRef<OsStr>]) -> Output {
        self.command(program).args(arguments).stdin(Stdio::null()).output().unwrap()
    }

    /// Waits until a query, such as `select not pg_is_in_recovery()`, says yes.
    pub fn wait_until(&self, database: &str, query: &str) {
        let begun = Instant::now();
        while self.sql(database, query) != "t" {
            assert!(begun.elapsed() < PATIENCE, "never came: {query}\n{}", self.log());
            std::thread::sleep(POLL);
        }
    }

    /// Waits until recovery is over and the server takes writes, or until it has ended, as it does
    /// where the recovery target is not reached: then what its log says.
    pub fn wait_for_recovery(&mut self) -> Result<(), String> {
        let begun = Instant::now();
        while self.is_running() {
            let answer = self.try_sql("postgres", "select pg_is_in_recovery()");
            if answer.as_deref() == Ok("f") {
                return Ok(());
            }
            assert!(begun.elapsed() < PATIENCE, "it still recovers:\n{}", self.log());
            std::thread::sleep(POLL);
        }
        self.forget_process();
        Err(self.log())
    }

    /// Ends recovery, and waits until the server takes writes.
    pub fn promote(&mut self) {
        let arguments = ["promote", "-w", "-t", "60", "-D"].map(OsStr::new);
        self.run("pg_ctl", &[&arguments[..], &[self.data.as_os_str()]].concat());
        self.wait_for_recovery().unwrap_or_else(|log| panic!("it ended at promotion:\n{log}"));
    }

    /// Stops the server with a last checkpoint (`fast`), and waits for its end.
    pub fn stop(&mut self) {
        self.signal(Signal::INT);
        assert!(self.has_ended_after(PATIENCE), "it does not stop:\n{}", self.log());
        self.forget_process();
    }

    /// Starts a server that was stopped or killed, and waits until it accepts connections.
    pub fn start_again(&mut self) {
        let version = self.version;
        self.launch().unwrap_or_else(|log| panic!("PostgreSQL {version} does not start:\n{log}"));
    }

    /// Kills the server's first process, as a crash of the machine would, and waits until the
    /// others, which then end by themselves, are gone.
    pub fn kill(&mut self) {
        self.signal(Signal::KILL);
        self.process.as_mut().expect("the server runs").wait().unwrap();
        self.forget_process();
        self.left_segment = self.pid_file_line(7).and_then(|line| {
            let segment = line.split_whitespace().nth(1)?;
            Some(segment.to_owned())
        });
    }

    fn signal(&mut self, signal: Signal) {
        assert!(self.is_running(), "the server has ended by itself:\n{}", self.log());
        let pid = Pid::from_raw(i32::try_from(self.pid()).unwrap()).unwrap();
        kill_process(pid, signal).unwrap();
    }

    /// Starts the process; what it logged if it ends before it accepts connections.
    fn launch(&mut self) -> Result<(), String> {
        assert!(self.process.is_none(), "the server runs");
        let log = OpenOptions::new().create(true).append(true).open(self.log_path()).unwrap();
        self.log_start = log.metadata().unwrap().len();
        let program = bin(self.version, "postgres");
        // It ends also when this process is killed.
        let mut command = as_server_user(Path::new("setpriv"), self.folder.path());
        let process = command
            .args(["--pdeathsig", "KILL"])
            .arg(program)
            .arg("-D")
            .arg(&self.data)
            .args(&self.arguments)
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        self.process = Some(process);
        let begun = Instant::now();
        while self.is_running() {
            if self.accepts_connections() {
                self.left_segment = None;
                return Ok(());
            }
            assert!(begun.elapsed() < PATIENCE, "it does not start:\n{}", self.log());
            std::thread::sleep(POLL);
        }
        self.forget_process();
        Err(self.log())
    }

    /// As `pg_ctl` finds out: the server says so in its file, also as a standby without queries.
    fn accepts_connections(&self) -> bool {
        let is_of_this_process = self.pid_file_line(1) == Some(self.pid().to_string());
        let state = self.pid_file_line(8);
        is_of_this_process && matches!(state.as_deref(), Some("ready" | "standby"))
    }

    fn pid_file_line(&self, number: usize) -> Option<String> {
        let text = fs::read_to_string(self.data.join("postmaster.pid")).ok()?;
        Some(text.lines().nth(number - 1)?.trim().to_owned())
    }

    fn has_ended_after(&mut self, patience: Duration) -> bool {
        let begun = Instant::now();
        while self.is_running() && begun.elapsed() < patience {
            std::thread::sleep(POLL);
        }
        !self.is_running()
    }

    /// Of a process that has ended: waits until all others of this data directory are gone.
    fn forget_process(&mut self) {
        self.process = None;
        let begun = Instant::now();
        while is_some_server_in(&self.data) {
            assert!(begun.elapsed() < PATIENCE, "processes stay:\n{}", self.log());
            std::thread::sleep(POLL);
        }
    }
}

impl Drop for PostgresServer {
    fn drop(&mut self) {
        if self.is_running() {
            // Without a checkpoint (`immediate`), but it gives back what it has of the system.
            self.signal(Signal::QUIT);
            if !self.has_ended_after(Duration::from_secs(10))
                && let Some(process) = &mut self.process
            {
                let _ = process.kill();
                let _ = process.wait();
            }
        }
        let begun = Instant::now();
        while is_some_server_in(&self.data) && begun.elapsed() < Duration::from_secs(10) {
            std::thread::sleep(POLL);
        }
        if let Some(segment) = &self.left_segment {
            let _ = Command::new("ipcrm").args(["-m", segment]).stderr(Stdio::null()).status();
        }
    }
}

/// Whether any process of a server works in this data directory, as each of them does.
fn is_some_server_in(data: &Path) -> bool {
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    processes.map(|entry| entry.path()).any(|process| {
        let link = |name| fs::read_link(process.join(name)).ok();
        let is_server = |program: PathBuf| program.file_name() == Some(OsStr::new("postgres"));
        link("cwd").as_deref() == Some(data) && link("exe").is_some_and(is_server)
    })
}

fn said(output: &Output) -> String {
    let [stdout, stderr] =
        [&output.stdout, &output.stderr].map(|text| String::from_utf8_lossy(text));
    format!("{}\n{stdout}{stderr}", output.status)
}

#[test]
fn starts_stops_and_survives_a_kill() {
    for &version in versions() {
        let mut server = PostgresServer::with(version, &["wal_level=replica"], &[]);
        assert_eq!(server.sql("postgres", "select 1"), "1");
        let shown = server.sql("postgres", "show server_version; show data_checksums");
        assert!(shown.starts_with(&format!("{version}.")) && shown.ends_with("\non"), "{shown}");
        server.sql("postgres", "create database shop; create table t as select 1 as a");
        assert!(server.try_sql("shop", "select 1 / 0").unwrap_err().contains("division by zero"));
        server.kill();
        assert!(server.try_sql("postgres", "select 1").is_err());
        server.start_again();
        assert!(server.log().contains("automatic recovery"), "{}", server.log());
        server.stop();
        server.start_again();
        assert_eq!(server.sql("postgres", "table t"), "1");
        assert_eq!(server.run("psql", &["-XAtc", "select 2", &server.uri("shop")]), "2\n");
    }
}

#[test]
fn a_base_backup_starts_and_is_promoted() {
    for &version in versions() {
        let server = PostgresServer::with(version, &[ON_LOOPBACK, "max_wal_senders=3"], &[]);
        server.sql("postgres", "create table t as select generate_series(1, 1000) as a");
        let folder = servers_folder();
        let copy = folder.path().join("copy").display().to_string();
        let port = server.port().to_string();
        server.run("pg_basebackup", &["-D", &copy, "-c", "fast", "-h", "127.0.0.1", "-p", &port]);
        server.run("pg_verifybackup", &[&copy]);
        let copy = Path::new(&copy);
        File::create(copy.join("standby.signal")).unwrap();
        hand_over(copy);
        let mut standby = PostgresServer::on(version, copy, &["restore_command=false"]);
        assert_eq!(
            standby.sql("postgres", "select pg_is_in_recovery(), count(*) from t"),
            "t|1000"
        );
        standby.promote();
        standby.wait_until("postgres", "select not pg_is_in_recovery()");
        standby.sql("postgres", "insert into t values (0)");
        standby.stop();
        assert_eq!(standby.data_dir(), copy);
        assert_eq!(standby.version(), version);

        fs::write(copy.join("PG_VERSION"), "9.6\n").unwrap();
        let log = PostgresServer::try_on(version, copy, &[]).map(drop).unwrap_err();
        assert!(log.contains("incompatible"), "{log}");
    }
}

#[test]
fn a_recovery_target_that_is_not_reached_is_said() {
    for &version in versions() {
        let server = PostgresServer::start(version);
        let folder = servers_folder();
        let copy = folder.path().join("copy");
        server.run("pg_basebackup", &["-c", "fast", "-D", &copy.display().to_string()]);
        File::create(copy.join("recovery.signal")).unwrap();
        hand_over(&copy);
        let target = ["restore_command=false", "recovery_target_name=nowhere"];
        let recovered = PostgresServer::try_on(version, &copy, &target)
            .and_then(|mut server| server.wait_for_recovery());
        let log = recovered.unwrap_err();
        assert!(log.contains("before configured recovery target was reached"), "{log}");
    }
}
