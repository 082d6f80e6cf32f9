//! Where a server is, from a connection string as `libpq` takes them.
//!
//! `postgres://user@host:port/database?parameter=value` or `host=… user=…`. Parameters that
//! change what a client sees or whom it trusts, and that are not known here, are refused.
//! Source: the manual of `PostgreSQL`, "Connection Strings" and "Parameter Key Words".

use std::path::PathBuf;
use std::time::Duration;

use crate::source::postgres::error::PostgresError;
use crate::source::tls::TlsMode;

const PORT_DEFAULT: u16 = 5432;

/// One place where the server may be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Host {
    /// Name or number, and port.
    Tcp(String, u16),
    /// Folder of the socket, and port.
    Socket(PathBuf, u16),
}

/// Where, and as whom.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    /// Tried in order.
    pub hosts: Vec<Host>,
    /// Role.
    pub user: String,
    /// Database.
    pub database: String,
    /// How much the server must prove, `sslmode`.
    pub tls: TlsMode,
    /// Certificates to trust instead of the system's.
    pub root_certificates: Option<PathBuf>,
    /// Where passwords are looked up.
    pub password_file: Option<PathBuf>,
    /// How long a connection may take to come about.
    pub patience: Duration,
}

/// What stands in for parameters that a connection string leaves out: `PGHOST` and its kin.
pub trait Defaults {
    /// The variable's value, where it is set.
    fn variable(&self, name: &str) -> Option<String>;
}

impl<F: Fn(&str) -> Option<String>> Defaults for F {
    fn variable(&self, name: &str) -> Option<String> {
        self(name)
    }
}

impl std::fmt::Display for Host {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Tcp(host, port) if host.contains(':') => write!(f, "[{host}]:{port}"),
            Self::Tcp(host, port) => write!(f, "{host}:{port}"),
            Self::Socket(folder, port) => write!(f, "{}/.s.PGSQL.{port}", folder.display()),
        }
    }
}

impl Address {
    /// Reads a connection string.
    ///
    /// # Errors
    /// [`PostgresError::Address`], [`PostgresError::PasswordShown`].
    pub fn parse(text: &str, defaults: &dyn Defaults) -> Result<Self, PostgresError> {
        Self::of_parameters(parameters_of(text)?, defaults)
    }

    /// Reads a connection string that `libpq` is given, which knows more: what is not known here is
    /// passed over, but for passwords.
    ///
    /// # Errors
    /// As for [`Address::parse`].
    pub fn parse_for_tools(text: &str, defaults: &dyn Defaults) -> Result<Self, PostgresError> {
        let mut parameters = parameters_of(text)?;
        // Paths of files with secrets have other names: passfile, sslkey.
        let is_secret =
            |name: &str| ["password", "secret", "_key"].iter().any(|end| name.ends_with(end));
        if parameters.iter().any(|(name, _)| is_secret(name)) {
            return Err(PostgresError::PasswordShown);
        }
        parameters.retain(|(name, value)| Known::default().take(name, value.clone()).is_ok());
        let or_nobody = |name: &str| {
            defaults.variable(name).or_else(|| (name == "USER").then(|| "postgres".to_owned()))
        };
        Self::of_parameters(parameters, &or_nobody)
    }

    /// The same place, another database.
    #[must_use]
    pub fn with_database(&self, database: &str) -> Self {
        Self { database: database.to_owned(), ..self.clone() }
    }

    fn of_parameters(
        parameters: Vec<(String, String)>,
        defaults: &dyn Defaults,
    ) -> Result<Self, PostgresError> {
        let mut known = Known::default();
        for (name, value) in parameters {
            known.take(&name, value)?;
        }
        let or = |value: Option<String>, variable: &str| {
            value.or_else(|| defaults.variable(variable)).filter(|value| !value.is_empty())
        };
        let user = or(known.user, "PGUSER").or_else(|| defaults.variable("USER"));
        let user = user.ok_or_else(|| wrong("it names no user"))?;
        let database = or(known.database, "PGDATABASE").unwrap_or_else(|| user.clone());
        let host = or(known.host, "PGHOST").unwrap_or_else(|| "/var/run/postgresql".to_owned());
        let port = or(known.port, "PGPORT").unwrap_or_else(|| PORT_DEFAULT.to_string());
        let tls = or(known.tls, "PGSSLMODE").map(|mode| tls_mode(&mode)).transpose()?;
        let patience = or(known.patience, "PGCONNECT_TIMEOUT");
        let patience = patience.map(|text| text.parse().map_err(|_| wrong("connect_timeout")));
        let home = || defaults.variable("HOME").map(|home| PathBuf::from(home).join(".pgpass"));
        Ok(Self {
            hosts: hosts(&host, &port)?,
            user,
            database,
            tls: tls.unwrap_or_default(),
            root_certificates: or(known.root_certificates, "PGSSLROOTCERT").map(PathBuf::from),
            password_file: or(known.password_file, "PGPASSFILE").map(PathBuf::from).or_else(home),
            patience: Duration::from_secs(patience.transpose()?.filter(|s| *s > 0).unwrap_or(30)),
        })
    }
}

