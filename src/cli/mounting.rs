//! What the commands that show snapshots as files have in common.

use std::sync::Arc;
use std::thread::{available_parallelism, sleep};
use std::time::Duration;

use crate::cli::context::Context;
use crate::cli::error::CommandError;
use crate::cli::reading::Reading;
use crate::cli::signals::signals;
use crate::mount::attributes::Owner;
use crate::mount::catalog::Catalog;
use crate::mount::file_system::{FileSystem, Options};
use crate::progress::Progress;

/// How often signals and troubles are looked for.
const TICK: Duration = Duration::from_millis(100);
/// Most threads that decode.
const THREADS_MAX: usize = 8;
/// Least memory for decoded data, in bytes.
const CACHE_BYTES_MIN: u64 = 8 * 1024 * 1024;

/// A file system, and where its troubles come up.
pub struct Shown {
    /// The file system.
    pub file_system: Arc<FileSystem>,
    progress: Arc<Progress>,
}

impl Shown {
    /// Opens the repository and lists its snapshots: those of `sources`, or all.
    ///
    /// # Errors
    /// As [`Reading::open`].
    pub fn open(
        context: &Context,
        sources: &[String],
        cache_bytes: u64,
    ) -> Result<Self, CommandError> {
        let this = Self::of(Reading::open(context)?, sources, cache_bytes);
        this.pass_messages(context);
        let known = this.file_system.catalog().sources();
        for source in sources {
            if !known.contains_key(&crate::mount::names::source_name(source)) {
                context.output.warning(&format!("there is no snapshot of {source} yet"));
            }
        }
        Ok(this)
    }

    /// The snapshots of a repository that is open: those of `sources`, or all.
    #[must_use]
    pub fn of(reading: Reading, sources: &[String], cache_bytes: u64) -> Self {
        let Reading { repository, history, unlocked, access } = reading;
        let progress = Arc::new(Progress::default());
        let catalog =
            Catalog::new(repository, &history, unlocked, sources.to_vec(), progress.clone());
        let options = Options {
            cache_bytes: cache_bytes.max(CACHE_BYTES_MIN),
            threads: available_parallelism().map_or(2, usize::from).clamp(2, THREADS_MAX),
            owner: Owner {
                uid: rustix::process::getuid().as_raw(),
                gid: rustix::process::getgid().as_raw(),
            },
        };
        let file_system = Arc::new(FileSystem::new(catalog, access, options, progress.clone()));
        Self { file_system, progress }
    }

    /// Sources and snapshots in the list.
    #[must_use]
    pub fn counts(&self) -> (usize, usize) {
        let sources = self.file_system.catalog().sources();
        (sources.len(), sources.values().map(|source| source.snapshots.len()).sum())
    }

    /// From now on a signal does not end the program at once: [`Self::wait`] will see it.
    pub fn arm(&self) {
        signals().arm();
    }

    /// Waits for SIGINT or SIGTERM, or until `is_over`, and prints troubles meanwhile.
    pub fn wait(&self, context: &Context, is_over: impl Fn() -> bool) {
        let signals = signals();
        while signals.came().is_none() && !is_over() {
            self.pass_messages(context);
            sleep(TICK);
        }
        self.pass_messages(context);
    }

    /// Prints the troubles that have come up.
    pub fn pass_messages(&self, context: &Context) {
        for message in self.progress.take_messages() {
            context.output.warning(&message);
        }
    }
}
