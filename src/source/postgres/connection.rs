//! One connection to a server: getting in, simple queries, the bytes of `COPY`.
//!
//! Blocking, one thread each. Nothing is retried here: who needs a connection anew makes one.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use bytes::{BufMut as _, Bytes, BytesMut};
use fallible_iterator::FallibleIterator as _;
use postgres_protocol::authentication::md5_hash;
use postgres_protocol::authentication::sasl::{ChannelBinding, SCRAM_SHA_256, ScramSha256};
use postgres_protocol::message::backend::{ErrorResponseBody, Message};
use postgres_protocol::message::frontend;
use secrecy::{ExposeSecret as _, SecretString};

use crate::source::postgres::address::{Address, Host};
use crate::source::postgres::error::PostgresError;
use crate::source::postgres::password_file::{Wanted, find_password};
use crate::source::postgres::wire::{COPY_WHOLE_BYTES, CopyPiece, Inbox, Incoming, Row, values};
use crate::source::socket::{Socket, connect_tcp};
use crate::source::tls::{TlsMode, wrap};

/// Bytes that are asked for from the system at once.
const READ_BYTES: usize = COPY_WHOLE_BYTES;
/// A server that says nothing for so long, where it should, has gone.
const SILENCE_MAX: Duration = Duration::from_mins(10);

/// What the connection is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// Queries.
    Sql,
    /// Replication commands.
    Replication,
    /// Queries with the settings of the database and the role, as `pg_dump` makes them.
    Dump,
}

/// A connection that is ready for commands.
pub struct Connection {
    stream: Socket,
    inbox: Inbox,
    outbox: BytesMut,
    shown: String,
    parameters: Vec<(String, String)>,
    notices: Vec<String>,
}

impl Connection {
    /// Connects to the first of the hosts that takes us.
    ///
    /// `password` goes before the password file.
    ///
    /// # Errors
    /// That of the last host tried.
    pub fn open(
        address: &Address,
        purpose: Purpose,
        password: Option<&SecretString>,
    ) -> Result<Self, PostgresError> {
        let mut last = None;
        for host in &address.hosts {
            match Self::open_at(address, host, purpose, password) {
                Ok(connection) => return Ok(connection),
                Err(error) => last = Some(error),
            }
        }
        Err(last.unwrap_or(PostgresError::Address { what: "it names no host".to_owned() }))
    }

    fn open_at(
        address: &Address,
        host: &Host,
        purpose: Purpose,
        password: Option<&SecretString>,
    ) -> Result<Self, PostgresError> {
        let shown = host.to_string();
        let connect = |source| PostgresError::Connect { address: shown.clone(), source };
        let stream = match host {
            Host::Socket(folder, port) => {
                let path = folder.join(format!(".s.PGSQL.{port}"));
                Socket::Unix(UnixStream::connect(path).map_err(connect)?)
            }
            Host::Tcp(name, port) => {
                let stream = connect_tcp(name, *port, address.patience).map_err(connect)?;
                stream.set_nodelay(true).map_err(connect)?;
                secure(address, name, stream, &shown)?
            }
        };
        stream.set_read_timeout(Some(address.patience)).map_err(connect)?;
        let mut connection = Self {
            stream,
            inbox: Inbox::default(),
            outbox: BytesMut::new(),
            shown,
            parameters: Vec::new(),
            notices: Vec::new(),
        };
        connection.start(address, host, purpose, password)?;
        connection.set_patience(Some(SILENCE_MAX))?;
        Ok(connection)
    }

    /// How long the server may be silent where an answer is due; an answer that does not come is
    /// [`PostgresError::Broken`] with `TimedOut` or `WouldBlock`.
    pub fn set_patience(&self, patience: Option<Duration>) -> Result<(), PostgresError> {
        let broken = |source| self.broken("setting a timeout", source);
        self.stream.set_read_timeout(patience).map_err(broken)
    }

    /// Host and port, or the path of the socket.
    #[must_use]
    pub fn shown(&self) -> &str {
        &self.shown
    }

    /// What the server said of itself at the start: `server_version`, `in_hot_standby`, …
    #[must_use]
    pub fn parameter(&self, name: &str) -> Option<&str> {
        let found = self.parameters.iter().rev().find(|(known, _)| known == name);
        found.map(|(_, value)| value.as_str())
    }

