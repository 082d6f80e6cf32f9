//! A base backup that comes as one archive from a program: what a server says beside the archives
//! is taken out of the archive itself, and looked at until it fits.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::Read;

use crate::backup::page_watch::PageWatch;
use crate::format::postgres::facts::WalRange;
use crate::format::postgres::label::start_of_label;
use crate::format::postgres::lsn::Lsn;
use crate::format::postgres::manifest::{
    LABEL_NAME, LINE_BYTES_MAX, ManifestSummary, is_line_of_range,
};
use crate::format::postgres::segment::Segment;
use crate::source::files::postgres_directory::is_page_file;
use crate::source::postgres::error::PostgresError;
use crate::source::postgres::server::ServerFacts;

/// Where the system identifier stands, in the front of it.
const CONTROL: &[u8] = b"global/pg_control";
const LOG: &[u8] = b"pg_wal/";

/// What was seen of it.
pub struct SoleArchive {
    /// What the list of its files says of the log.
    pub ranges: ManifestRanges,
    /// Where the list is copied to.
    pub copy: Option<File>,
    start: Option<Lsn>,
    system: Option<u64>,
    segments: BTreeSet<String>,
    address: String,
}

impl SoleArchive {
    /// Nothing seen yet; the list of its files goes to `copy` too. `address` is for messages.
    #[must_use]
    pub fn new(address: &str, copy: Option<File>) -> Self {
        Self {
            ranges: ManifestRanges::default(),
            copy,
            start: None,
            system: None,
            segments: BTreeSet::new(),
            address: address.to_owned(),
        }
    }

    fn unfit(&self, what: &str) -> PostgresError {
        PostgresError::Unfit { address: self.address.clone(), what: what.to_owned() }
    }

    /// A file comes.
    ///
    /// # Errors
    /// A page comes before it is known from where on the log makes pages whole.
    pub fn see(&mut self, path: &[u8]) -> Result<(), PostgresError> {
        if let Some(name) = path.strip_prefix(LOG) {
            self.segments.insert(String::from_utf8_lossy(name).into_owned());
        }
        if self.start.is_none() && is_page_file(path) {
            return Err(self.unfit("the archive does not begin with backup_label"));
        }
        Ok(())
    }

    /// A small file has come.
    ///
    /// # Errors
    /// It is not what it should be.
    pub fn take(
        &mut self,
        path: &[u8],
        bytes: &[u8],
        watch: &PageWatch,
    ) -> Result<(), PostgresError> {
        if path == LABEL_NAME {
            let start = start_of_label(bytes);
            let start = start.ok_or_else(|| self.unfit("its backup_label says no position"))?;
            self.start = Some(start);
            watch.set_start(start);
        } else if path == CONTROL {
            let front = bytes.get(..8).and_then(|bytes| bytes.try_into().ok());
            self.system = front.map(u64::from_le_bytes);
        }
        Ok(())
    }

    /// From where to where the log has to be replayed: all of it is there.
    ///
    /// # Errors
    /// Something is missing, or is of another cluster.
    pub fn finish(&self, server: &ServerFacts) -> Result<WalRange, PostgresError> {
        let range = match (self.ranges.summary.range, self.ranges.summary.ranges) {
            _ if self.ranges.is_wrong => Err("its backup_manifest cannot be understood"),
            (None, _) => Err("the archive has no backup_manifest"),
            (Some(range), 1) if Some(range.start) == self.start => Ok(range),
            (Some(_), 1) => Err("backup_label and backup_manifest do not agree"),
            (Some(_), _) => Err("the server changed its timeline meanwhile"),
        };
        let range = range.map_err(|what| self.unfit(what))?;
        if self.system.map(|system| system.to_string()).as_ref() != Some(&server.cluster.system) {
            return Err(self.unfit("pg_basebackup and psql were led to different clusters"));
        }
        let size = server.cluster.segments();
        let mut at = size.start(range.start);
        while at < range.end {
            let segment = Segment::of(range.timeline, at, size);
            let name = segment.name(size);
            if !self.segments.contains(&name) {
                return Err(self.unfit(&format!("the archive lacks {name} of the log")));
            }
            at = segment.end(size);
        }
        Ok(range)
    }
}

