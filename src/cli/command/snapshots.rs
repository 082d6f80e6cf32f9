//! `holdfast snapshots`: lists the snapshots.
#![allow(clippy::doc_markdown, reason = "the doc comments are help texts, read in a terminal")]

use clap::Args;
use serde_json::{Value, json};

use crate::cli::args::FilterArgs;
use crate::cli::context::Context;
use crate::cli::error::{CommandError, Exit};
use crate::cli::maintaining::{Asking, Keyring, short};
use crate::cli::output::json_bytes;
use crate::cli::selector::Candidate;
use crate::cli::table::{Align, Table};
use crate::cli::time::{format_local, format_rfc3339};
use crate::format::snapshot::Snapshot;
use crate::maintenance::listing::{Contents, ListKeys, Listed, list};
use crate::repo::history::History;

const AFTER_HELP: &str = "\
Snapshots are named by
  latest, latest~2           the newest, the second before it
  source:NAME, source:NAME~1 the newest of a source
  1a2b3c4d                   the first 4 or more digits of the id
  @2026-03-01T12:00Z, @2026-03-01, yesterday
                             the newest at or before that time
and a part of one by adding a path: latest:/etc/ssh";

/// Arguments of `snapshots`.
#[derive(Debug, Clone, Args)]
#[command(after_help = AFTER_HELP)]
pub struct SnapshotsArgs {
    /// Only these
    #[arg(value_name = "SNAPSHOT")]
    pub snapshots: Vec<String>,
    /// Only the newest N of each source
    #[arg(long, value_name = "N")]
    pub latest: Option<usize>,
    /// Show the forgotten ones too, as long as they can be brought back
    #[arg(long)]
    pub forgotten: bool,
    /// Ask for no key: show what the signed logs say
    #[arg(long)]
    pub no_key: bool,
    #[command(flatten)]
    #[allow(missing_docs, reason = "a doc comment here would replace the heading's help")]
    pub filter: FilterArgs,
}

/// Lists the snapshots.
pub fn run(args: &SnapshotsArgs, context: &Context) -> Result<Exit, CommandError> {
    let asking = if args.no_key { Asking::NoKey } else { Asking::Person };
    let keyring = Keyring::open(context, asking)?;
    let history = History::read(&keyring.repository)?;
    for finding in &history.findings {
        context.output.warning(&finding.to_string());
    }
    let (read, refs) = (keyring.read_identities(), keyring.refs_identities());
    let keys = ListKeys { read: &read, refs: &refs };
    let listed = list(&keyring.repository, &history, keys, |record| {
        record.is_live() || (args.forgotten && !record.is_deleted)
    });
    let rows: Vec<Row> = listed.into_iter().map(Row::new).collect();
    let rows = choose(args, context, rows)?;
    print(context, &rows);
    let count = rows.len();
    // With a commit missing, so may be what it committed: the list is no whole one.
    let exit = if history.findings.is_empty() { Exit::Done } else { Exit::Findings };
    context.output.summary(exit, &json!({ "snapshots": count }));
    Ok(exit)
}

/// A snapshot as it is shown.
struct Row {
    listed: Listed,
    id: String,
    source: String,
    host: String,
    tags: Vec<String>,
    time: jiff::Timestamp,
    note: String,
}

impl Row {
    fn new(listed: Listed) -> Self {
        let mut row = Self {
            id: listed.record.name.id.to_string(),
            source: String::new(),
            host: String::new(),
            tags: Vec::new(),
            time: listed.record.time,
            note: String::new(),
            listed,
        };
        let label = match &row.listed.contents {
            Contents::Snapshot(snapshot) => {
                (&snapshot.source, &snapshot.host, &snapshot.tags, &snapshot.time)
            }
            Contents::Label(label) => (&label.source, &label.host, &label.tags, &label.time),
            Contents::Unsupported(why) => {
                row.note = format!("unsupported: {why}");
                return row;
            }
            Contents::Unreadable(why) => {
                row.note = format!("unreadable: {why}");
                return row;
            }
            Contents::Sealed => {
                row.note = format!("writer {}", row.listed.record.name.writer);
                return row;
            }
        };
        row.time = label.3.parse().unwrap_or(row.time);
        (row.source, row.host, row.tags) = (label.0.clone(), label.1.clone(), label.2.clone());
        row
    }

    fn snapshot(&self) -> Option<&Snapshot> {
        match &self.listed.contents {
            Contents::Snapshot(snapshot) => Some(snapshot),
            _ => None,
        }
    }

