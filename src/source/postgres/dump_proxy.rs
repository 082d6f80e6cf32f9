//! Stands between `pg_dump` and the server: `pg_dump` decides what a dump is, and its rows are left
//! to be fetched by others.
//!
//! Everything goes through unchanged but `COPY … TO stdout` and the reading of large objects: these
//! are answered with nothing and remembered. The connections to the server stay open after `pg_dump`
//! has gone, with the locks that it took.
//! Source: the manual of `PostgreSQL`, "Message Flow" and "Message Formats".

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::{BufMut as _, BytesMut};

use crate::source::postgres::connection::Connection;
use crate::source::postgres::error::PostgresError;

/// The port in the name of the socket.
pub const PROXY_PORT: u16 = 5432;
/// Longest message of a client.
const MESSAGE_BYTES_MAX: u32 = 256 * 1024 * 1024;
/// How often it is looked whether anyone connects.
const POLL: Duration = Duration::from_millis(5);

const SSL_REQUEST: u32 = 80_877_103;
const GSS_REQUEST: u32 = 80_877_104;
/// Major number of the protocol's version.
const PROTOCOL: u32 = 3;
// Functions for large objects have the same numbers on every server.
const LO_OPEN: u32 = 952;
const LO_CLOSE: u32 = 953;
const LO_READ: u32 = 954;

/// Opens a connection to a database of the server.
pub type OpenUpstream = Box<dyn Fn(&str) -> Result<Connection, PostgresError> + Send>;

/// What was seen of the clients.
#[derive(Default)]
pub struct Served {
    /// Statements by which the client set up its session and its transaction.
    pub settings: Vec<Vec<u8>>,
    /// `COPY … TO stdout` in order, answered with nothing.
    pub copies: Vec<Vec<u8>>,
    /// Large objects that were opened, in order; their content was said to be empty.
    pub large_objects: Vec<u32>,
    /// Connections to the server, in the state in which the clients have left them.
    pub connections: Vec<Connection>,
    /// The first error, of the server or on the way to it.
    pub failure: Option<PostgresError>,
    is_set_up: bool,
}

/// A proxy that serves one client after another on a socket.
pub struct DumpProxy {
    socket: PathBuf,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Served>>,
}

impl DumpProxy {
    /// Listens in `folder`, which only its owner may enter: whoever connects is let in.
    pub fn start(folder: &Path, open: OpenUpstream) -> Result<Self, PostgresError> {
        let path = folder.join(format!(".s.PGSQL.{PROXY_PORT}"));
        let failed = |source: std::io::Error| PostgresError::File {
            path: path.clone(),
            what: source.to_string(),
        };
        let listener = UnixListener::bind(&path).map_err(failed)?;
        listener.set_nonblocking(true).map_err(failed)?;
        let stop = Arc::new(AtomicBool::new(false));
        let is_stopped = Arc::clone(&stop);
        let serve = move || {
            let mut served = Served::default();
            while !is_stopped.load(Ordering::Relaxed) {
                match listener.accept() {
                    Ok((client, _)) => served.serve(client, &*open),
                    Err(_) => std::thread::sleep(POLL),
                }
            }
            served
        };
        let thread = std::thread::Builder::new().name("pg-proxy".to_owned());
        Ok(Self { socket: path.clone(), stop, thread: Some(thread.spawn(serve).map_err(failed)?) })
    }

    /// Ends when the clients have ended, and says what they did; `None` when its thread is lost.
    #[must_use]
    pub fn finish(mut self) -> Option<Served> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().and_then(|thread| thread.join().ok())
    }
}

impl Drop for DumpProxy {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        drop(std::fs::remove_file(&self.socket));
    }
}

/// Why a client is served no longer.
enum Ended {
    /// It went, or broke its connection.
    Client,
    /// The server failed.
    Server(PostgresError),
}

impl From<std::io::Error> for Ended {
    fn from(_: std::io::Error) -> Self {
        Self::Client
    }
}

impl From<PostgresError> for Ended {
    fn from(error: PostgresError) -> Self {
        Self::Server(error)
    }
}

/// A message of a client.
enum Asked<'a> {
    Copy,
    LargeObject { function: u32, argument: u32 },
    Query(&'a [u8]),
    Goodbye,
    Other,
}

impl Served {
    fn serve(&mut self, mut client: UnixStream, open: &dyn Fn(&str) -> OpenedUpstream) {
        let Ok(Some(database)) = client.set_nonblocking(false).and_then(|()| greet(&mut client))
        else {
            return;
        };
        let mut upstream = match open(&database) {
            Ok(upstream) => upstream,
            Err(error) => {
                let _ = client.write_all(&error_response(&error.to_string()));
                self.failure.get_or_insert(error);
                return;
            }
        };
        if let Err(Ended::Server(error)) = self.converse(&mut client, &mut upstream) {
            let _ = client.write_all(&error_response(&error.to_string()));
            self.failure.get_or_insert(error);
        }
        self.connections.push(upstream);
    }

