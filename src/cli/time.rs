//! Moments as people write and read them.
//!
//! Now and the time zone come in as a value. Text for people is local time with its offset; JSON
//! has RFC 3339 in UTC.

use std::time::Duration;

use jiff::civil::{Date, DateTime};
use jiff::{Span, SpanRelativeTo, Timestamp, ToSpan, Zoned};

use crate::cli::error::CommandError;
use crate::cli::explain::usage;

/// A moment, or a whole day where no time of day was given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moment {
    /// A moment.
    At(Timestamp),
    /// A day in the local time zone.
    Day(Date),
}

/// Why a text is not a time.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TimeError {
    /// Not of a known form.
    #[error("{text:?} is not a time such as 2026-03-01, 2026-03-01T12:00Z, now or yesterday")]
    Malformed {
        /// The text as given.
        text: String,
    },
    /// A local time that the time zone does not have, or that cannot be counted.
    #[error("{text:?} does not exist in the time zone")]
    Impossible {
        /// The text as given.
        text: String,
    },
}

impl Moment {
    /// Reads `now`, `today`, `yesterday`, a date, a date and time (local where it has neither `Z`
    /// nor an offset; a blank may stand for the `T`; seconds may be left out).
    ///
    /// # Errors
    /// A text of another form.
    pub fn parse(text: &str, now: &Zoned) -> Result<Self, TimeError> {
        let malformed = || TimeError::Malformed { text: text.to_owned() };
        match text {
            "now" => return Ok(Self::At(now.timestamp())),
            "today" => return Ok(Self::Day(now.date())),
            "yesterday" => {
                let day = now.date().checked_sub(1.day()).map_err(|_| malformed())?;
                return Ok(Self::Day(day));
            }
            _ => {}
        }
        // jiff's dates also take forms such as 20260301, which would be ids here.
        if text.len() < 10 || text.as_bytes().get(4) != Some(&b'-') {
            return Err(malformed());
        }
        if let (10, Ok(day)) = (text.len(), text.parse::<Date>()) {
            return Ok(Self::Day(day));
        }
        if let Ok(moment) = text.parse::<Timestamp>() {
            return Ok(Self::At(moment));
        }
        let civil: DateTime = text.parse().map_err(|_| malformed())?;
        let zoned = civil.to_zoned(now.time_zone().clone());
        zoned
            .map(|zoned| Self::At(zoned.timestamp()))
            .map_err(|_| TimeError::Impossible { text: text.to_owned() })
    }

    /// The moment, or the beginning of the day.
    ///
    /// # Errors
    /// A day at the end of time.
    pub fn start(self, now: &Zoned) -> Result<Timestamp, TimeError> {
        match self {
            Self::At(moment) => Ok(moment),
            Self::Day(day) => day
                .to_zoned(now.time_zone().clone())
                .map(|zoned| zoned.timestamp())
                .map_err(|_| TimeError::Impossible { text: day.to_string() }),
        }
    }

    /// The moment, or the last one of the day.
    ///
    /// # Errors
    /// A day at the end of time.
    pub fn end(self, now: &Zoned) -> Result<Timestamp, TimeError> {
        match self {
            Self::At(moment) => Ok(moment),
            Self::Day(day) => day
                .checked_add(1.day())
                .and_then(|next| next.to_zoned(now.time_zone().clone()))
                .and_then(|next| next.timestamp().checked_sub(1.nanosecond()))
                .map_err(|_| TimeError::Impossible { text: day.to_string() }),
        }
    }
}

/// For people: `2026-11-23 02:04:31 +01:00` in the time zone of `now`.
#[must_use]
pub fn format_local(moment: Timestamp, now: &Zoned) -> String {
    let zoned = moment.to_zoned(now.time_zone().clone());
    zoned.strftime("%Y-%m-%d %H:%M:%S %:z").to_string()
}

/// For JSON: RFC 3339 in UTC.
#[must_use]
pub fn format_rfc3339(moment: Timestamp) -> String {
    moment.to_string()
}

/// The length of a span of weeks, days (of 24 hours), hours and less.
///
/// # Errors
/// `HF-USE-001` for months and years, which have no fixed length.
pub fn fixed_span(span: Span) -> Result<Duration, CommandError> {
    let fixed = span.to_duration(SpanRelativeTo::days_are_24_hours()).map_err(|error| {
        CommandError::new(&usage::ARGUMENT, "this span has no fixed length")
            .because(&error)
            .hint("count in weeks, days or hours: 52w, 90d, 72h")
    })?;
    Ok(fixed.unsigned_abs())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now() -> Zoned {
        "2026-03-02T08:00:00+01:00[Europe/Berlin]".parse().unwrap()
    }

    #[test]
    fn moments_in_all_forms() {
        let cases = [
            ("2026-03-01T12:00Z", "2026-03-01T12:00:00Z"),
            ("2026-03-01T12:00:30+02:00", "2026-03-01T10:00:30Z"),
            ("2026-03-01T12:00", "2026-03-01T11:00:00Z"),
            ("2026-03-01 12:00:30", "2026-03-01T11:00:30Z"),
            ("now", "2026-03-02T07:00:00Z"),
            ("2026-03-01", "2026-02-28T23:00:00Z"),
            ("yesterday", "2026-02-28T23:00:00Z"),
        ];
        for (text, expected) in cases {
            let start = Moment::parse(text, &now()).unwrap().start(&now()).unwrap();
            assert_eq!(format_rfc3339(start), expected, "{text}");
        }
        for wrong in ["", "latest", "2026", "20260301", "2026-13-01", "2026-03-01:etc", "-"] {
            assert!(Moment::parse(wrong, &now()).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_day_ends_before_the_next_begins() {
        let day = Moment::parse("2026-03-01", &now()).unwrap();
        assert_eq!(format_rfc3339(day.end(&now()).unwrap()), "2026-03-01T22:59:59.999999999Z");
        assert_eq!(
            format_local("2026-07-01T00:00:00Z".parse().unwrap(), &now()),
            "2026-07-01 02:00:00 +02:00"
        );
    }
}
