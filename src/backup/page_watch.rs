//! Looks at the pages of a cluster while they stream: checksums, and positions in the log.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::backup::pages::PageCheck;
use crate::format::postgres::facts::BadPage;
use crate::format::postgres::lsn::Lsn;
use crate::source::postgres::page::{PageState, check_page, page_lsn};
use crate::source::postgres::queries::Queries;
use crate::source::postgres::replication::literal;
use crate::source::postgres::server::ServerFacts;

/// Bad pages that are looked at once more, at most.
const BAD_PAGES_KEPT: usize = 10_000;

/// Number in its relation of the first page of a file: `16384.2` begins with that of its third
/// segment.
fn first_page(path: &str, segment_pages: u32) -> u32 {
    let segment: Option<u32> = path.rsplit_once('.').and_then(|(_, number)| number.parse().ok());
    segment.unwrap_or(0).wrapping_mul(segment_pages)
}

/// What was seen of the pages.
pub struct PageWatch {
    start: AtomicU64,
    newest: AtomicU64,
    seen: Mutex<Seen>,
    page_bytes: u32,
    segment_pages: u32,
}

#[derive(Default)]
struct Seen {
    bad: Vec<BadPage>,
    newest: Option<(Lsn, BadPage)>,
}

impl PageWatch {
    /// Looks at the pages of a backup that begins at `start`.
    #[must_use]
    pub fn new(server: &ServerFacts, start: Lsn) -> Self {
        Self {
            start: AtomicU64::new(start.0),
            newest: AtomicU64::new(start.0),
            seen: Mutex::default(),
            page_bytes: server.page_bytes,
            segment_pages: server.segment_pages,
        }
    }

    /// The backup begins at `start`: said so before the first page comes.
    pub fn set_start(&self, start: Lsn) {
        self.start.store(start.0, Ordering::Relaxed);
        self.newest.store(start.0, Ordering::Relaxed);
    }

    fn start(&self) -> Lsn {
        Lsn(self.start.load(Ordering::Relaxed))
    }

    /// What looks at the pages of that file.
    #[must_use]
    pub fn of_file(self: &Arc<Self>, path: &[u8], server: &ServerFacts) -> PageCheck {
        let path = String::from_utf8_lossy(path).into_owned();
        let first = first_page(&path, self.segment_pages);
        let (watch, has_checksums) = (Arc::clone(self), server.has_checksums);
        Arc::new(move |page: &[u8], number: u32| {
            let lsn = page_lsn(page);
            if lsn.0 > watch.newest.fetch_max(lsn.0, Ordering::Relaxed) {
                let mut seen = watch.seen.lock().unwrap_or_else(PoisonError::into_inner);
                if seen.newest.as_ref().is_none_or(|(newest, _)| *newest < lsn) {
                    seen.newest = Some((lsn, BadPage { path: path.clone(), page: number }));
                }
            }
            // What changes while it is sent is made whole by the log.
            if !has_checksums || lsn >= watch.start() {
                return;
            }
            if check_page(page, first.wrapping_add(number)) == PageState::Bad {
                let mut seen = watch.seen.lock().unwrap_or_else(PoisonError::into_inner);
                if seen.bad.len() < BAD_PAGES_KEPT {
                    seen.bad.push(BadPage { path: path.clone(), page: number });
                }
            }
        })
    }

    /// The pages that are bad for certain: those that a second look, at the server's file, finds
    /// bad too, and one that is younger than the whole backup.
    pub fn finish(&self, stop: Lsn, sql: &mut dyn Queries) -> Vec<BadPage> {
        let seen = std::mem::take(&mut *self.seen.lock().unwrap_or_else(PoisonError::into_inner));
        let mut bad = seen.bad;
        bad.sort();
        bad.retain(|page| !self.is_sound_now(page, sql).unwrap_or(false));
        if let Some((lsn, page)) = seen.newest
            && lsn > stop
            && !bad.contains(&page)
        {
            bad.push(page);
        }
        bad
    }

    /// Reads the page once more; `None` where the role may not.
    fn is_sound_now(&self, page: &BadPage, sql: &mut dyn Queries) -> Option<bool> {
        let offset = u64::from(page.page) * u64::from(self.page_bytes);
        let length = self.page_bytes;
        let path = literal(&page.path);
        let query = format!(
            "SELECT encode(pg_catalog.pg_read_binary_file({path}, {offset}, {length}), 'hex')"
        );
        let text = sql.value(&query).ok()?;
        let bytes = data_encoding::HEXLOWER.decode(text.as_bytes()).ok()?;
        if bytes.len() < length as usize {
            return Some(true);
        }
        let first = first_page(&page.path, self.segment_pages);
        let state = check_page(&bytes, first.wrapping_add(page.page));
        Some(page_lsn(&bytes) >= self.start() || state != PageState::Bad)
    }
}