    fn converse(&mut self, client: &mut UnixStream, server: &mut Connection) -> Result<(), Ended> {
        client.write_all(&welcome(server.parameters()))?;
        let mut message = Vec::new();
        loop {
            read_message(client, &mut message)?;
            match asked(&message) {
                Asked::Copy => {
                    self.copies.push(query_text(&message).to_vec());
                    client.write_all(&empty_copy())?;
                }
                Asked::LargeObject { function, argument } => {
                    let answer = match function {
                        LO_OPEN => {
                            self.large_objects.push(argument);
                            function_result(&0_u32.to_be_bytes())
                        }
                        LO_READ => function_result(&[]),
                        _ => function_result(&0_u32.to_be_bytes()),
                    };
                    client.write_all(&answer)?;
                }
                Asked::Query(text) => {
                    self.remember(text);
                    server.send(|out| {
                        out.put_slice(&message);
                        Ok(())
                    })?;
                    self.relay(client, server)?;
                }
                Asked::Goodbye => return Ok(()),
                Asked::Other => {
                    let what = format!("pg_dump sent a message {:?}", char::from(message[0]));
                    return Err(PostgresError::Dump { what }.into());
                }
            }
        }
    }

    /// Keeps what a session of the same kind has to say first.
    fn remember(&mut self, text: &[u8]) {
        self.is_set_up |= text.starts_with(b"LOCK TABLE");
        let is_setting = text.starts_with(b"SET ")
            || text.starts_with(b"BEGIN")
            || text.windows(11).any(|part| part == b"set_config(");
        if is_setting && !self.is_set_up {
            self.settings.push(text.to_vec());
        }
    }

    fn relay(&mut self, client: &mut UnixStream, server: &mut Connection) -> Result<(), Ended> {
        loop {
            let message = server.relayed("waiting for an answer to pg_dump")?;
            if message[0] == b'E'
                && let Some(error) = server.error_of(&message)
            {
                self.failure.get_or_insert(error);
            }
            client.write_all(&message)?;
            if message[0] == b'Z' {
                return Ok(());
            }
        }
    }
}

/// What opening a connection gives.
type OpenedUpstream = Result<Connection, PostgresError>;

/// Takes the client's first messages; the database that it asks for.
fn greet(client: &mut UnixStream) -> std::io::Result<Option<String>> {
    loop {
        let mut head = [0; 8];
        client.read_exact(&mut head)?;
        let (length, code) = head.split_at(4);
        let number = |bytes: &[u8]| u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
        let (length, code) = (number(length), number(code));
        match code {
            SSL_REQUEST | GSS_REQUEST => client.write_all(b"N")?,
            code if code >> 16 == PROTOCOL && (8..10_000).contains(&length) => {
                let mut parameters = vec![0; length as usize - 8];
                client.read_exact(&mut parameters)?;
                let mut texts = parameters.split(|byte| *byte == 0);
                let mut database = None;
                while let (Some(name), Some(value)) = (texts.next(), texts.next()) {
                    if name == b"database" {
                        database = String::from_utf8(value.to_vec()).ok();
                    }
                }
                return Ok(database);
            }
            _ => return Ok(None),
        }
    }
}

/// Reads one message, its kind and length included.
fn read_message(client: &mut UnixStream, message: &mut Vec<u8>) -> std::io::Result<()> {
    let mut head = [0; 5];
    client.read_exact(&mut head)?;
    let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]);
    if !(4..=MESSAGE_BYTES_MAX).contains(&length) {
        return Err(std::io::ErrorKind::InvalidData.into());
    }
    message.clear();
    message.extend_from_slice(&head);
    message.resize(length as usize + 1, 0);
    client.read_exact(&mut message[5..])
}

/// The text of a query, without the zero at its end.
fn query_text(message: &[u8]) -> &[u8] {
    let text = &message[5..];
    text.strip_suffix(b"\0").unwrap_or(text)
}

fn asked(message: &[u8]) -> Asked<'_> {
    match message[0] {
        b'Q' => {
            let text = query_text(message);
            let is_copy = text.starts_with(b"COPY ")
                && text.trim_ascii_end().to_ascii_lowercase().ends_with(b"to stdout;");
            if is_copy { Asked::Copy } else { Asked::Query(text) }
        }
        b'F' => large_object_call(&message[5..]).unwrap_or(Asked::Other),
        b'X' => Asked::Goodbye,
        _ => Asked::Other,
    }
}

