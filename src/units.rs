//! Quantities as people write and read them: sizes, shares, spans of time, rates.
//!
//! Pure functions; what is parsed is exact (no floating point), what is formatted is rounded.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// Why a text is not the quantity it should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UnitsError {
    /// Not of the expected form.
    #[error("{text:?} is not {expected}")]
    Malformed {
        /// The text as given.
        text: String,
        /// The form, with an example.
        expected: &'static str,
    },
    /// Of the right form, but beyond what can be counted or makes sense.
    #[error("{text:?} is out of range: {allowed}")]
    OutOfRange {
        /// The text as given.
        text: String,
        /// The range.
        allowed: &'static str,
    },
}

fn malformed(text: &str, expected: &'static str) -> UnitsError {
    UnitsError::Malformed { text: text.to_owned(), expected }
}

fn out_of_range(text: &str, allowed: &'static str) -> UnitsError {
    UnitsError::OutOfRange { text: text.to_owned(), allowed }
}

/// How sizes are written for people.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum UnitStyle {
    /// Powers of 1024: `KiB`, `MiB`.
    #[default]
    Iec,
    /// Powers of 1000: `kB`, `MB`.
    Si,
    /// Plain bytes, digits only.
    Raw,
}

impl UnitStyle {
    /// The names that [`UnitStyle::from_str`] takes.
    pub const NAMES: [&'static str; 3] = ["iec", "si", "raw"];
}

impl FromStr for UnitStyle {
    type Err = UnitsError;

    fn from_str(text: &str) -> Result<Self, UnitsError> {
        match text {
            "iec" => Ok(Self::Iec),
            "si" => Ok(Self::Si),
            "raw" => Ok(Self::Raw),
            _ => Err(malformed(text, "one of iec, si, raw")),
        }
    }
}

/// A decimal number of at most nine digits after the point, in billionths.
fn decimal_in_billionths(text: &str) -> Option<u128> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let digits = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
    if whole.is_empty() || whole.len() > 20 || fraction.len() > 9 || !digits(whole) {
        return None;
    }
    if !digits(fraction) || text.ends_with('.') {
        return None;
    }
    let whole: u128 = whole.parse().ok()?;
    let fraction: u128 = format!("{fraction:0<9}").parse().ok()?;
    Some(whole * 1_000_000_000 + fraction)
}

fn split_number(text: &str) -> (&str, &str) {
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    (&text[..end], text[end..].trim_start())
}

fn size_multiplier(suffix: &str) -> Option<u128> {
    let lower = suffix.to_ascii_lowercase();
    let (letter, rest) = match lower.chars().next() {
        None => return Some(1),
        Some('b') if lower.len() == 1 => return Some(1),
        Some(letter) => (letter, &lower[letter.len_utf8()..]),
    };
    let power = 1 + "kmgtpe".find(letter)? as u32;
    match rest {
        "" | "i" | "ib" => Some(1024_u128.pow(power)),
        "b" => Some(1000_u128.pow(power)),
        _ => None,
    }
}

/// Reads a size in bytes: `4096`, `10MiB`, `1.5G` (1024), `20MB` (1000); letters in any case.
pub fn parse_size(text: &str) -> Result<u64, UnitsError> {
    const FORM: &str = "a size such as 512, 10MiB, 1.5G or 20MB";
    let (number, suffix) = split_number(text.trim());
    let billionths = decimal_in_billionths(number).ok_or_else(|| malformed(text, FORM))?;
    let multiplier = size_multiplier(suffix).ok_or_else(|| malformed(text, FORM))?;
    billionths
        .checked_mul(multiplier)
        .and_then(|product| u64::try_from(product / 1_000_000_000).ok())
        .ok_or_else(|| out_of_range(text, "at most 16 EiB"))
}

/// Reads a rate in bytes per second: `10MiB/s`, `500K`.
pub fn parse_rate(text: &str) -> Result<u64, UnitsError> {
    parse_size(text.trim().strip_suffix("/s").unwrap_or(text))
}

/// A share of a whole, 0 to 100 %, exact to a millionth.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Share {
    millionths: u32,
}

impl Share {
    /// That part of `total`, rounded down.
    #[must_use]
    pub fn of(self, total: u64) -> u64 {
        (u128::from(total) * u128::from(self.millionths) / 1_000_000) as u64
    }
}

impl FromStr for Share {
    type Err = UnitsError;

    /// `5%`, `0.5 %`, up to four digits after the point.
    fn from_str(text: &str) -> Result<Self, UnitsError> {
        const FORM: &str = "a percentage such as 5%";
        let number = text.trim().strip_suffix('%').ok_or_else(|| malformed(text, FORM))?;
        let billionths =
            decimal_in_billionths(number.trim_end()).ok_or_else(|| malformed(text, FORM))?;
        if billionths > 100_000_000_000 {
            return Err(out_of_range(text, "0% to 100%"));
        }
        Ok(Self { millionths: (billionths / 100_000) as u32 })
    }
}

