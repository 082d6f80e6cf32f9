//! The list of the files that an append-only file consists of: `appendonly.aof.manifest`.
//!
//! Source: `aof.c`, "Manifest file": one line for each file, pairs of a word and a value, of which
//! `file`, `seq` and `type` are known. Words that are not known are kept as they are.

use crate::format::limits::{AOF_FILES_MAX, AOF_MANIFEST_BYTES_MAX};

/// What a file is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AofRole {
    /// All data at the moment at which the next file begins.
    Base,
    /// Commands that came after it.
    Incremental,
    /// No longer needed.
    History,
}

/// A file of the list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AofFile {
    /// Its name, without a folder.
    pub name: String,
    /// What it is for.
    pub role: AofRole,
}

/// Why a list is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AofManifestError {
    /// It is larger than any.
    #[error("it has more than {AOF_MANIFEST_BYTES_MAX} bytes or {AOF_FILES_MAX} files")]
    TooLarge,
    /// It is not text.
    #[error("it is not UTF-8")]
    NotText,
    /// A line is none.
    #[error("line {number} is no file with its name, number and type")]
    Line {
        /// Which, from 1 on.
        number: usize,
    },
    /// The line names something outside of the folder.
    #[error("line {number} names a file of another folder")]
    Elsewhere {
        /// Which, from 1 on.
        number: usize,
    },
    /// There are two bases, or numbers that do not rise.
    #[error("its files are out of order")]
    Order,
    /// There is nothing in it.
    #[error("it names no file")]
    Empty,
}

/// A list that makes sense.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AofManifest {
    /// The base, where there is one, then the commands in their order.
    files: Vec<AofFile>,
    /// Its lines, without those of files that are no longer needed.
    text: String,
}

impl AofManifest {
    /// Reads a list.
    ///
    /// # Errors
    /// [`AofManifestError`].
    pub fn parse(bytes: &[u8]) -> Result<Self, AofManifestError> {
        if bytes.len() as u64 > AOF_MANIFEST_BYTES_MAX {
            return Err(AofManifestError::TooLarge);
        }
        let lines = std::str::from_utf8(bytes).map_err(|_| AofManifestError::NotText)?;
        let (mut base, mut commands, mut text) = (None, Vec::new(), String::new());
        let mut last = None;
        for (index, line) in lines.lines().enumerate() {
            let number = index + 1;
            if !line.trim().is_empty() && !line.starts_with('#') {
                let (file, seq) = entry(line).ok_or(AofManifestError::Line { number })?;
                if file.name.contains('/') || matches!(&*file.name, "" | "." | "..") {
                    return Err(AofManifestError::Elsewhere { number });
                }
                match file.role {
                    AofRole::History => continue,
                    AofRole::Base if base.is_some() => return Err(AofManifestError::Order),
                    AofRole::Base => base = Some(file),
                    AofRole::Incremental if last.is_some_and(|last| last >= seq) => {
                        return Err(AofManifestError::Order);
                    }
                    AofRole::Incremental => {
                        last = Some(seq);
                        commands.push(file);
                    }
                }
            }
            text.push_str(line);
            text.push('\n');
        }
        let files: Vec<AofFile> = base.into_iter().chain(commands).collect();
        let mut names: Vec<&str> = files.iter().map(|file| &*file.name).collect();
        names.sort_unstable();
        if names.windows(2).any(|pair| pair[0] == pair[1]) {
            return Err(AofManifestError::Order);
        }
        match files.len() {
            0 => Err(AofManifestError::Empty),
            count if count as u64 > AOF_FILES_MAX => Err(AofManifestError::TooLarge),
            _ => Ok(Self { files, text }),
        }
    }

    /// The base, where there is one, then the commands in their order.
    #[must_use]
    pub fn files(&self) -> &[AofFile] {
        &self.files
    }

    /// The list as it was, without files that are no longer needed.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }
}

fn entry(line: &str) -> Option<(AofFile, u64)> {
    let mut words = Vec::new();
    let mut rest = line.trim();
    while !rest.is_empty() {
        let (word, after) = front_word(rest)?;
        words.push(word);
        rest = after.trim_start();
    }
    let (pairs, []) = words.as_chunks::<2>() else { return None };
    let value = |name: &str| pairs.iter().find(|pair| pair[0] == name).map(|pair| &*pair[1]);
    let role = match value("type")? {
        "b" => AofRole::Base,
        "i" => AofRole::Incremental,
        "h" => AofRole::History,
        _ => return None,
    };
    let seq = value("seq")?.parse().ok()?;
    Some((AofFile { name: value("file")?.to_owned(), role }, seq))
}

