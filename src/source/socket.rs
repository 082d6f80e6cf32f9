//! The bytes of a connection, whatever carries them: TCP, a socket of this host, TLS.
//!
//! Blocking; what comes later than the timeout is an error of `WouldBlock` or `TimedOut`.

use std::io::{Read, Write};
use std::net::{TcpStream, ToSocketAddrs as _};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use crate::source::tls::TlsStream;

/// An open connection.
pub enum Socket {
    /// Bare TCP.
    Tcp(TcpStream),
    /// A socket of this host.
    Unix(UnixStream),
    /// TLS over TCP.
    Tls(Box<TlsStream<TcpStream>>),
}

impl Read for Socket {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.read(buffer),
            Self::Unix(stream) => stream.read(buffer),
            Self::Tls(stream) => stream.read(buffer),
        }
    }
}

impl Socket {
    /// Sends all of it.
    pub fn write_all(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        match self {
            Self::Tcp(stream) => stream.write_all(bytes),
            Self::Unix(stream) => stream.write_all(bytes),
            Self::Tls(stream) => stream.write_all(bytes).and_then(|()| stream.flush()),
        }
    }

    /// How long a read waits; `None` for as long as it takes.
    pub fn set_read_timeout(&self, after: Option<Duration>) -> std::io::Result<()> {
        match self {
            Self::Tcp(stream) => stream.set_read_timeout(after),
            Self::Unix(stream) => stream.set_read_timeout(after),
            Self::Tls(stream) => stream.sock.set_read_timeout(after),
        }
    }
}

/// Connects to the first address of a name that answers in time.
pub fn connect_tcp(name: &str, port: u16, patience: Duration) -> std::io::Result<TcpStream> {
    let mut last = std::io::Error::from(std::io::ErrorKind::NotFound);
    for place in (name, port).to_socket_addrs()? {
        match TcpStream::connect_timeout(&place, patience) {
            Ok(stream) => return Ok(stream),
            Err(error) => last = error,
        }
    }
    Err(last)
}
