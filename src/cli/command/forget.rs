//! `holdfast forget`: removes snapshots by rule or by name.
#![allow(clippy::doc_markdown, reason = "the doc comments are help texts, read in a terminal")]

use std::collections::{HashMap, HashSet};

use clap::Args;
use jiff::{Span, Timestamp};
use serde_json::json;

use crate::cli::args::FilterArgs;
use crate::cli::command::prune::{PruneArgs, prune};
use crate::cli::config::{KeepConfig, SpanText};
use crate::cli::context::Context;
use crate::cli::error::{CommandError, Exit};
use crate::cli::explain;
use crate::cli::maintaining::{Keyring, as_reserve, candidates, failed, reserve, short};
use crate::cli::table::{Align, Table};
use crate::cli::time::{format_local, format_rfc3339};
use crate::clock::{Clock, SystemClock};
use crate::format::commit::SnapshotName;
use crate::format::tombstone::Remark;
use crate::id::ObjectId;
use crate::maintenance::forget::{
    Labelled, check_floor, forget, freed_by, label_snapshots, plan_forget, removed_by, timestamp,
};
use crate::maintenance::retention::decision::Verdict;
use crate::maintenance::retention::policy::{CalendarSpan, KeepCount, Policy};
use crate::maintenance::retention::{GroupPlan, RetentionContext};
use crate::maintenance::tombs::Maintainer;
use crate::repo::history::{History, SnapshotRecord};
use crate::units::{Allowance, parse_span};

const AFTER_HELP: &str = "\
Examples:
  holdfast forget --keep-daily 14 --keep-weekly 8 --keep-monthly 12 --dry-run
  holdfast forget --source shopdb --keep-within 30d --prune
  holdfast forget 1a2b3c4d

Rules are applied to each source on its own; a snapshot that any rule keeps is kept. Without rules
those of the configuration are used. Forgotten snapshots can be brought back by `holdfast recover`
until prune has removed their data.";

/// Arguments of `forget`.
#[derive(Debug, Clone, Args)]
#[command(after_help = AFTER_HELP)]
pub struct ForgetArgs {
    /// Forget exactly these
    #[arg(value_name = "SNAPSHOT", conflicts_with = "KeepArgs")]
    pub snapshots: Vec<String>,
    /// Prune afterwards
    #[arg(long)]
    pub prune: bool,
    /// Say what would be done and why, and do nothing
    #[arg(short = 'n', long)]
    pub dry_run: bool,
    #[command(flatten)]
    #[allow(missing_docs, reason = "a doc comment here would replace the heading's help")]
    pub keep: KeepArgs,
    #[command(flatten)]
    #[allow(missing_docs, reason = "a doc comment here would replace the heading's help")]
    pub filter: FilterArgs,
}

/// What to keep; each rule counts the newest snapshot of each of its intervals.
#[derive(Debug, Clone, Default, Args)]
#[group(id = "KeepArgs", multiple = true)]
#[command(next_help_heading = "What to keep")]
pub struct KeepArgs {
    /// The newest N
    #[arg(long, value_name = "N")]
    pub keep_last: Option<u32>,
    /// One an hour, for the last N hours that have one
    #[arg(long, value_name = "N")]
    pub keep_hourly: Option<u32>,
    /// One a day, for N days
    #[arg(long, value_name = "N")]
    pub keep_daily: Option<u32>,
    /// One a week, for N weeks
    #[arg(long, value_name = "N")]
    pub keep_weekly: Option<u32>,
    /// One a month, for N months
    #[arg(long, value_name = "N")]
    pub keep_monthly: Option<u32>,
    /// One a year, for N years
    #[arg(long, value_name = "N")]
    pub keep_yearly: Option<u32>,
    /// All of the time before the newest, such as 30d or 1y6m
    #[arg(long, value_name = "SPAN", value_parser = parse_span)]
    pub keep_within: Option<Span>,
    /// One an hour within that time
    #[arg(long, value_name = "SPAN", value_parser = parse_span, hide_short_help = true)]
    pub keep_within_hourly: Option<Span>,
    /// One a day within that time
    #[arg(long, value_name = "SPAN", value_parser = parse_span, hide_short_help = true)]
    pub keep_within_daily: Option<Span>,
    /// One a week within that time
    #[arg(long, value_name = "SPAN", value_parser = parse_span, hide_short_help = true)]
    pub keep_within_weekly: Option<Span>,
    /// One a month within that time
    #[arg(long, value_name = "SPAN", value_parser = parse_span, hide_short_help = true)]
    pub keep_within_monthly: Option<Span>,
    /// One a year within that time
    #[arg(long, value_name = "SPAN", value_parser = parse_span, hide_short_help = true)]
    pub keep_within_yearly: Option<Span>,
    /// All with this tag (repeatable; a,b means both)
    #[arg(long, value_name = "TAG[,TAG…]")]
    pub keep_tag: Vec<String>,
}