/// The word at the front, bare or as `sdscatrepr` quotes it, and what follows.
fn front_word(text: &str) -> Option<(String, &str)> {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find(char::is_whitespace).unwrap_or(text.len());
        let (word, rest) = text.split_at(end);
        return (!word.contains(['"', '\''])).then(|| (word.to_owned(), rest));
    };
    let mut bytes = Vec::new();
    let mut places = quoted.bytes().enumerate();
    while let Some((at, byte)) = places.next() {
        match byte {
            b'"' => {
                let rest = &quoted[at + 1..];
                let is_end = rest.is_empty() || rest.starts_with(char::is_whitespace);
                let word = String::from_utf8(bytes).ok()?;
                return is_end.then_some((word, rest));
            }
            b'\\' => bytes.push(match places.next()?.1 {
                b'n' => b'\n',
                b'r' => b'\r',
                b't' => b'\t',
                b'a' => 7,
                b'b' => 8,
                b'x' => {
                    let digits = quoted.get(at + 2..at + 4)?;
                    places.next();
                    places.next();
                    u8::from_str_radix(digits, 16).ok()?
                }
                other => other,
            }),
            other => bytes.push(other),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIST: &str = "file appendonly.aof.2.base.rdb seq 2 type b\n\
        file appendonly.aof.1.base.rdb seq 1 type h\n\
        file appendonly.aof.1.incr.aof seq 1 type h\n\
        file appendonly.aof.2.incr.aof seq 2 type i\n\
        file appendonly.aof.3.incr.aof seq 3 type i startoffset 77\n";

    fn names(text: &str) -> Vec<String> {
        let list = AofManifest::parse(text.as_bytes()).unwrap();
        list.files().iter().map(|file| file.name.clone()).collect()
    }

    #[test]
    fn the_files_that_are_needed_are_listed() {
        let list = AofManifest::parse(LIST.as_bytes()).unwrap();
        let expected =
            ["appendonly.aof.2.base.rdb", "appendonly.aof.2.incr.aof", "appendonly.aof.3.incr.aof"];
        assert_eq!(names(LIST), expected);
        assert_eq!(list.files()[0].role, AofRole::Base);
        let needed: Vec<&str> = LIST.lines().filter(|line| !line.contains("type h")).collect();
        assert_eq!(list.text(), format!("{}\n", needed.join("\n")));
        assert_eq!(AofManifest::parse(list.text().as_bytes()).unwrap(), list);
    }

    #[test]
    fn names_may_be_quoted_and_comments_stay() {
        let text = "# by hand\nfile \"my \\\"own\\\" \\x66ile.aof\" seq 1 type i\n";
        assert_eq!(names(text), ["my \"own\" file.aof"]);
        assert_eq!(AofManifest::parse(text.as_bytes()).unwrap().text(), text);
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        use AofManifestError as E;
        let line = E::Line { number: 1 };
        let table: [(&[u8], E); 15] = [
            (b"", E::Empty),
            (b"\n# nothing\n", E::Empty),
            (b"file a seq 1 type h\n", E::Empty),
            (b"file a seq 1\n", line.clone()),
            (b"file a seq x type i\n", line.clone()),
            (b"file a seq 1 type z\n", line.clone()),
            (b"file a seq 1 type\n", line.clone()),
            (b"file \"a seq 1 type i\n", line.clone()),
            (b"file 'a' seq 1 type i\n", line.clone()),
            (b"\0\0\0\0", line),
            (b"\xff", E::NotText),
            (b"file ../a seq 1 type i\n", E::Elsewhere { number: 1 }),
            (b"file a seq 1 type b\nfile b seq 2 type b\n", E::Order),
            (b"file a seq 2 type i\nfile b seq 1 type i\n", E::Order),
            (b"file a seq 1 type i\nfile a seq 2 type i\n", E::Order),
        ];
        for (bytes, error) in table {
            let text = String::from_utf8_lossy(bytes).into_owned();
            assert_eq!(AofManifest::parse(bytes).unwrap_err(), error, "{text:?}");
        }
        let long = vec![b'#'; AOF_MANIFEST_BYTES_MAX as usize + 1];
        assert_eq!(AofManifest::parse(&long).unwrap_err(), E::TooLarge);
        for cut in 0..LIST.len() {
            let _ = AofManifest::parse(&LIST.as_bytes()[..cut]);
        }
    }
}
