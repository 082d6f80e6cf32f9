//! A retention policy as a value, and the texts its parts are given as.
//!
//! What a text means is what it means to restic; texts that restic reads in a way no one can want
//! (a zero or negative duration, a unit twice) are refused.

use std::fmt;
use std::str::FromStr;

use jiff::civil::Date;
use jiff::{Span, Timestamp, Zoned};

/// The rules. A snapshot is kept when at least one keeps it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Policy {
    /// The newest ones, whatever their time.
    pub last: KeepCount,
    /// The newest of each of the newest hours that have one.
    pub hourly: KeepCount,
    /// The newest of each of the newest days that have one.
    pub daily: KeepCount,
    /// The newest of each of the newest ISO weeks that have one.
    pub weekly: KeepCount,
    /// The newest of each of the newest months that have one.
    pub monthly: KeepCount,
    /// The newest of each of the newest years that have one.
    pub yearly: KeepCount,
    /// All that are less than this older than the newest.
    pub within: Option<CalendarSpan>,
    /// The newest of each hour, of those within the duration.
    pub within_hourly: Option<CalendarSpan>,
    /// The newest of each day, of those within the duration.
    pub within_daily: Option<CalendarSpan>,
    /// The newest of each ISO week, of those within the duration.
    pub within_weekly: Option<CalendarSpan>,
    /// The newest of each month, of those within the duration.
    pub within_monthly: Option<CalendarSpan>,
    /// The newest of each year, of those within the duration.
    pub within_yearly: Option<CalendarSpan>,
    /// All that have every tag of one of these lists; the empty tag stands for "no tags at all".
    pub tags: Vec<Vec<String>>,
}

impl Policy {
    /// Whether it has no rule, so that it would keep nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        let keeps =
            |period| self.count(period) != KeepCount::AtMost(0) || self.span(period).is_some();
        !Period::ALL.into_iter().any(keeps) && self.within.is_none() && self.tags.is_empty()
    }

    /// The counting rule of a period.
    #[must_use]
    pub const fn count(&self, period: Period) -> KeepCount {
        match period {
            Period::Last => self.last,
            Period::Hourly => self.hourly,
            Period::Daily => self.daily,
            Period::Weekly => self.weekly,
            Period::Monthly => self.monthly,
            Period::Yearly => self.yearly,
        }
    }

    /// The duration rule of a period; [`Period::Last`] has none ([`Policy::within`] has no period).
    #[must_use]
    pub const fn span(&self, period: Period) -> Option<CalendarSpan> {
        match period {
            Period::Last => None,
            Period::Hourly => self.within_hourly,
            Period::Daily => self.within_daily,
            Period::Weekly => self.within_weekly,
            Period::Monthly => self.within_monthly,
            Period::Yearly => self.within_yearly,
        }
    }
}

/// What a rule counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Period {
    /// Snapshots, whatever their time.
    Last,
    /// Hours of the clock on the wall.
    Hourly,
    /// Calendar days.
    Daily,
    /// ISO 8601 weeks, Monday to Sunday.
    Weekly,
    /// Calendar months.
    Monthly,
    /// Calendar years.
    Yearly,
}

impl Period {
    /// All, from the shortest.
    pub const ALL: [Self; 6] =
        [Self::Last, Self::Hourly, Self::Daily, Self::Weekly, Self::Monthly, Self::Yearly];
}

impl fmt::Display for Period {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Last => "last",
            Self::Hourly => "hourly",
            Self::Daily => "daily",
            Self::Weekly => "weekly",
            Self::Monthly => "monthly",
            Self::Yearly => "yearly",
        })
    }
}

/// How many a rule keeps. As a text: a number, or `unlimited` (restic also writes `-1`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeepCount {
    /// As many as this; 0 is the same as no rule.
    AtMost(u32),
    /// One of every period there is.
    Unlimited,
}

impl Default for KeepCount {
    fn default() -> Self {
        Self::AtMost(0)
    }
}

/// A text that is no part of a policy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PolicyTextError {
    /// Neither a number nor `unlimited`.
    #[error("{text:?} is neither a number nor \"unlimited\"")]
    Count {
        /// The text.
        text: String,
    },
    /// Not numbers with units.
    #[error("{text:?} is not a duration such as 1y6m14d12h")]
    Duration {
        /// The text.
        text: String,
    },
    /// A unit other than y, m, d, h.
    #[error("unknown unit {unit:?} in duration {text:?}, expected y, m, d or h")]
    Unit {
        /// The text.
        text: String,
        /// What stands after a number.
        unit: char,
    },
}

impl FromStr for KeepCount {
    type Err = PolicyTextError;

    fn from_str(text: &str) -> Result<Self, PolicyTextError> {
        match text.trim() {
            "unlimited" | "-1" => Ok(Self::Unlimited),
            number => number
                .parse()
                .map(Self::AtMost)
                .map_err(|_| PolicyTextError::Count { text: text.to_owned() }),
        }
    }
}

impl fmt::Display for KeepCount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AtMost(count) => write!(f, "{count}"),
            Self::Unlimited => f.write_str("unlimited"),
        }
    }
}

/// A duration in calendar units, longer than zero. As a text: `2y5m7d3h` (m is months).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CalendarSpan {
    years: u32,
    months: u32,
    days: u32,
    hours: u32,
}

impl CalendarSpan {
    /// The instant that lies this much before `time`.
    ///
    /// Years, months and days are taken off the date on the wall in one step, and a day that the
    /// month does not have runs over into the next month, as in restic: one month before 31 March
    /// is 3 March (2 March in a leap year). Hours are taken off as 3600 seconds each. What would
    /// lie before the calendar's first year is the first instant there is.
    #[must_use]
    pub fn before(&self, time: &Zoned) -> Timestamp {
        self.checked_before(time).unwrap_or(Timestamp::MIN)
    }

