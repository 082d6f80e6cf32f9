//! Real Redis and Valkey servers for tests, each of one test: in a folder of their own, reached by a
//! socket in it, and ended with the test by their process.

use std::fs::{self, File};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use holdfast::source::redis::address::Address;
use holdfast::source::redis::connection::{Access, Connection};
use holdfast::source::redis::error::RedisError;
use holdfast::source::redis::reply::Reply;
use secrecy::SecretString;
use tempfile::TempDir;

/// Longest time that anything takes on a busy machine.
pub const PATIENCE: Duration = Duration::from_mins(1);
const POLL: Duration = Duration::from_millis(20);

/// The servers that tests run with.
pub const KINDS: [&str; 4] = ["redis-6", "redis-7", "redis-8", "valkey-9"];

/// The program of a server; where it is not there that is said, and the test is skipped.
pub fn server_program(kind: &str) -> Option<PathBuf> {
    let cache = std::env::var_os("XDG_CACHE_HOME").filter(|path| !path.is_empty());
    let home = || PathBuf::from(std::env::var_os("HOME").expect("there is a home")).join(".cache");
    let folder = cache.map_or_else(home, PathBuf::from).join("holdfast-tests").join(kind);
    let path = folder.join("redis-server");
    if path.exists() {
        return Some(path);
    }
    if std::env::var("HOLDFAST_TESTS_WITHOUT").is_ok_and(|without| without == kind) {
        eprintln!("skipped: {kind} cannot be had on this system");
        return None;
    }
    let is_needed = std::env::var_os("CI").is_some_and(|value| value == "true");
    assert!(!is_needed, "{} is not there: tests/run installs it", path.display());
    eprintln!("skipped: {} is not there: tests/run installs it", path.display());
    None
}

/// A folder for `PATH` with the program of a server that every user may run: root's servers of the
/// program run as another one.
pub fn public_program(kind: &str) -> Option<TempDir> {
    let program = server_program(kind)?;
    let folder = tempfile::Builder::new().prefix("redis").tempdir_in("/tmp").unwrap();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
    // With what it may need beside it.
    for file in fs::read_dir(program.parent().unwrap()).unwrap() {
        let file = file.unwrap();
        fs::copy(file.path(), folder.path().join(file.file_name())).unwrap();
    }
    Some(folder)
}

/// A server that is running, or was stopped.
pub struct RedisServer {
    program: PathBuf,
    arguments: Vec<String>,
    process: Option<Child>,
    folder: TempDir,
}

impl RedisServer {
    /// A new server, with words of its command line; nothing where its program is not there.
    pub fn start(kind: &str, arguments: &[&str]) -> Option<Self> {
        let folder = tempfile::Builder::new().prefix("redis").tempdir_in("/tmp").unwrap();
        Self::start_in(kind, folder, arguments)
    }

    /// The same on the files of a folder.
    pub fn start_in(kind: &str, folder: TempDir, arguments: &[&str]) -> Option<Self> {
        let program = server_program(kind)?;
        let mut words: Vec<String> =
            ["--port", "0", "--save", "", "--unixsocket", "server.sock"].map(str::to_owned).into();
        if kind != "redis-6" {
            words.extend(["--enable-debug-command", "yes"].map(str::to_owned));
        }
        words.extend(["--repl-diskless-sync-delay", "0"].map(str::to_owned));
        words.extend(arguments.iter().map(|word| (*word).to_owned()));
        let mut this = Self { program, arguments: words, process: None, folder };
        this.start_again();
        Some(this)
    }

    /// Starts a server that was stopped or killed, and waits until it answers.
    pub fn start_again(&mut self) {
        assert!(self.process.is_none(), "the server runs");
        let log = File::options().create(true).append(true).open(self.path("log")).unwrap();
        // It ends also when this process is killed.
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL"]).arg(&self.program).args(&self.arguments);
        command.args(["--dir", self.folder.path().to_str().unwrap()]);
        command.current_dir(self.folder.path()).stdin(Stdio::null());
        self.process = Some(command.stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap());
        let begun = Instant::now();
        while !self.answers() {
            assert!(begun.elapsed() < PATIENCE, "it does not answer:\n{}", self.log());
            let ended = self.process.as_mut().unwrap().try_wait().unwrap();
            assert!(ended.is_none(), "it has ended:\n{}", self.log());
            std::thread::sleep(POLL);
        }
    }

    fn answers(&self) -> bool {
        let Ok(mut connection) = self.access(None).connect() else { return false };
        match connection.command(&[b"PING"], "waiting") {
            Ok(_) => true,
            Err(error) => matches!(error.code(), Some("NOAUTH" | "NOPERM")),
        }
    }

    /// A file in the server's folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.path("log")).unwrap_or_default()
    }

    /// Its address, by the socket.
    pub fn uri(&self) -> String {
        format!("unix://{}", self.path("server.sock").display())
    }

    pub fn access(&self, password: Option<&str>) -> Access {
        let address = Address::parse(&self.uri()).unwrap();
        let password = password.map(SecretString::from);
        Access { address, password, sentinel_password: None }
    }

    pub fn connect(&self) -> Connection {
        self.access(None).connect().unwrap()
    }

    /// The answer to a command, as text; arguments have no spaces.
    pub fn ask(&self, command: &str) -> String {
        shown(ask(&mut self.connect(), command).unwrap())
    }

    /// Fills it with so many keys of some hundred bytes that do not compress.
    pub fn fill(&self, keys: u32) {
        self.ask(&format!("DEBUG POPULATE {keys} key 300"));
    }

    /// The digest of all data.
    pub fn digest(&self) -> String {
        self.ask("DEBUG DIGEST")
    }

    pub fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill().unwrap();
            process.wait().unwrap();
        }
    }

    /// Waits until what `INFO` says fits.
    pub fn wait_until(&self, what: &str, is_so: impl Fn(&str) -> bool) {
        let begun = Instant::now();
        while !is_so(&self.ask("INFO")) {
            assert!(begun.elapsed() < PATIENCE, "never came: {what}\n{}", self.log());
            std::thread::sleep(POLL);
        }
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        self.kill();
    }
}

pub fn ask(connection: &mut Connection, command: &str) -> Result<Reply, RedisError> {
    let words: Vec<&[u8]> = command.split(' ').map(str::as_bytes).collect();
    connection.command(&words, "waiting for an answer")
}

pub fn shown(reply: Reply) -> String {
    match reply {
        Reply::Line(text) | Reply::Error(text) => text,
        Reply::Number(number) => number.to_string(),
        Reply::Bulk(bytes) => String::from_utf8_lossy(&bytes.unwrap_or_default()).into_owned(),
        Reply::Array(replies) => replies.into_iter().map(shown).collect::<Vec<_>>().join(" "),
    }
}

/// A port that nothing listens on, below those that the system hands out itself.
pub fn free_port() -> u16 {
    for _ in 0..1000 {
        let port = 11_000 + (getrandom::u32().unwrap() % 5000) as u16;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
    panic!("no free port");
}

/// Whether a dump is one, by the tool of Redis: that of a new server is its program by that name.
pub fn check_dump(kind: &str, dump: &Path) {
    let folder = tempfile::tempdir().unwrap();
    let mut tool = PathBuf::from("redis-check-rdb");
    if kind == "redis-8" {
        tool = folder.path().join(tool);
        std::os::unix::fs::symlink(server_program(kind).unwrap(), &tool).unwrap();
    }
    let output = Command::new(tool).arg(dump).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.contains("RDB looks OK"), "{said}");
}
