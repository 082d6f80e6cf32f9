//! The house rules as tests: layers, imports, size of files, who prints.
//!
//! They read the source text, so that a rule is broken visibly: by changing it here.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// Top-level modules by layer; a module may use its own layer and those below.
const LAYERS: [(u8, &[&str]); 6] = [
    (8, &["cli"]),
    (6, &["backup", "restore", "maintenance", "replica", "view", "mount"]),
    (5, &["repo"]),
    (4, &["source", "index"]),
    (3, &["format"]),
    (2, &["crypto", "store"]),
];
/// The lowest layer.
const LAYER_1: [&str; 6] = ["chunker", "compress", "id", "units", "clock", "progress"];
/// Most lines of a file before its tests.
const FILE_LINES_MAX: usize = 500;

fn layer(module: &str) -> Option<u8> {
    let upper = LAYERS.iter().find(|(_, modules)| modules.contains(&module));
    upper.map(|(layer, _)| *layer).or_else(|| LAYER_1.contains(&module).then_some(1))
}

/// A source file below `src`.
struct Source {
    /// Path below `src`, `/`-separated.
    path: String,
    /// Its top-level module; empty for `lib.rs` and `main.rs`.
    module: String,
    /// The text, with comments, strings and character literals blanked out.
    code: String,
    /// The text as it is.
    text: String,
    /// Whether it is compiled for tests only.
    is_test: bool,
}

impl Source {
    fn new(path: String, text: String) -> Self {
        let first = path.split('/').next().unwrap_or_default().trim_end_matches(".rs");
        let module = if matches!(first, "lib" | "main") { "" } else { first };
        let code = without_literals(&text);
        Self { module: module.to_owned(), code, text, path, is_test: false }
    }

    /// The code before the tests; nothing of a file that is compiled for tests only.
    fn without_tests(&self) -> &str {
        if self.is_test {
            return "";
        }
        let tests = self.code.find("#[cfg(test)]\nmod tests {");
        let shared = self.code.find("#[cfg(test)]\npub(crate) mod tests {");
        &self.code[..tests.or(shared).unwrap_or(self.code.len())]
    }

    /// The files of the modules that it declares for tests only.
    fn test_files(&self) -> impl Iterator<Item = String> {
        let folder = self.path.trim_end_matches(".rs").trim_end_matches("/mod").to_owned();
        let after = self.code.split("#[cfg(test)]\n").skip(1);
        after.filter_map(move |code| {
            let code = code.trim_start_matches("pub(crate) ").strip_prefix("mod ")?;
            let end = code.find(|c: char| !c.is_alphanumeric() && c != '_')?;
            code[end..].starts_with(';').then(|| format!("{folder}/{}.rs", &code[..end]))
        })
    }
}

fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    collect(&root, &mut files);
    files.sort();
    assert!(files.len() > 20, "the source tree is at {}", root.display());
    let read = |file: PathBuf| {
        let path = file.strip_prefix(&root).unwrap().to_str().unwrap().to_owned();
        Source::new(path, fs::read_to_string(file).unwrap())
    };
    let mut sources: Vec<Source> = files.into_iter().map(read).collect();
    let test_files: BTreeSet<String> = sources.iter().flat_map(Source::test_files).collect();
    for source in &mut sources {
        source.is_test = test_files.contains(&source.path);
    }
    sources
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
}

/// Blanks out comments, strings and character literals; line ends stay.
fn without_literals(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut code = bytes.to_vec();
    let mut at = 0;
    while at < bytes.len() {
        let end = literal_end(bytes, at);
        for byte in &mut code[at..end] {
            if *byte != b'\n' {
                *byte = b' ';
            }
        }
        at = end.max(at + 1);
    }
    String::from_utf8(code).unwrap()
}