    fn checked_before(&self, time: &Zoned) -> Option<Timestamp> {
        let months = i64::from(time.year()) * 12 + i64::from(time.month())
            - 1
            - i64::from(self.years) * 12
            - i64::from(self.months);
        let year = i16::try_from(months.div_euclid(12)).ok()?;
        let month = i8::try_from(months.rem_euclid(12) + 1).ok()?;
        let days = i64::from(time.day()) - 1 - i64::from(self.days);
        let days = Span::new().try_days(days).ok()?;
        let date = Date::new(year, month, 1).ok()?.checked_add(days).ok()?;
        let zoned = date.to_datetime(time.time()).to_zoned(time.time_zone().clone()).ok()?;
        let hours = Span::new().try_hours(i64::from(self.hours)).ok()?;
        zoned.timestamp().checked_sub(hours).ok()
    }
}

impl FromStr for CalendarSpan {
    type Err = PolicyTextError;

    fn from_str(text: &str) -> Result<Self, PolicyTextError> {
        let malformed = || PolicyTextError::Duration { text: text.to_owned() };
        let mut parts: [Option<u32>; 4] = [None; 4];
        let mut rest = text.trim();
        while !rest.is_empty() {
            let digits = rest.find(|c: char| !c.is_ascii_digit()).ok_or_else(malformed)?;
            let (number, tail) = rest.split_at(digits);
            let number: u32 = number.parse().map_err(|_| malformed())?;
            let unit = tail.chars().next().ok_or_else(malformed)?;
            let place = "ymdh"
                .find(unit)
                .ok_or_else(|| PolicyTextError::Unit { text: text.to_owned(), unit })?;
            if parts[place].replace(number).is_some() {
                return Err(malformed());
            }
            rest = &tail[unit.len_utf8()..];
        }
        let [years, months, days, hours] = parts.map(Option::unwrap_or_default);
        if [years, months, days, hours] == [0; 4] {
            return Err(malformed());
        }
        Ok(Self { years, months, days, hours })
    }
}

impl fmt::Display for CalendarSpan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts = [(self.years, 'y'), (self.months, 'm'), (self.days, 'd'), (self.hours, 'h')];
        for (number, unit) in parts.into_iter().filter(|(number, _)| *number > 0) {
            write!(f, "{number}{unit}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_and_printed() {
        for (text, printed) in [
            ("2y5m7d3h", "2y5m7d3h"),
            ("1y1d1m", "1y1m1d"),
            (" 14d ", "14d"),
            ("0y48h", "48h"),
            ("9999y", "9999y"),
        ] {
            let span: CalendarSpan = text.parse().unwrap();
            assert_eq!(span.to_string(), printed, "{text}");
        }
        for wrong in ["", "0d", "14", "d", "-3d", "3w", "2d3d", "99999999999y", "1y 2m", "3é"] {
            assert!(wrong.parse::<CalendarSpan>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn counts_are_read() {
        for (text, count) in [
            ("7", KeepCount::AtMost(7)),
            ("0", KeepCount::AtMost(0)),
            ("-1", KeepCount::Unlimited),
            ("unlimited", KeepCount::Unlimited),
        ] {
            assert_eq!(text.parse(), Ok(count));
        }
        for wrong in ["", "-2", "all", "7d"] {
            assert!(wrong.parse::<KeepCount>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn durations_run_back_by_the_calendar_and_hours_by_time() {
        for (from, span, to) in [
            ("2015-03-31T12:00[UTC]", "1m", "2015-03-03T12:00Z"),
            ("2016-03-31T12:00[UTC]", "1m", "2016-03-02T12:00Z"),
            ("2016-02-29T12:00[UTC]", "1y", "2015-03-01T12:00Z"),
            ("2016-01-18T12:02:03[UTC]", "1y2m3d3h", "2014-11-15T09:02:03Z"),
            ("2016-01-31T00:00[UTC]", "2m31d", "2015-10-31T00:00Z"),
            // A day over the change to summer time has 23 hours: by calendar, and by time.
            ("2024-03-31T12:00[Europe/Berlin]", "1d", "2024-03-30T11:00Z"),
            ("2024-03-31T12:00[Europe/Berlin]", "24h", "2024-03-30T10:00Z"),
        ] {
            let span: CalendarSpan = span.parse().unwrap();
            let from: Zoned = from.parse().unwrap();
            assert_eq!(span.before(&from), to.parse().unwrap(), "{from} - {span}");
        }
    }

    #[test]
    fn a_duration_longer_than_the_calendar_reaches_its_beginning() {
        let span: CalendarSpan = "4000000000y".parse().unwrap();
        assert_eq!(span.before(&"2016-01-18T12:00[UTC]".parse().unwrap()), Timestamp::MIN);
    }

    #[test]
    fn any_rule_makes_a_policy() {
        assert!(Policy::default().is_empty());
        let span = "1d".parse().ok();
        for policy in [
            Policy { last: KeepCount::AtMost(1), ..Policy::default() },
            Policy { yearly: KeepCount::Unlimited, ..Policy::default() },
            Policy { within: span, ..Policy::default() },
            Policy { within_weekly: span, ..Policy::default() },
            Policy { tags: vec![vec!["a".into()]], ..Policy::default() },
        ] {
            assert!(!policy.is_empty(), "{policy:?}");
        }
    }
}
