//! Reads secrets from files, descriptors and programs.
//!
//! What is read is wiped from memory as soon as it has been moved into its `SecretString`; no
//! message has any of it. Files that others can read are refused.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};

use secrecy::SecretString;
use zeroize::Zeroizing;

use crate::cli::environment::Environment;

/// Longest secret in bytes.
pub const SECRET_BYTES_MAX: usize = 64 * 1024;

/// Why a secret could not be read.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// Others than the owner can read the file.
    #[error("{place} can be read by others: its mode is {mode:04o}")]
    Exposed {
        /// Which file.
        place: String,
        /// Its permission bits.
        mode: u32,
    },
    /// The file belongs to someone else, who could change it.
    #[error("{place} belongs to user {owner}, neither to this one nor to root")]
    ForeignOwner {
        /// Which file.
        place: String,
        /// Its owner.
        owner: u32,
    },
    /// The system does not let us read it, or the program cannot be started.
    #[error("cannot read {place}")]
    Io {
        /// File, descriptor or program.
        place: String,
        /// What the system said.
        source: io::Error,
    },
    /// The program failed.
    #[error("{place} ended with {status}")]
    ProgramFailed {
        /// Which program.
        place: String,
        /// How it ended.
        status: ExitStatus,
    },
    /// There is nothing in it.
    #[error("{place} gives nothing")]
    Empty {
        /// File, descriptor or program.
        place: String,
    },
    /// It is no secret of ours.
    #[error("{place} gives more than {SECRET_BYTES_MAX} bytes")]
    TooLong {
        /// File, descriptor or program.
        place: String,
    },
    /// It is not text.
    #[error("{place} gives something that is not UTF-8 text")]
    NotText {
        /// File, descriptor or program.
        place: String,
    },
}

/// How strictly a file's permissions are looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileKind {
    /// An ordinary file: for its owner only.
    Private,
    /// Below `$CREDENTIALS_DIRECTORY`: systemd grants access by an ACL, whose mask shows as the
    /// group's permission.
    Credential,
}

/// What makes the end of a secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// One line end at the end does not belong to it.
    Line,
    /// All of it belongs to it (an identity file).
    Whole,
}

/// Reads a file that belongs to this user or to root, and that no one else can read.
///
/// # Errors
/// Every variant but `ProgramFailed`.
pub fn read_file(path: &Path, kind: FileKind, ending: Ending) -> Result<SecretString, SecretError> {
    let place = path.display().to_string();
    let failed = |source| SecretError::Io { place: place.clone(), source };
    let file = File::open(path).map_err(failed)?;
    // Of the file that was opened, not of the name: it could be replaced in between.
    let metadata = file.metadata().map_err(failed)?;
    let (mode, owner) = (metadata.mode() & 0o7777, metadata.uid());
    let forbidden = if kind == FileKind::Credential { 0o037 } else { 0o077 };
    if mode & forbidden != 0 {
        return Err(SecretError::Exposed { place, mode });
    }
    if owner != 0 && owner != rustix::process::geteuid().as_raw() {
        return Err(SecretError::ForeignOwner { place, owner });
    }
    read(file, &place, ending)
}

/// Reads an open descriptor to its end. It is opened anew by its number, so it stays open.
///
/// # Errors
/// As [`read_file`], but for permissions.
pub fn read_descriptor(number: u32) -> Result<SecretString, SecretError> {
    let place = format!("descriptor {number}");
    let file = File::open(format!("/proc/self/fd/{number}"))
        .map_err(|source| SecretError::Io { place: place.clone(), source })?;
    read(file, &place, Ending::Line)
}

/// Runs a program without a shell and reads what it prints. It gets none of our own variables.
///
/// # Errors
/// As [`read_file`], but for permissions; and when the program fails, whatever it printed.
pub fn read_program(
    argv: &[String],
    environment: &Environment,
) -> Result<SecretString, SecretError> {
    let [program, arguments @ ..] = argv else {
        return Err(SecretError::Empty { place: "the password command".to_owned() });
    };
    let place = format!("the output of {program}");
    let failed = |source| SecretError::Io { place: place.clone(), source };
    let mut command = Command::new(program);
    command.args(arguments).stdout(Stdio::piped());
    environment.scrub(&mut command);
    let mut child = command.spawn().map_err(failed)?;
    let pipe = child.stdout.take().expect("the standard output was asked to be a pipe");
    let secret = read(pipe, &place, Ending::Line);
    let status = child.wait().map_err(failed)?;
    if status.success() { secret } else { Err(SecretError::ProgramFailed { place, status }) }
}

