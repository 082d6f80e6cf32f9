//! An append-only file on the disk of a server, also while the server writes it and puts a new one
//! in its place.
//!
//! All files are open and their lengths known before the list of them is read once more: where it
//! is still the same, what was there at that moment is what is read, whatever the server does
//! afterwards. The server is neither asked nor changed.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read as _};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rustix::fs::OFlags;

use crate::format::limits::AOF_MANIFEST_BYTES_MAX;
use crate::format::redis::aof_log::{AofLog, AofLogError};
use crate::format::redis::aof_manifest::{AofFile, AofManifest, AofManifestError, AofRole};
use crate::format::redis::dump_parts::is_dump;
use crate::source::error::SourceError;
use crate::source::stream::ByteStream;

/// Names of files and folders where the configuration of the server says nothing else.
const FOLDER_DEFAULT: &str = "appendonlydir";
const FILE_DEFAULT: &str = "appendonly.aof";
const MANIFEST_END: &str = ".manifest";
/// So often the list of files may change while they are opened.
const TRIES_MAX: u32 = 50;
const PAUSE: Duration = Duration::from_millis(100);
/// Bytes that are read at once.
const READ_BYTES: usize = 256 * 1024;

/// Why an append-only file could not be saved.
#[derive(Debug, thiserror::Error)]
pub enum AofError {
    /// There is none.
    #[error("{} has no append-only file: neither a list *.manifest nor {FILE_DEFAULT}", path.display())]
    Missing {
        /// Where one was looked for.
        path: PathBuf,
    },
    /// There are several.
    #[error("{} has several append-only files: {}", path.display(), names.join(", "))]
    Several {
        /// Where one was looked for.
        path: PathBuf,
        /// Their lists.
        names: Vec<String>,
    },
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
    /// The list of the files makes no sense.
    #[error("the list {} is damaged", path.display())]
    Manifest {
        /// The list.
        path: PathBuf,
        /// What is wrong with it.
        source: AofManifestError,
    },
    /// A file that the list names is not there.
    #[error("{} is missing, but stands in the list of the files", path.display())]
    FileMissing {
        /// The file.
        path: PathBuf,
    },
    /// The server rewrites the file without end.
    #[error("the files in {} changed each of {TRIES_MAX} times that they were opened", path.display())]
    Restless {
        /// The folder.
        path: PathBuf,
    },
    /// A file has bytes that no server would load.
    #[error("{} is damaged", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Where.
        source: AofLogError,
    },
    /// A file that is not the last one ends within a command.
    #[error("{} ends within a command or transaction, but is not the last file", path.display())]
    Cut {
        /// The file.
        path: PathBuf,
    },
}

/// An append-only file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AofPlace {
    /// One file, as servers before 7 have it.
    File(PathBuf),
    /// The list of the files of a folder.
    Manifest(PathBuf),
}

impl AofPlace {
    /// What is at `path`: a file, a folder with a list of files, or the folder of a server that has
    /// one of both.
    ///
    /// # Errors
    /// There is none, or there are several.
    pub fn find(path: &Path) -> Result<Self, AofError> {
        let failed = |source| AofError::Io { action: "read", path: path.to_owned(), source };
        if !std::fs::metadata(path).map_err(failed)?.is_dir() {
            let is_list = path.to_string_lossy().ends_with(MANIFEST_END);
            let path = path.to_owned();
            return Ok(if is_list { Self::Manifest(path) } else { Self::File(path) });
        }
        let mut lists = lists_of(path).map_err(failed)?;
        if lists.is_empty() && path.join(FOLDER_DEFAULT).is_dir() {
            lists = lists_of(&path.join(FOLDER_DEFAULT)).map_err(failed)?;
        }
        if lists.is_empty() {
            for entry in std::fs::read_dir(path).map_err(failed)? {
                let entry = entry.map_err(failed)?;
                if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                    lists.extend(lists_of(&entry.path()).unwrap_or_default());
                }
            }
        }
        let file = path.join(FILE_DEFAULT);
        match &lists[..] {
            [list] => Ok(Self::Manifest(list.clone())),
            [] if file.is_file() => Ok(Self::File(file)),
            [] => Err(AofError::Missing { path: path.to_owned() }),
            several => {
                let names = several.iter().map(|list| list.display().to_string()).collect();
                Err(AofError::Several { path: path.to_owned(), names })
            }
        }
    }

    /// Takes hold of all files as they are at one moment.
    ///
    /// # Errors
    /// [`AofError`].
    pub fn pin(&self) -> Result<PinnedAof, AofError> {
        self.pin_with(&mut |_| {})
    }

    /// As [`Self::pin`]; `between` runs after the files were opened each time.
    fn pin_with(&self, between: &mut dyn FnMut(u32)) -> Result<PinnedAof, AofError> {
        let list = match self {
            Self::Manifest(list) => list,
            Self::File(path) => {
                let file = PinnedFile::open(path.clone(), PinnedRole::Single)?;
                let folder = None;
                return Ok(PinnedAof { folder, list: None, files: vec![file] });
            }
        };
        let folder = list.parent().unwrap_or(Path::new(""));
        for number in 0..TRIES_MAX {
            if number > 0 {
                std::thread::sleep(PAUSE);
            }
            let manifest = read_list(list)?;
            let opened = open_all(folder, &manifest);
            between(number);
            if read_list(list)?.text() != manifest.text() {
                continue;
            }
            let shown = std::path::absolute(folder).unwrap_or_else(|_| folder.to_owned());
            let name = shown.file_name().unwrap_or(FOLDER_DEFAULT.as_ref());
            let list = list.file_name().unwrap_or_default().to_string_lossy().into_owned();
            return Ok(PinnedAof {
                folder: Some(name.to_string_lossy().into_owned()),
                list: Some((list, manifest.text().as_bytes().to_vec())),
                files: opened?,
            });
        }
        Err(AofError::Restless { path: folder.to_owned() })
    }
}

