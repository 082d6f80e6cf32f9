//! Last steps in a restored data directory.
//!
//! Each file is written beside its place and renamed; all belong to the owner of the directory.

use std::fs::File;
use std::io::Write as _;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, chown, symlink};
use std::path::{Path, PathBuf};

use crate::restore::postgres::control_file::{ControlFileError, guard, system_of};
use crate::restore::postgres::settings::{Recovery, auto_conf};

/// Where the control file of an older state lies while a restore runs.
const CONTROL_ASIDE: &str = "global/pg_control.before";

/// Why a data directory could not be made ready.
#[derive(Debug, thiserror::Error)]
pub enum DirectoryError {
    /// The system refused or failed.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// What was tried, as a verb.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The control file is damaged.
    #[error("{} is damaged", path.display())]
    Control {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: ControlFileError,
    },
}

/// A data directory that a restore has written.
pub struct DataDirectory<'a> {
    path: &'a Path,
}

fn io(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> DirectoryError {
    let path = path.to_owned();
    move |source| DirectoryError::Io { action, path, source }
}

impl<'a> DataDirectory<'a> {
    /// The directory at that path.
    #[must_use]
    pub fn new(path: &'a Path) -> Self {
        Self { path }
    }

    /// Its path.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.path
    }

    /// System identifier of what is there already; `None` for an empty or absent folder.
    #[must_use]
    pub fn system(&self) -> Option<u64> {
        let names = ["global/pg_control", CONTROL_ASIDE];
        names.iter().find_map(|name| system_of(&std::fs::read(self.path.join(name)).ok()?))
    }

    /// Puts the control file of an older state aside: without one no server starts on what is
    /// neither the old state nor the new one.
    pub fn set_control_aside(&self) -> Result<(), DirectoryError> {
        let path = self.path.join("global/pg_control");
        match std::fs::rename(&path, self.path.join(CONTROL_ASIDE)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(io("rename", &path)(error))
            }
            _ => Ok(()),
        }
    }

    /// Whether a server works on it, or has crashed on it.
    #[must_use]
    pub fn has_postmaster(&self) -> bool {
        self.path.join("postmaster.pid").exists()
    }

    /// Makes a folder that the restore has made belong to the owner of the files in it, and to
    /// nobody else, as the server demands.
    pub fn take_owner(&self, folder: &Path) -> Result<(), DirectoryError> {
        let version = self.path.join("PG_VERSION");
        let owner = std::fs::metadata(&version).map_err(io("look at", &version))?;
        // Only root can give folders away, and only then it matters.
        drop(chown(folder, Some(owner.uid()), Some(owner.gid())));
        let permissions = std::os::unix::fs::PermissionsExt::from_mode(0o700);
        std::fs::set_permissions(folder, permissions).map_err(io("change the mode of", folder))
    }

    /// Writes the control file, guarded against a lost `backup_label`: the last of all files, so
    /// that no server starts on what is not whole.
    pub fn write_control(&self, mut control: Vec<u8>) -> Result<(), DirectoryError> {
        let path = self.path.join("global/pg_control");
        if self.path.join("backup_label").exists() {
            guard(&mut control)
                .map_err(|source| DirectoryError::Control { path: path.clone(), source })?;
        }
        self.sync()?;
        self.write("global/pg_control", &control)?;
        drop(std::fs::remove_file(self.path.join(CONTROL_ASIDE)));
        self.sync()
    }

    /// Writes how to recover; without `recovery` the server only replays what the backup carries.
    pub fn set_recovery(
        &self,
        recovery: Option<&Recovery>,
        keeps_archiving: bool,
    ) -> Result<(), DirectoryError> {
        let path = self.path.join("postgresql.auto.conf");
        let before = std::fs::read_to_string(&path).unwrap_or_default();
        let text = auto_conf(&before, recovery, keeps_archiving);
        self.write("postgresql.auto.conf", text.as_bytes())?;
        for signal in ["standby.signal", "recovery.signal"] {
            let path = self.path.join(signal);
            match std::fs::remove_file(&path) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(io("remove", &path)(error));
                }
                _ => {}
            }
        }
        match recovery {
            Some(_) => self.write("recovery.signal", b""),
            None => Ok(()),
        }
    }

    /// Some systems keep the configuration elsewhere: then a small one is made, with what a server
    /// must have to recover. Whether it was.
    pub fn add_configuration(&self, settings: &[(String, String)]) -> Result<bool, DirectoryError> {
        let is_there = |name: &str| self.path.join(name).exists();
        if is_there("postgresql.conf") {
            return Ok(false);
        }
        let lines = settings.iter().map(|(name, value)| format!("{name} = '{value}'\n"));
        let text: String = lines.collect();
        self.write("postgresql.conf", text.as_bytes())?;
        if !is_there("pg_hba.conf") {
            self.write("pg_hba.conf", b"local all all peer\n")?;
        }
        if !is_there("pg_ident.conf") {
            self.write("pg_ident.conf", b"")?;
        }
        Ok(true)
    }

    /// Settings of `postgresql.conf` that lead to another place than this folder.
    #[must_use]
    pub fn settings_elsewhere(&self) -> Vec<&'static str> {
        let text = std::fs::read_to_string(self.path.join("postgresql.conf")).unwrap_or_default();
        let is_set = |name: &&str| {
            text.lines().any(|line| {
                let line = line.trim_start().to_ascii_lowercase();
                line.strip_prefix(name).is_some_and(|rest| {
                    rest.trim_start().starts_with('=') || rest.starts_with([' ', '\t'])
                })
            })
        };
        ["data_directory", "hba_file", "ident_file"]
            .into_iter()
            .filter(|name| is_set(name))
            .collect()
    }

    /// Puts a tablespace where it lies now.
    pub fn link_tablespace(&self, oid: u32, place: &Path) -> Result<(), DirectoryError> {
        let link = self.path.join(format!("pg_tblspc/{oid}"));
        if link.is_symlink() {
            std::fs::remove_file(&link).map_err(io("remove", &link))?;
        } else if link.exists() {
            std::fs::remove_dir(&link).map_err(io("remove", &link))?;
        }
        symlink(place, &link).map_err(io("link", &link))
    }

    /// Removes the map by which the server would put tablespaces where they came from.
    pub fn remove_tablespace_map(&self) -> Result<(), DirectoryError> {
        let path = self.path.join("tablespace_map");
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(io("remove", &path)(error))
            }
            _ => Ok(()),
        }
    }

    /// Writes a file that `fill` gives the content of.
    pub fn write_with<E: From<DirectoryError>>(
        &self,
        name: &str,
        fill: impl FnOnce(&mut File) -> Result<(), E>,
    ) -> Result<(), E> {
        let path = self.path.join(name);
        let temporary = self.path.join(format!("{name}.holdfast"));
        let made = (|| {
            let mut options = File::options();
            options.write(true).create(true).truncate(true).mode(0o600);
            let mut file = options.open(&temporary).map_err(io("create", &temporary))?;
            fill(&mut file)?;
            file.flush().and_then(|()| file.sync_all()).map_err(io("write", &temporary))?;
            let owner = std::fs::metadata(self.path).map_err(io("look at", self.path))?;
            // Only root can give files away, and only then it matters.
            drop(chown(&temporary, Some(owner.uid()), Some(owner.gid())));
            std::fs::rename(&temporary, &path).map_err(io("rename", &temporary))?;
            Ok(())
        })();
        if made.is_err() {
            drop(std::fs::remove_file(&temporary));
        }
        made
    }

    fn write(&self, name: &str, content: &[u8]) -> Result<(), DirectoryError> {
        self.write_with(name, |file| {
            file.write_all(content).map_err(io("write", &self.path.join(name)))
        })
    }

    /// Makes what was renamed durable.
    fn sync(&self) -> Result<(), DirectoryError> {
        for folder in ["", "global", "pg_wal", "pg_tblspc"] {
            let path = self.path.join(folder);
            let open = File::open(&path).and_then(|folder| folder.sync_all());
            open.map_err(io("sync", &path))?;
        }
        Ok(())
    }
}