    /// All that it said of itself, in order.
    #[must_use]
    pub fn parameters(&self) -> &[(String, String)] {
        &self.parameters
    }

    /// The next message as it came; nothing is dealt with.
    pub fn relayed(&mut self, doing: &'static str) -> Result<Bytes, PostgresError> {
        loop {
            match self.inbox.take_raw().map_err(|source| self.broken(doing, source))? {
                Some(message) => return Ok(message),
                None => self.receive().map_err(|source| self.broken(doing, source))?,
            }
        }
    }

    /// The error that a message as it came tells of.
    #[must_use]
    pub fn error_of(&self, message: &[u8]) -> Option<PostgresError> {
        match Message::parse(&mut BytesMut::from(message)) {
            Ok(Some(Message::ErrorResponse(body))) => Some(self.server_error(&body)),
            _ => None,
        }
    }

    /// Takes the warnings that came so far.
    pub fn take_notices(&mut self) -> Vec<String> {
        std::mem::take(&mut self.notices)
    }

    fn start(
        &mut self,
        address: &Address,
        host: &Host,
        purpose: Purpose,
        password: Option<&SecretString>,
    ) -> Result<(), PostgresError> {
        let mut parameters =
            vec![("user", address.user.as_str()), ("application_name", "holdfast")];
        if purpose != Purpose::Dump {
            parameters.push(("client_encoding", "UTF8"));
            // Text forms do not depend on how the server or the role is set up.
            parameters.extend([("datestyle", "ISO, YMD"), ("extra_float_digits", "3")]);
        }
        match purpose {
            Purpose::Sql | Purpose::Dump => parameters.push(("database", &address.database)),
            Purpose::Replication => parameters.push(("replication", "true")),
        }
        self.send(|out| frontend::startup_message(parameters, out))?;
        loop {
            match self.message("logging in")? {
                Message::ReadyForQuery(_) => return Ok(()),
                Message::BackendKeyData(_) | Message::AuthenticationOk => {}
                Message::AuthenticationCleartextPassword => {
                    let password = self.password(address, host, purpose, password)?;
                    let bytes = password.expose_secret().as_bytes();
                    self.send(|out| frontend::password_message(bytes, out))?;
                }
                Message::AuthenticationMd5Password(body) => {
                    let password = self.password(address, host, purpose, password)?;
                    let password = password.expose_secret().as_bytes();
                    let hash = md5_hash(address.user.as_bytes(), password, body.salt());
                    self.send(|out| frontend::password_message(hash.as_bytes(), out))?;
                }
                Message::AuthenticationSasl(body) => {
                    let mut mechanisms = body.mechanisms();
                    let has_scram = mechanisms.any(|name| Ok(name == SCRAM_SHA_256));
                    if !has_scram.unwrap_or(false) {
                        return Err(self.unknown_method("SASL other than SCRAM-SHA-256"));
                    }
                    let password = self.password(address, host, purpose, password)?;
                    self.scram(&password)?;
                }
                Message::AuthenticationGss
                | Message::AuthenticationKerberosV5
                | Message::AuthenticationSspi => return Err(self.unknown_method("Kerberos")),
                _ => return Err(self.unexpected("logging in")),
            }
        }
    }

    fn unknown_method(&self, method: &'static str) -> PostgresError {
        PostgresError::Authentication { address: self.shown.clone(), method }
    }

    fn password(
        &self,
        address: &Address,
        host: &Host,
        purpose: Purpose,
        given: Option<&SecretString>,
    ) -> Result<SecretString, PostgresError> {
        if let Some(password) = given {
            return Ok(password.clone());
        }
        let (name, port) = match host {
            Host::Tcp(name, port) => (name.as_str(), *port),
            Host::Socket(_, port) => ("localhost", *port),
        };
        let database = match purpose {
            Purpose::Sql | Purpose::Dump => address.database.as_str(),
            Purpose::Replication => "replication",
        };
        let wanted = Wanted { host: name, port, database, user: &address.user };
        let found = address.password_file.as_deref().map(|path| find_password(path, wanted));
        found.transpose()?.flatten().ok_or_else(|| PostgresError::NoPassword {
            address: self.shown.clone(),
            user: address.user.clone(),
        })
    }

