//! The local state of one repository: keys of this host, the witness, the index, locks.
//!
//! One folder a repository, readable by its owner only. Losing it costs time, the host's role as
//! a writer, and the memory of what was seen; never data.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::FlockOperation;
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};

use crate::format::keyfile::{MaintainerFile, WriterFile};
use crate::format::roster::Roster;
use crate::id::{ActorId, DomainId, ObjectId, RepositoryId};
use crate::repo::error::RepoError;
use crate::store::capabilities::Capabilities;

/// The last texts of each chain that this host has seen: proof against rollback.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Witness {
    /// Newest roster: sequence number and hash.
    pub roster: Option<(u64, ObjectId)>,
    /// Newest commit of each log.
    pub logs: BTreeMap<String, (u64, ObjectId)>,
    /// Newest tombstone.
    pub tomb: Option<(u64, ObjectId)>,
    /// Generation of the newest roster.
    #[serde(default = "first_generation")]
    pub generation: u64,
}

const fn first_generation() -> u64 {
    1
}

impl Default for Witness {
    fn default() -> Self {
        Self { roster: None, logs: BTreeMap::new(), tomb: None, generation: 1 }
    }
}

impl Witness {
    /// Newest commit seen of one log.
    #[must_use]
    pub fn log(&self, writer: ActorId) -> Option<(u64, ObjectId)> {
        self.logs.get(&writer.to_string()).copied()
    }

    /// Takes note of the newest roster. Where a replica was promoted since, what was seen beyond the
    /// fences belongs to the generation before and is forgotten.
    pub fn see_roster(&mut self, roster: &Roster, hash: ObjectId) {
        self.roster = Some((roster.seq, hash));
        if roster.generation.number <= self.generation {
            return;
        }
        self.generation = roster.generation.number;
        self.logs.retain(|actor, (seen, _)| {
            let fence = actor.parse().ok().and_then(|actor| roster.generation.fence(actor));
            *seen <= fence.unwrap_or(0)
        });
        self.tomb = self.tomb.filter(|(seen, _)| *seen <= roster.generation.fence_tomb);
    }
}

/// Which repository is known at which place, over all repositories.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Locations(BTreeMap<String, RepositoryId>);

/// The state folder of one repository.
#[derive(Debug, Clone)]
pub struct StateDir {
    path: PathBuf,
    /// Digits of the place, where it is a replica.
    replica: Option<String>,
}

/// Where the primary was seen last.
#[derive(Debug, Serialize, Deserialize)]
struct PrimaryPlace {
    location: String,
    generation: u64,
}

/// A lock that is held until it is dropped or the process ends.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

impl StateDir {
    /// The folder of `repository` below `states`, made where it is missing.
    pub fn open(states: &Path, repository: RepositoryId) -> Result<Self, RepoError> {
        let path = states.join(repository.to_string());
        for folder in [&path, &path.join("trees"), &path.join("runs")] {
            make_private_dir(folder)?;
        }
        Ok(Self { path, replica: None })
    }

    /// The folder.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The repository that this host has seen at `location`.
    pub fn known_at(states: &Path, location: &str) -> Result<Option<RepositoryId>, RepoError> {
        let known: Locations = read_json(&states.join("locations.json"))?.unwrap_or_default();
        Ok(known.0.get(location).copied())
    }

    /// Remembers which repository is at `location`.
    pub fn remember(
        states: &Path,
        location: &str,
        repository: RepositoryId,
    ) -> Result<(), RepoError> {
        make_private_dir(states)?;
        let path = states.join("locations.json");
        let mut known: Locations = read_json(&path)?.unwrap_or_default();
        if known.0.insert(location.into(), repository) == Some(repository) {
            return Ok(());
        }
        write_json(&path, &known)
    }

    /// The index database by which a domain is read back. A reader takes in the segments of all
    /// writers; it must not be the one that a writer deduplicates against.
    #[must_use]
    pub fn reading_index_path(&self, domain: DomainId) -> PathBuf {
        self.path.join(format!("reading-index-{domain}.sqlite"))
    }

    /// The index database that a writer of the domain deduplicates against.
    #[must_use]
    pub fn index_path(&self, domain: DomainId) -> PathBuf {
        self.path.join(format!("index-{domain}.sqlite"))
    }

