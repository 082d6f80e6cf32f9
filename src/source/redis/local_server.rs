//! A server of our own on this host: started on a folder, reached by a socket in it, gone with the
//! value.
//!
//! It listens on no port, keeps nothing outside the folder, and lets nothing expire until it is
//! told to begin: it starts as a replica of nobody, so that what it holds is what was restored.

use std::fs::{File, OpenOptions};
use std::io::{Read as _, Seek as _, SeekFrom};
use std::os::unix::fs::OpenOptionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::format::redis::grammar::Dialect;
use crate::source::postgres::local_server::RunAs;
use crate::source::redis::address::{Address, Host};
use crate::source::redis::connection::{Access, Connection};
use crate::source::redis::error::RedisError;
use crate::source::redis::server::ServerState;
use crate::source::redis::server_program::ServerProgram;
use crate::source::tls::TlsMode;

/// How often is looked whether it has loaded.
const POLL: Duration = Duration::from_millis(20);
/// Bytes of the log's end that are kept for the message.
const LOG_TAIL_BYTES: u64 = 64 * 1024;
/// Databases of a server where nobody says more.
const DATABASES_MIN: u64 = 16;
/// Name of the dump in the folder.
pub const DUMP_FILE: &str = "dump.rdb";
/// Name of the folder in the folder that an append-only file in parts has.
pub const APPEND_ONLY_FOLDER: &str = "appendonlydir";
/// Name of the file in the folder that older servers have instead.
pub const APPEND_ONLY_FILE: &str = "appendonly.aof";

/// How a server is started.
#[derive(Debug, Clone)]
pub struct ServerOptions {
    /// Its program.
    pub program: ServerProgram,
    /// Its folder, with [`DUMP_FILE`], or [`APPEND_ONLY_FOLDER`] or [`APPEND_ONLY_FILE`], which
    /// outweigh it.
    pub folder: PathBuf,
    /// Where its log goes.
    pub log: PathBuf,
    /// Another user than ours, which takes root.
    pub user: Option<RunAs>,
    /// Settings that it has besides; ours outweigh them.
    pub settings: Vec<(String, String)>,
    /// The highest number of a database that it needs.
    pub database_max: u64,
}

/// A running server. Dropped, it is killed.
pub struct LocalServer {
    child: Child,
    log: PathBuf,
    access: Access,
}

impl LocalServer {
    /// Starts the process.
    ///
    /// # Errors
    /// [`RedisError::LocalServer`].
    pub fn start(options: &ServerOptions) -> Result<Self, RedisError> {
        let failed = |path: &Path, error: std::io::Error| RedisError::LocalServer {
            what: format!("{}: {error}", path.display()),
            log: String::new(),
        };
        let mut open = OpenOptions::new();
        let log = open.create_new(true).append(true).mode(0o600).open(&options.log);
        let log = log.map_err(|error| failed(&options.log, error))?;
        let errors = log.try_clone().map_err(|error| failed(&options.log, error))?;
        let program = &options.program.path;
        let mut command = Command::new(program);
        command.args(options.arguments());
        command
            .env_clear()
            .current_dir(&options.folder)
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(errors)
            .process_group(0);
        if let Some(RunAs { uid, gid }) = options.user {
            command.uid(uid).gid(gid);
        }
        let child = command.spawn().map_err(|error| failed(program, error))?;
        let address = Address {
            host: Host::Socket(options.socket()),
            user: None,
            tls: TlsMode::Disable,
            root_certificates: None,
        };
        let access = Access { address, password: None, sentinel_password: None };
        Ok(Self { child, log: options.log.clone(), access })
    }

    /// Connects to it.
    pub fn connect(&self) -> Result<Connection, RedisError> {
        self.access.connect()
    }

    /// Waits until it has loaded its data, or `is_over`: then nothing comes.
    ///
    /// # Errors
    /// [`RedisError::LocalServer`]: it has ended.
    pub fn wait_until_loaded(
        &mut self,
        is_over: &dyn Fn() -> bool,
    ) -> Result<Option<ServerState>, RedisError> {
        loop {
            if let Ok(Some(status)) = self.child.try_wait() {
                let what = format!("the server has ended ({status})");
                return Err(RedisError::LocalServer { what, log: self.log_tail() });
            }
            let asked = self.connect().and_then(|mut connection| {
                // What it says while it loads need not be waited for.
                ServerState::read(&mut connection)
            });
            match asked {
                Ok(state) if !state.is_on("loading") => return Ok(Some(state)),
                _ if is_over() => return Ok(None),
                _ => std::thread::sleep(POLL),
            }
        }
    }

    /// The end of its log.
    #[must_use]
    pub fn log_tail(&self) -> String {
        let mut text = Vec::new();
        if let Ok(mut file) = File::open(&self.log) {
            let length = file.metadata().map_or(0, |metadata| metadata.len());
            let read = file.seek(SeekFrom::Start(length.saturating_sub(LOG_TAIL_BYTES)));
            let _ = read.and_then(|_| file.take(LOG_TAIL_BYTES).read_to_end(&mut text));
        }
        String::from_utf8_lossy(&text).into_owned()
    }
}

impl Drop for LocalServer {
    fn drop(&mut self) {
        // Nothing of it is to stay.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

impl ServerOptions {
    fn socket(&self) -> PathBuf {
        self.folder.join("s")
    }

    fn arguments(&self) -> Vec<String> {
        let folder = self.folder.display().to_string();
        let socket = self.socket().display().to_string();
        let databases = DATABASES_MIN.max(self.database_max.saturating_add(1)).to_string();
        let is_append_only = self.folder.join(APPEND_ONLY_FOLDER).is_dir()
            || self.folder.join(APPEND_ONLY_FILE).is_file();
        let mut words = Vec::new();
        for (name, value) in &self.settings {
            words.push(format!("--{name}"));
            words.extend(value.split_ascii_whitespace().map(str::to_owned));
        }
        let own: [(&str, &[&str]); 12] = [
            ("port", &["0"]),
            ("unixsocket", &[&socket]),
            ("unixsocketperm", &["700"]),
            ("dir", &[&folder]),
            ("dbfilename", &[DUMP_FILE]),
            ("databases", &[&databases]),
            ("daemonize", &["no"]),
            ("logfile", &[""]),
            // Nobody can listen there.
            ("replicaof", &["127.0.0.1", "0"]),
            ("cluster-enabled", &["no"]),
            ("appendonly", &[if is_append_only { "yes" } else { "no" }]),
            ("save", &[""]),
        ];
        for (name, values) in own {
            words.push(format!("--{name}"));
            words.extend(values.iter().map(|value| (*value).to_owned()));
        }
        let is_closed = self.program.kind == Dialect::Valkey || self.program.number() >= (7, 0);
        if is_closed {
            words.extend(["--enable-debug-command", "local"].map(str::to_owned));
        }
        words
    }
}
