//! Which configuration files there are, and reading them.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use crate::cli::config::{Config, ConfigError};
use crate::cli::environment::Environment;
use crate::cli::error::CommandError;
use crate::cli::explain::usage;

/// The configuration of the host.
const SYSTEM_FILE: &str = "/etc/holdfast/holdfast.toml";
/// Further parts of it, `*.toml`, in the order of their names.
const SYSTEM_PARTS: &str = "/etc/holdfast/conf.d";

/// The configuration, and the files that it came from.
#[derive(Debug, Clone, Default)]
pub struct LoadedConfig {
    /// All files added up.
    pub config: Config,
    /// The files, in the order in which they were read.
    pub files: Vec<PathBuf>,
}

/// Reads `named` alone, else `$HOLDFAST_CONFIG` alone, else the host's files and the user's.
///
/// # Errors
/// `HF-USE-004` for a named file that is not there or any that cannot be read, `HF-USE-003` for
/// one that is wrong.
pub fn load(named: Option<&Path>, environment: &Environment) -> Result<LoadedConfig, CommandError> {
    let mut loaded = LoadedConfig::default();
    let named = named.map(Path::to_owned).or_else(|| environment.path("HOLDFAST_CONFIG"));
    if let Some(file) = named {
        loaded.read(&file)?;
    } else {
        for file in usual_files(environment)? {
            loaded.read(&file)?;
        }
    }
    loaded.config.check_references().map_err(|error| {
        CommandError::new(&usage::CONFIG, "the configuration is wrong").because(&error)
    })?;
    Ok(loaded)
}

impl LoadedConfig {
    fn read(&mut self, file: &Path) -> Result<(), CommandError> {
        let text = fs::read_to_string(file).map_err(|error| unreadable(file, &error))?;
        let wrong = |error: ConfigError| {
            CommandError::new(&usage::CONFIG, format!("{} is wrong", file.display()))
                .because(&error)
        };
        self.config.add(Config::parse(&text).map_err(wrong)?).map_err(wrong)?;
        self.files.push(file.to_owned());
        Ok(())
    }
}

fn unreadable(file: &Path, error: &std::io::Error) -> CommandError {
    let what = format!("cannot read the configuration {}", file.display());
    CommandError::new(&usage::CONFIG_UNREADABLE, what).because(error)
}

fn usual_files(environment: &Environment) -> Result<Vec<PathBuf>, CommandError> {
    let mut files = vec![PathBuf::from(SYSTEM_FILE)];
    files.extend(parts(Path::new(SYSTEM_PARTS))?);
    let home = || environment.path("HOME").map(|home| home.join(".config"));
    if let Some(folder) = environment.path("XDG_CONFIG_HOME").or_else(home) {
        files.push(folder.join("holdfast/holdfast.toml"));
    }
    files.retain(
        |file| !matches!(fs::metadata(file), Err(error) if error.kind() == ErrorKind::NotFound),
    );
    Ok(files)
}

/// The `*.toml` files of a folder, sorted; none where there is no folder.
fn parts(folder: &Path) -> Result<Vec<PathBuf>, CommandError> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(unreadable(folder, &error)),
    };
    let mut files = Vec::new();
    for entry in entries {
        let path = entry.map_err(|error| unreadable(folder, &error))?.path();
        if path.extension().is_some_and(|extension| extension == "toml") {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::error::Exit;

    #[test]
    fn a_named_file_must_be_there_and_right() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("h.toml");
        let nothing = Environment::default();
        let missing = load(Some(&file), &nothing).unwrap_err();
        assert_eq!((missing.id(), missing.exit()), ("HF-USE-004", Exit::Usage));
        fs::write(&file, "version = 1\nx = 1\n").unwrap();
        let wrong = load(Some(&file), &nothing).unwrap_err();
        assert_eq!(wrong.id(), "HF-USE-003");
        assert!(wrong.causes()[0].starts_with("line 2: "), "{:?}", wrong.causes());
        fs::write(&file, "version = 1\n").unwrap();
        assert_eq!(load(Some(&file), &nothing).unwrap().files, [file]);
    }

    #[test]
    fn parts_are_read_in_order() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["b.toml", "a.toml", "c.txt"] {
            fs::write(folder.path().join(name), "version = 1\n").unwrap();
        }
        let names: Vec<_> = parts(folder.path()).unwrap();
        assert_eq!(names, [folder.path().join("a.toml"), folder.path().join("b.toml")]);
    }
}