fn parameters_of(text: &str) -> Result<Vec<(String, String)>, PostgresError> {
    let is_uri = ["postgres://", "postgresql://"].iter().find_map(|s| text.strip_prefix(s));
    match is_uri {
        Some(rest) => of_uri(rest),
        None => of_words(text),
    }
}

#[derive(Default)]
struct Known {
    host: Option<String>,
    port: Option<String>,
    user: Option<String>,
    database: Option<String>,
    tls: Option<String>,
    root_certificates: Option<String>,
    password_file: Option<String>,
    patience: Option<String>,
}

impl Known {
    fn take(&mut self, name: &str, value: String) -> Result<(), PostgresError> {
        let place = match name {
            "host" | "hostaddr" => &mut self.host,
            "port" => &mut self.port,
            "user" => &mut self.user,
            "dbname" => &mut self.database,
            "sslmode" => &mut self.tls,
            "sslrootcert" => &mut self.root_certificates,
            "passfile" => &mut self.password_file,
            "connect_timeout" => &mut self.patience,
            "password" => return Err(PostgresError::PasswordShown),
            // What names us to the server is ours to say, and these only tune the connection.
            "application_name"
            | "fallback_application_name"
            | "keepalives"
            | "keepalives_idle"
            | "keepalives_interval"
            | "keepalives_count" => return Ok(()),
            _ => return Err(wrong(&format!("the parameter {name} is not known here"))),
        };
        *place = Some(value);
        Ok(())
    }
}

fn wrong(what: &str) -> PostgresError {
    PostgresError::Address { what: what.to_owned() }
}

fn tls_mode(text: &str) -> Result<TlsMode, PostgresError> {
    Ok(match text {
        "disable" => TlsMode::Disable,
        "allow" | "prefer" => TlsMode::Prefer,
        "require" => TlsMode::Require,
        "verify-ca" => TlsMode::VerifyCa,
        "verify-full" => TlsMode::VerifyFull,
        _ => return Err(wrong(&format!("sslmode {text:?}"))),
    })
}

fn hosts(hosts: &str, ports: &str) -> Result<Vec<Host>, PostgresError> {
    let ports: Vec<&str> = ports.split(',').collect();
    let hosts: Vec<&str> = hosts.split(',').collect();
    let mut found = Vec::new();
    for (at, host) in hosts.iter().enumerate() {
        let port = match ports[..] {
            [only] => only,
            _ => ports.get(at).copied().ok_or_else(|| wrong("more hosts than ports"))?,
        };
        let port = if port.is_empty() { Ok(PORT_DEFAULT) } else { port.parse() };
        let port = port.map_err(|_| wrong("a port is no number"))?;
        found.push(match *host {
            "" => Host::Socket("/var/run/postgresql".into(), port),
            folder if folder.starts_with('/') => Host::Socket(folder.into(), port),
            host => Host::Tcp(host.to_owned(), port),
        });
    }
    Ok(found)
}

/// `user@host:port,host:port/database?name=value&…`.
fn of_uri(text: &str) -> Result<Vec<(String, String)>, PostgresError> {
    let (front, query) = text.split_once('?').unwrap_or((text, ""));
    let (authority, database) = front.split_once('/').unwrap_or((front, ""));
    let (user, places) = authority.rsplit_once('@').unwrap_or(("", authority));
    let mut parameters = Vec::new();
    let mut add = |name: &str, value: &str| {
        let value = percent_decoded(value)?;
        if !value.is_empty() {
            parameters.push((name.to_owned(), value));
        }
        Ok::<_, PostgresError>(())
    };
    if user.contains(':') {
        return Err(PostgresError::PasswordShown);
    }
    add("user", user)?;
    add("dbname", database)?;
    let (mut hosts, mut ports) = (Vec::new(), Vec::new());
    for place in places.split(',') {
        let (host, port) = match place.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
            Some((host, port)) => (host, port.strip_prefix(':').unwrap_or(port)),
            None => place.split_once(':').unwrap_or((place, "")),
        };
        hosts.push(host);
        ports.push(port);
    }
    if ports.iter().any(|port| !port.is_empty()) {
        add("port", &ports.join(","))?;
    }
    add("host", &hosts.join(","))?;
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').ok_or_else(|| wrong("a parameter has no ="))?;
        add(&percent_decoded(name)?, value)?;
    }
    Ok(parameters)
}

fn percent_decoded(text: &str) -> Result<String, PostgresError> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, after @ ..] = rest {
        rest = after;
        if *first != b'%' {
            bytes.push(*first);
            continue;
        }
        let digits = after.get(..2).and_then(|digits| std::str::from_utf8(digits).ok());
        let byte = digits.and_then(|digits| u8::from_str_radix(digits, 16).ok());
        bytes.push(byte.filter(|byte| *byte != 0).ok_or_else(|| wrong("a wrong % escape"))?);
        rest = &after[2..];
    }
    String::from_utf8(bytes).map_err(|_| wrong("it is not UTF-8"))
}

