//! One connection to a server: getting in, commands and their answers, the bytes of replication.
//!
//! Blocking, one thread each. Nothing is retried here: who needs a connection anew makes one.

use std::io::{ErrorKind, Read as _};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use secrecy::{ExposeSecret as _, SecretString};
use zeroize::Zeroizing;

use crate::format::redis::command_stream::encode_command;
use crate::source::redis::address::{Address, Host};
use crate::source::redis::error::RedisError;
use crate::source::redis::reply::{Front, Reply, front};
use crate::source::redis::sentinel::find;
use crate::source::socket::{Socket, connect_tcp};
use crate::source::tls::{TlsMode, wrap};

/// Bytes that are asked for from the system at once.
pub const READ_BYTES: usize = 256 * 1024;
/// A connection comes about so fast, and a command is answered so fast.
const PATIENCE: Duration = Duration::from_secs(30);

/// The way to a server.
#[derive(Clone)]
pub struct Access {
    /// Where it is.
    pub address: Address,
    /// The password, where there is one.
    pub password: Option<SecretString>,
    /// That of the sentinels, where there is one.
    pub sentinel_password: Option<SecretString>,
}

impl Access {
    /// Connects, and proves who we are where there is a password. Sentinels are asked for the
    /// server, each time anew.
    ///
    /// # Errors
    /// Nobody answers, no TLS, or the server does not let us in; it is a whole cluster.
    pub fn connect(&self) -> Result<Connection, RedisError> {
        match &self.address.host {
            Host::Sentinel(sentinels) => find(self, sentinels)?.connect_within(PATIENCE),
            _ => self.connect_within(PATIENCE),
        }
    }

    /// The same, where the host answers so fast; sentinels are not asked.
    ///
    /// # Errors
    /// As [`Access::connect`].
    pub fn connect_within(&self, patience: Duration) -> Result<Connection, RedisError> {
        let mut connection = Connection::open(&self.address, patience)?;
        if let Some(password) = &self.password {
            let user = self.address.user.as_deref();
            connection.log_in(user, password)?;
        }
        Ok(connection)
    }
}

/// A connection that is ready for commands.
pub struct Connection {
    socket: Socket,
    /// What came and was not taken yet.
    inbox: Vec<u8>,
    /// When bytes came last.
    heard: Instant,
    shown: String,
}

impl Connection {
    fn open(address: &Address, patience: Duration) -> Result<Self, RedisError> {
        let shown = address.host.to_string();
        let connect = |source| RedisError::Connect { address: shown.clone(), source };
        let socket = match &address.host {
            Host::Socket(path) => Socket::Unix(UnixStream::connect(path).map_err(connect)?),
            Host::Tcp(name, port) => {
                let stream = connect_tcp(name, *port, patience).map_err(connect)?;
                stream.set_nodelay(true).map_err(connect)?;
                if address.tls == TlsMode::Disable {
                    Socket::Tcp(stream)
                } else {
                    let trust = (address.tls, address.root_certificates.as_deref());
                    let tls = wrap(trust, name, stream);
                    let failed = |what| RedisError::Tls { address: shown.clone(), what };
                    Socket::Tls(Box::new(tls.map_err(failed)?))
                }
            }
            Host::Sentinel(_) | Host::Cluster(_) => {
                let what = format!("{shown}: this can be done with one server only");
                return Err(RedisError::Address { what });
            }
        };
        socket.set_read_timeout(Some(PATIENCE)).map_err(connect)?;
        Ok(Self { socket, inbox: Vec::new(), heard: Instant::now(), shown })
    }

    fn log_in(&mut self, user: Option<&str>, password: &SecretString) -> Result<(), RedisError> {
        let password = password.expose_secret().as_bytes();
        let words: &[&[u8]] = match user {
            Some(user) => &[b"AUTH", user.as_bytes(), password],
            None => &[b"AUTH", password],
        };
        let command = Zeroizing::new(encode_command(words));
        self.send(&command)?;
        self.answer("logging in").map(drop)
    }

