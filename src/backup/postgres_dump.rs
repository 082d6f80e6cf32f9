//! A database as a root: a dump in directory format, byte for byte what `pg_dump` would write, of
//! which only the small files were ever on a disk.
//!
//! Several connections fetch the rows of several tables at once, under one snapshot of the database.
//! Nothing is saved unless every table ended well, and all transactions have lasted to the end.

use std::collections::VecDeque;
use std::fs::File;
use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::backup::dump_reader::{LargeObjectReader, TableReader};
use crate::backup::error::BackupError;
use crate::backup::item::{Ended, Entry, Item, KnownContent, Step};
use crate::backup::ordered::Giver;
use crate::backup::previous_files::PreviousFiles;
use crate::backup::run::{RootSource, SnapshotLabel};
use crate::backup::stream::{OpenStream, Reading, StreamRoot};
use crate::backup::successor::Successor;
use crate::chunker::{ChunkSizes, Chunker};
use crate::crypto::ids::ChunkKind;
use crate::format::node::{Node, NodeKind, UnixTime};
use crate::format::postgres::dump_tables::{DumpTable, DumpTables, sum_text};
use crate::format::postgres::facts::{DumpFacts, PostgresFacts};
use crate::format::snapshot::Facts;
use crate::format::tree::EntryKey;
use crate::repo::session::WriteSession;
use crate::source::error::SourceError;
use crate::source::postgres::connection::Connection;
use crate::source::postgres::dump::{DumpError, DumpSource, PlannedDump, PlannedTable, blob_file};
use crate::source::postgres::error::PostgresError;
use crate::source::stream::{ByteStream, ReaderStream};

/// Lane of what is not fetched by one of the workers.
const OWN_LANE: u32 = u32::MAX;

/// What stands beside the dump: known when that has been read.
type Beside = Arc<Mutex<Option<Vec<u8>>>>;

/// A database.
pub struct PostgresDump {
    name: String,
    source: DumpSource,
    jobs: u32,
    previous: Option<PreviousFiles>,
    facts: Option<DumpFacts>,
    globals: Beside,
    tables: Beside,
}

/// What one worker does next.
enum Job<'a> {
    Table(&'a PlannedTable),
    LargeObject(u32),
}

impl PostgresDump {
    /// The dump of a database under that name, and what belongs beside it: the roots of a snapshot
    /// in their order. At most `jobs` connections fetch rows.
    #[must_use]
    pub fn roots(name: &str, source: DumpSource, jobs: u32) -> Vec<Box<dyn RootSource>> {
        let (globals, tables) = (Beside::default(), Beside::default());
        let this = Self {
            name: name.to_owned(),
            source,
            jobs: jobs.max(1),
            previous: None,
            facts: None,
            globals: Arc::clone(&globals),
            tables: Arc::clone(&tables),
        };
        vec![
            Box::new(this),
            beside(format!("{name}.globals.sql"), globals),
            beside(format!("{name}.tables.json"), tables),
        ]
    }

    fn receive(
        &mut self,
        reading: &Reading,
        chunker: &Chunker,
        items: &mut Giver<Item>,
    ) -> Result<bool, DumpError> {
        // Whoever can write into the database must not know it: it ends what they can run.
        let name = format!("pg_restrict {}", self.name);
        let key = reading.keys.chunk_id(ChunkKind::Data, name.as_bytes()).to_string();
        let mut plan = PlannedDump::plan(&self.source, &key)?;
        for warning in plan.warnings.drain(..) {
            reading.progress.warn(warning);
        }
        let about = File::open(plan.folder()).and_then(|folder| folder.metadata());
        let about = about.map_err(|source| of_folder(&plan, source))?;
        let mut maker = EntryMaker { previous: self.previous.as_ref(), node: file_node(&about) };
        if !give_root(items, &about) || !maker.give_small(&plan, reading, chunker, items)? {
            return Ok(false);
        }
        let fetch = Fetch {
            plan: &plan,
            reading,
            chunker,
            maker: &maker,
            jobs: Mutex::new(jobs_of(&plan)),
            is_over: AtomicBool::new(false),
        };
        let Some(tables) = fetch.run(self.jobs, items)? else { return Ok(false) };
        maker.previous = None;
        self.keep(plan, tables)?;
        Ok(true)
    }

    fn keep(&mut self, plan: PlannedDump, tables: Vec<DumpTable>) -> Result<(), PostgresError> {
        let database = self.source.address.database.clone();
        self.facts = Some(DumpFacts {
            cluster: plan.server.cluster.clone(),
            database: database.clone(),
            moment: plan.moment.clone(),
            lsn: plan.lsn,
            from_standby: plan.server.is_standby,
            tool: plan.tools_major,
            tables: tables.len() as u64,
            rows: tables.iter().map(|table| table.rows).sum(),
            large_objects: plan.large_objects.len() as u64,
        });
        let (moment, lsn) = (plan.moment.clone(), plan.lsn);
        let settings = plan.text_settings.clone();
        let tables = DumpTables { database, moment, lsn, settings, tables };
        set(&self.tables, tables.encode());
        set(&self.globals, plan.globals.clone());
        plan.finish()
    }
}

