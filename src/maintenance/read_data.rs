//! Reading packs in full: the part that was not read for the longest first.
//!
//! Each thread holds one pack. With read identities every frame is decoded and every chunk id
//! compared with the index; without, the bytes are compared with the object's name.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use crate::clock::Clock;
use crate::crypto::ids::object_id;
use crate::format::commit::ObjectName;
use crate::format::limits;
use crate::id::{DomainId, ObjectId};
use crate::maintenance::check::{CheckOptions, CheckReport, Checking, unread, wrong_name};
use crate::maintenance::checked::{CheckedPacks, coverage};
use crate::maintenance::error::MaintenanceError;
use crate::maintenance::finding::{Finding, Problem};
use crate::maintenance::listing::words;
use crate::maintenance::pack_catalog::{PackCatalog, packs_of};
use crate::progress::Progress;
use crate::repo::pack_reader::PackReadError;
use crate::repo::pack_scan::{PackScanner, ScannedPack};
use crate::repo::read_access::ReadAccess;
use crate::units::Part;

/// Packs after which what was read is noted down.
const RECORD_EVERY: usize = 32;

/// Reads as many packs as the options say, and fills in the coverage.
pub fn read(
    checking: &Checking<'_>,
    clock: &dyn Clock,
    catalog: &PackCatalog,
    options: CheckOptions,
    report: &mut CheckReport,
) -> Result<(), MaintenanceError> {
    let mut checked = CheckedPacks::open(checking.repository.state.checked_path())?;
    let mut last_read = checked.last_read()?;
    let packs = packs(checking);
    if let Some(part) = options.read_data {
        let mut chosen = packs.clone();
        chosen.sort_by_key(|(pack, _)| (last_read.get(pack).copied(), *pack));
        chosen.truncate(chosen.len().div_ceil(part_count(part)));
        let reading = Reading { checking, catalog, chosen: &chosen, next: AtomicUsize::new(0) };
        let state = Mutex::new((&mut *report, &mut checked));
        reading.run(clock, options.threads, &state)?;
        last_read = checked.last_read()?;
    }
    report.coverage = coverage(packs.iter().map(|(pack, _)| pack), &last_read, clock.now());
    Ok(())
}

fn part_count(part: Part) -> usize {
    part.of.max(1) as usize
}

/// Packs that commits name and the store has, each once.
fn packs(checking: &Checking<'_>) -> Vec<(ObjectId, u64)> {
    let commits = checking.history.logs.values().flatten().map(|record| &record.commit);
    let mut packs: Vec<_> = commits
        .flat_map(packs_of)
        .filter_map(|pack| {
            let name = ObjectName::Data(pack).to_string();
            checking.stored.get(&name).map(|size| (pack, *size))
        })
        .collect();
    packs.sort_unstable();
    packs.dedup();
    packs
}

type Shared<'r> = Mutex<(&'r mut CheckReport, &'r mut CheckedPacks)>;

struct Reading<'a> {
    checking: &'a Checking<'a>,
    catalog: &'a PackCatalog,
    chosen: &'a [(ObjectId, u64)],
    next: AtomicUsize,
}

impl Reading<'_> {
    fn run(
        &self,
        clock: &dyn Clock,
        threads: usize,
        shared: &Shared<'_>,
    ) -> Result<(), MaintenanceError> {
        let progress = self.checking.progress;
        Progress::add(&progress.items_total, self.chosen.len() as u64);
        Progress::add(&progress.bytes_total, self.chosen.iter().map(|(_, size)| size).sum());
        std::thread::scope(|scope| {
            let threads: Vec<_> =
                (0..threads.max(1)).map(|_| scope.spawn(|| self.work(clock, shared))).collect();
            for thread in threads {
                thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
            }
            Ok(())
        })
    }

    fn work(&self, clock: &dyn Clock, shared: &Shared<'_>) -> Result<(), MaintenanceError> {
        let mut scanner = match self.checking.keys.access {
            Some(access) => {
                let identities = access.identities().clone();
                Some((PackScanner::new(access.store().clone(), identities)?, access.as_ref()))
            }
            None => None,
        };
        let mut good = Vec::new();
        while let Some((pack, size)) = self.chosen.get(self.next.fetch_add(1, Relaxed)) {
            if self.checking.progress.is_cancelled() {
                return Err(MaintenanceError::Cancelled);
            }
            let finding = match &mut scanner {
                Some((scanner, access)) => self.scan(scanner, access, pack)?,
                None => self.compare_name(pack)?,
            };
            self.count(*size, shared, finding, pack, &mut good);
            if good.len() >= RECORD_EVERY {
                record(shared, &mut good, clock)?;
            }
        }
        record(shared, &mut good, clock)
    }

    fn count(
        &self,
        size: u64,
        shared: &Shared<'_>,
        finding: Option<Finding>,
        pack: &ObjectId,
        good: &mut Vec<ObjectId>,
    ) {
        Progress::add(&self.checking.progress.items_done, 1);
        Progress::add(&self.checking.progress.bytes_done, size);
        let mut guard = shared.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        guard.0.read.objects += 1;
        guard.0.read.bytes += size;
        match finding {
            Some(finding) => guard.0.findings.push(finding),
            None => good.push(*pack),
        }
    }

    fn scan(
        &self,
        scanner: &mut PackScanner,
        access: &ReadAccess,
        pack: &ObjectId,
    ) -> Result<Option<Finding>, MaintenanceError> {
        let object = ObjectName::Data(*pack).to_string();
        match scanner.scan(pack, |domain: &DomainId| access.keys_of(domain)) {
            Ok(scanned) => Ok(self.compare_index(access, &object, &scanned)),
            Err(PackReadError::NoDomainKeys { .. }) => self.compare_name(pack),
            Err(PackReadError::Store { source, .. }) => Ok(Some(unread(&object, source)?)),
            Err(PackReadError::WrongName { .. }) => Ok(Some(wrong_name(&object))),
            Err(error) => Ok(Some(Finding::new(object, Problem::Content, words(&error)))),
        }
    }

    fn compare_index(
        &self,
        access: &ReadAccess,
        object: &str,
        scanned: &ScannedPack,
    ) -> Option<Finding> {
        if scanned.owner.repository != self.checking.repository.id {
            let what = "it belongs to another repository";
            return Some(Finding::new(object, Problem::Content, what));
        }
        let Some(facts) = self.catalog.pack(&scanned.entry.name) else {
            let what = "no index segment describes it";
            return Some(Finding::new(object, Problem::NotIndexed, what));
        };
        let handle = scanned.entry.table.handle;
        let is_same = facts.handle == handle
            && facts.domain == scanned.owner.domain
            && access.pack(&handle).is_ok_and(|map| *map.entry() == scanned.entry);
        let what = "its chunks are not those that the index says";
        (!is_same).then(|| Finding::new(object, Problem::Content, what))
    }

    fn compare_name(&self, pack: &ObjectId) -> Result<Option<Finding>, MaintenanceError> {
        let object = ObjectName::Data(*pack).to_string();
        match self.checking.repository.store.get(&object, limits::PACK_BYTES_MAX) {
            Ok(bytes) if object_id(&bytes) == *pack => Ok(None),
            Ok(_) => Ok(Some(wrong_name(&object))),
            Err(error) => Ok(Some(unread(&object, error)?)),
        }
    }
}

fn record(
    shared: &Shared<'_>,
    good: &mut Vec<ObjectId>,
    clock: &dyn Clock,
) -> Result<(), MaintenanceError> {
    let mut guard = shared.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    guard.1.record(good, clock.now())?;
    good.clear();
    Ok(())
}