impl KeepArgs {
    /// Whether no rule is given.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        let counts = [
            self.keep_last,
            self.keep_hourly,
            self.keep_daily,
            self.keep_weekly,
            self.keep_monthly,
            self.keep_yearly,
        ];
        let spans = [
            self.keep_within,
            self.keep_within_hourly,
            self.keep_within_daily,
            self.keep_within_weekly,
            self.keep_within_monthly,
            self.keep_within_yearly,
        ];
        counts.iter().all(Option::is_none)
            && spans.iter().all(Option::is_none)
            && self.keep_tag.is_empty()
    }
}

impl From<&KeepConfig> for KeepArgs {
    fn from(keep: &KeepConfig) -> Self {
        let span = |text: &Option<SpanText>| text.as_ref().map(|text| text.span);
        Self {
            keep_last: keep.last,
            keep_hourly: keep.hourly,
            keep_daily: keep.daily,
            keep_weekly: keep.weekly,
            keep_monthly: keep.monthly,
            keep_yearly: keep.yearly,
            keep_within: span(&keep.within),
            keep_within_hourly: span(&keep.within_hourly),
            keep_within_daily: span(&keep.within_daily),
            keep_within_weekly: span(&keep.within_weekly),
            keep_within_monthly: span(&keep.within_monthly),
            keep_within_yearly: span(&keep.within_yearly),
            keep_tag: keep.tags.clone(),
        }
    }
}

/// Forgets by rule or by name, and prunes afterwards if asked to.
pub fn run(args: &ForgetArgs, context: &Context) -> Result<Exit, CommandError> {
    if args.snapshots.is_empty() {
        policy(args, context)?;
    }
    let (keyring, keys) = Keyring::open_for_maintainer(context)?;
    let repository = &keyring.repository;
    let mut history = History::read(repository)?;
    history.require_sound()?;
    let identities = keyring.refs_identities();
    let labelled = label_snapshots(repository, &history, &identities, SnapshotRecord::is_live);
    let (removed, refused) =
        choose(args, context, &labelled, repository.roster.retention_floor_seconds)?;
    let reserve = reserve(context)?;
    let clock = &SystemClock;
    let maintainer = Maintainer { repository, keys: &keys, clock, reserve: as_reserve(&reserve) };
    let ids: HashSet<ObjectId> = removed.iter().map(|(name, _)| name.id).collect();
    let records: Vec<&SnapshotRecord> =
        history.live().filter(|record| ids.contains(&record.name.id)).collect();
    check_floor(&maintainer, &records).map_err(failed)?;
    let freed = freed_by(repository, &history, &identities, &ids).map_err(failed)?;
    if !args.dry_run {
        forget(&maintainer, &history, &removed).map_err(failed)?;
    }
    report(context, args, removed.len(), freed.bytes, 2 * repository.roster.grace_seconds);
    if refused > 0 {
        let what = format!("nothing was forgotten of {refused} sources");
        return Err(CommandError::new(&explain::prune::WOULD_EMPTY, what));
    }
    if !args.prune {
        return Ok(Exit::Done);
    }
    let options = PruneArgs {
        max_unused: Allowance::Unlimited,
        repack: false,
        grace: None,
        dry_run: args.dry_run,
    };
    prune(&options, context, &keyring, &keys)
}