impl RootSource for PostgresDump {
    fn name(&self) -> String {
        format!("postgres:{}", self.name)
    }

    fn path(&self) -> Vec<u8> {
        self.name.clone().into_bytes()
    }

    fn chunk_sizes(&self) -> ChunkSizes {
        ChunkSizes::STREAM
    }

    fn previous(
        &mut self,
        session: &mut WriteSession,
        label: &SnapshotLabel,
    ) -> Result<Option<Successor>, BackupError> {
        let (previous, successor) = PreviousFiles::open(session, label, &self.path())?;
        self.previous = previous;
        Ok(Some(successor))
    }

    fn facts(&self) -> Option<Facts> {
        self.facts.clone().map(|facts| PostgresFacts::Dump(facts).encode())
    }

    fn read(&mut self, reading: &Reading, chunker: &Chunker, items: &mut Giver<Item>) {
        let name = self.name.clone();
        match self.receive(reading, chunker, items) {
            Ok(_) => {}
            Err(DumpError::Server(source)) => {
                items.give(Item::Failed(BackupError::Postgres { name, source }));
            }
            Err(DumpError::Source(source)) => {
                items.give(Item::Failed(BackupError::Source { name, source }));
            }
        }
    }
}

/// Makes the entries of files.
struct EntryMaker<'a> {
    previous: Option<&'a PreviousFiles>,
    node: Node,
}

impl EntryMaker<'_> {
    fn entry(&self, file: &str) -> Entry {
        let mut node = self.node.clone();
        node.name = file.as_bytes().to_vec();
        Entry { dir: Arc::from([]), node, device: 0, inode: 0, link_group: None }
    }

    fn ended(&self, mut entry: Entry, size: u64) -> Item {
        entry.node.size = size;
        let key = EntryKey { dir: Vec::new(), name: entry.node.name.clone() };
        let is_known = self.previous.is_some_and(|previous| previous.has(&key));
        Item::End(Box::new(Ended { entry, hash: None, is_known, discard: None }))
    }

    /// A file of which `read` gives the bytes, in a lane; `false` when nobody takes any more.
    fn give(
        &self,
        file: &str,
        lane: u32,
        (reading, chunker): (&Reading, &Chunker),
        items: &mut Giver<Item>,
        read: &mut dyn FnMut(&mut [u8]) -> Result<usize, SourceError>,
    ) -> Result<bool, SourceError> {
        let in_lane = |item| Item::InLane(lane, Box::new(item));
        let entry = self.entry(file);
        if !items.give(in_lane(Item::Begin(Box::new(entry.clone())))) {
            return Ok(false);
        }
        let mut size = 0;
        let mut counted = |buffer: &mut [u8]| {
            let length = read(buffer)?;
            size += length as u64;
            Ok(length)
        };
        if !reading.cut_lane(&mut counted, chunker, items, lane)? {
            return Ok(false);
        }
        Ok(items.give(in_lane(self.ended(entry, size))))
    }

    /// The files that are as `pg_dump` has written them.
    fn give_small(
        &self,
        plan: &PlannedDump,
        reading: &Reading,
        chunker: &Chunker,
        items: &mut Giver<Item>,
    ) -> Result<bool, SourceError> {
        for name in &plan.files {
            let path = plan.folder().join(name);
            let failed = |source| SourceError::Io { action: "read", path: path.clone(), source };
            let mut file = File::open(&path).map_err(failed)?;
            let mut read = |buffer: &mut [u8]| file.read(buffer).map_err(failed);
            if !self.give(name, OWN_LANE, (reading, chunker), items, &mut read)? {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

/// The fetching of rows by several threads.
struct Fetch<'a> {
    plan: &'a PlannedDump,
    reading: &'a Reading,
    chunker: &'a Chunker,
    maker: &'a EntryMaker<'a>,
    jobs: Mutex<VecDeque<Job<'a>>>,
    is_over: AtomicBool,
}

impl Fetch<'_> {
    /// The tables, by their names; nothing when nobody takes any more.
    fn run(&self, jobs_max: u32, items: &Giver<Item>) -> Result<Option<Vec<DumpTable>>, DumpError> {
        let jobs = self.jobs.lock().unwrap_or_else(PoisonError::into_inner).len();
        let workers = u32::try_from(jobs).unwrap_or(u32::MAX).min(jobs_max);
        let worked = std::thread::scope(|scope| {
            let workers: Vec<_> = (0..workers)
                .map(|lane| {
                    let mut items = items.clone();
                    scope.spawn(move || {
                        let worked = self.work(lane, &mut items);
                        if !matches!(worked, Ok(Some(_))) {
                            self.is_over.store(true, Ordering::Relaxed);
                        }
                        worked
                    })
                })
                .collect();
            let lost = || Err(PostgresError::Dump { what: "a thread has ended".into() }.into());
            workers.into_iter().map(|one| one.join().unwrap_or_else(|_| lost())).collect::<Vec<_>>()
        });
        let mut tables = Vec::new();
        let mut stopped = false;
        for one in worked {
            match one? {
                Some(more) => tables.extend(more),
                None => stopped = true,
            }
        }
        tables.sort();
        Ok((!stopped).then_some(tables))
    }

    /// One worker: takes jobs until none is left; nothing when it had to stop.
    fn work(
        &self,
        lane: u32,
        items: &mut Giver<Item>,
    ) -> Result<Option<Vec<DumpTable>>, DumpError> {
        let mut connection = self.plan.connect()?;
        let mut tables = Vec::new();
        loop {
            let job = self.jobs.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
            if self.is_over() {
                return Ok(None);
            }
            let goes_on = match job {
                None => break,
                Some(Job::Table(table)) => {
                    let sums = self.table(table, lane, &mut connection, items)?;
                    let goes_on = sums.is_some();
                    tables.extend(sums);
                    goes_on
                }
                Some(Job::LargeObject(number)) => {
                    self.large_object(number, lane, &mut connection, items)?
                }
            };
            if !goes_on {
                return Ok(None);
            }
        }
        // It has seen one state of the database to the end.
        connection.query("COMMIT")?;
        Ok(Some(tables))
    }

    fn table(
        &self,
        table: &PlannedTable,
        lane: u32,
        connection: &mut Connection,
        items: &mut Giver<Item>,
    ) -> Result<Option<DumpTable>, DumpError> {
        let mut reader = TableReader::start(connection, table)?;
        let mut read = |buffer: &mut [u8]| self.checked(reader.read(buffer), &table.file);
        let with = (self.reading, self.chunker);
        let given = self.maker.give(&table.file, lane, with, items, &mut read);
        match reader.take_failure() {
            Some(failure) => return Err(failure.into()),
            None if self.is_over() || !given? => return Ok(None),
            None => {}
        }
        let sums = reader.finish()?;
        Ok(Some(DumpTable {
            schema: table.schema.clone(),
            name: table.name.clone(),
            file: table.file.clone(),
            rows: sums.rows,
            bytes: sums.bytes,
            sum: sum_text(sums.sum),
        }))
    }

    fn large_object(
        &self,
        number: u32,
        lane: u32,
        connection: &mut Connection,
        items: &mut Giver<Item>,
    ) -> Result<bool, DumpError> {
        let file = blob_file(number);
        let mut reader = LargeObjectReader::new(connection, number);
        let mut read = |buffer: &mut [u8]| self.checked(reader.read(buffer), &file);
        let given = self.maker.give(&file, lane, (self.reading, self.chunker), items, &mut read);
        match reader.take_failure() {
            Some(failure) => Err(failure.into()),
            None => Ok(!self.is_over() && given?),
        }
    }

    /// Stops where another worker has failed. What failed here is asked of the reader afterwards.
    fn checked(&self, length: Option<usize>, file: &str) -> Result<usize, SourceError> {
        let length = length.filter(|_| !self.is_over());
        length.ok_or_else(|| SourceError::Unfinished { name: file.to_owned() })
    }

    /// Whether some worker has failed, or nobody takes any more.
    fn is_over(&self) -> bool {
        self.is_over.load(Ordering::Relaxed)
    }
}

fn jobs_of(plan: &PlannedDump) -> VecDeque<Job<'_>> {
    let tables = plan.tables.iter().map(Job::Table);
    tables.chain(plan.large_objects.iter().copied().map(Job::LargeObject)).collect()
}

