//! `toc.dat` of a dump in directory format, as far as it says which file holds what.
//!
//! `pg_dump` writes it; nothing here changes it. Integers are a byte for the sign and four bytes,
//! least significant first; texts have their length before them, -1 for none.
//! Source: `pg_backup_archiver.c` of `PostgreSQL` 15 to 18, `WriteHead` and `WriteToc`.

/// Entries that a table of contents has at most.
const ENTRIES_MAX: usize = 16 * 1024 * 1024;
/// Version in which the method of compression takes the place of a level.
const METHOD_VERSION: (u8, u8) = (1, 15);
/// Version that added the kind of a relation.
const RELATION_KIND_VERSION: (u8, u8) = (1, 16);
/// Oldest and newest version that are understood.
const VERSIONS: std::ops::RangeInclusive<(u8, u8)> = (1, 14)..=(1, 16);
/// The format of a directory: that of a tar file, whose table of contents is the same.
const FORMAT: u8 = 3;

/// Why a table of contents cannot be understood.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TocError {
    /// It ends too early.
    #[error("the table of contents is cut off")]
    Truncated,
    /// It is something else.
    #[error("this is no table of contents of a dump in directory format")]
    Foreign,
    /// It is older or newer than what is understood.
    #[error("the table of contents has version {major}.{minor}, which is not known here")]
    Version {
        /// First number.
        major: u8,
        /// Second number.
        minor: u8,
    },
    /// A value that cannot be.
    #[error("the table of contents has a wrong {what}")]
    Value {
        /// Which one.
        what: &'static str,
    },
}

/// What is in a dump.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DumpToc {
    /// Version of the archive format.
    pub version: (u8, u8),
    /// Database.
    pub database: String,
    /// Version of the server.
    pub server: String,
    /// Version of `pg_dump`.
    pub tool: String,
    /// Entries in the order in which their data is written.
    pub entries: Vec<TocEntry>,
}

/// One object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TocEntry {
    /// Number of the entry.
    pub number: i64,
    /// Number of the object on the server; 0 where it has none.
    pub oid: u32,
    /// `TABLE DATA`, `BLOBS`, …
    pub kind: String,
    /// Its name.
    pub name: String,
    /// Its schema, perhaps empty.
    pub schema: String,
    /// How it is made, perhaps empty.
    pub definition: String,
    /// `COPY … FROM stdin;`, perhaps empty.
    pub copy_statement: String,
    /// The file with its data; empty where it has none.
    pub file: String,
}

impl DumpToc {
    /// Reads the bytes of `toc.dat`.
    pub fn decode(bytes: &[u8]) -> Result<Self, TocError> {
        let mut read = Reader { rest: bytes };
        if read.take(5)? != b"PGDMP" {
            return Err(TocError::Foreign);
        }
        let version = (read.byte()?, read.byte()?);
        read.byte()?;
        if !VERSIONS.contains(&version) {
            return Err(TocError::Version { major: version.0, minor: version.1 });
        }
        if read.byte()? != 4 {
            return Err(TocError::Value { what: "size of integers" });
        }
        read.byte()?;
        if read.byte()? != FORMAT {
            return Err(TocError::Foreign);
        }
        let compression =
            if version >= METHOD_VERSION { i64::from(read.byte()?) } else { read.integer()? };
        if compression != 0 {
            return Err(TocError::Value { what: "compression: its files must have none" });
        }
        // Seconds, minutes, hours, day, month, year, daylight saving.
        for _ in 0..7 {
            read.integer()?;
        }
        let (database, server, tool) = (read.text()?, read.text()?, read.text()?);
        let count = usize::try_from(read.integer()?).ok().filter(|count| *count <= ENTRIES_MAX);
        let count = count.ok_or(TocError::Value { what: "number of entries" })?;
        let entries = (0..count).map(|_| read.entry(version)).collect::<Result<_, _>>()?;
        if !read.rest.is_empty() {
            return Err(TocError::Value { what: "length" });
        }
        Ok(Self { version, database, server, tool, entries })
    }
}

struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    fn take(&mut self, length: usize) -> Result<&'a [u8], TocError> {
        let (taken, rest) = self.rest.split_at_checked(length).ok_or(TocError::Truncated)?;
        self.rest = rest;
        Ok(taken)
    }

    fn byte(&mut self) -> Result<u8, TocError> {
        Ok(self.take(1)?[0])
    }

    fn integer(&mut self) -> Result<i64, TocError> {
        let is_negative = self.byte()? != 0;
        let digits = self.take(4)?;
        let value = i64::from(u32::from_le_bytes([digits[0], digits[1], digits[2], digits[3]]));
        Ok(if is_negative { -value } else { value })
    }

    fn optional_text(&mut self) -> Result<Option<String>, TocError> {
        let length = self.integer()?;
        if length < 0 {
            return Ok(None);
        }
        let length = usize::try_from(length).map_err(|_| TocError::Truncated)?;
        // Names are in the encoding of the database, whatever that is.
        Ok(Some(String::from_utf8_lossy(self.take(length)?).into_owned()))
    }

    fn text(&mut self) -> Result<String, TocError> {
        Ok(self.optional_text()?.unwrap_or_default())
    }

    fn entry(&mut self, version: (u8, u8)) -> Result<TocEntry, TocError> {
        let number = self.integer()?;
        self.integer()?; // whether it has data
        self.text()?; // catalog that it stands in
        let oid = self.text()?.parse().map_err(|_| TocError::Value { what: "object number" })?;
        let (name, kind) = (self.text()?, self.text()?);
        self.integer()?; // section
        let definition = self.text()?;
        self.text()?; // how it is dropped
        let copy_statement = self.text()?;
        let schema = self.text()?;
        self.text()?; // tablespace
        self.text()?; // access method
        if version >= RELATION_KIND_VERSION {
            self.integer()?;
        }
        self.text()?; // owner
        self.text()?; // once: with object numbers
        while self.optional_text()?.is_some() {} // what it depends on
        let file = self.text()?;
        Ok(TocEntry { number, oid, kind, name, schema, definition, copy_statement, file })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn integer(out: &mut Vec<u8>, value: i32) {
        out.push(u8::from(value < 0));
        out.extend_from_slice(&value.unsigned_abs().to_le_bytes());
    }

    fn text(out: &mut Vec<u8>, text: &str) {
        integer(out, i32::try_from(text.len()).unwrap());
        out.extend_from_slice(text.as_bytes());
    }

    fn texts(out: &mut Vec<u8>, texts: &[&str]) {
        for one in texts {
            text(out, one);
        }
    }

    fn toc(version: (u8, u8)) -> Vec<u8> {
        let mut out = b"PGDMP".to_vec();
        out.extend_from_slice(&[version.0, version.1, 0, 4, 8, FORMAT]);
        if version >= METHOD_VERSION {
            out.push(0);
        } else {
            integer(&mut out, 0);
        }
        for _ in 0..7 {
            integer(&mut out, 1);
        }
        texts(&mut out, &["shop", "17.1", "17.2"]);
        integer(&mut out, 1);
        integer(&mut out, 7);
        integer(&mut out, 1);
        texts(&mut out, &["0", "16400", "or\nders", "TABLE DATA"]);
        integer(&mut out, 3);
        integer(&mut out, -1);
        text(&mut out, "");
        texts(&mut out, &["COPY public.x FROM stdin;\n", "public", "", ""]);
        if version >= RELATION_KIND_VERSION {
            integer(&mut out, 0);
        }
        texts(&mut out, &["shop", "false", "5", "6"]);
        integer(&mut out, -1);
        text(&mut out, "7.dat");
        out
    }

    #[test]
    fn every_version_is_read_and_no_cut_one() {
        for minor in 14..=16 {
            let bytes = toc((1, minor));
            let read = DumpToc::decode(&bytes).unwrap();
            assert_eq!((&*read.database, &*read.server, &*read.tool), ("shop", "17.1", "17.2"));
            let expected = TocEntry {
                number: 7,
                oid: 16400,
                definition: String::new(),
                kind: "TABLE DATA".into(),
                name: "or\nders".into(),
                schema: "public".into(),
                copy_statement: "COPY public.x FROM stdin;\n".into(),
                file: "7.dat".into(),
            };
            assert_eq!(read.entries, [expected]);
            for length in 0..bytes.len() {
                assert!(DumpToc::decode(&bytes[..length]).is_err(), "{length}");
            }
            assert!(DumpToc::decode(&[&bytes[..], b"x"].concat()).is_err());
        }
    }

    #[test]
    fn what_is_not_known_is_refused() {
        let version = |major, minor| Err(TocError::Version { major, minor });
        assert_eq!(DumpToc::decode(&toc((1, 13))), version(1, 13));
        assert_eq!(DumpToc::decode(&toc((1, 17))), version(1, 17));
        let mut compressed = toc((1, 16));
        compressed[11] = 1;
        assert!(matches!(DumpToc::decode(&compressed), Err(TocError::Value { .. })));
        let mut custom = toc((1, 16));
        custom[10] = 1;
        assert_eq!(DumpToc::decode(&custom), Err(TocError::Foreign));
    }
}