fn lists_of(folder: &Path) -> std::io::Result<Vec<PathBuf>> {
    let mut lists = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        // The server writes a new one beside it: `temp-…`.
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if name.ends_with(MANIFEST_END) && !name.starts_with("temp") && path.is_file() {
            lists.push(path);
        }
    }
    lists.sort();
    Ok(lists)
}

fn read_list(path: &Path) -> Result<AofManifest, AofError> {
    let failed = |source| AofError::Io { action: "read", path: path.to_owned(), source };
    let file = open_file(path).map_err(failed)?;
    let mut bytes = Vec::new();
    file.take(AOF_MANIFEST_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(failed)?;
    let damaged = |source| AofError::Manifest { path: path.to_owned(), source };
    AofManifest::parse(&bytes).map_err(damaged)
}

fn open_all(folder: &Path, manifest: &AofManifest) -> Result<Vec<PinnedFile>, AofError> {
    let files = manifest.files();
    let open = |(index, file): (usize, &AofFile)| {
        let role = match file.role {
            AofRole::Base => PinnedRole::Base,
            _ if index + 1 == files.len() => PinnedRole::Last,
            _ => PinnedRole::Earlier,
        };
        PinnedFile::open(folder.join(&file.name), role)
    };
    files.iter().enumerate().map(open).collect()
}

/// A regular file; a pipe is not waited for.
fn open_file(path: &Path) -> std::io::Result<File> {
    let flags = OFlags::NONBLOCK.bits().cast_signed();
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    if file.metadata()?.is_file() { Ok(file) } else { Err(ErrorKind::InvalidInput.into()) }
}

/// All files of an append-only file as they were at one moment.
#[derive(Debug)]
pub struct PinnedAof {
    /// Name of the folder that they are in; none for one file by itself.
    pub folder: Option<String>,
    /// Name of the list of the files, and what is in it.
    pub list: Option<(String, Vec<u8>)>,
    /// The files, in the order in which a server loads them.
    pub files: Vec<PinnedFile>,
}

/// What a file is to a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PinnedRole {
    /// All data at the moment at which the commands begin.
    Base,
    /// Commands, to which nothing is added any more.
    Earlier,
    /// Commands, to which some may be added.
    Last,
    /// All there is.
    Single,
}

/// What the bytes of a file are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PinnedForm {
    /// A dump and nothing else.
    Dump,
    /// A dump, and commands after it.
    DumpAndCommands,
    /// Commands.
    Commands,
}

/// A file that was opened, of which so many bytes are read.
#[derive(Debug)]
pub struct PinnedFile {
    path: PathBuf,
    file: File,
    bytes: u64,
    role: PinnedRole,
    form: PinnedForm,
}

/// Bytes at the end of a file that were left out; known when it was read.
pub type LeftOut = Arc<AtomicU64>;

impl PinnedFile {
    fn open(path: PathBuf, role: PinnedRole) -> Result<Self, AofError> {
        let failed = |source: std::io::Error| match source.kind() {
            ErrorKind::NotFound => AofError::FileMissing { path: path.clone() },
            _ => AofError::Io { action: "open", path: path.clone(), source },
        };
        let file = open_file(&path).map_err(failed)?;
        let bytes = file.metadata().map_err(failed)?.len();
        let mut first = [0; 9];
        let length = file.read_at(&mut first, 0).map_err(failed)?;
        // Only a file that the server has called a dump has nothing behind it.
        let is_named = path.extension().is_some_and(|end| end == "rdb");
        let form = match is_dump(&first[..length]) {
            Some(true) if is_named && role == PinnedRole::Base => PinnedForm::Dump,
            Some(true) => PinnedForm::DumpAndCommands,
            _ => PinnedForm::Commands,
        };
        Ok(Self { path, file, bytes, role, form })
    }