    /// The previous tree of a root of a source.
    #[must_use]
    pub fn tree_path(&self, source: &str, root: &[u8]) -> PathBuf {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&(source.len() as u64).to_le_bytes()).update(source.as_bytes()).update(root);
        self.path.join("trees").join(&hasher.finalize().to_hex()[..32])
    }

    /// The tree written last, of whatever root: for a root that has none of its own yet it may tell
    /// of the same files under another path (a restored copy, a renamed or mounted folder).
    #[must_use]
    pub fn newest_tree(&self) -> Option<PathBuf> {
        let entries = std::fs::read_dir(self.path.join("trees")).ok()?;
        let whole = entries.flatten().filter(|entry| entry.path().extension().is_none());
        let dated =
            whole.filter_map(|entry| Some((entry.metadata().ok()?.modified().ok()?, entry.path())));
        dated.max().map(|(_, path)| path)
    }

    /// The witness; an empty one at the first time.
    pub fn witness(&self) -> Result<Witness, RepoError> {
        Ok(read_json(&self.witness_path())?.unwrap_or_default())
    }

    /// Replaces the witness.
    pub fn set_witness(&self, witness: &Witness) -> Result<(), RepoError> {
        write_json(&self.witness_path(), witness)
    }

    /// What the last probe of the store has found, if there was one.
    pub fn capabilities(&self) -> Result<Option<Capabilities>, RepoError> {
        read_json(&self.path.join("capabilities.json"))
    }

    /// Records what a probe has found.
    pub fn set_capabilities(&self, found: &Capabilities) -> Result<(), RepoError> {
        write_json(&self.path.join("capabilities.json"), found)
    }

    /// Changes the witness under its lock.
    pub fn see(&self, change: impl FnOnce(&mut Witness)) -> Result<(), RepoError> {
        let _lock = self.lock("witness.lock")?;
        let before = self.witness()?;
        let mut after = before.clone();
        change(&mut after);
        if after == before { Ok(()) } else { self.set_witness(&after) }
    }

    fn witness_path(&self) -> PathBuf {
        match &self.replica {
            None => self.path.join("witness.json"),
            Some(digits) => self.path.join(format!("replica-{digits}.json")),
        }
    }

    /// Where it is kept which packs were read at this place.
    #[must_use]
    pub fn checked_path(&self) -> PathBuf {
        match &self.replica {
            None => self.path.join("checked.sqlite"),
            Some(digits) => self.path.join(format!("checked-{digits}.sqlite")),
        }
    }

    /// The same state for a replica: it lags behind the primary, so what was seen there is another
    /// matter than what was seen here.
    #[must_use]
    pub fn of_replica(mut self, location: &str) -> Self {
        let digits = blake3::hash(location.as_bytes()).to_hex();
        self.replica = Some(digits[..16].to_owned());
        self
    }

    /// Whether the repository's primary was seen at that place in that generation or a later one.
    pub fn was_primary(&self, location: &str, generation: u64) -> Result<bool, RepoError> {
        let seen: Option<PrimaryPlace> = read_json(&self.path.join("primary.json"))?;
        Ok(seen.is_some_and(|seen| seen.location == location && seen.generation >= generation))
    }

    /// Remembers where the primary is.
    pub fn remember_primary(&self, location: &str, generation: u64) -> Result<(), RepoError> {
        if self.was_primary(location, generation)? {
            return Ok(());
        }
        let place = PrimaryPlace { location: location.to_owned(), generation };
        write_json(&self.path.join("primary.json"), &place)
    }

    /// This host's keys as a writer.
    pub fn writer(&self) -> Result<Option<WriterFile>, RepoError> {
        let path = self.path.join("writer.key");
        let parsed = read_secret(&path)?.map(|text| WriterFile::parse(&text));
        parsed.transpose().map_err(|source| RepoError::Text { object: shown(&path), source })
    }

    /// Makes this host a writer.
    pub fn set_writer(&self, keys: &WriterFile) -> Result<(), RepoError> {
        write_private(&self.path.join("writer.key"), keys.print().expose_secret().as_bytes())
    }

    /// This host's keys as a maintainer.
    pub fn maintainer(&self) -> Result<Option<MaintainerFile>, RepoError> {
        let path = self.path.join("maintainer.key");
        let parsed = read_secret(&path)?.map(|text| MaintainerFile::parse(&text));
        parsed.transpose().map_err(|source| RepoError::Text { object: shown(&path), source })
    }

    /// Makes this host a maintainer.
    pub fn set_maintainer(&self, keys: &MaintainerFile) -> Result<(), RepoError> {
        write_private(&self.path.join("maintainer.key"), keys.print().expose_secret().as_bytes())
    }

    /// Waits for the lock of that name and takes it.
    pub fn lock(&self, name: &str) -> Result<Lock, RepoError> {
        let path = self.path.join(name);
        let file = open_lock(&path)?;
        rustix::fs::flock(&file, FlockOperation::LockExclusive)
            .map_err(|error| state("lock", &path, error.into()))?;
        Ok(Lock { _file: file })
    }

    /// Takes the lock of that name; nothing where another process holds it.
    pub fn try_lock(&self, name: &str) -> Result<Option<Lock>, RepoError> {
        let path = self.path.join(name);
        let file = open_lock(&path)?;
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Some(Lock { _file: file })),
            Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
            Err(error) => Err(state("lock", &path, error.into())),
        }
    }

    /// Begins a run: a lock file that is held while the run lives.
    pub fn begin_run(&self, run: &str) -> Result<Lock, RepoError> {
        // Between its creation and its lock another process must not take the file for a dead run's.
        let _listing = self.lock("runs.lock")?;
        let path = self.run_path(run);
        let file = open_lock(&path)?;
        rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive)
            .map_err(|error| state("lock", &path, error.into()))?;
        Ok(Lock { _file: file })
    }

    /// Runs that ended without [`StateDir::end_run`]: killed, or failed.
    pub fn dead_runs(&self) -> Result<Vec<String>, RepoError> {
        let _listing = self.lock("runs.lock")?;
        let folder = self.path.join("runs");
        let entries = std::fs::read_dir(&folder).map_err(|e| state("list", &folder, e))?;
        let mut dead = Vec::new();
        for entry in entries {
            let entry = entry.map_err(|error| state("list", &folder, error))?;
            let file = open_lock(&entry.path())?;
            if rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok()
                && let Some(run) = entry.file_name().to_str()
            {
                dead.push(run.to_owned());
            }
        }
        Ok(dead)
    }

    /// Ends a run: nothing of it is left to be adopted.
    pub fn end_run(&self, run: &str) -> Result<(), RepoError> {
        let path = self.run_path(run);
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(state("remove", &path, error))
            }
            _ => Ok(()),
        }
    }

    fn run_path(&self, run: &str) -> PathBuf {
        self.path.join("runs").join(run)
    }
}

