//! Forgetting: which snapshots go by a policy or by name, and what that will free.
//!
//! # Invariants
//! * A snapshot whose label cannot be read is never removed by a policy.
//! * Nothing younger than the retention floor of the roster, by the store's clock, is forgotten,
//!   whoever names it.
//! * Forgetting deletes nothing: it can be recalled until a prune has been through twice.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, SystemTime};

use jiff::Timestamp;

use crate::crypto::recipient::Identity;
use crate::format::commit::{ObjectName, SnapshotName};
use crate::format::refs::SnapshotLabel;
use crate::format::tombstone::{Declaration, Remark};
use crate::id::ObjectId;
use crate::maintenance::error::MaintenanceError;
use crate::maintenance::log_retention::{LogSnapshot, plan_logs, series_of};
use crate::maintenance::prune_plan::Amount;
use crate::maintenance::retention::decision::{RetentionInput, Verdict};
use crate::maintenance::retention::policy::Policy;
use crate::maintenance::retention::{GroupPlan, RetentionContext, plan_retention};
use crate::maintenance::snapshot_refs::{BATCH, RefsReader};
use crate::maintenance::tombs::Maintainer;
use crate::repo::history::{History, SnapshotRecord};
use crate::repo::open::Repository;

/// A snapshot with what retention goes by.
#[derive(Debug, Clone)]
pub struct Labelled {
    /// What the logs say.
    pub record: SnapshotRecord,
    /// Its label; none where it cannot be read, or its writer gave none.
    pub label: Option<SnapshotLabel>,
    /// Why it has none.
    pub trouble: Option<String>,
}

/// Reads the labels of snapshots from their refs.
#[must_use]
pub fn label_snapshots(
    repository: &Repository,
    history: &History,
    identities: &[Identity],
    wanted: impl Fn(&SnapshotRecord) -> bool,
) -> Vec<Labelled> {
    let reader = RefsReader::new(repository, history, identities);
    let records: Vec<_> = history.snapshots.iter().filter(|record| wanted(record)).collect();
    let labels = reader.read_labels(&records);
    let labelled = records.into_iter().zip(labels).map(|(record, label)| {
        let (label, trouble) = match label {
            Ok(Some(label)) => (Some(label), None),
            Ok(None) => (None, Some("its refs carry no label".to_owned())),
            Err(error) => (None, Some(error.to_string())),
        };
        Labelled { record: record.clone(), label, trouble }
    });
    labelled.collect()
}

/// Applies a policy to those snapshots that have a label.
pub fn plan_forget(
    policy: &Policy,
    snapshots: &[Labelled],
    context: &RetentionContext,
) -> Result<Vec<GroupPlan>, MaintenanceError> {
    let logs: Vec<LogSnapshot> = snapshots.iter().filter_map(log_snapshot).collect();
    let others = snapshots.iter().filter_map(retention_input);
    let inputs: Vec<RetentionInput> =
        others.filter(|input| series_of(&input.tags).is_none()).collect();
    let mut plans = plan_retention(policy, &inputs, context)?;
    // Base backups may be taken by another host than the one that archives.
    let oldest = |source: &str| {
        let kept = plans.iter().filter(|plan| plan.source == source);
        let kept = kept.flat_map(|plan| &plan.decisions);
        let kept: HashSet<ObjectId> =
            kept.filter(|one| one.verdict != Verdict::Remove).map(|one| one.snapshot).collect();
        let kept = inputs.iter().filter(|input| kept.contains(&input.snapshot));
        kept.map(|input| input.claimed.min(input.first_seen)).min()
    };
    let of_logs = plan_logs(&logs, &oldest, context);
    plans.extend(of_logs);
    Ok(plans)
}

fn log_snapshot(snapshot: &Labelled) -> Option<LogSnapshot> {
    let label = snapshot.label.as_ref()?;
    Some(LogSnapshot {
        snapshot: snapshot.record.name.id,
        writer: snapshot.record.name.writer,
        seq: snapshot.record.seq,
        source: label.source.clone(),
        series: series_of(&label.tags)?.to_owned(),
        time: snapshot.record.time,
        first_seen: timestamp(snapshot.record.first_seen),
    })
}