    fn scram(&mut self, password: &SecretString) -> Result<(), PostgresError> {
        let password = password.expose_secret().as_bytes();
        let mut scram = ScramSha256::new(password, ChannelBinding::unsupported());
        self.send(|out| frontend::sasl_initial_response(SCRAM_SHA_256, scram.message(), out))?;
        let Message::AuthenticationSaslContinue(body) = self.message("logging in")? else {
            return Err(self.unexpected("logging in"));
        };
        scram.update(body.data()).map_err(|source| self.broken("logging in", source))?;
        self.send(|out| frontend::sasl_response(scram.message(), out))?;
        let Message::AuthenticationSaslFinal(body) = self.message("logging in")? else {
            return Err(self.unexpected("logging in"));
        };
        // The server knows the password too, or it is not the one we mean.
        scram.finish(body.data()).map_err(|source| self.broken("logging in", source))
    }

    /// Sends what `write` puts into a buffer.
    pub fn send(
        &mut self,
        write: impl FnOnce(&mut BytesMut) -> std::io::Result<()>,
    ) -> Result<(), PostgresError> {
        let written = write(&mut self.outbox).and_then(|()| self.stream.write_all(&self.outbox));
        self.outbox.clear();
        written.map_err(|source| self.broken("sending", source))
    }

    /// The next message; errors of the server, notices and parameters are dealt with.
    pub fn incoming(&mut self, doing: &'static str) -> Result<Incoming, PostgresError> {
        loop {
            let next = self.inbox.take().map_err(|source| self.broken(doing, source))?;
            match next {
                None => self.receive().map_err(|source| self.broken(doing, source))?,
                Some(Incoming::Message(Message::ErrorResponse(body))) => {
                    return Err(self.server_error(&body));
                }
                Some(Incoming::Message(Message::NoticeResponse(body))) => {
                    let fields: Vec<_> = body.fields().collect().unwrap_or_default();
                    // `V` is the severity in no language but English.
                    let is_warning =
                        fields.iter().any(|f| f.type_() == b'V' && f.value_bytes() == b"WARNING");
                    let text = fields.iter().find(|field| field.type_() == b'M' && is_warning);
                    let text = text.map(|field| String::from_utf8_lossy(field.value_bytes()));
                    self.notices.extend(text.map(std::borrow::Cow::into_owned));
                }
                Some(Incoming::Message(Message::ParameterStatus(body))) => {
                    if let (Ok(name), Ok(value)) = (body.name(), body.value()) {
                        self.parameters.push((name.to_owned(), value.to_owned()));
                    }
                }
                Some(Incoming::Message(Message::NotificationResponse(_))) => {}
                Some(next) => return Ok(next),
            }
        }
    }

    /// Whether bytes have come that were not taken yet.
    #[must_use]
    pub fn has_waiting(&self) -> bool {
        self.inbox.waiting() > 0
    }

