//! `holdfast forget`: removes snapshots by rule or by name.
#![allow(clippy::doc_markdown, reason = "the doc comments are help texts, read in a terminal")]

use clap::Args;
use jiff::Span;

use crate::cli::args::FilterArgs;
use crate::cli::config::{KeepConfig, SpanText};
use crate::units::parse_span;

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
}