/// Where the comment or literal that begins at `at` ends; `at` itself where there is none.
fn literal_end(bytes: &[u8], at: usize) -> usize {
    let rest = &bytes[at..];
    let find = |needle: &[u8], from: usize| {
        let place = rest[from..].windows(needle.len()).position(|window| window == needle);
        place.map_or(bytes.len(), |place| at + from + place + needle.len())
    };
    let word_before = at > 0 && (bytes[at - 1].is_ascii_alphanumeric() || bytes[at - 1] == b'_');
    match rest {
        [b'/', b'/', ..] => find(b"\n", 0),
        [b'/', b'*', ..] => find(b"*/", 2),
        [b'r', b'"' | b'#', ..] | [b'b', b'r', b'"' | b'#', ..] if !word_before => {
            let prefix = 1 + usize::from(rest[0] == b'b');
            let hashes = rest[prefix..].iter().take_while(|byte| **byte == b'#').count();
            if rest.get(prefix + hashes) != Some(&b'"') {
                return at; // a raw identifier
            }
            find(&[b"\"", &b"#".repeat(hashes)[..]].concat(), prefix + hashes + 1)
        }
        [b'"', ..] => quoted_end(bytes, at),
        [b'\'', b'\\', ..] => find(b"'", 3),
        // A character and not a lifetime: the quote closes after one character.
        [b'\'', first, ..] => {
            let width = match first {
                0..0x80 => 1,
                0xc0..0xe0 => 2,
                0xe0..0xf0 => 3,
                _ => 4,
            };
            if rest.get(1 + width) == Some(&b'\'') { at + width + 2 } else { at }
        }
        _ => at,
    }
}

fn quoted_end(bytes: &[u8], at: usize) -> usize {
    let mut end = at + 1;
    while end < bytes.len() && bytes[end] != b'"' {
        end += if bytes[end] == b'\\' { 2 } else { 1 };
    }
    (end + 1).min(bytes.len())
}

/// What the code imports or names below `crate::`, each as its path; groups are taken apart.
fn crate_paths(code: &str) -> Vec<String> {
    let mut paths = Vec::new();
    for (at, _) in code.match_indices("crate::") {
        let before = code[..at].chars().next_back();
        if before.is_none_or(|c| !c.is_alphanumeric() && c != '_' && c != ':') {
            expand("", &code[at + "crate::".len()..], &mut paths);
        }
    }
    paths
}

/// Reads one path, or a group of them, at the beginning of `code`; gives the rest.
fn expand<'a>(prefix: &str, code: &'a str, paths: &mut Vec<String>) -> &'a str {
    if let Some(group) = code.strip_prefix('{') {
        let mut rest = group.trim_start();
        while !rest.is_empty() && !rest.starts_with('}') {
            rest = expand(prefix, rest, paths).trim_start();
            if let Some(alias) = rest.strip_prefix("as ") {
                rest = alias.trim_start_matches(|c: char| c.is_alphanumeric() || c == '_');
            }
            rest = rest.trim_start().strip_prefix(',').unwrap_or(rest).trim_start();
        }
        return rest.strip_prefix('}').unwrap_or(rest);
    }
    let end = code.find(|c: char| !c.is_alphanumeric() && c != '_' && c != '*');
    let (name, rest) = code.split_at(end.unwrap_or(code.len()));
    let path = if prefix.is_empty() { name.to_owned() } else { format!("{prefix}::{name}") };
    match rest.strip_prefix("::") {
        Some(rest) if !name.is_empty() => expand(&path, rest, paths),
        _ => {
            paths.push(path);
            // A name that does not move on would loop.
            if name.is_empty() { rest.get(1..).unwrap_or_default() } else { rest }
        }
    }
}

/// The top-level modules that a file uses besides its own.
fn used_modules(source: &Source) -> BTreeSet<String> {
    let heads = crate_paths(&source.code);
    let heads = heads.iter().map(|path| path.split("::").next().unwrap_or_default().to_owned());
    heads.filter(|head| *head != source.module).collect()
}

#[track_caller]
fn assert_none(broken: &[String]) {
    assert!(broken.is_empty(), "\n{}\n", broken.join("\n"));
}

#[test]
fn every_module_has_a_layer() {
    let modules: BTreeSet<_> = sources().into_iter().map(|source| source.module).collect();
    let unknown = modules.iter().filter(|module| !module.is_empty() && layer(module).is_none());
    assert_none(&unknown.cloned().collect::<Vec<_>>());
}

#[test]
fn imports_go_down_and_name_the_defining_module() {
    let mut broken = Vec::new();
    for source in sources() {
        let Some(own) = layer(&source.module) else { continue };
        for used in used_modules(&source) {
            match layer(&used) {
                None => broken.push(format!("{}: crate::{used} is not a module", source.path)),
                Some(other) if other > own => {
                    broken.push(format!("{} (layer {own}) uses {used} ({other})", source.path));
                }
                Some(_) => {}
            }
        }
    }
    assert_none(&broken);
}

