//! Passwords from a file of `host:port:database:user:password` lines, `~/.pgpass`.
//!
//! Source: the manual of `PostgreSQL`, "The Password File". As there, a file that others may read
//! is not used.

use std::io::Read as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use secrecy::SecretString;
use zeroize::Zeroizing;

use crate::source::postgres::error::PostgresError;

const FILE_BYTES_MAX: u64 = 1024 * 1024;

/// Whose password is asked for.
#[derive(Debug, Clone, Copy)]
pub struct Wanted<'a> {
    /// Host as it was given; `localhost` for a socket in the usual folder.
    pub host: &'a str,
    /// Port.
    pub port: u16,
    /// Database; `replication` for a physical replication connection.
    pub database: &'a str,
    /// Role.
    pub user: &'a str,
}

/// Looks a password up; `None` where there is no file or no line that fits.
///
/// # Errors
/// The file cannot be read, is too long, or others may read it.
pub fn find_password(
    path: &Path,
    wanted: Wanted<'_>,
) -> Result<Option<SecretString>, PostgresError> {
    let failed = |what: String| PostgresError::File { path: path.to_owned(), what };
    let mut file = match std::fs::File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(error.to_string())),
    };
    let metadata = file.metadata().map_err(|error| failed(error.to_string()))?;
    if metadata.permissions().mode() & 0o077 != 0 {
        return Err(failed("others may read it; make it 0600".to_owned()));
    }
    if metadata.len() > FILE_BYTES_MAX {
        return Err(failed("it is too long".to_owned()));
    }
    let mut text = Zeroizing::new(String::new());
    file.read_to_string(&mut text).map_err(|error| failed(error.to_string()))?;
    Ok(text.lines().find_map(|line| of_line(line, wanted)))
}

fn of_line(line: &str, wanted: Wanted<'_>) -> Option<SecretString> {
    if line.starts_with('#') {
        return None;
    }
    let port = wanted.port.to_string();
    let mut rest = line;
    for expected in [wanted.host, &port, wanted.database, wanted.user] {
        let (field, after) = field(rest);
        rest = after?;
        if *field != *"*" && *field != *expected {
            return None;
        }
    }
    Some(SecretString::from(field(rest).0.as_str()))
}

/// The text up to the next colon, escapes undone, and what comes after it.
fn field(text: &str) -> (Zeroizing<String>, Option<&str>) {
    let mut value = Zeroizing::new(String::new());
    let mut characters = text.char_indices();
    while let Some((at, c)) = characters.next() {
        match c {
            ':' => return (value, Some(&text[at + 1..])),
            '\\' => value.extend(characters.next().map(|(_, c)| c)),
            c => value.push(c),
        }
    }
    (value, None)
}

#[cfg(test)]
mod tests {
    use secrecy::ExposeSecret as _;

    use super::*;

    #[test]
    fn the_first_line_that_fits_counts() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pgpass");
        let find = |host, port, database, user| {
            let wanted = Wanted { host, port, database, user };
            find_password(&path, wanted).map(|p| p.map(|p| p.expose_secret().to_owned()))
        };
        assert_eq!(find("db", 1, "d", "u").unwrap(), None);
        let text = "# c\ndb:5432:shop:u:a\\:b\\\\c\n*:*:replication:u:r\ndb:*:*:v:x\n";
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        assert!(find("db", 1, "d", "u").is_err());
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        let table = [
            (("db", 5432, "shop", "u"), Some("a:b\\c")),
            (("db", 5433, "shop", "u"), None),
            (("x", 1, "replication", "u"), Some("r")),
            (("db", 1, "y", "v"), Some("x")),
        ];
        for ((host, port, database, user), expected) in table {
            assert_eq!(find(host, port, database, user).unwrap().as_deref(), expected);
        }
    }
}
