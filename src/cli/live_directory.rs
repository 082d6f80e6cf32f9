//! A data directory that is there before its data is: the base backup and its log, laid out over a
//! local folder and mounted.

use std::fs::{DirBuilder, File, Permissions};
use std::io;
use std::os::unix::fs::{
    DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _, chown,
};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{FlockOperation, flock};
use rustix::mount::{UnmountFlags, unmount};
use serde::{Deserialize, Serialize};

use crate::backup::postgres_wal::wal_source;
use crate::cli::context::Context;
use crate::cli::error::CommandError;
use crate::cli::explain::{mount as explain_mount, postgres};
use crate::cli::mounting::Shown;
use crate::cli::postgres_bases::{Base, bases_of};
use crate::cli::postgres_recovery::{
    PointArgs, control_bytes, directory_error, plan, recovery_of, root_path, say_what_comes,
    segment_names, settled_point, warn_of_libraries, warn_of_places,
};
use crate::cli::reading::Reading;
use crate::cli::wal_archive::WalArchive;
use crate::format::commit::SnapshotName;
use crate::format::postgres::facts::BaseFacts;
use crate::format::postgres::lsn::Timeline;
use crate::id::RepositoryId;
use crate::mount::fuse::{Ended, Mounted, Users};
use crate::mount::overlay::blocks::OriginName;
use crate::mount::overlay::folder::{Folder, Maker};
use crate::mount::overlay::fuse::mount;
use crate::mount::overlay::hydrate::complete;
use crate::mount::overlay::lay_out::Layer;
use crate::mount::overlay::origin::SnapshotOrigin;
use crate::restore::postgres::directory::{DataDirectory, DirectoryError};
use crate::restore::postgres::plan::RecoveryPlan;
use crate::restore::postgres::settings::Recovery;
use crate::source::postgres::local_server::{RunAs, end_left_server};
use crate::source::postgres::private_folder::PrivateFolder;

/// Without this file no server takes the folder for a data directory.
const SEAL: &str = "PG_VERSION";
/// What was laid out, beside it.
const STATE: &str = ".holdfast.start.json";
/// Held while the folder is in use.
const LOCK: &str = ".holdfast.lock";
/// Memory for decoded data.
const CACHE_BYTES: u64 = 256 * 1024 * 1024;

/// How it is to be made.
pub struct LiveOptions<'a> {
    /// Whose the files are, where that is not us.
    pub owner: Option<RunAs>,
    /// Local folder that becomes the whole; else one that goes with the value.
    pub hydrate: Option<&'a Path>,
    /// Where folders of ours are made.
    pub workspace: &'a Path,
    /// Where recovery is to end.
    pub point: &'a PointArgs,
    /// Base backup to begin with, where one was named.
    pub only: Option<&'a str>,
}

/// What was laid out in a folder, so that it can be shown again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Laid {
    repository: String,
    source: String,
    /// Where recovery ends, as it was asked for.
    point: String,
    /// Snapshots by their numbers, writer and id: the base backup first, then those of the log.
    snapshots: Vec<(String, String)>,
    facts: BaseFacts,
}

/// A segment of the log, and where it comes from.
struct Segment {
    name: String,
    origin: OriginName,
    filled_to: Option<u64>,
}

/// What it takes to lay out a folder.
struct Prepared {
    snapshots: Vec<SnapshotName>,
    root: Vec<u8>,
    facts: BaseFacts,
    plan: RecoveryPlan,
    segments: Vec<Segment>,
    histories: Vec<(Timeline, String)>,
    recovery: Option<Recovery>,
    control: Vec<u8>,
}

/// The directory. Dropped, it is unmounted, and a folder of ours is removed.
pub struct LiveDirectory {
    /// What the base says.
    pub facts: BaseFacts,
    /// The base backup, by its id.
    pub snapshot: String,
    /// It was begun by an earlier run.
    pub is_resumed: bool,
    /// What is local.
    pub folder: Arc<Folder>,
    shown: Shown,
    mounted: Option<Mounted>,
    point: PathBuf,
    workspace: Option<PrivateFolder>,
    /// Goes last.
    _lock: Option<File>,
}