    /// How long nothing has come.
    #[must_use]
    pub fn silent_for(&self) -> Duration {
        self.heard.elapsed()
    }

    /// Host and port, or the path of the socket.
    #[must_use]
    pub fn shown(&self) -> &str {
        &self.shown
    }

    /// How long the server may be silent where bytes are waited for.
    pub fn set_patience(&self, patience: Duration) -> Result<(), RedisError> {
        let broken = |source| self.broken("setting a timeout", source);
        self.socket.set_read_timeout(Some(patience)).map_err(broken)
    }

    /// Sends bytes as they are.
    pub fn send(&mut self, bytes: &[u8]) -> Result<(), RedisError> {
        let sent = self.socket.write_all(bytes);
        sent.map_err(|source| self.broken("sending", source))
    }

    /// Sends a command and takes its answer.
    ///
    /// # Errors
    /// [`RedisError::Server`] where the answer is an error.
    pub fn command(&mut self, words: &[&[u8]], doing: &'static str) -> Result<Reply, RedisError> {
        self.send(&encode_command(words))?;
        self.answer(doing)
    }

    /// The next answer. Empty lines before it, by which a server at work is alive, mean nothing.
    pub fn answer(&mut self, doing: &'static str) -> Result<Reply, RedisError> {
        loop {
            let empty = self.inbox.iter().take_while(|byte| **byte == b'\n').count();
            self.inbox.drain(..empty);
            match front(&self.inbox) {
                Front::Whole(reply, length) => {
                    self.inbox.drain(..length);
                    return match reply {
                        Reply::Error(message) => Err(self.said(message)),
                        reply => Ok(reply),
                    };
                }
                Front::Incomplete => {
                    let mut buffer = vec![0; 16 * 1024];
                    let length = self.receive(&mut buffer, doing)?;
                    self.inbox.extend_from_slice(&buffer[..length]);
                }
                Front::Unknown => {
                    let what = format!("an unexpected answer while {doing}");
                    return Err(RedisError::Protocol { address: self.shown.clone(), what });
                }
            }
        }
    }

    /// Fills the front of `buffer` with what comes next, at least one byte.
    ///
    /// # Errors
    /// [`RedisError::Broken`]: also where the server closed the connection, or was silent for too
    /// long ([`is_silence`]).
    pub fn read(&mut self, buffer: &mut [u8], doing: &'static str) -> Result<usize, RedisError> {
        if self.inbox.is_empty() {
            return self.receive(buffer, doing);
        }
        let length = self.inbox.len().min(buffer.len());
        buffer[..length].copy_from_slice(&self.inbox[..length]);
        self.inbox.drain(..length);
        Ok(length)
    }

    /// Gives bytes back that were read too far.
    pub fn unread(&mut self, bytes: &[u8]) {
        self.inbox.splice(..0, bytes.iter().copied());
    }

    fn receive(&mut self, buffer: &mut [u8], doing: &'static str) -> Result<usize, RedisError> {
        loop {
            match self.socket.read(buffer) {
                Ok(0) => return Err(self.broken(doing, ErrorKind::UnexpectedEof.into())),
                Ok(length) => {
                    self.heard = Instant::now();
                    return Ok(length);
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(source) => return Err(self.broken(doing, source)),
            }
        }
    }

    fn broken(&self, doing: &'static str, source: std::io::Error) -> RedisError {
        RedisError::Broken { address: self.shown.clone(), doing, source }
    }

    /// The error that the server's message is.
    #[must_use]
    pub fn said(&self, message: String) -> RedisError {
        RedisError::Server { address: self.shown.clone(), message }
    }
}

/// Whether the server only was silent for as long as it may be.
#[must_use]
pub fn is_silence(error: &RedisError) -> bool {
    let silent = [ErrorKind::WouldBlock, ErrorKind::TimedOut];
    matches!(error, RedisError::Broken { source, .. } if silent.contains(&source.kind()))
}