fn report(context: &Context, args: &ForgetArgs, count: usize, bytes: u64, wait_seconds: u64) {
    let output = &context.output;
    let done = if args.dry_run { "would be forgotten" } else { "forgotten" };
    output.note(&format!("{count} snapshots {done}"));
    let wait = i64::try_from(wait_seconds).unwrap_or(i64::MAX);
    let when = timestamp(SystemClock.now()).as_second().saturating_add(wait);
    let when = Timestamp::from_second(when).unwrap_or(Timestamp::MAX);
    if bytes > 0 {
        let local = format_local(when, &context.now);
        output.note(&format!("prunes will free {}, from {local} on", output.size(bytes)));
    }
    if !args.prune {
        output.summary(
            Exit::Done,
            &json!({
                "dry_run": args.dry_run, "forgotten": count, "freed_bytes": bytes,
                "freed_from": format_rfc3339(when),
            }),
        );
    }
}

type Removed = Vec<(SnapshotName, Remark)>;

/// What goes, and how many groups are left alone.
fn choose(
    args: &ForgetArgs,
    context: &Context,
    labelled: &[Labelled],
    floor_seconds: u64,
) -> Result<(Removed, usize), CommandError> {
    if !args.snapshots.is_empty() {
        return Ok((named(args, context, labelled)?, 0));
    }
    for unknown in labelled.iter().filter(|one| one.label.is_none()) {
        let why = unknown.trouble.as_deref().unwrap_or_default();
        let id = short(&unknown.record.name.id);
        context.output.warning(&format!("snapshot {id} is kept: its source is not known: {why}"));
    }
    let matching: Vec<Labelled> = labelled
        .iter()
        .filter(|one| {
            let label = one.label.as_ref();
            label.is_some_and(|l| args.filter.matches(&l.source, &l.host, &l.tags))
        })
        .cloned()
        .collect();
    if matching.is_empty() && labelled.iter().any(|one| one.label.is_some()) {
        let what = "no snapshot is of that source, host or tag: nothing was forgotten";
        return Err(CommandError::new(&explain::repository::SNAPSHOT_MISSING, what));
    }
    let zone = context.now.time_zone().clone();
    let now = timestamp(SystemClock.now());
    let rules = RetentionContext { zone, now, floor_seconds, overrides: Vec::new() };
    let plans = plan_forget(&policy(args, context)?, &matching, &rules).map_err(failed)?;
    print_plans(context, &plans, &matching);
    let refused = plans.iter().filter(|plan| plan.refusal.is_some()).count();
    Ok((removed_by(&plans), refused))
}

fn named(
    args: &ForgetArgs,
    context: &Context,
    labelled: &[Labelled],
) -> Result<Removed, CommandError> {
    let ids: Vec<String> = labelled.iter().map(|one| one.record.name.id.to_string()).collect();
    let candidates = candidates(labelled, &ids);
    let mut removed = Removed::new();
    for text in &args.snapshots {
        let name = labelled[context.selector(text)?.resolve(&candidates)?].record.name;
        if removed.iter().all(|(known, _)| *known != name) {
            context.output.line(&format!("snapshot {} by name", short(&name.id)));
            context.output.item(&json!({ "id": name.id.to_string(), "keep": false }));
            removed.push((name, Remark::lossy("by name")));
        }
    }
    Ok(removed)
}

