//! What leads to a point in time: the base backup, the log, and what the server is told.

use clap::{Args, ValueEnum};

use crate::cli::context::Context;
use crate::cli::error::CommandError;
use crate::cli::explain::{postgres, restore as explain_restore};
use crate::cli::log_search::{LogSearch, place_of, shown};
use crate::cli::maintaining::short;
use crate::cli::postgres_bases::Base;
use crate::cli::reading::Reading;
use crate::cli::wal_archive::WalArchive;
use crate::format::postgres::facts::{BaseFacts, WalFacts};
use crate::format::postgres::lsn::{Lsn, Timeline};
use crate::format::postgres::segment::{Segment, SegmentBytes};
use crate::format::postgres::wal_records::{Mark, MarkKind, WalRecords};
use crate::progress::Progress;
use crate::restore::cat::cat;
use crate::restore::postgres::directory::{DataDirectory, DirectoryError};
use crate::restore::postgres::plan::{PlanError, Point, RecoveryPlan, plan_recovery};
use crate::restore::postgres::settings::Recovery;

/// Where a recovery is to end.
#[derive(Debug, Clone, Default, Args)]
pub struct PointArgs {
    /// Recover up to this moment, such as 2026-11-23T01:30:00Z
    #[arg(long, value_name = "TIME", group = "point")]
    pub to_time: Option<String>,
    /// Recover up to this position in the log
    #[arg(long, value_name = "LSN", group = "point")]
    pub to_lsn: Option<Lsn>,
    /// Recover up to the end of this transaction
    #[arg(long, value_name = "XID", group = "point")]
    pub to_xid: Option<u64>,
    /// Recover up to the restore point of this name, the last one where there are several
    #[arg(long, value_name = "NAME", group = "point")]
    pub to_name: Option<String>,
    /// Recover to the end of the log, or only until the base backup is consistent
    #[arg(long, value_enum, group = "point")]
    pub to: Option<PointWord>,
    /// On the way to this timeline [default: the newest that can be reached]
    #[arg(long, value_name = "NUMBER")]
    pub timeline: Option<u32>,
    /// What the server does at that point
    #[arg(long, value_enum)]
    pub then: Option<Then>,
}

/// Points that need no value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum PointWord {
    /// The end of all of the log
    #[default]
    Latest,
    /// As soon as the base backup is consistent
    Immediate,
}

/// What a server does when it has recovered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum Then {
    /// Begin to work
    #[default]
    Promote,
    /// Wait, and answer queries that only read
    Pause,
    /// End
    Shutdown,
}

impl Then {
    /// As the server names it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Promote => "promote",
            Self::Pause => "pause",
            Self::Shutdown => "shutdown",
        }
    }
}

impl PointArgs {
    /// The point in a word: `latest`, a moment, a position.
    #[must_use]
    pub fn shown(&self) -> String {
        let given = [
            self.to_time.clone(),
            self.to_lsn.map(|lsn| lsn.to_string()),
            self.to_xid.map(|xid| format!("transaction {xid}")),
            self.to_name.clone(),
            self.to.map(|word| format!("{word:?}").to_lowercase()),
        ];
        given.into_iter().flatten().next().unwrap_or_else(|| "latest".to_owned())
    }

    /// Whether a point was asked for.
    #[must_use]
    pub fn is_given(&self) -> bool {
        self.to_time.is_some()
            || self.to_lsn.is_some()
            || self.to_xid.is_some()
            || self.to_name.is_some()
            || self.to.is_some()
    }
}

