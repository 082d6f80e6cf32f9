//! `backup_manifest`: the list of the files of a base backup, line by line as the server writes it.
//!
//! One value a line, so that lists of any length are read and written in bounded memory. What comes
//! with an increment lists increments; [`ManifestRewriter`] makes of it the list of the whole.
//! Source: `backup/backup_manifest.c`, and the manual's "Backup Manifest Format".

use std::collections::HashMap;

use data_encoding::HEXLOWER;
use serde::Deserialize;
use sha2::{Digest as _, Sha256};

use crate::format::postgres::crc32c::crc32c;
use crate::format::postgres::facts::WalRange;
use crate::format::postgres::increment::INCREMENT_PREFIX;
use crate::format::postgres::lsn::{Lsn, Timeline};

/// Longest line; paths of the server have 1024 bytes, twice as many digits where they are encoded.
pub const LINE_BYTES_MAX: usize = 16 * 1024;
/// The name of the manifest in a data directory.
pub const MANIFEST_NAME: &[u8] = b"backup_manifest";
/// The name of the label.
pub const LABEL_NAME: &[u8] = b"backup_label";
const CHECKSUM_ALGORITHM: &str = "CRC32C";
const CHECKSUM_LINE: &[u8] = b"\"Manifest-Checksum\": ";
const SYSTEM_LINE: &[u8] = b"\"System-Identifier\": ";
const RANGE_LINE: &[u8] = b"{ \"Timeline\"";
/// Lines without a value that anybody would look at.
const FIXED_LINES: [&[u8]; 4] =
    [b"{ \"PostgreSQL-Backup-Manifest-Version\": 2", b"\"Files\": [", b"\"WAL-Ranges\": [", b"]"];

/// A list that is not what a server writes.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// A line that nothing is known of.
    #[error("a line that is not understood: {line}")]
    Line {
        /// Its beginning.
        line: String,
    },
    /// Files that came and those that are listed differ.
    #[error("{path} is listed, and did not come as it is listed")]
    NotSent {
        /// As it is listed.
        path: String,
    },
    /// Increments that came are not listed.
    #[error("{count} files came that are not listed")]
    NotListed {
        /// How many.
        count: usize,
    },
    /// It ended early, or goes on after its end.
    #[error("it does not end with its checksum")]
    End,
}

/// The bytes of a checksum, as the server has them in memory.
pub type FileChecksum = [u8; 4];
/// The front of a path's BLAKE3: what stands for it where there may be millions.
type PathKey = [u8; 16];

fn path_key(path: &[u8]) -> PathKey {
    let hash = blake3::hash(path);
    std::array::from_fn(|at| hash.as_bytes()[at])
}