fn shown(path: &Path) -> String {
    path.display().to_string()
}

fn state(action: &'static str, path: &Path, source: std::io::Error) -> RepoError {
    RepoError::State { action, path: path.into(), source }
}

pub(crate) fn make_private_dir(path: &Path) -> Result<(), RepoError> {
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(|error| state("create", path, error))
}

fn open_lock(path: &Path) -> Result<File, RepoError> {
    OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .open(path)
        .map_err(|error| state("open", path, error))
}

fn read(path: &Path) -> Result<Option<Vec<u8>>, RepoError> {
    match std::fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(state("read", path, error)),
    }
}

fn read_secret(path: &Path) -> Result<Option<SecretString>, RepoError> {
    let Some(bytes) = read(path)? else { return Ok(None) };
    let text = String::from_utf8(bytes)
        .map_err(|_| RepoError::StateContent { path: path.into(), what: "a key text" })?;
    Ok(Some(text.into()))
}

/// Reads a file of the local state that [`write_json`] has written; nothing where there is none.
pub fn read_json<T: for<'de> Deserialize<'de>>(path: &Path) -> Result<Option<T>, RepoError> {
    let Some(bytes) = read(path)? else { return Ok(None) };
    serde_json::from_slice(&bytes)
        .map(Some)
        .map_err(|_| RepoError::StateContent { path: path.into(), what: "what this program wrote" })
}

/// Writes a file of the local state, which only its owner can read.
pub fn write_json(path: &Path, value: &impl Serialize) -> Result<(), RepoError> {
    let text = serde_json::to_vec_pretty(value).expect("writing JSON to memory cannot fail");
    write_private(path, &text)
}

/// Replaces a file as a whole: after a crash it is the old or the new one.
pub fn write_private(path: &Path, bytes: &[u8]) -> Result<(), RepoError> {
    let temporary = path.with_extension(format!("{}.tmp", std::process::id()));
    let write = || {
        let mut file = OpenOptions::new()
            .create(true)
            .truncate(true)
            .write(true)
            .mode(0o600)
            .open(&temporary)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        std::fs::rename(&temporary, path)?;
        File::open(path.parent().unwrap_or(Path::new("/")))?.sync_all()
    };
    write().map_err(|error| {
        drop(std::fs::remove_file(&temporary));
        state("write", path, error)
    })
}
