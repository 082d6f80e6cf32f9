//! The program of a server on this host, and which dumps it reads.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::format::redis::grammar::Dialect;

/// Where programs are besides what `PATH` has.
const FOLDERS: [&str; 3] = ["/usr/local/bin", "/usr/bin", "/opt/valkey/bin"];

/// A program that starts a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerProgram {
    /// Where it is.
    pub path: PathBuf,
    /// Whose server it is.
    pub kind: Dialect,
    /// Its version.
    pub version: String,
}

impl ServerProgram {
    /// Asks a program what it is; nothing where it is no such server.
    #[must_use]
    pub fn ask(path: &Path) -> Option<Self> {
        let mut command = Command::new(path);
        let output = command.arg("--version").env_clear().stdin(Stdio::null()).output().ok()?;
        Self::read(path, &String::from_utf8_lossy(&output.stdout))
    }

    fn read(path: &Path, said: &str) -> Option<Self> {
        let (kind, rest) = match said.strip_prefix("Redis server ") {
            Some(rest) => (Dialect::Redis, rest),
            None => (Dialect::Valkey, said.strip_prefix("Valkey server ")?),
        };
        let version = rest.split_ascii_whitespace().find_map(|word| word.strip_prefix("v="))?;
        Some(Self { path: path.to_owned(), kind, version: version.to_owned() })
    }

    /// The first one in the folders of `PATH` and of the system that reads such dumps.
    #[must_use]
    pub fn find(path_variable: &OsStr, dialect: Dialect, version: u32) -> Option<Self> {
        let names = match dialect {
            Dialect::Redis => ["redis-server", "valkey-server"],
            Dialect::Valkey => ["valkey-server", "redis-server"],
        };
        let folders: Vec<PathBuf> =
            std::env::split_paths(path_variable).chain(FOLDERS.map(PathBuf::from)).collect();
        let paths = names.iter().flat_map(|name| folders.iter().map(move |it| it.join(name)));
        let mut programs = paths.filter(|path| path.is_file()).filter_map(|path| Self::ask(&path));
        programs.find(|program| program.reads(dialect, version))
    }

    /// `redis 7.0.15`
    #[must_use]
    pub fn shown(&self) -> String {
        let kind = match self.kind {
            Dialect::Redis => "redis",
            Dialect::Valkey => "valkey",
        };
        format!("{kind} {}", self.version)
    }

    /// Its first two numbers.
    #[must_use]
    pub fn number(&self) -> (u32, u32) {
        let mut numbers = self.version.split('.').map(|part| part.parse().unwrap_or(0));
        (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
    }

    /// Whether it reads dumps of that version. Of a server that is newer than this program it is
    /// assumed: it says so itself where it does not.
    #[must_use]
    pub fn reads(&self, dialect: Dialect, version: u32) -> bool {
        let newest = match (self.kind, dialect, self.number()) {
            (Dialect::Redis, Dialect::Valkey, _) | (Dialect::Valkey, Dialect::Valkey, (..9, _)) => {
                0
            }
            (Dialect::Redis, Dialect::Redis, number) => match number {
                (..3, _) => 6,
                (3, _) => 7,
                (4, _) => 8,
                (5 | 6, _) => 9,
                (7, 0 | 1) => 10,
                (7, 2 | 3) => 11,
                (7, _) | (8, ..4) => 12,
                (8, 4..8) => 13,
                (8, 8 | 9) => 14,
                (8, 10) => 15,
                _ => u32::MAX,
            },
            (Dialect::Valkey, Dialect::Valkey, _) => u32::MAX,
            (Dialect::Valkey, Dialect::Redis, _) => 11,
        };
        version <= newest
    }
}

/// Which server is needed for dumps of that version.
#[must_use]
pub fn needed(dialect: Dialect, version: u32) -> String {
    let redis = match version {
        ..=9 => "6.2",
        10 => "7.0",
        11 => "7.2",
        12 => "7.4",
        13 => "8.6",
        14 => "8.8",
        _ => "8.10",
    };
    match dialect {
        Dialect::Valkey => "Valkey 9 or newer".to_owned(),
        Dialect::Redis if version <= 11 => format!("Redis {redis} or newer, or Valkey"),
        Dialect::Redis if version <= 15 => format!("Redis {redis} or newer"),
        Dialect::Redis => format!("a newer Redis than {redis}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_say_what_they_are_and_that_says_what_they_read() {
        let program = |said: &str| ServerProgram::read(Path::new("/x"), said);
        let redis = program("Redis server v=7.0.15 sha=00000000:0 malloc=jemalloc-5.3.0").unwrap();
        assert_eq!((redis.shown(), redis.number()), ("redis 7.0.15".to_owned(), (7, 0)));
        assert!(redis.reads(Dialect::Redis, 10) && !redis.reads(Dialect::Redis, 11));
        assert!(!redis.reads(Dialect::Valkey, 80));
        let old = program("Redis server v=6.2.5 sha=0").unwrap();
        assert!(old.reads(Dialect::Redis, 9) && !old.reads(Dialect::Redis, 10));
        let valkey = program("Valkey server v=9.1.2 sha=0").unwrap();
        assert!(valkey.reads(Dialect::Valkey, 80) && valkey.reads(Dialect::Redis, 11));
        assert!(!valkey.reads(Dialect::Redis, 12));
        for (version, newest) in [("8.2.3", 12), ("8.6.1", 13), ("8.8.1", 14), ("8.10.2", 15)] {
            let redis = program(&format!("Redis server v={version} sha=0")).unwrap();
            assert!(
                redis.reads(Dialect::Redis, newest) && !redis.reads(Dialect::Redis, newest + 1)
            );
        }
        assert!(program("Redis server v=9.0.0").unwrap().reads(Dialect::Redis, 16));
        assert_eq!(program("nginx version: 1"), None);
        assert_eq!(needed(Dialect::Redis, 10), "Redis 7.0 or newer, or Valkey");
        assert_eq!(needed(Dialect::Redis, 14), "Redis 8.8 or newer");
        assert_eq!(needed(Dialect::Redis, 16), "a newer Redis than 8.10");
    }
}
