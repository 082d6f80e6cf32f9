//! Where a server is, from an address as `redis-cli -u` takes it, without a password.
//!
//! `redis://[user@]host[:port][/db]`, the same with `rediss://` for TLS, `redis+unix:///path` or
//! `unix:///path` for a socket of this host. All databases are saved, whichever is named. After a
//! `?` stand `verify=full|ca|none` and `cacert=FILE`.

use std::path::PathBuf;

use crate::source::redis::error::RedisError;
use crate::source::tls::TlsMode;

const PORT_DEFAULT: u16 = 6379;

/// Where the server is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Host {
    /// Name or number, and port.
    Tcp(String, u16),
    /// A socket of this host.
    Socket(PathBuf),
}

/// Where, and as whom.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    /// Where.
    pub host: Host,
    /// The user of the access list; none for the default one.
    pub user: Option<String>,
    /// How much the server must prove: [`TlsMode::Disable`] without TLS.
    pub tls: TlsMode,
    /// Certificates to trust instead of the system's.
    pub root_certificates: Option<PathBuf>,
}

impl std::fmt::Display for Host {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Tcp(host, port) if host.contains(':') => write!(f, "[{host}]:{port}"),
            Self::Tcp(host, port) => write!(f, "{host}:{port}"),
            Self::Socket(path) => write!(f, "{}", path.display()),
        }
    }
}

impl Address {
    /// Reads an address.
    ///
    /// # Errors
    /// [`RedisError::Address`], [`RedisError::PasswordShown`].
    pub fn parse(text: &str) -> Result<Self, RedisError> {
        let (scheme, rest) =
            text.split_once("://").ok_or_else(|| wrong("redis://HOST:PORT is one"))?;
        let (place, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (user, place) = match place.rsplit_once('@') {
            Some((user, _)) if user.contains(':') => return Err(RedisError::PasswordShown),
            Some((user, place)) => (Some(decoded(user)?).filter(|user| !user.is_empty()), place),
            None => (None, place),
        };
        let host = match scheme {
            "redis" | "rediss" => tcp(place)?,
            "redis+unix" | "unix" if place.starts_with('/') => Host::Socket(decoded(place)?.into()),
            "redis+unix" | "unix" => return Err(wrong("the path of a socket begins with /")),
            _ => return Err(wrong(&format!("{scheme}:// is not known"))),
        };
        let tls = if scheme == "rediss" { TlsMode::VerifyFull } else { TlsMode::Disable };
        let mut address = Self { host, user, tls, root_certificates: None };
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            address.set(name, &decoded(value)?)?;
        }
        Ok(address)
    }

    fn set(&mut self, name: &str, value: &str) -> Result<(), RedisError> {
        match (name, value) {
            ("password" | "pass", _) => return Err(RedisError::PasswordShown),
            ("verify" | "cacert", _) if self.tls == TlsMode::Disable => {
                return Err(wrong(&format!("{name} is for rediss:// only")));
            }
            ("verify", "full") => self.tls = TlsMode::VerifyFull,
            ("verify", "ca") => self.tls = TlsMode::VerifyCa,
            ("verify", "none") => self.tls = TlsMode::Prefer,
            ("cacert", file) if !file.is_empty() => self.root_certificates = Some(file.into()),
            _ => return Err(wrong(&format!("the parameter {name} is not known here"))),
        }
        Ok(())
    }
}

fn wrong(what: &str) -> RedisError {
    RedisError::Address { what: what.to_owned() }
}

fn tcp(place: &str) -> Result<Host, RedisError> {
    let (place, db) = place.split_once('/').unwrap_or((place, ""));
    if !db.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(wrong("a database is a number"));
    }
    let (host, port) = match place.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((host, port)) => (host, port.strip_prefix(':').unwrap_or(port)),
        None => place.split_once(':').unwrap_or((place, "")),
    };
    if host.is_empty() {
        return Err(wrong("it names no host"));
    }
    let port = if port.is_empty() { Ok(PORT_DEFAULT) } else { port.parse() };
    Ok(Host::Tcp(decoded(host)?, port.map_err(|_| wrong("a port is no number"))?))
}

fn decoded(text: &str) -> Result<String, RedisError> {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read() {
        let tcp = |host: &str, port| Host::Tcp(host.to_owned(), port);
        let table = [
            ("redis://cache", tcp("cache", 6379), None, TlsMode::Disable),
            ("redis://cache:7000/3", tcp("cache", 7000), None, TlsMode::Disable),
            ("redis://backup@[::1]:1", tcp("::1", 1), Some("backup"), TlsMode::Disable),
            ("rediss://a%40b@h", tcp("h", 6379), Some("a@b"), TlsMode::VerifyFull),
            ("rediss://h?verify=ca&cacert=/ca", tcp("h", 6379), None, TlsMode::VerifyCa),
            ("unix:///run/r.sock", Host::Socket("/run/r.sock".into()), None, TlsMode::Disable),
            ("redis+unix://u@/r%20s", Host::Socket("/r s".into()), Some("u"), TlsMode::Disable),
        ];
        for (text, host, user, tls) in table {
            let address = Address::parse(text).unwrap();
            assert_eq!((address.host, address.user.as_deref(), address.tls), (host, user, tls));
        }
        assert_eq!(tcp("::1", 5).to_string(), "[::1]:5");
    }

    #[test]
    fn passwords_and_what_is_not_known_are_refused() {
        for text in ["redis://u:secret@h", "redis://:secret@h:1", "redis://h?password=x"] {
            assert!(matches!(Address::parse(text), Err(RedisError::PasswordShown)), "{text}");
        }
        for text in [
            "cache",
            "http://h",
            "redis://",
            "redis://h:x",
            "redis://h/a",
            "redis://h?verify=none",
            "rediss://h?verify=maybe",
            "unix://run/r.sock",
            "redis://%zz",
        ] {
            assert!(matches!(Address::parse(text), Err(RedisError::Address { .. })), "{text}");
        }
    }
}
