//! The specification says what the code does, where both can be compared.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use holdfast::format::limits;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("format-spec")
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The rows `| NAME | number |…` of the table.
fn limits_of(page: &str) -> Vec<(String, u64)> {
    page.lines()
        .filter_map(|line| {
            let mut cells = line.strip_prefix("| `")?.split('|').map(str::trim);
            let name = cells.next()?.strip_suffix('`')?.to_owned();
            let value = cells.next()?.replace(' ', "").parse().ok()?;
            Some((name, value))
        })
        .collect()
}

#[test]
fn the_table_of_limits_is_that_of_the_code() {
    let page = limits_of(&read(&folder().join("limits.md")));
    let code: Vec<_> =
        limits::ALL.iter().map(|(name, value)| ((*name).to_owned(), *value)).collect();
    assert_eq!(page, code);
}

/// Targets of `](target)` that are files of this folder.
fn links_of(page: &str) -> impl Iterator<Item = &str> {
    page.split("](")
        .skip(1)
        .filter_map(|rest| rest.split(')').next())
        .map(|target| target.split('#').next().unwrap_or(""))
        .filter(|target| !target.is_empty() && !target.contains("://"))
}

fn pages() -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder()).unwrap().map(|entry| entry.unwrap().path());
    entries.filter(|path| path.extension().is_some_and(|extension| extension == "md")).collect()
}

#[test]
fn every_link_between_pages_leads_somewhere() {
    for page in pages() {
        for target in links_of(&read(&page)) {
            assert!(folder().join(target).exists(), "{} links to {target}", page.display());
        }
    }
}

#[test]
fn the_first_page_links_to_every_other() {
    let first = read(&folder().join("README.md"));
    let linked: BTreeSet<_> = links_of(&first).map(|target| folder().join(target)).collect();
    let missing: Vec<_> = pages()
        .into_iter()
        .filter(|page| !page.ends_with("README.md") && !linked.contains(page))
        .collect();
    assert!(missing.is_empty(), "{missing:?}");
}

/// The claims of the threat model, and what stands in their last column.
fn claims() -> Vec<(String, String)> {
    read(&folder().join("threat-model.md"))
        .lines()
        .filter_map(|line| {
            let cells: Vec<_> = line.strip_prefix("| C")?.split(" | ").map(str::trim).collect();
            let [number, _, shown] = cells[..] else { panic!("claim of another form: {line}") };
            Some((format!("C{number}"), shown.trim_end_matches('|').trim().to_owned()))
        })
        .collect()
}

fn rust_sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            rust_sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

#[test]
fn every_claim_names_tests_that_exist_or_says_not_yet() {
    let mut sources = Vec::new();
    for folder in ["src", "tests"] {
        rust_sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join(folder), &mut sources);
    }
    let code: String = sources.iter().map(|path| read(path)).collect();
    let claims = claims();
    let numbers: Vec<_> = claims.iter().map(|(number, _)| number.clone()).collect();
    assert_eq!(numbers, (1..=24).map(|number| format!("C{number}")).collect::<Vec<_>>());
    for (number, shown) in claims {
        let tests: Vec<_> = shown.split('`').skip(1).step_by(2).collect();
        assert!(!tests.is_empty() || shown.starts_with("not yet"), "{number} names no test");
        for test in tests {
            assert!(code.contains(&format!("fn {test}(")), "{number}: there is no test {test}");
        }
    }
}