impl LiveDirectory {
    /// Lays the base backup of `source` out that leads to the point, and mounts it.
    ///
    /// # Errors
    /// The point cannot be reached, the folder cannot be used, or mounting is not possible.
    pub fn open(
        context: &Context,
        reading: Reading,
        source: &str,
        options: &LiveOptions<'_>,
    ) -> Result<Self, CommandError> {
        let lock = options.hydrate.map(lock).transpose()?;
        let before = options.hydrate.map(read_state).transpose()?.flatten();
        let prepared = match &before {
            Some(_) => None,
            None => Some(Prepared::of(context, &reading, source, options)?),
        };
        let laid = match (before, &prepared) {
            (Some(before), _) => {
                before.require_same(source, reading.repository.id, options)?;
                let uid = options.owner.map_or(rustix::process::getuid().as_raw(), |o| o.uid);
                clear_up(options.hydrate.expect("it was read from there"), uid)?;
                before
            }
            (None, prepared) => {
                let prepared = prepared.as_ref().expect("it was prepared");
                prepared.laid(source, reading.repository.id, options)
            }
        };
        let workspace = PrivateFolder::create(options.workspace);
        let workspace =
            workspace.map_err(|error| CommandError::classify(&error, &postgres::LAYER))?;
        let own = workspace.path();
        let (point, local) = (own.join("data"), own.join("local"));
        for path in [&point, &local] {
            DirBuilder::new().mode(0o700).create(path).map_err(|error| layer(path, &error))?;
        }
        if options.owner.is_some() {
            // Passed through by the server's user; nothing in it is that user's.
            let mode = Permissions::from_mode(0o711);
            std::fs::set_permissions(own, mode).map_err(|error| layer(own, &error))?;
        }
        let base = options.hydrate.map_or(local, Path::to_path_buf);
        let sources = [source.to_owned(), wal_source(source)];
        let shown = Shown::of(reading, &sources, CACHE_BYTES);
        let origin = SnapshotOrigin::new(shown.file_system.clone(), laid.names()?);
        let owner = options.owner.map_or_else(
            || Maker {
                uid: rustix::process::getuid().as_raw(),
                gid: rustix::process::getgid().as_raw(),
            },
            |RunAs { uid, gid }| Maker { uid, gid },
        );
        let layer_of = Layer { origin: &origin, base: &base, owner, seal: SEAL };
        if let Some(prepared) = &prepared {
            require_empty(&base)?;
            prepared.lay_out(&layer_of).map_err(|error| layer(&base, &error))?;
        }
        let folder = Arc::new(Folder::new(base.clone(), Arc::new(origin), SEAL, owner));
        let users = if options.owner.is_some() { Users::All } else { Users::Owner };
        let mounted = mount(Arc::clone(&folder), &point, users).map_err(|error| {
            let what = format!("{} cannot be mounted over", point.display());
            CommandError::new(&explain_mount::NO_FUSE, what).because(&error)
        })?;
        let this = Self {
            facts: laid.facts.clone(),
            snapshot: laid.snapshots.first().map(|name| name.1.clone()).unwrap_or_default(),
            is_resumed: prepared.is_none(),
            folder,
            shown,
            mounted: Some(mounted),
            point,
            workspace: Some(workspace),
            _lock: lock,
        };
        if let Some(prepared) = &prepared {
            prepared.finish(context, &this.point)?;
            note(&base, &laid).map_err(|error| layer(&base, &error))?;
        }
        Ok(this)
    }

    /// Where a server finds it.
    #[must_use]
    pub fn data(&self) -> &Path {
        &self.point
    }

    /// A folder of ours that the server may pass through.
    #[must_use]
    pub fn workspace(&self) -> &Path {
        self.point.parent().unwrap_or(&self.point)
    }

    /// Prints the troubles that have come up.
    pub fn pass_messages(&self, context: &Context) {
        self.shown.pass_messages(context);
    }

    /// Parts of the backup that could not be read so far.
    #[must_use]
    pub fn damaged(&self) -> u64 {
        self.shown.file_system.damaged()
    }

    /// Unmounts it; no server may work on it any more.
    ///
    /// # Errors
    /// The system refuses.
    pub fn unmount(&mut self) -> Result<(), CommandError> {
        let Some(mounted) = self.mounted.take() else { return Ok(()) };
        let place = self.point.display();
        let failed = || {
            let what = format!("{place} cannot be unmounted");
            CommandError::new(&explain_mount::NO_FUSE, what).hint(format!("umount -l {place}"))
        };
        match mounted.end() {
            Ok(Ended::Unmounted) => Ok(()),
            Ok(Ended::Detached) => Err(failed().because_text("it is still in use")),
            Err(error) => {
                // Removing the folder would go through the mount.
                std::mem::forget(self.workspace.take());
                Err(failed().because(&error))
            }
        }
    }

    /// Makes the local folder a data directory of its own, in which nothing is missing.
    ///
    /// # Errors
    /// Something is missing, or the system failed.
    pub fn complete(mut self) -> Result<(), CommandError> {
        self.unmount()?;
        complete(&self.folder, SEAL).map_err(|error| layer(self.folder.base(), &error))?;
        let base = self.folder.base();
        let Maker { uid, gid } = self.folder.owner();
        let is_other = std::fs::metadata(base).is_ok_and(|found| found.uid() != uid);
        if is_other {
            chown(base, Some(uid), Some(gid)).map_err(|error| layer(base, &error))?;
        }
        Ok(())
    }
}