    /// What stands under CONTENT: paths and streams, or why they are not known.
    fn content(&self) -> Vec<u8> {
        let mut text = self.note.clone().into_bytes();
        for root in self.snapshot().iter().flat_map(|snapshot| &snapshot.roots) {
            if !text.is_empty() {
                text.extend_from_slice(b", ");
            }
            text.extend_from_slice(&root.path);
        }
        if self.snapshot().is_some_and(|snapshot| snapshot.partial) {
            text.extend_from_slice(b" (incomplete)");
        }
        if self.listed.record.forgotten.is_some() {
            text.extend_from_slice(b" (forgotten)");
        }
        text
    }

    fn bytes(&self) -> Option<u64> {
        Some(self.snapshot()?.roots.iter().map(|root| root.bytes).fold(0, u64::saturating_add))
    }

    fn json(&self) -> Value {
        let record = &self.listed.record;
        let roots = self.snapshot().map(|snapshot| {
            let root = |root: &crate::format::snapshot::Root| {
                let (key, path) = json_bytes("path", &root.path);
                json!({ "name": root.name, key: path, "entries": root.entries, "bytes": root.bytes })
            };
            snapshot.roots.iter().map(root).collect::<Vec<_>>()
        });
        let state = match &self.listed.contents {
            Contents::Snapshot(_) => "read",
            Contents::Label(_) => "label",
            Contents::Unsupported(_) => "unsupported",
            Contents::Unreadable(_) => "unreadable",
            Contents::Sealed => "sealed",
        };
        json!({
            "id": self.id, "writer": record.name.writer.to_string(), "seq": record.seq,
            "time": format_rfc3339(self.time), "committed": format_rfc3339(record.time),
            "source": self.source, "host": self.host, "tags": self.tags, "roots": roots,
            "bytes": self.bytes(), "added_bytes": self.listed.added_bytes, "state": state,
            "forgotten": record.forgotten.is_some(), "note": self.note,
        })
    }
}

fn choose(
    args: &SnapshotsArgs,
    context: &Context,
    mut rows: Vec<Row>,
) -> Result<Vec<Row>, CommandError> {
    if !args.snapshots.is_empty() {
        let candidates: Vec<Candidate<'_>> = rows
            .iter()
            .map(|row| Candidate {
                id: &row.id,
                source: &row.source,
                time: row.time,
                committed: row.listed.record.time,
                seq: row.listed.record.seq,
            })
            .collect();
        let mut chosen = Vec::new();
        for text in &args.snapshots {
            chosen.push(context.selector(text)?.resolve(&candidates)?);
        }
        let mut number = 0..;
        rows.retain(|_| number.next().is_some_and(|number| chosen.contains(&number)));
    }
    // What cannot be read may be any source's: it is never left out.
    rows.retain(|row| {
        !row.note.is_empty() || args.filter.matches(&row.source, &row.host, &row.tags)
    });
    let age = |row: &Row| (row.time, row.listed.record.seq, row.listed.record.name.id);
    rows.sort_by_key(age);
    if let Some(most) = args.latest {
        let mut seen = std::collections::HashMap::new();
        rows.reverse();
        rows.retain(|row| {
            let count =
                seen.entry((row.listed.record.name.writer, row.source.clone())).or_insert(0);
            *count += 1;
            *count <= most
        });
        rows.reverse();
    }
    Ok(rows)
}

fn print(context: &Context, rows: &[Row]) {
    let mut table = Table::new(&[
        ("ID", Align::Left),
        ("TIME", Align::Left),
        ("SOURCE", Align::Left),
        ("HOST", Align::Left),
        ("TAGS", Align::Left),
        ("SIZE", Align::Right),
        ("ADDED", Align::Right),
        ("CONTENT", Align::Left),
    ]);
    for row in rows {
        let size = row.bytes().map(|bytes| context.output.size(bytes)).unwrap_or_default();
        let text = [
            short(&row.id),
            format_local(row.time, &context.now),
            row.source.clone(),
            row.host.clone(),
            row.tags.join(","),
            size,
            context.output.size(row.listed.added_bytes),
        ];
        table.row(text.into_iter().map(String::into_bytes).chain([row.content()]));
        context.output.item(&row.json());
    }
    if !table.is_empty() {
        context.output.table(&table);
    }
    context.output.note(&format!("{} snapshots", rows.len()));
}
