//! The files of an append-only file of Redis, each as a root.
//!
//! The base, and a file that begins with a dump, are stored as records; commands and the list of
//! the files by their bytes. What is restored is a folder that a server starts from.

use std::io::Cursor;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::backup::dump_records::{Behind, RedisRecords};
use crate::backup::item::Item;
use crate::backup::ordered::Giver;
use crate::backup::run::RootSource;
use crate::backup::stream::{OpenStream, Reading, StreamRoot};
use crate::chunker::{ChunkSizes, Chunker};
use crate::format::redis::aof_facts::{AofFacts, AofPart};
use crate::format::redis::facts::DumpOrder;
use crate::format::snapshot::Facts;
use crate::source::redis::aof::{LeftOut, PinnedAof, PinnedFile, PinnedForm, PinnedRole};
use crate::source::stream::ReaderStream;

/// The roots of an append-only file, `redis-aof:NAME/FILE`, that was taken hold of at `moment`.
#[must_use]
pub fn aof_roots(name: &str, aof: PinnedAof, moment: &str) -> Vec<Box<dyn RootSource>> {
    let below = |file: &str| match &aof.folder {
        Some(folder) => format!("{folder}/{file}"),
        None => file.to_owned(),
    };
    let mut roots = Vec::new();
    for file in aof.files {
        let path = below(&file.name());
        roots.push(file_root(name, path, file, moment));
    }
    if let Some((list, bytes)) = aof.list {
        let open = Box::new(|| {
            let stream = ReaderStream::new("list of files", Cursor::new(bytes));
            Ok(Box::new(stream) as _)
        });
        let facts = facts(AofPart::Manifest, moment, &LeftOut::default());
        roots.push(AofRoot::boxed(name, below(&list), &list, open, facts));
    }
    roots
}

/// Facts of a root; complete when it was read.
type FactsOf = Box<dyn Fn() -> AofFacts + Send>;

fn facts(part: AofPart, moment: &str, left_out: &LeftOut) -> FactsOf {
    let (moment, left_out) = (moment.to_owned(), Arc::clone(left_out));
    Box::new(move || {
        let left_out = left_out.load(Ordering::Relaxed);
        AofFacts { part, moment: moment.clone(), left_out }
    })
}

fn file_root(name: &str, path: String, file: PinnedFile, moment: &str) -> Box<dyn RootSource> {
    let part = match file.role() {
        PinnedRole::Base => AofPart::Base,
        PinnedRole::Earlier | PinnedRole::Last => AofPart::Incremental,
        PinnedRole::Single => AofPart::Single,
    };
    let left_out = LeftOut::default();
    let facts = facts(part, moment, &left_out);
    let (form, shown) = (file.form(), file.name());
    let open: OpenStream = Box::new(move || Ok(file.stream(left_out)));
    let behind = match form {
        PinnedForm::Commands => return AofRoot::boxed(name, path, &shown, open, facts),
        PinnedForm::Dump => Behind::Nothing,
        PinnedForm::DumpAndCommands => Behind::Commands,
    };
    // The base has another name after each rewrite, and is compared with the one before all the same.
    let series = format!("{name}.base");
    let facts = Box::new(move || facts().encode());
    let records = RedisRecords::new(root_name(name, &path), series, DumpOrder::Server, open, facts);
    Box::new(records.at(path).with(behind))
}

fn root_name(name: &str, path: &str) -> String {
    format!("redis-aof:{name}/{path}")
}

/// A stream at a path.
struct AofRoot {
    root: String,
    path: String,
    stream: StreamRoot,
    facts: FactsOf,
}

impl AofRoot {
    fn boxed(
        name: &str,
        path: String,
        shown: &str,
        open: OpenStream,
        facts: FactsOf,
    ) -> Box<dyn RootSource> {
        let stream = StreamRoot::new(shown.to_owned(), open).often_empty();
        Box::new(Self { root: root_name(name, &path), path, stream, facts })
    }
}

impl RootSource for AofRoot {
    fn name(&self) -> String {
        self.root.clone()
    }

    fn path(&self) -> Vec<u8> {
        self.path.clone().into_bytes()
    }

    fn chunk_sizes(&self) -> ChunkSizes {
        ChunkSizes::STREAM
    }

    fn facts(&self) -> Option<Facts> {
        Some((self.facts)().encode())
    }

    fn read(&mut self, reading: &Reading, chunker: &Chunker, items: &mut Giver<Item>) {
        self.stream.read(reading, chunker, items);
    }
}