/// Looks at the lines of a list of files that say what of the log is needed, while the list passes.
#[derive(Default)]
pub struct ManifestRanges {
    summary: ManifestSummary,
    line: Vec<u8>,
    is_wrong: bool,
}

impl ManifestRanges {
    /// Reading gives what `source` gives.
    pub fn of<'a>(&'a mut self, source: &'a mut dyn Read) -> impl Read + 'a {
        Passing { ranges: self, source }
    }

    fn take(&mut self, bytes: &[u8]) {
        for part in bytes.split_inclusive(|byte| *byte == b'\n') {
            self.is_wrong |= self.line.len() + part.len() > LINE_BYTES_MAX;
            if self.is_wrong {
                return;
            }
            self.line.extend_from_slice(part);
            if part.ends_with(b"\n") {
                let is_range = is_line_of_range(&self.line);
                self.is_wrong |= is_range && self.summary.take(&self.line).is_err();
                self.line.clear();
            }
        }
    }
}

struct Passing<'a> {
    ranges: &'a mut ManifestRanges,
    source: &'a mut dyn Read,
}

impl Read for Passing<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let length = self.source.read(buffer)?;
        self.ranges.take(&buffer[..length]);
        Ok(length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::postgres::facts::ClusterFacts;

    fn server() -> ServerFacts {
        ServerFacts {
            cluster: ClusterFacts {
                system: "7".into(),
                version_number: 170_000,
                segment_bytes: 16 << 20,
            },
            page_bytes: 8192,
            segment_pages: 131_072,
            has_checksums: true,
            is_standby: false,
            has_summaries: false,
            time: String::new(),
            collations: Vec::new(),
            settings: Vec::new(),
        }
    }

    /// What is said of an archive with these files.
    fn said(label: &str, manifest: &str, system: u64, segments: &[&str]) -> String {
        let server = server();
        let watch = PageWatch::new(&server, Lsn(0));
        let mut sole = SoleArchive::new("db:1", None);
        let taken = sole.take(LABEL_NAME, label.as_bytes(), &watch);
        let seen = taken.and_then(|()| sole.see(b"base/1/1259"));
        if let Err(error) = seen {
            return error.to_string();
        }
        sole.take(CONTROL, &system.to_le_bytes(), &watch).unwrap();
        for segment in segments {
            sole.see(format!("pg_wal/{segment}").as_bytes()).unwrap();
        }
        let mut text = manifest.as_bytes();
        std::io::copy(&mut sole.ranges.of(&mut text), &mut std::io::sink()).unwrap();
        sole.finish(&server).map_or_else(|error| error.to_string(), |range| range.end.to_string())
    }

    #[test]
    fn an_archive_that_is_not_whole_is_refused() {
        let label = "START WAL LOCATION: 0/2000028 (file 000000010000000000000002)\n";
        let manifest = "{ \"PostgreSQL-Backup-Manifest-Version\": 1,\n\"Files\": [\n\
             { \"Path\": \"PG_VERSION\", \"Size\": 3 }\n],\n\"WAL-Ranges\": [\n\
             { \"Timeline\": 1, \"Start-LSN\": \"0/2000028\", \"End-LSN\": \"0/3000010\" }\n],\n\
             \"Manifest-Checksum\": \"00\"}\n";
        let both = ["000000010000000000000002", "000000010000000000000003"];
        assert_eq!(said(label, manifest, 7, &both), "0/3000010");
        let refused = [
            (said(label, manifest, 7, &both[..1]), "lacks 000000010000000000000003"),
            (said(label, manifest, 8, &both), "different clusters"),
            (said(label, "", 7, &both), "no backup_manifest"),
            (said(label, "{ \"Timeline\": x\n", 7, &both), "cannot be understood"),
            (said(label, &"x".repeat(LINE_BYTES_MAX + 1), 7, &both), "cannot be understood"),
            (said(label, &manifest.replace("2000028", "2000030"), 7, &both), "do not agree"),
            (said("LABEL: x\n", manifest, 7, &both), "says no position"),
        ];
        for (said, words) in refused {
            assert!(said.contains(words), "{said}");
        }
        let early = SoleArchive::new("db:1", None).see(b"base/1/1259").unwrap_err().to_string();
        assert!(early.contains("does not begin with backup_label"), "{early}");
    }
}