fn print_plans(context: &Context, plans: &[GroupPlan], labelled: &[Labelled]) {
    let labels: HashMap<ObjectId, &Labelled> =
        labelled.iter().map(|one| (one.record.name.id, one)).collect();
    for plan in plans {
        context.output.line(&format!("source {} of writer {}", plan.source, plan.writer));
        if let Some(refusal) = &plan.refusal {
            context.output.warning(&refusal.to_string());
        }
        let mut table = Table::new(&[
            ("ID", Align::Left),
            ("TIME", Align::Left),
            ("TAGS", Align::Left),
            ("", Align::Left),
            ("REASON", Align::Left),
        ]);
        for decision in &plan.decisions {
            let id = decision.snapshot;
            let tags = labels.get(&id).and_then(|one| one.label.as_ref()).map(|l| l.tags.join(","));
            let (verdict, reasons) = match &decision.verdict {
                Verdict::Keep(reasons) => {
                    ("keep", reasons.iter().map(ToString::to_string).collect::<Vec<_>>())
                }
                Verdict::Remove => ("forget", vec!["no rule keeps it".to_owned()]),
            };
            context.output.item(&json!({
                "id": id.to_string(), "source": plan.source, "writer": plan.writer.to_string(),
                "time": format_rfc3339(decision.time), "keep": verdict == "keep",
                "reasons": reasons,
            }));
            table.row([
                short(&id),
                format_local(decision.time, &context.now),
                tags.unwrap_or_default(),
                verdict.to_owned(),
                reasons.join(", "),
            ]);
        }
        context.output.table(&table);
    }
}

/// The rules of the arguments, else those of the configuration.
fn policy(args: &ForgetArgs, context: &Context) -> Result<Policy, CommandError> {
    let configured = context.loaded.config.retention.get("default");
    let keep = match configured {
        Some(retention) if args.keep.is_empty() => KeepArgs::from(&retention.keep),
        _ => args.keep.clone(),
    };
    let policy = keep.policy()?;
    if policy.is_empty() {
        let what = "no rule says what to keep, and no snapshot was named";
        return Err(CommandError::new(&explain::prune::NO_RULE, what).hint("--keep-daily 14"));
    }
    Ok(policy)
}

impl KeepArgs {
    /// The rules as retention takes them.
    ///
    /// # Errors
    /// `HF-USE-001` for a span shorter than an hour.
    pub fn policy(&self) -> Result<Policy, CommandError> {
        let count = |count: Option<u32>| KeepCount::AtMost(count.unwrap_or(0));
        let list = |text: &String| text.split(',').map(str::to_owned).collect();
        Ok(Policy {
            last: count(self.keep_last),
            hourly: count(self.keep_hourly),
            daily: count(self.keep_daily),
            weekly: count(self.keep_weekly),
            monthly: count(self.keep_monthly),
            yearly: count(self.keep_yearly),
            within: calendar_span(self.keep_within)?,
            within_hourly: calendar_span(self.keep_within_hourly)?,
            within_daily: calendar_span(self.keep_within_daily)?,
            within_weekly: calendar_span(self.keep_within_weekly)?,
            within_monthly: calendar_span(self.keep_within_monthly)?,
            within_yearly: calendar_span(self.keep_within_yearly)?,
            tags: self.keep_tag.iter().map(list).collect(),
        })
    }
}

fn calendar_span(span: Option<Span>) -> Result<Option<CalendarSpan>, CommandError> {
    let Some(span) = span else { return Ok(None) };
    let days = i64::from(span.get_weeks()) * 7 + i64::from(span.get_days());
    let text = format!("{}y{}m{days}d{}h", span.get_years(), span.get_months(), span.get_hours());
    let is_whole = span.get_minutes() == 0 && span.get_seconds() == 0;
    let wrong = || {
        let what = format!("{span:#} is not a span of years, months, days and whole hours");
        CommandError::new(&explain::usage::ARGUMENT, what)
    };
    if is_whole { text.parse().map(Some).map_err(|_| wrong()) } else { Err(wrong()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_of_the_configuration_is_a_rule() {
        assert!(KeepArgs::from(&KeepConfig::default()).is_empty());
        let monthly = KeepConfig { monthly: Some(1), ..KeepConfig::default() };
        assert!(!KeepArgs::from(&monthly).is_empty());
        let tags = KeepConfig { tags: vec!["x".into()], ..KeepConfig::default() };
        assert!(!KeepArgs::from(&tags).is_empty());
    }

    #[test]
    fn spans_keep_their_calendar_units() {
        for (text, printed) in [("1y6m", "1y6m"), ("2w3d", "17d"), ("36h", "36h")] {
            let span = calendar_span(parse_span(text).ok()).unwrap().unwrap();
            assert_eq!(span.to_string(), printed);
        }
        assert!(calendar_span(parse_span("90min").ok()).is_err());
    }
}