/// A file as it is listed.
#[derive(Debug, Clone, PartialEq, Eq)]
struct ListedFile {
    path: Vec<u8>,
    bytes: u64,
    changed: Option<String>,
    checksum: Option<(String, String)>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FileLine {
    #[serde(rename = "Path")]
    path: Option<String>,
    #[serde(rename = "Encoded-Path")]
    encoded_path: Option<String>,
    #[serde(rename = "Size")]
    bytes: u64,
    #[serde(rename = "Last-Modified")]
    changed: Option<String>,
    #[serde(rename = "Checksum-Algorithm")]
    algorithm: Option<String>,
    #[serde(rename = "Checksum")]
    checksum: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RangeLine {
    #[serde(rename = "Timeline")]
    timeline: Timeline,
    #[serde(rename = "Start-LSN")]
    start: Lsn,
    #[serde(rename = "End-LSN")]
    end: Lsn,
}

/// Whether it is the line of a range of the log, by its beginning.
#[must_use]
pub fn is_line_of_range(line: &[u8]) -> bool {
    line.starts_with(RANGE_LINE)
}

enum Line {
    File(ListedFile),
    Range(WalRange),
    System(String),
    Checksum,
    Fixed,
}

impl Line {
    fn parse(line: &[u8]) -> Result<Self, ManifestError> {
        let wrong = || ManifestError::Line {
            line: String::from_utf8_lossy(&line[..line.len().min(80)]).into_owned(),
        };
        let text = line.strip_suffix(b"\n").ok_or_else(wrong)?;
        let text = text.strip_suffix(b",").unwrap_or(text);
        if text.starts_with(b"{ \"Path\"") || text.starts_with(b"{ \"Encoded-Path\"") {
            let file: FileLine = serde_json::from_slice(text).map_err(|_| wrong())?;
            return ListedFile::of(file).map(Self::File).ok_or_else(wrong);
        }
        if is_line_of_range(text) {
            let RangeLine { timeline, start, end } =
                serde_json::from_slice(text).map_err(|_| wrong())?;
            return Ok(Self::Range(WalRange { timeline, start, end }));
        }
        if let Some(system) = text.strip_prefix(SYSTEM_LINE) {
            let is_number = !system.is_empty() && system.iter().all(u8::is_ascii_digit);
            let system = String::from_utf8_lossy(system).into_owned();
            return is_number.then_some(Self::System(system)).ok_or_else(wrong);
        }
        if text.starts_with(CHECKSUM_LINE) {
            return Ok(Self::Checksum);
        }
        FIXED_LINES.contains(&text).then_some(Self::Fixed).ok_or_else(wrong)
    }
}

impl ListedFile {
    fn of(line: FileLine) -> Option<Self> {
        let path = match (line.path, line.encoded_path) {
            (Some(path), None) => path.into_bytes(),
            (None, Some(digits)) => HEXLOWER.decode(digits.as_bytes()).ok()?,
            _ => return None,
        };
        let checksum = line.algorithm.zip(line.checksum);
        Some(Self { path, bytes: line.bytes, changed: line.changed, checksum })
    }

    /// The path of the whole file, where an increment is listed.
    fn whole_path(&self) -> Option<Vec<u8>> {
        let at = self.path.iter().rposition(|byte| *byte == b'/').map_or(0, |at| at + 1);
        let name = self.path[at..].strip_prefix(INCREMENT_PREFIX)?;
        Some([&self.path[..at], name].concat())
    }

    fn checksum(&self) -> Option<FileChecksum> {
        let (algorithm, digits) = self.checksum.as_ref()?;
        let bytes = HEXLOWER.decode(digits.as_bytes()).ok()?;
        (algorithm == CHECKSUM_ALGORITHM).then(|| bytes.try_into().ok()).flatten()
    }

    fn encode(&self) -> String {
        let quoted = |text: &str| serde_json::Value::from(text).to_string();
        let path = match std::str::from_utf8(&self.path) {
            Ok(path) => format!("\"Path\": {}", quoted(path)),
            Err(_) => format!("\"Encoded-Path\": \"{}\"", HEXLOWER.encode(&self.path)),
        };
        let changed = self.changed.as_deref();
        let changed = changed.map(|time| format!(", \"Last-Modified\": {}", quoted(time)));
        let checksum = self.checksum.as_ref().map(|(algorithm, digits)| {
            let (algorithm, digits) = (quoted(algorithm), quoted(digits));
            format!(", \"Checksum-Algorithm\": {algorithm}, \"Checksum\": {digits}")
        });
        let (changed, checksum) = (changed.unwrap_or_default(), checksum.unwrap_or_default());
        format!("{{ {path}, \"Size\": {}{changed}{checksum} }}", self.bytes)
    }
}

/// What the next base backup has to know of the last one.
#[derive(Debug, Default)]
pub struct ManifestSummary {
    /// System identifier of the cluster.
    pub system: String,
    /// The first range of the log that the backup needs.
    pub range: Option<WalRange>,
    /// How many such ranges there are.
    pub ranges: usize,
    checksums: HashMap<PathKey, FileChecksum>,
}

impl ManifestSummary {
    /// Takes the next line, with its end.
    pub fn take(&mut self, line: &[u8]) -> Result<(), ManifestError> {
        match Line::parse(line)? {
            Line::File(file) => {
                let checksum = file.checksum().map(|sum| (path_key(&file.path), sum));
                self.checksums.extend(checksum);
            }
            Line::Range(range) => {
                self.range.get_or_insert(range);
                self.ranges += 1;
            }
            Line::System(system) => self.system = system,
            Line::Checksum | Line::Fixed => {}
        }
        Ok(())
    }
}

struct Folded {
    bytes: u64,
    is_same: bool,
}

/// Makes the list of a whole backup of that of an increment.
pub struct ManifestRewriter {
    checksums: HashMap<PathKey, FileChecksum>,
    folded: HashMap<PathKey, Folded>,
    label: Option<Vec<u8>>,
    sum: Sha256,
    is_over: bool,
}

impl ManifestRewriter {
    /// Begins; what did not change keeps the checksum of the last list.
    #[must_use]
    pub fn new(last: ManifestSummary) -> Self {
        Self {
            checksums: last.checksums,
            folded: HashMap::new(),
            label: None,
            sum: Sha256::new(),
            is_over: false,
        }
    }

    /// A file has become whole, and has that length; `is_same` where no byte of it changed.
    pub fn fold(&mut self, path: &[u8], bytes: u64, is_same: bool) {
        self.folded.insert(path_key(path), Folded { bytes, is_same });
    }

    /// The label that takes the place of the one that was sent.
    pub fn set_label(&mut self, label: Vec<u8>) {
        self.label = Some(label);
    }

    /// Appends to `out` what takes the place of the next line, with its end.
    pub fn take(&mut self, line: &[u8], out: &mut Vec<u8>) -> Result<(), ManifestError> {
        if self.is_over {
            return Err(ManifestError::End);
        }
        let before = out.len();
        match Line::parse(line)? {
            Line::File(file) => match self.whole(&file)? {
                Some(whole) => {
                    let end: &[u8] = if line.ends_with(b",\n") { b",\n" } else { b"\n" };
                    out.extend_from_slice(whole.encode().as_bytes());
                    out.extend_from_slice(end);
                }
                None => out.extend_from_slice(line),
            },
            Line::Checksum => {
                self.is_over = true;
                out.extend_from_slice(CHECKSUM_LINE);
                let sum = HEXLOWER.encode(&self.sum.finalize_reset());
                out.extend_from_slice(format!("\"{sum}\"}}\n").as_bytes());
            }
            Line::Range(_) | Line::System(_) | Line::Fixed => out.extend_from_slice(line),
        }
        self.sum.update(&out[before..]);
        Ok(())
    }

    fn whole(&mut self, file: &ListedFile) -> Result<Option<ListedFile>, ManifestError> {
        if file.path == LABEL_NAME
            && let Some(label) = &self.label
        {
            let digits = HEXLOWER.encode(&crc32c(label).to_le_bytes());
            let checksum = Some((CHECKSUM_ALGORITHM.to_owned(), digits));
            return Ok(Some(ListedFile { bytes: label.len() as u64, checksum, ..file.clone() }));
        }
        let Some(path) = file.whole_path() else { return Ok(None) };
        let key = path_key(&path);
        let folded = self.folded.remove(&key).ok_or_else(|| ManifestError::NotSent {
            path: String::from_utf8_lossy(&file.path).into_owned(),
        })?;
        let known = self.checksums.get(&key).filter(|_| folded.is_same);
        let checksum = known.map(|sum| (CHECKSUM_ALGORITHM.to_owned(), HEXLOWER.encode(sum)));
        Ok(Some(ListedFile { path, bytes: folded.bytes, changed: file.changed.clone(), checksum }))
    }

    /// The last line was taken.
    pub fn finish(&self) -> Result<(), ManifestError> {
        match self.folded.len() {
            _ if !self.is_over => Err(ManifestError::End),
            0 => Ok(()),
            count => Err(ManifestError::NotListed { count }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "{ \"PostgreSQL-Backup-Manifest-Version\": 2,\n\
        \"System-Identifier\": 7301234567890123456,\n\"Files\": [\n";
    const TAIL: &str = "],\n\"WAL-Ranges\": [\n\
        { \"Timeline\": 3, \"Start-LSN\": \"0/2000028\", \"End-LSN\": \"0/2000120\" }\n],\n\
        \"Manifest-Checksum\": \"00\"}\n";

    fn listed(path: &str, bytes: u64, sum: Option<&str>) -> String {
        let sum =
            sum.map(|sum| format!(", \"Checksum-Algorithm\": \"CRC32C\", \"Checksum\": \"{sum}\""));
        let time = "\"Last-Modified\": \"2026-11-23 01:01:00 GMT\"";
        format!("{{ \"Path\": \"{path}\", \"Size\": {bytes}, {time}{} }}", sum.unwrap_or_default())
    }

    fn text(files: &[String]) -> String {
        format!("{HEAD}{}\n{TAIL}", files.join(",\n"))
    }

    fn summary(text: &str) -> ManifestSummary {
        let mut summary = ManifestSummary::default();
        for line in text.split_inclusive('\n') {
            summary.take(line.as_bytes()).unwrap();
        }
        summary
    }

    fn rewritten(rewriter: &mut ManifestRewriter, text: &str) -> Result<String, ManifestError> {
        let mut out = Vec::new();
        for line in text.split_inclusive('\n') {
            rewriter.take(line.as_bytes(), &mut out)?;
        }
        rewriter.finish()?;
        Ok(String::from_utf8(out).unwrap())
    }

    fn without_checksum(text: &str) -> (&str, &str) {
        text.split_at(text.find("\"Manifest-Checksum\"").unwrap())
    }

    #[test]
    fn increments_are_listed_as_what_they_became() {
        let last = text(&[
            listed("base/5/1", 8192, Some("01020304")),
            listed("base/5/2", 8192, Some("05060708")),
            listed("base/5/3", 8192, None),
        ]);
        let last = summary(&last);
        assert_eq!(last.system, "7301234567890123456");
        let range =
            WalRange { timeline: Timeline(3), start: Lsn(0x200_0028), end: Lsn(0x200_0120) };
        assert_eq!((last.range, last.ranges), (Some(range), 1));
        let mut rewriter = ManifestRewriter::new(last);
        rewriter.fold(b"base/5/1", 8192, true);
        rewriter.fold(b"base/5/2", 16384, false);
        rewriter.fold(b"base/5/3", 8192, true);
        rewriter.set_label(b"123456789".to_vec());
        let increment = text(&[
            listed("backup_label", 300, Some("00000000")),
            listed("base/5/INCREMENTAL.1", 12, Some("aaaaaaaa")),
            listed("base/5/INCREMENTAL.2", 20000, Some("bbbbbbbb")),
            listed("base/5/INCREMENTAL.3", 12, Some("cccccccc")),
            listed("base/5/4", 5, Some("dddddddd")),
        ]);
        let whole = rewritten(&mut rewriter, &increment).unwrap();
        let expected = text(&[
            listed("backup_label", 9, Some("839206e3")),
            listed("base/5/1", 8192, Some("01020304")),
            listed("base/5/2", 16384, None),
            listed("base/5/3", 8192, None),
            listed("base/5/4", 5, Some("dddddddd")),
        ]);
        let (body, end) = without_checksum(&whole);
        assert_eq!(body, without_checksum(&expected).0);
        let sum = HEXLOWER.encode(&Sha256::digest(body));
        assert_eq!(end, format!("\"Manifest-Checksum\": \"{sum}\"}}\n"));
    }

    #[test]
    fn names_that_are_no_text_stay_as_they_are() {
        let encoded =
            "{ \"Encoded-Path\": \"626173652f352f494e4352454d454e54414c2eff\", \"Size\": 12 }";
        let mut rewriter = ManifestRewriter::new(ManifestSummary::default());
        rewriter.fold(b"base/5/\xff", 0, false);
        let other = "{ \"Encoded-Path\": \"ff\", \"Size\": 1 }";
        let whole = rewritten(&mut rewriter, &text(&[encoded.into(), other.into()])).unwrap();
        assert!(whole.contains("{ \"Encoded-Path\": \"626173652f352fff\", \"Size\": 0 },\n"));
        assert!(whole.contains(other));
    }

    #[test]
    fn what_does_not_agree_is_refused() {
        let plain = text(&[listed("a", 1, None)]);
        let increment = text(&[listed("base/5/INCREMENTAL.1", 12, None)]);
        let rewriter = || ManifestRewriter::new(ManifestSummary::default());
        assert!(rewritten(&mut rewriter(), &plain).is_ok());
        let not_sent = rewritten(&mut rewriter(), &increment).unwrap_err();
        assert!(matches!(not_sent, ManifestError::NotSent { .. }), "{not_sent}");
        let mut more = rewriter();
        more.fold(b"base/5/2", 1, true);
        let not_listed = rewritten(&mut more, &plain).unwrap_err();
        assert!(matches!(not_listed, ManifestError::NotListed { count: 1 }), "{not_listed}");
        let cut = plain.find("],\n\"WAL").unwrap();
        for text in [&plain[..cut], &format!("{plain}]\n")] {
            let end = rewritten(&mut rewriter(), text).unwrap_err();
            assert!(matches!(end, ManifestError::End), "{end}");
        }
        let wrong = [
            "",
            "\n",
            "{\n",
            "]",
            "{ \"PostgreSQL-Backup-Manifest-Version\": 3,\n",
            "\"System-Identifier\": x,\n",
            "\"System-Identifier\": ,\n",
            "{ \"Path\": \"a\" },\n",
            "{ \"Path\": \"a\", \"Size\": -1 },\n",
            "{ \"Path\": \"a\", \"Size\": 1, \"More\": 1 },\n",
            "{ \"Path\": \"a\", \"Encoded-Path\": \"61\", \"Size\": 1 },\n",
            "{ \"Encoded-Path\": \"6\", \"Size\": 1 },\n",
            "{ \"Timeline\": 1, \"Start-LSN\": \"0\", \"End-LSN\": \"0/1\" }\n",
        ];
        for line in wrong {
            let found = rewriter().take(line.as_bytes(), &mut Vec::new());
            assert!(matches!(found, Err(ManifestError::Line { .. })), "{line:?}");
        }
    }
}