impl fmt::Display for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let fraction = format!("{:04}", self.millionths % 10_000);
        match fraction.trim_end_matches('0') {
            "" => write!(f, "{}%", self.millionths / 10_000),
            digits => write!(f, "{}.{digits}%", self.millionths / 10_000),
        }
    }
}

/// How much of something may be: a share of the whole, a number of bytes, or any amount.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Allowance {
    /// A share of the whole.
    Share(Share),
    /// Bytes.
    Bytes(u64),
    /// No limit.
    Unlimited,
}

impl Allowance {
    /// The allowance in bytes of a whole of `total` bytes.
    #[must_use]
    pub fn bytes_of(self, total: u64) -> u64 {
        match self {
            Self::Share(share) => share.of(total),
            Self::Bytes(bytes) => bytes,
            Self::Unlimited => u64::MAX,
        }
    }
}

impl FromStr for Allowance {
    type Err = UnitsError;

    /// `5%`, `1GiB` or `unlimited`.
    fn from_str(text: &str) -> Result<Self, UnitsError> {
        if text == "unlimited" {
            Ok(Self::Unlimited)
        } else if text.trim_end().ends_with('%') {
            text.parse().map(Self::Share)
        } else {
            parse_size(text).map(Self::Bytes)
        }
    }
}

/// One of `of` equal parts, numbered from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Part {
    /// Which one, 1 to `of`.
    pub number: u32,
    /// How many there are, at least 1.
    pub of: u32,
}

impl Part {
    /// Everything: part 1 of 1.
    pub const WHOLE: Self = Self { number: 1, of: 1 };
}

impl FromStr for Part {
    type Err = UnitsError;

    /// `1/30` to `30/30`.
    fn from_str(text: &str) -> Result<Self, UnitsError> {
        let expected = || malformed(text, "a part such as 1/30");
        let (number, of) = text.split_once('/').ok_or_else(expected)?;
        let part = Self {
            number: number.parse().map_err(|_| expected())?,
            of: of.parse().map_err(|_| expected())?,
        };
        if part.number == 0 || part.number > part.of {
            return Err(out_of_range(text, "the first number from 1 up to the second"));
        }
        Ok(part)
    }
}

/// Reads a span of time: numbers with `y`, `m` (months), `w`, `d`, `h`, `min`, `s`, largest first
/// and each at most once, as in `7d` or `2y5m3d4h`.
///
/// Years, months and days are calendar units: what they amount to depends on where they are
/// counted from.
pub fn parse_span(text: &str) -> Result<jiff::Span, UnitsError> {
    const UNITS: [&str; 7] = ["y", "m", "w", "d", "h", "min", "s"];
    let expected = || malformed(text, "a span of time such as 7d, 36h or 2y5m3d4h");
    let mut span = jiff::Span::new();
    let mut units_left = &UNITS[..];
    let mut rest = text.trim();
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let letters = rest[digits..].bytes().take_while(u8::is_ascii_alphabetic).count();
        let count: i64 = rest[..digits].parse().map_err(|_| expected())?;
        let unit = &rest[digits..digits + letters];
        let place = units_left.iter().position(|known| *known == unit).ok_or_else(expected)?;
        units_left = &units_left[place + 1..];
        rest = &rest[digits + letters..];
        span = match unit {
            "y" => span.try_years(count),
            "m" => span.try_months(count),
            "w" => span.try_weeks(count),
            "d" => span.try_days(count),
            "h" => span.try_hours(count),
            "min" => span.try_minutes(count),
            _ => span.try_seconds(count),
        }
        .map_err(|_| out_of_range(text, "at most some thousand years"))?;
    }
    if units_left.len() == UNITS.len() { Err(expected()) } else { Ok(span) }
}