fn retention_input(snapshot: &Labelled) -> Option<RetentionInput> {
    let label = snapshot.label.as_ref()?;
    Some(RetentionInput {
        snapshot: snapshot.record.name.id,
        writer: snapshot.record.name.writer,
        source: label.source.clone(),
        claimed: label.time.parse().unwrap_or(snapshot.record.time),
        first_seen: timestamp(snapshot.record.first_seen),
        tags: label.tags.clone(),
    })
}

/// The snapshots that a plan removes, with the reason that is written down.
#[must_use]
pub fn removed_by(plans: &[GroupPlan]) -> Vec<(SnapshotName, Remark)> {
    let removed = plans.iter().flat_map(|plan| {
        let removed = plan.decisions.iter().filter(|one| one.verdict == Verdict::Remove);
        removed.map(|one| {
            let name = SnapshotName { writer: plan.writer, id: one.snapshot };
            (name, Remark::lossy("no retention rule keeps it"))
        })
    });
    removed.collect()
}

/// A time as the retention rules take it; what lies beyond the calendar is its end.
#[must_use]
pub fn timestamp(time: SystemTime) -> Timestamp {
    Timestamp::try_from(time).unwrap_or(Timestamp::MAX)
}

/// Forgets these snapshots. Those that are forgotten already are passed over.
///
/// # Errors
/// [`MaintenanceError::Floor`], before anything is written.
pub fn forget(
    maintainer: &Maintainer<'_>,
    history: &History,
    snapshots: &[(SnapshotName, Remark)],
) -> Result<usize, MaintenanceError> {
    let wanted: HashMap<ObjectId, &Remark> =
        snapshots.iter().map(|(name, reason)| (name.id, reason)).collect();
    let records: Vec<_> = history.live().filter(|r| wanted.contains_key(&r.name.id)).collect();
    check_floor(maintainer, &records)?;
    let forget = |record: &&SnapshotRecord| Declaration::Forget {
        snapshot: record.name,
        reason: wanted[&record.name.id].clone(),
    };
    let declarations: Vec<Declaration> = records.iter().map(forget).collect();
    maintainer.declare(&declarations)?;
    Ok(declarations.len())
}

/// No snapshot may go before the retention floor of the roster has passed.
pub fn check_floor(
    maintainer: &Maintainer<'_>,
    records: &[&SnapshotRecord],
) -> Result<(), MaintenanceError> {
    let floor = Duration::from_secs(maintainer.repository.roster.retention_floor_seconds);
    let now = maintainer.clock.now();
    for record in records.iter().filter(|_| !floor.is_zero()) {
        if now.duration_since(record.first_seen).unwrap_or_default() < floor {
            let until = record.first_seen.checked_add(floor).map_or(Timestamp::MAX, timestamp);
            return Err(MaintenanceError::Floor { snapshot: record.name.id, until });
        }
    }
    Ok(())
}

/// What prunes will free once these snapshots are forgotten: packs that no other snapshot uses.
///
/// Packs used in part are not counted: they go only by a repack.
pub fn freed_by(
    repository: &Repository,
    history: &History,
    identities: &[Identity],
    forgotten: &HashSet<ObjectId>,
) -> Result<Amount, MaintenanceError> {
    let reader = RefsReader::new(repository, history, identities);
    let (mut theirs, mut others) = (HashSet::new(), HashSet::new());
    let records: Vec<&SnapshotRecord> = history.live().collect();
    for batch in records.chunks(BATCH) {
        for (record, refs) in batch.iter().zip(reader.read_newest(batch)) {
            let is_theirs = forgotten.contains(&record.name.id);
            let packs = if is_theirs { &mut theirs } else { &mut others };
            packs.extend(refs?.packs.into_iter().map(|pack| pack.pack));
        }
    }
    let mut freed = Amount::default();
    for put in history.logs.values().flatten().flat_map(|record| &record.commit.puts) {
        if let ObjectName::Data(pack) = put.name
            && !others.contains(&pack)
            && theirs.remove(&pack)
        {
            freed.objects += 1;
            freed.bytes = freed.bytes.saturating_add(put.bytes);
        }
    }
    Ok(freed)
}