    fn receive(&mut self) -> std::io::Result<()> {
        let buffer = self.inbox.buffer();
        buffer.reserve(READ_BYTES);
        let before = buffer.len();
        buffer.resize(before + READ_BYTES, 0);
        let read = loop {
            match self.stream.read(&mut buffer[before..]) {
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                read => break read,
            }
        };
        buffer.truncate(before + read.as_ref().copied().unwrap_or(0));
        match read? {
            0 => Err(std::io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(()),
        }
    }

    /// The next message, which must be none of `COPY`.
    pub fn message(&mut self, doing: &'static str) -> Result<Message, PostgresError> {
        match self.incoming(doing)? {
            Incoming::Message(message) => Ok(message),
            Incoming::Copy(_) | Incoming::CopyBoth => Err(self.unexpected(doing)),
        }
    }

    /// Sends a query, and waits for nothing.
    pub fn send_query(&mut self, text: &[u8]) -> Result<(), PostgresError> {
        self.send(|out| {
            out.put_u8(b'Q');
            out.put_u32(text.len() as u32 + 5);
            out.put_slice(text);
            out.put_u8(0);
            Ok(())
        })
    }

    /// Runs a query; every value comes as text. Of several statements the rows of all.
    pub fn query(&mut self, text: &str) -> Result<Vec<Row>, PostgresError> {
        self.query_bytes(text.as_bytes())
    }

    /// As [`Connection::query`], of a text in whatever encoding the connection has.
    pub fn query_bytes(&mut self, text: &[u8]) -> Result<Vec<Row>, PostgresError> {
        self.send_query(text)?;
        let mut rows = Vec::new();
        loop {
            match self.message("waiting for a query")? {
                Message::DataRow(row) => {
                    rows.push(values(&row).ok_or_else(|| self.unexpected("reading a row"))?);
                }
                Message::RowDescription(_)
                | Message::CommandComplete(_)
                | Message::EmptyQueryResponse => {}
                Message::ReadyForQuery(_) => return Ok(rows),
                _ => return Err(self.unexpected("waiting for a query")),
            }
        }
    }

    /// Runs a query that gives one row of one value.
    pub fn value(&mut self, text: &str) -> Result<String, PostgresError> {
        let rows = self.query(text)?;
        let value = rows.into_iter().next().and_then(|row| row.into_iter().next().flatten());
        value.ok_or_else(|| self.unexpected("waiting for a value"))
    }

    /// The next piece of `COPY`; `None` when it is done.
    pub fn copied(&mut self, doing: &'static str) -> Result<Option<CopyPiece>, PostgresError> {
        match self.incoming(doing)? {
            Incoming::Copy(piece) => Ok(Some(piece)),
            Incoming::Message(Message::CopyDone) => Ok(None),
            Incoming::Message(_) | Incoming::CopyBoth => Err(self.unexpected(doing)),
        }
    }

    /// Sends one message of `COPY`.
    pub fn copy(&mut self, body: &[u8]) -> Result<(), PostgresError> {
        self.send(|out| {
            out.put_u8(b'd');
            out.put_u32(body.len() as u32 + 4);
            out.put_slice(body);
            Ok(())
        })
    }

    /// The server's answer was none of those that can come here.
    #[must_use]
    pub fn unexpected(&self, doing: &str) -> PostgresError {
        let what = format!("an unexpected message while {doing}");
        PostgresError::Protocol { address: self.shown.clone(), what }
    }

    fn broken(&self, doing: &'static str, source: std::io::Error) -> PostgresError {
        PostgresError::Broken { address: self.shown.clone(), doing, source }
    }

    fn server_error(&self, body: &ErrorResponseBody) -> PostgresError {
        let fields: Vec<_> = body.fields().collect().unwrap_or_default();
        let text = |kind: u8| {
            let field = fields.iter().find(|field| field.type_() == kind);
            field
                .map_or_else(String::new, |f| String::from_utf8_lossy(f.value_bytes()).into_owned())
        };
        PostgresError::Server {
            address: self.shown.clone(),
            severity: text(b'S'),
            code: text(b'C'),
            message: text(b'M'),
            hint: text(b'H'),
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        // The server sees the end of the stream anyway.
        let mut goodbye = BytesMut::new();
        frontend::terminate(&mut goodbye);
        drop(self.stream.write_all(&goodbye));
    }
}

/// Asks for TLS, where it is wanted.
fn secure(
    address: &Address,
    name: &str,
    mut stream: TcpStream,
    shown: &str,
) -> Result<Socket, PostgresError> {
    if address.tls == TlsMode::Disable {
        return Ok(Socket::Tcp(stream));
    }
    let broken = |source| PostgresError::Broken {
        address: shown.to_owned(),
        doing: "asking for TLS",
        source,
    };
    stream.set_read_timeout(Some(address.patience)).map_err(broken)?;
    let mut request = BytesMut::new();
    frontend::ssl_request(&mut request);
    let mut answer = [0];
    stream.write_all(&request).and_then(|()| stream.read_exact(&mut answer)).map_err(broken)?;
    let failed = |what| PostgresError::Tls { address: shown.to_owned(), what };
    let trust = (address.tls, address.root_certificates.as_deref());
    match (answer[0], address.tls) {
        // Nothing of the server's may have come before the handshake: `read_exact` took one byte.
        (b'S', _) => wrap(trust, name, stream).map(|s| Socket::Tls(Box::new(s))).map_err(failed),
        (b'N', TlsMode::Prefer) => Ok(Socket::Tcp(stream)),
        (b'N', _) => Err(failed("the server does not speak it".to_owned())),
        _ => Err(failed("the server's answer is none".to_owned())),
    }
}