/// A call of one of the functions for large objects, by its number and its first argument.
fn large_object_call(body: &[u8]) -> Option<Asked<'static>> {
    let word = |at: usize| {
        let bytes = body.get(at..at + 4)?;
        Some(u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
    };
    let function = word(0)?;
    let formats = usize::from(u16::from_be_bytes([*body.get(4)?, *body.get(5)?]));
    let arguments = 6 + 2 * formats;
    let is_number = word(arguments + 2)? == 4;
    let argument = word(arguments + 6)?;
    let is_known = matches!(function, LO_OPEN | LO_CLOSE | LO_READ);
    (is_known && is_number).then_some(Asked::LargeObject { function, argument })
}

fn put_message(out: &mut BytesMut, kind: u8, body: &[u8]) {
    out.put_u8(kind);
    out.put_u32(body.len() as u32 + 4);
    out.put_slice(body);
}

fn welcome(parameters: &[(String, String)]) -> BytesMut {
    let mut out = BytesMut::new();
    put_message(&mut out, b'R', &[0; 4]);
    for (name, value) in parameters {
        put_message(&mut out, b'S', format!("{name}\0{value}\0").as_bytes());
    }
    put_message(&mut out, b'K', &[0; 8]);
    put_message(&mut out, b'Z', b"I");
    out
}

/// A `COPY` of no rows, in a transaction.
fn empty_copy() -> BytesMut {
    let mut out = BytesMut::new();
    put_message(&mut out, b'H', &[0; 3]);
    put_message(&mut out, b'c', &[]);
    put_message(&mut out, b'C', b"COPY 0\0");
    put_message(&mut out, b'Z', b"T");
    out
}

fn function_result(value: &[u8]) -> BytesMut {
    let mut out = BytesMut::new();
    put_message(&mut out, b'V', &[&(value.len() as u32).to_be_bytes(), value].concat());
    put_message(&mut out, b'Z', b"T");
    out
}

fn error_response(what: &str) -> BytesMut {
    let mut out = BytesMut::new();
    let what = what.replace('\0', " ");
    put_message(&mut out, b'E', format!("SFATAL\0VFATAL\0C08006\0M{what}\0\0").as_bytes());
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(kind: u8, body: &[u8]) -> Vec<u8> {
        let mut out = BytesMut::new();
        put_message(&mut out, kind, body);
        out.to_vec()
    }

    #[test]
    fn only_rows_and_large_objects_are_kept_back() {
        let is_copy = |text: &str| {
            let message = message(b'Q', format!("{text}\0").as_bytes());
            matches!(asked(&message), Asked::Copy)
        };
        assert!(is_copy("COPY public.\"a\nb\" (x, \"y z\") TO stdout;"));
        assert!(is_copy("COPY (SELECT a FROM public.t WHERE b) TO stdout;"));
        assert!(!is_copy("SELECT 'COPY t TO stdout;'"));
        assert!(!is_copy("SET row_security = off"));
        assert!(matches!(asked(&message(b'X', &[])), Asked::Goodbye));
        assert!(matches!(asked(&message(b'P', &[0; 20])), Asked::Other));
    }

    #[test]
    fn calls_for_large_objects_are_told_apart() {
        let call = |function: u32, first: u32| {
            let mut body = function.to_be_bytes().to_vec();
            body.extend_from_slice(&[0, 1, 0, 1, 0, 2, 0, 0, 0, 4]);
            body.extend_from_slice(&first.to_be_bytes());
            body.extend_from_slice(&[0, 0, 0, 4, 0, 4, 0, 0, 0, 1]);
            message(b'F', &body)
        };
        let known = call(LO_OPEN, 16_426);
        assert!(matches!(
            asked(&known),
            Asked::LargeObject { function: LO_OPEN, argument: 16_426 }
        ));
        assert!(matches!(asked(&call(957, 1)), Asked::Other));
        for length in 5..19 {
            assert!(matches!(asked(&known[..length]), Asked::Other), "{length}");
        }
    }

    #[test]
    fn a_session_is_remembered_up_to_its_first_lock() {
        let mut served = Served::default();
        for text in [
            "SELECT pg_catalog.set_config('search_path', '', false);",
            "SELECT pg_catalog.pg_is_in_recovery()",
            "SET row_security = off",
            "BEGIN",
            "LOCK TABLE public.t IN ACCESS SHARE MODE",
            "SET x = 1",
        ] {
            served.remember(text.as_bytes());
        }
        assert_eq!(served.settings.len(), 3);
    }
}
