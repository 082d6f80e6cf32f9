//! How a cluster was seen before its dumps and is seen after them: the last root of its snapshot.

use std::io::Cursor;

use crate::backup::item::Item;
use crate::backup::ordered::Giver;
use crate::backup::run::RootSource;
use crate::backup::stream::{Reading, StreamRoot};
use crate::chunker::{ChunkSizes, Chunker};
use crate::format::redis::cluster_view::{ClusterFacts, INCONSISTENT_TAG};
use crate::format::snapshot::Facts;
use crate::source::stream::ReaderStream;

/// Looks at the cluster once more, and compares.
pub type LookAgain = Box<dyn FnOnce() -> ClusterFacts + Send>;

/// The root `redis-cluster:NAME`: both looks as the stream `NAME.cluster.json`.
pub struct ClusterRoot {
    name: String,
    look: Option<LookAgain>,
    facts: Option<ClusterFacts>,
}

impl ClusterRoot {
    /// `look` is called when the root is read, so it has to be the last one.
    #[must_use]
    pub fn new(name: &str, look: LookAgain) -> Self {
        Self { name: name.to_owned(), look: Some(look), facts: None }
    }

    fn file(&self) -> String {
        format!("{}.cluster.json", self.name)
    }
}

impl RootSource for ClusterRoot {
    fn name(&self) -> String {
        format!("redis-cluster:{}", self.name)
    }

    fn path(&self) -> Vec<u8> {
        self.file().into_bytes()
    }

    fn chunk_sizes(&self) -> ChunkSizes {
        ChunkSizes::STREAM
    }

    fn facts(&self) -> Option<Facts> {
        self.facts.as_ref().map(ClusterFacts::encode)
    }

    fn tags(&self) -> Vec<String> {
        let is_inconsistent =
            self.facts.as_ref().is_some_and(|facts| !facts.inconsistent.is_empty());
        is_inconsistent.then(|| INCONSISTENT_TAG.to_owned()).into_iter().collect()
    }

    fn read(&mut self, reading: &Reading, chunker: &Chunker, items: &mut Giver<Item>) {
        let facts = self.look.take().map(|look| look());
        let text = facts.as_ref().map(|facts| serde_json::Value::Object(facts.encode()));
        let text = format!("{:#}\n", text.unwrap_or_default());
        self.facts = facts;
        let stream = ReaderStream::new(self.file(), Cursor::new(text.into_bytes()));
        let open = Box::new(|| Ok(Box::new(stream) as _));
        StreamRoot::new(self.file(), open).read(reading, chunker, items);
    }
}