impl Drop for LiveDirectory {
    fn drop(&mut self) {
        // Whoever wants to know has called it before.
        drop(self.unmount());
    }
}

impl Prepared {
    fn of(
        context: &Context,
        reading: &Reading,
        source: &str,
        options: &LiveOptions<'_>,
    ) -> Result<Self, CommandError> {
        let mut bases = bases_of(reading, context, source, options.only)?;
        if let Some(only) = options.only {
            bases.retain(|base| base.found.0.name.id.to_string() == only);
        }
        let system = bases.first().map(|base| &*base.facts.cluster.system);
        let archive = WalArchive::read(reading, context, &wal_source(source), system)?;
        let plan = plan(&bases, &archive, options.point, reading, context, source)?;
        let base: &Base<'_> = &bases[plan.base];
        say_what_comes(context, base, &plan);
        warn_of_libraries(context, &base.facts);
        let mut snapshots = vec![base.found.0.name];
        let mut segments = Vec::new();
        for name in segment_names(&plan, base.facts.cluster.segments()) {
            let Some(found) = archive.find(&name)? else { continue };
            let number = snapshots.iter().position(|known| *known == found.name);
            let number = number.unwrap_or_else(|| {
                snapshots.push(found.name);
                snapshots.len() - 1
            });
            let snapshot = u16::try_from(number).map_err(|_| {
                let what = format!("the log lies in more than {} snapshots", u16::MAX);
                CommandError::new(&postgres::UNREACHABLE_POINT, what)
            })?;
            let origin = OriginName { snapshot, path: found.path };
            segments.push(Segment { name, origin, filled_to: found.filled_to });
        }
        let histories = archive.facts().flat_map(|facts| facts.histories.clone());
        let histories = histories.filter(|(timeline, _)| *timeline <= plan.reach.timeline);
        let recovery = recovery_of(&base.facts, &plan, plan.point.clone(), &archive, options.point);
        Ok(Self {
            root: root_path(base).into_bytes(),
            facts: base.facts.clone(),
            histories: histories.collect(),
            control: control_bytes(reading, base)?,
            snapshots,
            segments,
            recovery,
            plan,
        })
    }

    fn laid(&self, source: &str, repository: RepositoryId, options: &LiveOptions<'_>) -> Laid {
        let name = |name: &SnapshotName| (name.writer.to_string(), name.id.to_string());
        Laid {
            repository: repository.to_string(),
            source: source.to_owned(),
            point: options.point.shown(),
            snapshots: self.snapshots.iter().map(name).collect(),
            facts: self.facts.clone(),
        }
    }

    fn lay_out(&self, layer: &Layer<'_>) -> io::Result<()> {
        layer.take_top()?;
        let name = OriginName { snapshot: 0, path: self.root.clone() };
        // The control file comes last, the map would lead to the places of the original.
        let skipped: [&[u8]; 3] =
            [b"global/pg_control", b"global/pg_control.before", b"tablespace_map"];
        layer.tree(&name, &skipped)?;
        for segment in &self.segments {
            let path = format!("pg_wal/{}", segment.name).into_bytes();
            // The base has the first of them itself.
            layer.again(&path, &segment.origin, segment.filled_to)?;
        }
        Ok(())
    }

    /// The last steps, as in a restored directory.
    fn finish(&self, context: &Context, point: &Path) -> Result<(), CommandError> {
        let directory = DataDirectory::new(point);
        let failed = |error: DirectoryError| directory_error(&error);
        for (timeline, text) in &self.histories {
            let name = format!("pg_wal/{:08X}.history", timeline.0);
            directory
                .write_with(&name, |file| {
                    io::Write::write_all(file, text.as_bytes()).map_err(|source| {
                        let path = point.join(&name);
                        DirectoryError::Io { action: "write", path, source }
                    })
                })
                .map_err(failed)?;
        }
        let mut recovery = self.recovery.clone();
        if let Some(recovery) = &mut recovery {
            let segments = self.facts.cluster.segments();
            recovery.point = settled_point(&directory, segments, &self.plan)?;
        }
        directory.set_recovery(recovery.as_ref(), false).map_err(failed)?;
        warn_of_places(context, &directory);
        if directory.add_configuration(&self.facts.settings).map_err(failed)? {
            let what = "the configuration was not in the data directory: a small one was made";
            context.output.warning(what);
        }
        directory.write_control(self.control.clone()).map_err(failed)
    }
}

fn layer(path: &Path, error: &io::Error) -> CommandError {
    let what = format!("{} cannot be used", path.display());
    CommandError::new(&postgres::LAYER, what).because(error)
}