fn beside(name: String, content: Beside) -> Box<dyn RootSource> {
    let stream = name.clone();
    let open: OpenStream = Box::new(move || {
        let bytes = content.lock().unwrap_or_else(PoisonError::into_inner).take();
        let bytes = bytes.ok_or_else(|| SourceError::Unfinished { name: stream.clone() })?;
        let bytes: Box<dyn ByteStream> =
            Box::new(ReaderStream::new(stream, std::io::Cursor::new(bytes)));
        Ok(bytes)
    });
    Box::new(StreamRoot::new(name, open))
}

fn set(beside: &Beside, bytes: Vec<u8>) {
    *beside.lock().unwrap_or_else(PoisonError::into_inner) = Some(bytes);
}

fn of_folder(plan: &PlannedDump, source: std::io::Error) -> SourceError {
    SourceError::Io { action: "look at", path: plan.folder(), source }
}

/// Files have the owner and the time of their folder, as `pg_dump` has made it.
fn file_node(about: &std::fs::Metadata) -> Node {
    let mut node = Node::new(NodeKind::File, Vec::new());
    node.mode = 0o600;
    node.uid = about.uid();
    node.gid = about.gid();
    node.mtime = UnixTime(about.mtime(), 0);
    node
}

fn give_root(items: &mut Giver<Item>, about: &std::fs::Metadata) -> bool {
    let mut node = file_node(about);
    node.kind = NodeKind::Dir;
    node.mode = 0o700;
    let entry = Entry { dir: Arc::from([]), node, device: 0, inode: 0, link_group: None };
    items.give(Item::Batch(vec![Step::Known(entry, KnownContent::None)]))
}
