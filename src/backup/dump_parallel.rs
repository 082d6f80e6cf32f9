//! The parts of a dump, made by the workers some at a time, taken one after another.

use std::sync::Arc;

use crate::backup::dump_files::Files;
use crate::backup::dump_part::{MadePart, PartPlan};
use crate::backup::dump_records::DumpError;
use crate::backup::dump_spool::Spooled;
use crate::backup::ordered::{Giver, Taker, ordered};
use crate::backup::pieces::OldPieces;
use crate::format::redis::facts::{column_file, records_file};
use crate::source::error::SourceError;

/// Parts in memory at once, beside the one that is given away.
const PARTS_IN_FLIGHT: usize = 2;

/// Parts of a dump that was read.
pub struct Parts {
    spooled: Arc<Spooled>,
    plan: PartPlan,
    giver: Giver<Result<MadePart, DumpError>>,
    taker: Taker<Result<MadePart, DumpError>>,
    /// The next one that a worker is given, and how many are with them.
    next: u32,
    in_flight: usize,
}

impl Parts {
    /// All of them.
    #[must_use]
    pub fn new(spooled: Arc<Spooled>, plan: PartPlan) -> Self {
        let (giver, taker) = ordered(PARTS_IN_FLIGHT);
        Self { spooled, plan, giver, taker, next: 0, in_flight: 0 }
    }

    /// The next part. Those behind it are made meanwhile.
    pub fn next(&mut self, files: &mut Files<'_>) -> Result<MadePart, DumpError> {
        self.submit(files);
        let lost = || DumpError::Source(SourceError::Unfinished { name: "dump".into() });
        let part = self.taker.take().ok_or_else(lost)??;
        self.in_flight -= 1;
        self.submit(files);
        Ok(part)
    }

    fn submit(&mut self, files: &mut Files<'_>) {
        let PartPlan { bits, .. } = self.plan;
        while self.in_flight < PARTS_IN_FLIGHT && self.next < 1 << bits {
            let Some(slot) = self.giver.slot() else { return };
            let number = self.next;
            let records = files.old_part(records_file, bits, number);
            let column = files.old_part(column_file, bits, number);
            let (spooled, plan) = (Arc::clone(&self.spooled), self.plan);
            let keys = files.reading.keys.clone();
            files.reading.workers.submit(move |_| {
                let old = (OldPieces::of(&records), OldPieces::of(&column));
                drop((records, column));
                slot.fill(MadePart::new(&spooled, plan, number, &keys, old));
            });
            (self.next, self.in_flight) = (number + 1, self.in_flight + 1);
        }
    }
}