/// Plans the recovery.
///
/// # Errors
/// `HF-PG-010`, `-011`.
pub fn plan(
    bases: &[Base<'_>],
    archive: &WalArchive<'_>,
    args: &PointArgs,
    reading: &Reading,
    context: &Context,
    source: &str,
) -> Result<RecoveryPlan, CommandError> {
    let point = point(args, context)?;
    if matches!(point, Point::Transaction(_) | Point::Name(_)) {
        let found =
            LogSearch::new(reading, archive, bases, point).plan(args.timeline.map(Timeline));
        return found.map_err(|error| error.hint(format!("holdfast pg status {source}")));
    }
    let facts: Vec<BaseFacts> = bases.iter().map(|base| base.facts.clone()).collect();
    let log: Vec<&WalFacts> = archive.facts().collect();
    let timeline = args.timeline.map(Timeline);
    plan_recovery(&facts, &log, &archive.coverage(), point, timeline).map_err(|error| {
        let explanation = match error {
            PlanError::NoBase => &postgres::NO_BACKUP,
            _ => &postgres::UNREACHABLE_POINT,
        };
        let refused = CommandError::new(explanation, error.to_string());
        let refused = match error {
            // On a server at which nothing happens the log ends before now.
            PlanError::TooLate { .. } => {
                refused.hint("without a point all of the log is recovered")
            }
            _ => refused,
        };
        refused.hint(format!("holdfast pg status {source}"))
    })
}

/// The point that the arguments name.
pub fn point(args: &PointArgs, context: &Context) -> Result<Point, CommandError> {
    if let Some(text) = &args.to_time {
        return Ok(Point::Time(context.moment(text)?));
    }
    if let Some(lsn) = args.to_lsn {
        return Ok(Point::Lsn(lsn));
    }
    if let Some(number) = args.to_xid {
        return Ok(Point::Transaction(number));
    }
    if let Some(name) = &args.to_name {
        return Ok(Point::Name(name.clone()));
    }
    Ok(match args.to.unwrap_or_default() {
        PointWord::Latest => Point::Latest,
        PointWord::Immediate => Point::Immediate,
    })
}

/// Says from what to where.
pub fn say_what_comes(context: &Context, base: &Base<'_>, plan: &RecoveryPlan) {
    let BaseFacts { timeline, stop, stop_time, .. } = &base.facts;
    let until = match (&plan.point, &plan.mark) {
        (Point::Latest, _) => format!("{} on timeline {}", plan.reach.end, plan.reach.timeline),
        (point, None) => shown(point),
        (point @ Point::Lsn(_), Some(mark)) => {
            format!("{} ({}), the last of several", shown(point), place_of(mark))
        }
        (point, Some(mark)) => format!("{} ({})", shown(point), place_of(mark)),
    };
    context.output.note(&format!(
        "From base backup {} ({stop_time}, {stop} on timeline {timeline}) to {until}",
        short(&base.found.0.name.id),
    ));
    if base.facts.bad_pages_count > 0 {
        let count = base.facts.bad_pages_count;
        context.output.warning(&format!("{count} pages were damaged on the server already"));
    }
}

/// Path of the data directory in the snapshot.
#[must_use]
pub fn root_path(base: &Base<'_>) -> String {
    let root = base.found.1.roots.iter().find(|root| root.facts.is_some());
    let path = root.map(|root| String::from_utf8_lossy(&root.path).into_owned());
    format!("/{}", path.unwrap_or_default())
}

/// The control file of a base backup.
pub fn control_bytes(reading: &Reading, base: &Base<'_>) -> Result<Vec<u8>, CommandError> {
    let path = format!("{}/global/pg_control", root_path(base));
    let mut control = Vec::new();
    let progress = Progress::default();
    cat(&reading.access, &base.found.1, path.as_bytes(), &mut control, 1, &progress)
        .map_err(|error| CommandError::classify(&error, &explain_restore::DAMAGED))?;
    Ok(control)
}

/// The segments that the plan needs.
#[must_use]
pub fn segment_names(plan: &RecoveryPlan, size: SegmentBytes) -> Vec<String> {
    let mut names = Vec::new();
    for range in &plan.reach.ranges {
        let mut at = size.start(range.start);
        while at < range.end {
            let segment = Segment::of(range.timeline, at, size);
            names.push(segment.name(size));
            at = segment.end(size);
        }
    }
    names
}

/// The error for people.
#[must_use]
pub fn directory_error(error: &DirectoryError) -> CommandError {
    CommandError::classify(error, &postgres::RESTORED)
}

/// A server that is told a moment after which no transaction ended refuses to start. The end of
/// the log is that moment then.
pub fn settled_point(
    directory: &DataDirectory<'_>,
    segments: SegmentBytes,
    plan: &RecoveryPlan,
) -> Result<Point, CommandError> {
    let Point::Time(time) = &plan.point else { return Ok(plan.point.clone()) };
    let names = segment_names(plan, segments);
    let read = |name: &String| {
        let path = directory.path().join("pg_wal").join(name);
        match std::fs::read(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
            Err(source) => {
                Err(directory_error(&DirectoryError::Io { action: "read", path, source }))
            }
            Ok(bytes) => Ok(bytes),
        }
    };
    let mut next = Vec::new();
    for name in names.iter().rev() {
        let segment = read(name)?;
        let mut newest = None;
        let mut visit = |mark: Mark| {
            if matches!(mark.kind, MarkKind::TransactionEnd(_)) {
                newest = newest.max(Some(mark.microseconds));
            }
        };
        let mut records = WalRecords::default();
        records.take(&segment, false, &mut visit);
        records.take(&next, true, &mut visit);
        match newest {
            Some(newest) if newest > time.as_microsecond() => return Ok(plan.point.clone()),
            Some(_) => break,
            None => next = segment,
        }
    }
    Ok(Point::Latest)
}

/// How the server is to recover; nothing where the base stands for itself.
#[must_use]
pub fn recovery_of(
    base: &BaseFacts,
    plan: &RecoveryPlan,
    point: Point,
    archive: &WalArchive<'_>,
    args: &PointArgs,
) -> Option<Recovery> {
    let has_log = archive.facts().next().is_some() && !plan.reach.ranges.is_empty();
    if !has_log && point == Point::Latest {
        return None;
    }
    Some(Recovery {
        point,
        timeline: plan.reach.timeline,
        restore_command: None,
        action: args.then.unwrap_or_default().name(),
        major: base.cluster.major(),
    })
}

/// The original's configuration may lead a server away from the folder that it is started on.
pub fn warn_of_places(context: &Context, directory: &DataDirectory<'_>) {
    for name in directory.settings_elsewhere() {
        context.output.warning(&format!(
            "postgresql.conf sets {name}, which outweighs pg_ctl -D: take it out before you start \
             a server here, or it works on the files of the original"
        ));
    }
}

/// Indexes of text are ordered by libraries of the system: others may order otherwise.
pub fn warn_of_libraries(context: &Context, facts: &BaseFacts) {
    let mut command = std::process::Command::new("getconf");
    context.environment.scrub(&mut command);
    let Ok(answer) = command.arg("GNU_LIBC_VERSION").output() else { return };
    let answer = String::from_utf8_lossy(&answer.stdout).into_owned();
    let Some(here) = answer.split_whitespace().last() else { return };
    for (_, there) in facts.collations.iter().filter(|(provider, _)| provider == "libc") {
        if there != here {
            context.output.warning(&format!(
                "the server had glibc {there}, this host has {here}: text may be ordered \
                 otherwise; REINDEX DATABASE before the data is relied on"
            ));
        }
    }
}