/// `name=value name='a value'`, with backslash escapes.
fn of_words(text: &str) -> Result<Vec<(String, String)>, PostgresError> {
    let mut parameters = Vec::new();
    let mut characters = text.chars().peekable();
    loop {
        while characters.next_if(|c| c.is_whitespace()).is_some() {}
        if characters.peek().is_none() {
            return Ok(parameters);
        }
        let mut name = String::new();
        while let Some(c) = characters.next_if(|c| *c != '=' && !c.is_whitespace()) {
            name.push(c);
        }
        while characters.next_if(|c| c.is_whitespace()).is_some() {}
        if characters.next() != Some('=') {
            return Err(wrong(&format!("{name:?} has no value")));
        }
        while characters.next_if(|c| c.is_whitespace()).is_some() {}
        let is_quoted = characters.next_if_eq(&'\'').is_some();
        let mut value = String::new();
        loop {
            match characters.next() {
                None if is_quoted => return Err(wrong("a quote is not closed")),
                None => break,
                Some('\\') => value.extend(characters.next()),
                Some('\'') if is_quoted => break,
                Some(c) if c.is_whitespace() && !is_quoted => break,
                Some(c) => value.push(c),
            }
        }
        parameters.push((name, value));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn none(_: &str) -> Option<String> {
        None
    }

    fn parse(text: &str) -> Result<Address, PostgresError> {
        Address::parse(text, &none)
    }

    #[test]
    fn both_forms_are_read() {
        let tcp = |host: &str, port| Host::Tcp(host.to_owned(), port);
        let socket = |folder: &str, port| Host::Socket(folder.into(), port);
        let table = [
            ("postgres://backup@db/shop", vec![tcp("db", 5432)], "backup", "shop"),
            ("postgresql://a%40b@db:5433/", vec![tcp("db", 5433)], "a@b", "a@b"),
            ("postgres://u@[::1]:1,h2/d", vec![tcp("::1", 1), tcp("h2", 5432)], "u", "d"),
            ("postgresql:///d?host=/run/x&port=7&user=u", vec![socket("/run/x", 7)], "u", "d"),
            ("host=/a user=u dbname='it''s", vec![], "", ""),
            ("host = h user='a b' dbname=d\\ e", vec![tcp("h", 5432)], "a b", "d e"),
            ("user=u", vec![socket("/var/run/postgresql", 5432)], "u", "u"),
        ];
        for (text, hosts, user, database) in table {
            let Ok(address) = parse(text) else {
                assert!(hosts.is_empty(), "{text}");
                continue;
            };
            assert_eq!(
                (address.hosts, &*address.user, &*address.database),
                (hosts, user, database)
            );
        }
        assert_eq!(tcp("::1", 5).to_string(), "[::1]:5");
        assert_eq!(socket("/run", 5).to_string(), "/run/.s.PGSQL.5");
    }

    #[test]
    fn what_is_left_out_comes_from_the_environment() {
        let variables = |name: &str| {
            let value = match name {
                "PGHOST" => "h",
                "PGPORT" => "9",
                "PGUSER" => "u",
                "PGSSLMODE" => "verify-full",
                "HOME" => "/home/u",
                _ => return None,
            };
            Some(value.to_owned())
        };
        let address = Address::parse("postgres:///d", &variables).unwrap();
        assert_eq!(address.hosts, [Host::Tcp("h".into(), 9)]);
        assert_eq!(address.tls, TlsMode::VerifyFull);
        assert_eq!(address.password_file, Some("/home/u/.pgpass".into()));
    }

    #[test]
    fn passwords_and_unknown_parameters_are_refused() {
        for text in ["postgres://u:secret@h/d", "user=u password=x", "postgres://u@h/d?password=x"]
        {
            assert!(matches!(parse(text), Err(PostgresError::PasswordShown)), "{text}");
        }
        for text in [
            "postgres://u@h/d?sslmode=maybe",
            "postgres://u@h/d?options=-crow_security",
            "postgres://u@h:x/d",
            "postgres://u@h/%zz",
            "postgres://u@h/%00",
            "postgres://u@h/d?x",
            "user",
            "host=h",
        ] {
            assert!(matches!(parse(text), Err(PostgresError::Address { .. })), "{text}");
        }
    }

    #[test]
    fn programs_may_be_given_more_but_no_password() {
        let none = |_: &str| None;
        let parse = |text: &str| Address::parse_for_tools(text, &none);
        let address = parse("host=db krbsrvname=x sslcert=/c dbname=shop").unwrap();
        assert_eq!((&*address.user, &*address.database), ("postgres", "shop"));
        assert_eq!(address.hosts, [Host::Tcp("db".into(), 5432)]);
        for text in [
            "host=db password=x",
            "host=db sslpassword=x",
            "host=db oauth_client_secret=x",
            "host=db scram_client_key=x",
            "postgres://u:x@db/shop",
            "postgres://u@db/shop?password=x",
        ] {
            assert!(matches!(parse(text), Err(PostgresError::PasswordShown)), "{text}");
        }
    }
}