/// Writes a size for people, three digits where they fit: `999 B`, `1.31 GiB`, `402 MiB`.
#[must_use]
pub fn format_size(bytes: u64, style: UnitStyle) -> String {
    let (base, names) = match style {
        UnitStyle::Raw => return bytes.to_string(),
        UnitStyle::Iec => (1024_u64, ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"]),
        UnitStyle::Si => (1000_u64, ["B", "kB", "MB", "GB", "TB", "PB", "EB"]),
    };
    let mut value = bytes as f64;
    let mut power = 0;
    // 999.5 would print as a fourth digit, so the next unit begins there.
    while value >= 999.5 && bytes >= base && power + 1 < names.len() {
        value /= base as f64;
        power += 1;
    }
    let digits = match value {
        _ if power == 0 => 0,
        small if small < 9.995 => 2,
        middle if middle < 99.95 => 1,
        _ => 0,
    };
    format!("{value:.digits$} {}", names[power])
}

/// Writes a rate for people: `12.5 MiB/s`.
#[must_use]
pub fn format_rate(bytes_per_second: u64, style: UnitStyle) -> String {
    match style {
        UnitStyle::Raw => format!("{bytes_per_second} B/s"),
        other => format!("{}/s", format_size(bytes_per_second, other)),
    }
}

/// Writes an elapsed or remaining time for people in at most two units: `0.4s`, `4m12s`, `3d04h`.
#[must_use]
pub fn format_duration(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match seconds {
        0..10 => format!("{:.1}s", duration.as_secs_f64()),
        10..60 => format!("{seconds}s"),
        60..3600 => format!("{}m{:02}s", seconds / 60, seconds % 60),
        3600..86_400 => format!("{}h{:02}m", seconds / 3600, seconds / 60 % 60),
        _ => format!("{}d{:02}h", seconds / 86_400, seconds / 3600 % 24),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_exactly() {
        let cases: &[(&str, u64)] = &[
            ("0", 0),
            ("4096", 4096),
            ("10MiB", 10 << 20),
            ("10 MiB", 10 << 20),
            ("10m", 10 << 20),
            ("1.5G", 3 << 29),
            ("20MB", 20_000_000),
            ("1kB", 1000),
            ("7B", 7),
            ("0.1K", 102),
            ("15EiB", 15 << 60),
        ];
        for (text, bytes) in cases {
            assert_eq!(parse_size(text), Ok(*bytes), "{text}");
        }
        for wrong in ["", "MiB", "-1", "1.", ".5", "1x", "1KiBB", "1e3", "16EiB", "1.2.3", "1 0"] {
            assert!(parse_size(wrong).is_err(), "{wrong}");
        }
        assert_eq!(parse_rate("10MiB/s"), Ok(10 << 20));
    }

    #[test]
    fn sizes_are_written_with_three_digits() {
        let cases: &[(u64, UnitStyle, &str)] = &[
            (0, UnitStyle::Iec, "0 B"),
            (999, UnitStyle::Iec, "999 B"),
            (1023, UnitStyle::Iec, "1023 B"),
            (1024, UnitStyle::Iec, "1.00 KiB"),
            (1000, UnitStyle::Si, "1.00 kB"),
            (999_500, UnitStyle::Si, "1.00 MB"),
            (10_230, UnitStyle::Iec, "9.99 KiB"),
            (10_236, UnitStyle::Iec, "10.0 KiB"),
            (402 << 20, UnitStyle::Iec, "402 MiB"),
            (u64::MAX, UnitStyle::Iec, "16.0 EiB"),
            (u64::MAX, UnitStyle::Si, "18.4 EB"),
            (1 << 30, UnitStyle::Raw, "1073741824"),
        ];
        for (bytes, style, text) in cases {
            assert_eq!(format_size(*bytes, *style), *text);
        }
        assert_eq!(format_rate(1 << 20, UnitStyle::Iec), "1.00 MiB/s");
    }

    #[test]
    fn shares_and_allowances() {
        for (text, total, bytes) in
            [("5%", 1000, 50), ("0.5%", 1000, 5), ("100%", 7, 7), ("1GiB", 5, 1 << 30)]
        {
            let allowance: Allowance = text.parse().unwrap();
            assert_eq!(allowance.bytes_of(total), bytes, "{text}");
        }
        assert_eq!("unlimited".parse(), Ok(Allowance::Unlimited));
        for wrong in ["101%", "%", "5 percent", "-1%"] {
            assert!(wrong.parse::<Allowance>().is_err(), "{wrong}");
        }
        assert_eq!("2.50%".parse::<Share>().unwrap().to_string(), "2.5%");
        assert_eq!("5%".parse::<Share>().unwrap().to_string(), "5%");
    }

    #[test]
    fn parts_are_numbered_from_one() {
        assert_eq!("1/30".parse(), Ok(Part { number: 1, of: 30 }));
        for wrong in ["0/30", "31/30", "1", "a/b", "1/0"] {
            assert!(wrong.parse::<Part>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn spans_follow_the_calendar() {
        let cases = [
            ("7d", jiff::Span::new().days(7)),
            ("2y5m3d4h", jiff::Span::new().years(2).months(5).days(3).hours(4)),
            ("90min", jiff::Span::new().minutes(90)),
            ("1w30s", jiff::Span::new().weeks(1).seconds(30)),
        ];
        for (text, span) in cases {
            assert_eq!(parse_span(text).unwrap().fieldwise(), span.fieldwise(), "{text}");
        }
        for wrong in ["", "7", "d", "3d2y", "1d1d", "1.5d", "99999999y", "1ms", "7 d"] {
            assert!(parse_span(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn durations_have_two_units_at_most() {
        let cases = [
            (Duration::from_millis(400), "0.4s"),
            (Duration::from_secs(59), "59s"),
            (Duration::from_secs(252), "4m12s"),
            (Duration::from_mins(62), "1h02m"),
            (Duration::from_hours(76), "3d04h"),
        ];
        for (duration, text) in cases {
            assert_eq!(format_duration(duration), text);
        }
    }
}