fn read(from: impl Read, place: &str, ending: Ending) -> Result<SecretString, SecretError> {
    // One allocation from the beginning: a buffer that grows leaves copies behind.
    let mut bytes = Zeroizing::new(Vec::with_capacity(SECRET_BYTES_MAX + 32));
    from.take(SECRET_BYTES_MAX as u64 + 1)
        .read_to_end(&mut bytes)
        .map_err(|source| SecretError::Io { place: place.to_owned(), source })?;
    if bytes.len() > SECRET_BYTES_MAX {
        return Err(SecretError::TooLong { place: place.to_owned() });
    }
    from_bytes(&bytes, place, ending)
}

/// Makes a secret of bytes that were read.
///
/// # Errors
/// Nothing in it, or not text.
pub fn from_bytes(bytes: &[u8], place: &str, ending: Ending) -> Result<SecretString, SecretError> {
    let text =
        std::str::from_utf8(bytes).map_err(|_| SecretError::NotText { place: place.to_owned() })?;
    let text = match ending {
        Ending::Whole => text,
        Ending::Line => text.strip_suffix('\n').map_or(text, |t| t.strip_suffix('\r').unwrap_or(t)),
    };
    if text.is_empty() {
        return Err(SecretError::Empty { place: place.to_owned() });
    }
    Ok(SecretString::from(text))
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt;

    use secrecy::ExposeSecret;

    use super::*;

    fn file(content: &[u8], mode: u32) -> (tempfile::TempDir, std::path::PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("secret");
        fs::write(&path, content).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
        (folder, path)
    }

    #[test]
    fn files_that_others_can_read_are_refused() {
        use FileKind::{Credential, Private};
        let cases = [
            (0o600, Private, true),
            (0o400, Private, true),
            (0o640, Private, false),
            (0o604, Private, false),
            (0o620, Private, false),
            (0o440, Credential, true),
            (0o444, Credential, false),
            (0o460, Credential, false),
        ];
        for (mode, kind, accepted) in cases {
            let (_folder, path) = file(b"hunter2\n", mode);
            let secret = read_file(&path, kind, Ending::Line);
            assert_eq!(secret.is_ok(), accepted, "{mode:o}");
        }
    }

    #[test]
    fn one_line_end_is_cut_and_no_more() {
        let cases: &[(&[u8], Ending, Option<&str>)] = &[
            (b"a b \n", Ending::Line, Some("a b ")),
            (b"a\r\n", Ending::Line, Some("a")),
            (b"a\n\n", Ending::Line, Some("a\n")),
            (b"a\n", Ending::Whole, Some("a\n")),
            (b"\n", Ending::Line, None),
            (b"", Ending::Whole, None),
            (b"\xff", Ending::Line, None),
        ];
        for (bytes, ending, expected) in cases {
            let secret = from_bytes(bytes, "x", *ending).ok();
            assert_eq!(secret.as_ref().map(ExposeSecret::expose_secret), *expected);
        }
        let (_folder, path) = file(&vec![b'a'; SECRET_BYTES_MAX + 1], 0o600);
        let long = read_file(&path, FileKind::Private, Ending::Line);
        assert!(matches!(long, Err(SecretError::TooLong { .. })));
    }

    #[test]
    fn programs_give_their_output_unless_they_fail() {
        let environment = Environment::new([("HOLDFAST_PASSWORD", "leak")]);
        let run =
            |script: &str| read_program(&["sh".into(), "-c".into(), script.into()], &environment);
        assert_eq!(run("echo secret").unwrap().expose_secret(), "secret");
        assert!(matches!(run("echo secret; exit 3"), Err(SecretError::ProgramFailed { .. })));
        assert_eq!(run("echo \"[$HOLDFAST_PASSWORD]\"").unwrap().expose_secret(), "[]");
    }

    #[test]
    fn descriptors_are_read_by_number() {
        use std::os::fd::AsRawFd;
        let (_folder, path) = file(b"hunter2\n", 0o600);
        let open = File::open(path).unwrap();
        let number = open.as_raw_fd().try_into().unwrap();
        assert_eq!(read_descriptor(number).unwrap().expose_secret(), "hunter2");
        assert!(read_descriptor(9999).is_err());
    }
}
