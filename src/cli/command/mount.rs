//! `holdfast mount`: shows the snapshots as a read-only file system.
#![allow(clippy::doc_markdown, reason = "the doc comments are help texts, read in a terminal")]

use std::fs::OpenOptions;
use std::io;
use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::json;

use crate::cli::context::Context;
use crate::cli::error::{CommandError, Exit};
use crate::cli::explain;
use crate::cli::mounting::Shown;
use crate::cli::open_repository::open;
use crate::cli::output::json_bytes;
use crate::mount::fuse::{Ended, Users, mount};
use crate::units::parse_size;

/// Arguments of `mount`.
#[derive(Debug, Clone, Args)]
#[command(
    after_help = "Example:\n  holdfast mount /mnt        then look at /mnt/SOURCE/latest/…\n\n\
    It runs until Ctrl-C, SIGTERM, or `umount /mnt`."
)]
pub struct MountArgs {
    /// Empty folder to mount over
    #[arg(value_name = "FOLDER")]
    pub mountpoint: PathBuf,
    /// Show this source only (repeatable)
    #[arg(long, value_name = "NAME")]
    pub source: Vec<String>,
    /// Let other users in, as far as the modes of the files allow
    #[arg(long)]
    pub allow_other: bool,
    /// Memory for decoded data
    #[arg(long, value_name = "SIZE", value_parser = parse_size, default_value = "128MiB")]
    pub cache_size: u64,
}

/// Mounts, and waits for the end.
pub fn run(args: &MountArgs, context: &Context) -> Result<Exit, CommandError> {
    let point = real_path(&args.mountpoint)?;
    refuse_own(&point, &open(context)?.store.location())?;
    check_empty(&point)?;
    check_device()?;
    let shown = Shown::open(context, &args.source, args.cache_size)?;
    shown.arm();
    let users = if args.allow_other { Users::All } else { Users::Owner };
    let mounted = mount(shown.file_system.clone(), &point, users).map_err(|error| {
        CommandError::new(
            &explain::mount::NO_FUSE,
            format!("{} cannot be mounted over", point.display()),
        )
        .because(&error)
        .hint("holdfast serve webdav shows the same files without FUSE")
    })?;
    let output = &context.output;
    let place = point.display();
    output.note(&format!("mounted at {place}; Ctrl-C or umount ends it"));
    let (sources, snapshots) = shown.counts();
    let (key, path) = json_bytes("mountpoint", point.as_os_str().as_encoded_bytes());
    output.item(&json!({ key: path, "sources": sources, "snapshots": snapshots }));
    shown.wait(context, || mounted.is_over());
    let ended = mounted.end().map_err(|error| {
        CommandError::new(&explain::mount::NO_FUSE, format!("{place} cannot be unmounted"))
            .because(&error)
            .hint(format!("umount -l {place}"))
    })?;
    if ended == Ended::Detached {
        output.warning(&format!("{place} was in use: programs that still use it get errors now"));
    }
    let damaged = shown.file_system.damaged();
    output.summary(Exit::Done, &json!({ "damaged": damaged }));
    Ok(Exit::Done)
}

/// The real path of a folder that is there.
fn real_path(path: &Path) -> Result<PathBuf, CommandError> {
    let real = std::fs::canonicalize(path).map_err(|error| unusable(path, &error))?;
    let metadata = std::fs::metadata(&real).map_err(|error| unusable(path, &error))?;
    if metadata.is_dir() { Ok(real) } else { Err(refused(path, "is not a folder")) }
}

fn check_empty(path: &Path) -> Result<(), CommandError> {
    let mut entries = std::fs::read_dir(path).map_err(|error| unusable(path, &error))?;
    if entries.next().is_none() { Ok(()) } else { Err(refused(path, "is not empty")) }
}

fn refused(path: &Path, what: &str) -> CommandError {
    CommandError::new(&explain::mount::POINT, format!("{} {what}", path.display()))
}

fn unusable(path: &Path, error: &io::Error) -> CommandError {
    match error.kind() {
        io::ErrorKind::NotFound => refused(path, "does not exist").because(error),
        io::ErrorKind::NotConnected => refused(path, "is a mount whose process is gone")
            .because(error)
            .hint(format!("umount {}", path.display())),
        _ => refused(path, "cannot be opened").because(error),
    }
}

/// Refuses to hide the repository, or to be a part of it.
fn refuse_own(point: &Path, location: &str) -> Result<(), CommandError> {
    let Ok(repository) = std::fs::canonicalize(location) else { return Ok(()) };
    if !location.starts_with('/')
        || !(point.starts_with(&repository) || repository.starts_with(point))
    {
        return Ok(());
    }
    let (point, repository) = (point.display(), repository.display());
    let what = format!("{point} cannot be mounted over: the repository is {repository}");
    Err(CommandError::new(&explain::mount::OWN_REPOSITORY, what))
}

fn check_device() -> Result<(), CommandError> {
    let device = OpenOptions::new().read(true).write(true).open("/dev/fuse");
    device.map(drop).map_err(|error| {
        CommandError::new(&explain::mount::NO_FUSE, "/dev/fuse cannot be opened")
            .because(&error)
            .hint("holdfast serve webdav shows the same files without FUSE")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_repository_is_never_hidden() {
        let folder = tempfile::tempdir().unwrap();
        let folder = std::fs::canonicalize(folder.path()).unwrap();
        let repository = folder.join("a/repository");
        std::fs::create_dir_all(repository.join("data")).unwrap();
        std::fs::create_dir_all(folder.join("a/repository2")).unwrap();
        let at = repository.display().to_string();
        let cases = [
            ("a/repository", true),
            ("a/repository/data", true),
            ("a", true),
            ("", true),
            ("a/repository2", false),
        ];
        for (point, is_refused) in cases {
            assert_eq!(refuse_own(&folder.join(point), &at).is_err(), is_refused, "{point}");
        }
        assert!(refuse_own(&repository, "s3://bucket/prefix").is_ok());
    }

    #[test]
    fn a_mount_point_is_an_empty_folder() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        std::fs::create_dir_all(path("empty")).unwrap();
        std::fs::create_dir_all(path("full/x")).unwrap();
        std::fs::write(path("file"), b"").unwrap();
        let check = |name: &str| real_path(&path(name)).and_then(|real| check_empty(&real));
        assert!(check("empty").is_ok());
        for wrong in ["full", "file", "missing"] {
            assert_eq!(check(wrong).unwrap_err().id(), explain::mount::POINT.id, "{wrong}");
        }
    }
}
