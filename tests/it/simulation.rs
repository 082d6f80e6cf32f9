//! Many writers, maintainers, a copy and a restore on one store, in an order drawn from a seed.
//!
//! Not the program itself but its protocol: actors whose every step is one store operation, with
//! the program's own reading of logs, its planning, and its rule of what may be relied on. See
//! `format-spec/concurrency.md`, Simulation.

mod invariant;
mod maintainer;
mod replicator;
mod texts;
mod world;
mod writer;

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;

use maintainer::Maintainer;
use replicator::{Reader, Replicator};
use texts::{maintainer_id, writer_id};
use world::{Host, Task, World};
use writer::{LocalState, Writer};

/// Schedules of one run of the tests, unless `HOLDFAST_SCHEDULES` says another number.
const SCHEDULES: u64 = 10_000;
/// Simulated time of one schedule.
const HOURS_MAX: u64 = 24 * 60;

/// What is wrong with the protocol that is simulated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flaw {
    None,
    /// A prune intends and deletes at once.
    NoGrace,
    /// A writer commits without looking at the intents again.
    NoIntentCheck,
    /// A prune deletes what it planned, without reading everything again.
    NoSecondReading,
    /// A commit comes before its packs.
    CommitBeforePacks,
    /// A copy stores a commit before its objects.
    CopyCommitFirst,
    /// A copy carries tombstones over that are younger than the grace time.
    CopyYoungTombs,
    /// The age of an intent is told by the writer's own clock.
    WriterClock,
    /// A recall does not mind how old the intents are that it takes back.
    RecallUnchecked,
    /// What a maintainer planned is appended whatever others have appended meanwhile.
    StaleDeclarations,
    /// A repack commits without looking at the intents on what its refs name.
    RepackUnchecked,
    /// An old intent is taken back for a running backup that other maintainers know nothing of.
    HeldWithdrawn,
    /// A copy brings writers' logs first and tombstones last.
    CopyTombsLast,
}

/// What a schedule has more of than others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Focus {
    Prunes,
    Recalls,
    Repacks,
    LongRuns,
}

struct Outcome {
    violation: Option<String>,
    trace: Vec<String>,
    counts: BTreeMap<&'static str, u64>,
    steps: u64,
}

#[derive(Clone, Copy, PartialEq)]
enum Trace {
    Off,
    On,
}

/// Runs the schedule that the seed stands for.
fn run(seed: u64, flaw: Flaw, trace: Trace) -> Outcome {
    let world = Rc::new(RefCell::new(World::new(seed)));
    if trace == Trace::On {
        world.borrow_mut().trace = Some(Vec::new());
    }
    let tasks = actors(&world, flaw).into_iter().map(Some).collect();
    world::run(&world, tasks, HOURS_MAX);
    let mut world = world.borrow_mut();
    Outcome {
        violation: world.violation.take(),
        trace: world.trace.take().unwrap_or_default(),
        counts: std::mem::take(&mut world.counts),
        steps: world.steps,
    }
}

fn actors(world: &Rc<RefCell<World>>, flaw: Flaw) -> Vec<Task> {
    let mut draw = world.borrow_mut();
    let focus = [Focus::Prunes, Focus::Recalls, Focus::Repacks, Focus::LongRuns];
    let focus = focus[draw.below(4) as usize];
    let (writers, maintainers) =
        (2 + draw.below(3) as usize, 1 + usize::from(focus != Focus::Prunes || draw.chance(500)));
    let (crash_per_mille, lost_per_mille) = (draw.below(3) * 8, draw.below(3) * 8);
    let is_skewed = draw.chance(500);
    let (copies, deletes, restores) = (draw.below(3), draw.chance(500), draw.below(2));
    drop(draw);
    let host = |name: String| {
        let mut draw = world.borrow_mut();
        let wrong = 120 * world::HOUR;
        let is_wrong = is_skewed && draw.chance(500);
        let clock =
            if is_wrong { draw.below(2 * wrong).cast_signed() - wrong.cast_signed() } else { 0 };
        let deadline = Cell::new(None);
        Host { world: world.clone(), name, clock, crash_per_mille, lost_per_mille, deadline }
    };
    let mut tasks: Vec<Task> = Vec::new();
    let mut locals = Vec::new();
    for number in 0..writers {
        let local = Rc::new(RefCell::new(LocalState::default()));
        locals.push((writer_id(number), local.clone()));
        let host = host(format!("writer {number}"));
        let backups = 2 + world.borrow_mut().below(2);
        let (id, number) = (writer_id(number), number as u32 + 1);
        let writer = Writer { host, id, number, local, maintainers, flaw, focus, backups };
        tasks.push(Box::pin(writer.run()));
    }
    for number in 0..maintainers {
        let host = host(format!("maintainer {number}"));
        let is_neighbour = focus == Focus::LongRuns && number == 0;
        let is_neighbour = is_neighbour || world.borrow_mut().chance(200);
        let neighbour = is_neighbour.then(|| locals[number].clone());
        let actions = 5 + world.borrow_mut().below(5);
        let (id, may_repack) = (maintainer_id(number), number == 0);
        let maintainer = Maintainer { host, id, neighbour, may_repack, flaw, focus, actions };
        tasks.push(Box::pin(maintainer.run()));
    }
    let host_of_copy = host("copy".into());
    tasks.push(Box::pin(Replicator { host: host_of_copy, flaw, copies, deletes }.run()));
    tasks.push(Box::pin(Reader { host: host("reader".into()), restores }.run()));
    tasks
}