fn require_empty(base: &Path) -> Result<(), CommandError> {
    std::fs::create_dir_all(base).map_err(|error| layer(base, &error))?;
    let mut entries = std::fs::read_dir(base).map_err(|error| layer(base, &error))?;
    // Our own lock is there.
    let is_other = |entry: &io::Result<std::fs::DirEntry>| {
        entry.as_ref().is_ok_and(|entry| entry.file_name() != LOCK)
    };
    if !entries.any(|entry| is_other(&entry)) {
        return Ok(());
    }
    let what = format!("{} is not empty", base.display());
    Err(CommandError::new(&postgres::LAYER, what))
}

/// Ends what an earlier run that was killed has left: its server, and its mount.
fn clear_up(base: &Path, owner: u32) -> Result<(), CommandError> {
    // Only a place that we have made: the data of a folder of ours.
    let is_own = |path: &Path| {
        let folder = path.parent().and_then(Path::file_name).unwrap_or_default();
        path.ends_with("data") && folder.as_encoded_bytes().starts_with(b"holdfast-")
    };
    let left = end_left_server(&base.join("postmaster.pid"), owner, &is_own);
    let left = left.map_err(|error| CommandError::new(&postgres::LAYER, error.to_string()))?;
    if let Some(point) = left {
        let _ = unmount(&point, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW);
        for folder in [&point, &point.with_file_name("local")] {
            drop(std::fs::remove_dir(folder));
        }
        drop(std::fs::remove_file(point.with_file_name("log")));
        drop(point.parent().map(std::fs::remove_dir));
    }
    Ok(())
}

/// Keeps others out of a folder while it is in use.
fn lock(base: &Path) -> Result<File, CommandError> {
    std::fs::create_dir_all(base).map_err(|error| layer(base, &error))?;
    let path = base.join(LOCK);
    let mut options = File::options();
    let options = options.write(true).create(true).truncate(false).mode(0o600);
    let file = options.open(&path).map_err(|error| layer(&path, &error))?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(rustix::io::Errno::WOULDBLOCK) => {
            let what = format!("another pg start works in {}", base.display());
            Err(CommandError::new(&postgres::LAYER, what))
        }
        Err(error) => Err(layer(&path, &error.into())),
    }
}

/// What was laid out in a folder before.
fn read_state(base: &Path) -> Result<Option<Laid>, CommandError> {
    if base.join(SEAL).exists() {
        let what = format!("{} is whole already: start PostgreSQL there", base.display());
        return Err(CommandError::new(&postgres::LAYER, what));
    }
    match std::fs::read(base.join(STATE)) {
        Ok(text) => {
            let laid = serde_json::from_slice(&text).map_err(io::Error::other);
            laid.map(Some).map_err(|error| layer(base, &error))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(layer(base, &error)),
    }
}

impl Laid {
    /// What was begun is not taken for something else.
    fn require_same(
        &self,
        source: &str,
        repository: RepositoryId,
        options: &LiveOptions<'_>,
    ) -> Result<(), CommandError> {
        let base = self.snapshots.first().map_or("", |name| &*name.1);
        let wanted = [
            ("repository", &*self.repository, repository.to_string()),
            ("source", &self.source, source.to_owned()),
            ("point", &self.point, options.point.shown()),
            ("snapshot", base, options.only.unwrap_or(base).to_owned()),
        ];
        for (what, begun, wanted) in wanted {
            if begun != wanted {
                let what = format!("the folder was begun with the {what} {begun}, not {wanted}");
                return Err(CommandError::new(&postgres::LAYER, what)
                    .hint("go on with what it was begun with, or name an empty folder"));
            }
        }
        Ok(())
    }

    fn names(&self) -> Result<Vec<SnapshotName>, CommandError> {
        let name = |(writer, id): &(String, String)| {
            Some(SnapshotName { writer: writer.parse().ok()?, id: id.parse().ok()? })
        };
        let names: Option<Vec<SnapshotName>> = self.snapshots.iter().map(name).collect();
        names.ok_or_else(|| {
            CommandError::new(&postgres::LAYER, "what was laid out cannot be understood")
        })
    }
}

/// Notes that the folder is laid out.
fn note(base: &Path, laid: &Laid) -> io::Result<()> {
    let text = serde_json::to_vec(laid).map_err(io::Error::other)?;
    std::fs::File::open(base).and_then(|folder| Ok(rustix::fs::syncfs(folder)?))?;
    let temporary = base.join(format!("{STATE}.new"));
    std::fs::write(&temporary, text)?;
    std::fs::rename(temporary, base.join(STATE))?;
    std::fs::File::open(base).and_then(|folder| Ok(rustix::fs::syncfs(folder)?))
}