    /// Its name, without a folder.
    #[must_use]
    pub fn name(&self) -> String {
        self.path.file_name().unwrap_or_default().to_string_lossy().into_owned()
    }

    /// What it is to a server.
    #[must_use]
    pub fn role(&self) -> PinnedRole {
        self.role
    }

    /// What its bytes are.
    #[must_use]
    pub fn form(&self) -> PinnedForm {
        self.form
    }

    /// Reads it up to where it may be kept; says in `left_out` how many bytes are not.
    #[must_use]
    pub fn stream(self, left_out: LeftOut) -> Box<dyn ByteStream> {
        let log = (self.form != PinnedForm::Dump).then(AofLog::default);
        let (scanned, given, failure) = (0, 0, None);
        Box::new(AofStream { file: self, log, scanned, given, left_out, failure })
    }
}

/// Bytes of a file up to the last whole command.
struct AofStream {
    file: PinnedFile,
    log: Option<AofLog>,
    /// Bytes that the log has seen.
    scanned: u64,
    /// Bytes that were given.
    given: u64,
    left_out: LeftOut,
    failure: Option<AofError>,
}

impl AofStream {
    /// Reads at `offset`, no further than `end`.
    fn read_at(&self, buffer: &mut [u8], offset: u64, end: u64) -> Result<usize, AofError> {
        let length = (buffer.len() as u64).min(end - offset) as usize;
        loop {
            let read = self.file.file.read_at(&mut buffer[..length], offset);
            let source = match read {
                // It was shorter than it is now, or somebody has cut it.
                Ok(0) if length > 0 => ErrorKind::UnexpectedEof.into(),
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => error,
                Ok(length) => return Ok(length),
            };
            return Err(AofError::Io { action: "read", path: self.file.path.clone(), source });
        }
    }

    fn read_some(&mut self, buffer: &mut [u8]) -> Result<usize, AofError> {
        let bytes = self.file.bytes;
        let Some(mut log) = self.log.take() else {
            let length = self.read_at(buffer, self.given, bytes)?;
            self.given += length as u64;
            return Ok(length);
        };
        let damaged = |source| AofError::Damaged { path: self.file.path.clone(), source };
        let mut ahead = Vec::new();
        while log.boundary() == self.given && self.scanned < bytes {
            ahead.resize(READ_BYTES, 0);
            let length = self.read_at(&mut ahead, self.scanned, bytes)?;
            log.take(&ahead[..length]).map_err(damaged)?;
            self.scanned += length as u64;
        }
        let end = if self.scanned < bytes { log.boundary() } else { self.end(&mut log)? };
        self.log = Some(log);
        let length = self.read_at(buffer, self.given, end)?;
        self.given += length as u64;
        Ok(length)
    }

    /// All was seen: up to where the file is kept.
    fn end(&self, log: &mut AofLog) -> Result<u64, AofError> {
        let path = || self.file.path.clone();
        let end = log.finish().map_err(|source| AofError::Damaged { path: path(), source })?;
        let left = self.file.bytes - end;
        if left > 0 && matches!(self.file.role, PinnedRole::Base | PinnedRole::Earlier) {
            return Err(AofError::Cut { path: path() });
        }
        self.left_out.store(left, Ordering::Relaxed);
        Ok(end)
    }
}

impl ByteStream for AofStream {
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize, SourceError> {
        let unfinished = SourceError::Unfinished { name: self.file.name() };
        if self.failure.is_some() {
            return Err(unfinished);
        }
        self.read_some(buffer).map_err(|error| {
            self.failure = Some(error);
            unfinished
        })
    }