fn number_from_environment(name: &str, otherwise: u64) -> u64 {
    let Ok(text) = std::env::var(name) else { return otherwise };
    text.parse().unwrap_or_else(|_| panic!("{name}={text} is no number"))
}

/// The first of these schedules in which something is wrong.
fn first_violation(flaw: Flaw, base: u64, schedules: u64) -> Option<(u64, String)> {
    (0..schedules).find_map(|number| {
        let seed = base.wrapping_add(number);
        Some((seed, run(seed, flaw, Trace::Off).violation?))
    })
}

#[test]
fn no_schedule_lets_a_snapshot_lose_a_chunk() {
    let schedules = number_from_environment("HOLDFAST_SCHEDULES", SCHEDULES);
    let base = number_from_environment("HOLDFAST_SEED", 1);
    let mut counts: BTreeMap<&'static str, u64> = BTreeMap::new();
    let mut steps = 0;
    for seed in base..base + schedules {
        let outcome = run(seed, Flaw::None, Trace::Off);
        if let Some(violation) = outcome.violation {
            let trace = run(seed, Flaw::None, Trace::On).trace.join("\n");
            panic!("{trace}\n\n{violation}\nHOLDFAST_SEED={seed} HOLDFAST_SCHEDULES=1");
        }
        steps += outcome.steps;
        for (what, count) in outcome.counts {
            *counts.entry(what).or_default() += count;
        }
    }
    eprintln!("{schedules} schedules, {steps} steps: {counts:#?}");
}

macro_rules! caught {
    ($($test:ident: $flaw:ident),* $(,)?) => {$(
        #[test]
        fn $test() {
            let found = first_violation(Flaw::$flaw, 1, FLAWED_SCHEDULES);
            eprintln!("{:?}: {found:?}", Flaw::$flaw);
            if let (Some((seed, _)), Ok(path)) = (&found, std::env::var("HOLDFAST_TRACE")) {
                let trace = run(*seed, Flaw::$flaw, Trace::On).trace;
                std::fs::write(path, trace.join("\n")).unwrap();
            }
            assert!(found.is_some(), "{:?} was not caught", Flaw::$flaw);
        }
    )*};
}

/// In so many schedules every flaw must show.
const FLAWED_SCHEDULES: u64 = 3000;

caught! {
    a_prune_without_grace_is_caught: NoGrace,
    a_writer_that_does_not_look_again_is_caught: NoIntentCheck,
    a_prune_that_does_not_read_again_is_caught: NoSecondReading,
    a_commit_before_its_packs_is_caught: CommitBeforePacks,
    a_copy_of_commits_first_is_caught: CopyCommitFirst,
    a_copy_of_young_tombstones_is_caught: CopyYoungTombs,
    a_writer_that_trusts_its_clock_is_caught: WriterClock,
    a_recall_of_what_is_being_deleted_is_caught: RecallUnchecked,
    a_stale_tombstone_is_caught: StaleDeclarations,
    a_repack_that_does_not_look_again_is_caught: RepackUnchecked,
    a_held_object_whose_intent_is_taken_back_is_caught: HeldWithdrawn,
    a_copy_of_tombstones_last_is_caught: CopyTombsLast,
}