#[test]
fn modules_form_no_circle() {
    let mut uses: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for source in sources().iter().filter(|source| !source.module.is_empty()) {
        uses.entry(source.module.clone()).or_default().extend(used_modules(source));
    }
    // What uses nothing that is left is taken away; a circle is what stays.
    while let Some(free) = uses
        .iter()
        .find(|(_, used)| !used.iter().any(|module| uses.contains_key(module)))
        .map(|(module, _)| module.clone())
    {
        uses.remove(&free);
    }
    assert!(uses.is_empty(), "circle among {uses:?}");
}

#[test]
fn no_import_is_a_glob() {
    let mut broken = Vec::new();
    for source in sources() {
        let code = source.code.replace("use super::*;", "");
        let statements = code.split(';').filter_map(|part| part.rsplit_once("use ")).map(|p| p.1);
        for statement in statements.filter(|statement| statement.contains('*')) {
            broken.push(format!("{}: use {statement}", source.path));
        }
        if source.without_tests().contains("use super::*;") {
            broken.push(format!("{}: use super::* outside tests", source.path));
        }
    }
    assert_none(&broken);
}

#[test]
fn files_are_short() {
    let too_long = sources().into_iter().filter_map(|source| {
        let lines = source.without_tests().lines().count();
        (lines > FILE_LINES_MAX).then(|| format!("{} has {lines} lines", source.path))
    });
    assert_none(&too_long.collect::<Vec<_>>());
}

#[test]
fn files_say_what_they_are() {
    let silent = sources().into_iter().filter(|source| !source.text.starts_with("//! "));
    assert_none(&silent.map(|source| source.path).collect::<Vec<_>>());
}

#[test]
fn only_the_command_line_prints_reads_the_environment_or_exits() {
    let printing = ["println!", "eprintln!", "print!", "eprint!", "dbg!", "stdout()", "stderr()"];
    let ambient = ["env::var", "env::args", "process::exit", "env::home_dir"];
    let mut broken = Vec::new();
    for source in sources() {
        let code = source.without_tests();
        if !matches!(source.module.as_str(), "cli" | "") {
            for word in printing.iter().chain(&ambient).filter(|word| code.contains(**word)) {
                broken.push(format!("{}: {word}", source.path));
            }
        }
    }
    assert_none(&broken);
}

#[test]
fn nothing_is_unwrapped_or_left_to_be_written() {
    let words = [".unwrap()", ".unwrap_err()", "todo!", "unimplemented!", "unsafe {", "unsafe fn"];
    let mut broken = Vec::new();
    for source in sources() {
        for word in words.iter().filter(|word| source.without_tests().contains(**word)) {
            broken.push(format!("{}: {word}", source.path));
        }
    }
    assert_none(&broken);
}

#[test]
fn every_error_id_that_is_named_has_an_explanation() {
    let mut broken = Vec::new();
    for source in sources() {
        for (at, _) in source.text.match_indices("HF-") {
            let end = source.text[at..]
                .find(|c: char| !c.is_ascii_uppercase() && !c.is_ascii_digit() && c != '-')
                .map_or(source.text.len(), |end| at + end);
            let id = &source.text[at..end];
            let numbered =
                id.rsplit('-').next().is_some_and(|number| number.parse::<u16>().is_ok());
            if numbered && holdfast::cli::explain::find(id).is_none() {
                broken.push(format!("{}: {id}", source.path));
            }
        }
    }
    assert_none(&broken);
}

#[test]
fn every_explanation_is_of_an_error_that_is_raised() {
    let sources = sources();
    let (registry, others): (Vec<_>, Vec<_>) =
        sources.iter().partition(|source| source.path.starts_with("cli/explain/"));
    let mut unused = Vec::new();
    for source in registry {
        let group = source.path.trim_start_matches("cli/explain/").trim_end_matches(".rs");
        for line in source.text.lines() {
            let Some((name, _)) = line.trim().split_once(": \"HF-") else { continue };
            let named = format!("{group}::{name}");
            let raised = others.iter().any(|other| other.without_tests().contains(&named));
            if !raised {
                unused.push(format!("{named:?},"));
            }
        }
    }
    assert_none(&unused);
}

#[test]
fn the_reader_of_sources_sees_what_it_should() {
    let code = without_literals(
        "use crate::a::{b, c::{d, e as f}}; // crate::x\nlet s = \"crate::y\"; fn g<'a>(c: char) { c == '\"'; crate::h::i() } r#\"crate::z\"#",
    );
    assert_eq!(crate_paths(&code), ["a::b", "a::c::d", "a::c::e", "h::i"]);
    assert_eq!(crate_paths("mycrate::a; $crate::b"), ["b"]);
}