    fn finish(mut self: Box<Self>) -> Result<(), SourceError> {
        match self.failure.take() {
            Some(failure) => Err(SourceError::Aof(failure)),
            None if self.scanned.max(self.given) == self.file.bytes => Ok(()),
            None => Err(SourceError::Unfinished { name: self.file.name() }),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const SET: &[u8] = b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$1\r\nv\r\n";

    fn folder(files: &[(&str, &[u8])]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for (name, bytes) in files {
            fs::write(folder.path().join(name), bytes).unwrap();
        }
        folder
    }

    fn read_all(file: PinnedFile) -> (Result<Vec<u8>, SourceError>, u64) {
        let left_out = LeftOut::default();
        let mut stream = file.stream(Arc::clone(&left_out));
        let (mut bytes, mut buffer) = (Vec::new(), [0; 10]);
        let result = loop {
            match stream.read(&mut buffer) {
                Ok(0) => break stream.finish().map(|()| bytes),
                Ok(length) => bytes.extend_from_slice(&buffer[..length]),
                Err(_) => break Err(stream.finish().unwrap_err()),
            }
        };
        (result, left_out.load(Ordering::Relaxed))
    }

    #[test]
    fn a_list_that_changes_is_read_again() {
        let folder = folder(&[
            ("a.manifest", b"file a.1 seq 1 type i\n"),
            ("a.1", &[SET, SET].concat()),
            ("a.2", SET),
        ]);
        let place = AofPlace::find(folder.path()).unwrap();
        let list = folder.path().join("a.manifest");
        let pinned = place.pin_with(&mut |number| {
            if number == 0 {
                fs::write(&list, "file a.2 seq 2 type i\n").unwrap();
                fs::remove_file(folder.path().join("a.1")).unwrap();
            }
        });
        let mut pinned = pinned.unwrap();
        assert_eq!(pinned.list, Some(("a.manifest".into(), b"file a.2 seq 2 type i\n".to_vec())));
        assert_eq!(read_all(pinned.files.remove(0)).0.unwrap(), SET);
        // What only names files that are no longer needed changes nothing.
        let history = "file a.1 seq 1 type h\nfile a.2 seq 2 type i\n";
        let mut tries = 0;
        let pinned = place.pin_with(&mut |number| {
            tries = number;
            fs::write(&list, history).unwrap();
        });
        assert!(pinned.is_ok() && tries == 0);
    }

    #[test]
    fn a_missing_file_is_said_at_once_and_restlessness_after_a_while() {
        let folder = folder(&[("a.manifest", b"file a.1 seq 1 type i\n")]);
        let place = AofPlace::find(folder.path()).unwrap();
        assert!(matches!(place.pin(), Err(AofError::FileMissing { .. })));
        let list = folder.path().join("a.manifest");
        let restless = place.pin_with(&mut |number| {
            fs::write(&list, format!("file a.1 seq {} type i\n", number + 2)).unwrap();
        });
        assert!(matches!(restless, Err(AofError::Restless { .. })));
    }

    #[test]
    fn only_the_last_file_may_end_within_a_command() {
        let cut = &[SET, &SET[..20]].concat();
        let list = b"file a.1 seq 1 type i\nfile a.2 seq 2 type i\n";
        let folder = folder(&[("a.manifest", list), ("a.1", cut), ("a.2", cut)]);
        let pinned = AofPlace::find(folder.path()).unwrap().pin().unwrap();
        let results: Vec<_> = pinned.files.into_iter().map(read_all).collect();
        assert!(matches!(results[0].0, Err(SourceError::Aof(AofError::Cut { .. }))));
        assert_eq!((results[1].0.as_ref().unwrap(), results[1].1), (&SET.to_vec(), 20));
    }

    #[test]
    fn what_comes_after_the_opening_is_not_read() {
        let folder = folder(&[("appendonly.aof", SET)]);
        let mut pinned = AofPlace::find(folder.path()).unwrap().pin().unwrap();
        let path = folder.path().join("appendonly.aof");
        fs::write(&path, [SET, SET].concat()).unwrap();
        let file = pinned.files.remove(0);
        assert_eq!(read_all(file).0.unwrap(), SET);
        let mut pinned = AofPlace::find(&path).unwrap().pin().unwrap();
        fs::write(&path, SET).unwrap();
        let (result, _) = read_all(pinned.files.remove(0));
        assert!(matches!(result, Err(SourceError::Aof(AofError::Io { .. }))));
    }

    #[test]
    fn a_file_is_found_from_above_and_several_are_told() {
        let outer = tempfile::tempdir().unwrap();
        let find = || AofPlace::find(outer.path());
        assert!(matches!(find(), Err(AofError::Missing { .. })));
        fs::write(outer.path().join("appendonly.aof"), SET).unwrap();
        assert_eq!(find().unwrap(), AofPlace::File(outer.path().join("appendonly.aof")));
        fs::create_dir(outer.path().join("own")).unwrap();
        let list = outer.path().join("own/a.manifest");
        fs::write(&list, "").unwrap();
        fs::write(outer.path().join("own/temp-a.manifest"), "").unwrap();
        assert_eq!(find().unwrap(), AofPlace::Manifest(list.clone()));
        assert!(matches!(find().unwrap().pin(), Err(AofError::Manifest { .. })));
        fs::write(outer.path().join("own/b.manifest"), "").unwrap();
        assert!(matches!(find(), Err(AofError::Several { .. })));
        assert_eq!(AofPlace::find(&list).unwrap(), AofPlace::Manifest(list));
    }
}
