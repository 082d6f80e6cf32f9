//! The programs of `PostgreSQL` that a dump needs: where they are, and in which version.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use crate::source::command::CommandStream;
use crate::source::error::SourceError;
use crate::source::postgres::error::PostgresError;
use crate::source::stream::ByteStream as _;

/// Where distributions put them, each version in a folder of its own.
const VERSION_FOLDERS: &str = "/usr/lib/postgresql";
/// Most of what a program may print that is kept in memory.
const OUTPUT_BYTES_MAX: usize = 256 * 1024 * 1024;

/// The environment of a program.
pub type Variables = Vec<(OsString, OsString)>;

/// Programs of one version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DumpTools {
    /// Their folder.
    pub folder: PathBuf,
    /// Major version.
    pub major: u32,
}

impl DumpTools {
    /// Finds programs for a server of that major version: in `folder` if it is given, else in those
    /// of `PATH` and of the system. The server's own version goes before later ones.
    ///
    /// # Errors
    /// [`PostgresError::Tools`].
    pub fn find(
        folder: Option<&Path>,
        variables: &Variables,
        major: u32,
    ) -> Result<Self, PostgresError> {
        let folders = folder.map_or_else(|| folders(variables), |folder| vec![folder.to_owned()]);
        let mut found: Vec<Self> = folders
            .into_iter()
            .filter(|folder| folder.join("pg_dump").is_file())
            .filter_map(|folder| {
                let major = version_of(&folder, variables)?;
                Some(Self { folder, major })
            })
            .collect();
        found.sort_by_key(|tools| tools.major);
        let fitting = found.iter().find(|tools| tools.major >= major);
        fitting.cloned().ok_or_else(|| {
            let newest = found.last().map(|tools| {
                format!("the newest found is {} in {}", tools.major, tools.folder.display())
            });
            let none = || match folder {
                Some(folder) => format!("none is in {}", folder.display()),
                None => "none was found".to_owned(),
            };
            PostgresError::Tools { major, found: newest.unwrap_or_else(none) }
        })
    }

    /// Finds a server of just that major version, with its programs.
    #[must_use]
    pub fn find_server(folder: Option<&Path>, variables: &Variables, major: u32) -> Option<Self> {
        let folders = folder.map_or_else(|| folders(variables), |folder| vec![folder.to_owned()]);
        // In folders with programs for all versions there are no servers.
        let mut servers = folders.into_iter().filter(|folder| folder.join("postgres").is_file());
        servers.find_map(|folder| {
            let found = version_of(&folder, variables)?;
            (found == major).then_some(Self { folder, major })
        })
    }

    /// The path of a program, as the first word of a command.
    #[must_use]
    pub fn program(&self, name: &str) -> OsString {
        self.folder.join(name).into_os_string()
    }
}

/// The environment without what `libpq` would take from it.
#[must_use]
pub fn without_settings(variables: &Variables) -> Variables {
    let is_kept = |name: &OsStr| !name.as_encoded_bytes().starts_with(b"PG");
    variables.iter().filter(|(name, _)| is_kept(name)).cloned().collect()
}

/// All that a program prints.
///
/// # Errors
/// It cannot be started, fails, or prints more than fits into memory.
pub fn output_of(argv: &[OsString], variables: Variables) -> Result<Vec<u8>, SourceError> {
    let mut stream = Box::new(CommandStream::start(argv, variables, None)?);
    let mut output = Vec::new();
    let mut buffer = vec![0; 64 * 1024];
    while output.len() < OUTPUT_BYTES_MAX {
        match stream.read(&mut buffer)? {
            0 => break,
            length => output.extend_from_slice(&buffer[..length]),
        }
    }
    stream.finish()?;
    Ok(output)
}

fn folders(variables: &Variables) -> Vec<PathBuf> {
    let path = variables.iter().find(|(name, _)| name == "PATH").map(|(_, value)| value.clone());
    let mut folders: Vec<PathBuf> = std::env::split_paths(&path.unwrap_or_default()).collect();
    for entry in std::fs::read_dir(VERSION_FOLDERS).into_iter().flatten().flatten() {
        folders.push(entry.path().join("bin"));
    }
    folders
}

fn version_of(folder: &Path, variables: &Variables) -> Option<u32> {
    let argv = [folder.join("pg_dump").into_os_string(), "--version".into()];
    let output = output_of(&argv, without_settings(variables)).ok()?;
    major_of(std::str::from_utf8(&output).ok()?)
}

/// The major version in `pg_dump (PostgreSQL) 15.20 (Debian 15.20-0+deb12u1)`.
fn major_of(text: &str) -> Option<u32> {
    let (_, version) = text.split_once("(PostgreSQL) ")?;
    let digits = version.find(|c: char| !c.is_ascii_digit()).unwrap_or(version.len());
    version[..digits].parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_as_the_programs_print_them() {
        let table = [
            ("pg_dump (PostgreSQL) 15.20 (Debian 15.20-0+deb12u1)\n", Some(15)),
            ("pg_dump (PostgreSQL) 18beta3\n", Some(18)),
            ("pg_dump (PostgreSQL) 17", Some(17)),
            ("pg_dump (EnterpriseDB)", None),
            ("", None),
        ];
        for (text, major) in table {
            assert_eq!(major_of(text), major, "{text}");
        }
    }

    #[test]
    fn an_older_one_is_refused_and_named() {
        use std::os::unix::fs::PermissionsExt as _;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pg_dump");
        std::fs::write(&path, "#!/bin/sh\necho 'pg_dump (PostgreSQL) 16.1'\n").unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        let find = |major| DumpTools::find(Some(folder.path()), &Vec::new(), major);
        assert_eq!(find(15).unwrap().major, 16);
        assert_eq!(find(16).unwrap().major, 16);
        let refused = find(17).unwrap_err().to_string();
        assert!(refused.contains("the newest found is 16 in "), "{refused}");
    }
}
