//! Time, chance, and stores whose operations take time: one queue of events, one thread.
//!
//! An actor is a future; each store operation is one `await`. What an operation does takes effect
//! at a moment between question and answer, also when the actor that asked is dead by then.

use std::cell::{Cell, RefCell};
use std::cmp::{Ordering, Reverse};
use std::collections::{BTreeMap, BinaryHeap};
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, SystemTime};

use holdfast::format::commit::{Commit, ObjectName};
use holdfast::format::refs::PackUse;
use holdfast::format::tombstone::Tombstone;
use holdfast::id::{ActorId, ObjectId};
use holdfast::store::Put;

use super::invariant::Truth;

pub const HOUR: u64 = 3600;
/// The grace time in seconds.
pub const GRACE: u64 = 72 * HOUR;
/// Before everything, so that clocks may be wrong in both directions.
const START: u64 = 1_000_000 * HOUR;

pub fn time(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
}

/// Name of anything in a store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Key {
    Log(ActorId, u64),
    Object(ObjectName),
    Tomb(u64),
}

/// What is in a store: texts as values, no bytes.
#[derive(Debug)]
pub enum Content {
    /// Chunks by number.
    Pack(Vec<u32>),
    /// The packs that a segment describes.
    Index(Vec<(ObjectId, Vec<u32>)>),
    /// The chunks that a snapshot references.
    Snapshot(Vec<u32>),
    Refs(Vec<PackUse>),
    Commit(Commit),
    Tomb(Tombstone),
}

#[derive(Debug, Clone)]
pub struct Object {
    pub content: Rc<Content>,
    pub first_seen: u64,
}

/// Which store: the source, or its replica.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    Source,
    Replica,
}

type Objects = BTreeMap<Key, Object>;
type Effect = Box<dyn FnOnce(&mut World)>;

enum Event {
    Wake(usize),
    Effect(Effect),
}

/// Everything of one schedule.
pub struct World {
    pub now: u64,
    random: u64,
    drawn: u32,
    order: u64,
    queue: BinaryHeap<Reverse<(u64, u64)>>,
    events: BTreeMap<u64, Event>,
    running: usize,
    stores: [Objects; 2],
    truths: [Truth; 2],
    /// Names of the steps, where somebody wants to read them.
    pub trace: Option<Vec<String>>,
    /// The first thing that must not be.
    pub violation: Option<String>,
    /// What happened how often: a schedule in which nothing happens proves nothing.
    pub counts: BTreeMap<&'static str, u64>,
}

impl World {
    pub fn new(seed: u64) -> Self {
        Self {
            now: START,
            random: seed,
            drawn: 0,
            order: 0,
            queue: BinaryHeap::new(),
            events: BTreeMap::new(),
            running: 0,
            stores: [Objects::new(), Objects::new()],
            truths: [Truth::default(), Truth::default()],
            trace: None,
            violation: None,
            counts: BTreeMap::new(),
        }
    }

    /// `SplitMix64` (Steele, Lea, Flood 2014).
    fn next(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `end`; 0 where that is 0.
    pub fn below(&mut self, end: u64) -> u64 {
        if end == 0 { 0 } else { self.next() % end }
    }

    pub fn chance(&mut self, per_mille: u64) -> bool {
        self.below(1000) < per_mille
    }

    /// Between the two, each order of magnitude as likely as the other.
    pub fn spread(&mut self, low: u64, high: u64) -> u64 {
        let octaves = u64::from((high / low.max(1)).max(1).ilog2());
        let octave = self.below(octaves + 1);
        let from = low.max(1) << octave;
        (from + self.below(from)).min(high)
    }

    /// A name that nobody has.
    pub fn draw_id(&mut self) -> ObjectId {
        self.drawn += 1;
        let mut id = [0; 32];
        id[..4].copy_from_slice(&self.drawn.to_be_bytes());
        ObjectId(id)
    }

    pub fn objects(&self, place: Place) -> &Objects {
        &self.stores[place as usize]
    }

    fn at(&mut self, when: u64, event: Event) {
        self.order += 1;
        self.queue.push(Reverse((when.max(self.now), self.order)));
        self.events.insert(self.order, event);
    }

    pub fn note(&mut self, line: impl FnOnce() -> String) {
        let now = self.now - START;
        if let Some(trace) = &mut self.trace {
            let line = line();
            let (hours, minutes, seconds) = (now / HOUR, now / 60 % 60, now % 60);
            trace.push(format!("{hours:4} h {minutes:02}:{seconds:02}  {line}"));
        }
    }

    pub fn count(&mut self, what: &'static str) {
        *self.counts.entry(what).or_default() += 1;
    }

    pub fn violate(&mut self, what: String) {
        self.note(|| format!("VIOLATION {what}"));
        self.violation.get_or_insert(what);
    }

    fn put(&mut self, place: Place, key: Key, content: Rc<Content>) -> Put {
        if self.objects(place).contains_key(&key) {
            return Put::Exists;
        }
        let object = Object { content, first_seen: self.now };
        self.stores[place as usize].insert(key, object);
        let (objects, truth) = (&self.stores[place as usize], &mut self.truths[place as usize]);
        if let Some(what) = truth.after_put(place, &key, objects, self.now) {
            self.violate(what);
        }
        Put::Created
    }

    fn delete(&mut self, place: Place, key: &Key) {
        if self.stores[place as usize].remove(key).is_none() {
            return;
        }
        self.count(if place == Place::Source { "deleted" } else { "deleted there" });
        let (objects, truth) = (&self.stores[place as usize], &mut self.truths[place as usize]);
        if let Some(what) = truth.after_delete(place, key, objects, self.now) {
            self.violate(what);
        }
    }
}

/// Why an actor does not go on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stop {
    /// The process is dead; what it had in memory is gone.
    Crash,
    /// The store did not answer; what was asked may have been done, or may be done later.
    Lost,
    /// It gives up by itself, and says why.
    Refused(&'static str),
}

/// What every actor of a schedule has: a host with a clock that may be wrong.
pub struct Host {
    pub world: Rc<RefCell<World>>,
    pub name: String,
    /// Added to the true time, in seconds.
    pub clock: i64,
    pub crash_per_mille: u64,
    pub lost_per_mille: u64,
    /// By when what is asked now must have taken effect: the assumptions about time.
    pub deadline: Cell<Option<u64>>,
}

type Answer<T> = Result<T, Stop>;

impl Host {
    pub fn now(&self) -> SystemTime {
        let now = self.world.borrow().now;
        time(now.saturating_add_signed(self.clock))
    }

    pub fn true_now(&self) -> u64 {
        self.world.borrow().now
    }

    pub fn below(&self, end: u64) -> u64 {
        self.world.borrow_mut().below(end)
    }

    pub fn chance(&self, per_mille: u64) -> bool {
        self.world.borrow_mut().chance(per_mille)
    }

    pub fn draw_id(&self) -> ObjectId {
        self.world.borrow_mut().draw_id()
    }

    pub fn note(&self, line: impl FnOnce() -> String) {
        self.world.borrow_mut().note(|| format!("{}: {}", self.name, line()));
    }

    pub fn count(&self, what: &'static str) {
        self.world.borrow_mut().count(what);
    }

    /// What is asked from now on takes effect within `seconds`, until this is called again.
    pub fn hurry(&self, seconds: Option<u64>) {
        self.deadline.set(seconds.map(|seconds| self.true_now() + seconds));
    }

    fn within_deadline(&self, seconds: u64) -> u64 {
        let left = self.deadline.get().map(|at| at.saturating_sub(self.true_now()));
        left.map_or(seconds, |left| seconds.min(left * 3 / 4))
    }

    /// Sleeps between the two, hours as likely as minutes; less where there is a deadline.
    pub async fn pause(&self, low: u64, high: u64) {
        let seconds = self.world.borrow_mut().spread(low, high);
        self.sleep(self.within_deadline(seconds)).await;
    }

    /// A host that sleeps in the worst place, so many times in a thousand.
    pub async fn sleep_at_times(&self, per_mille: u64) {
        if self.chance(per_mille) {
            self.pause(HOUR, 2 * GRACE).await;
        }
    }

    pub async fn sleep(&self, seconds: u64) {
        let until = self.true_now() + seconds;
        Sleep { world: self.world.clone(), until, is_registered: false }.await;
    }

    /// Mostly seconds; now and then the network, or this host, hangs for hours.
    fn delay(&self) -> u64 {
        let seconds = {
            let mut world = self.world.borrow_mut();
            match world.below(100) {
                0..=89 => world.below(4),
                90..=98 => world.below(20 * 60),
                _ => world.spread(4 * HOUR, 100 * HOUR),
            }
        };
        self.within_deadline(seconds)
    }

    /// Asks the store for something: dies, gets no answer, or gets it.
    async fn request<T: 'static>(&self, what: impl FnOnce(&mut World) -> T + 'static) -> Answer<T> {
        let slot: Rc<RefCell<Option<T>>> = Rc::default();
        let filled = slot.clone();
        let run: Effect = Box::new(move |world| *filled.borrow_mut() = Some(what(world)));
        let effect = self.delay();
        let (is_crash, is_lost) =
            (self.chance(self.crash_per_mille), self.chance(self.lost_per_mille));
        let is_done = !(is_crash || is_lost) || self.chance(600);
        if is_done {
            let mut world = self.world.borrow_mut();
            let when = world.now + effect;
            world.at(when, Event::Effect(run));
        }
        if is_crash {
            self.count("crash");
            self.note(|| format!("is killed; its last request {}", done_word(is_done)));
            return Err(Stop::Crash);
        }
        if is_lost {
            self.count("lost answer");
            // It may be given up before it takes effect.
            self.sleep(self.delay().min(HOUR)).await;
            self.note(|| format!("has no answer; the request {}", done_word(is_done)));
            return Err(Stop::Lost);
        }
        self.sleep(effect).await;
        self.sleep(self.delay()).await;
        loop {
            if let Some(answer) = slot.borrow_mut().take() {
                return Ok(answer);
            }
            // Woken by another event of this very second: the effect is still in the queue.
            self.sleep(0).await;
        }
    }

    pub async fn put(&self, place: Place, key: Key, content: Content) -> Answer<Put> {
        let content = Rc::new(content);
        let (name, clone) = (self.name.clone(), content.clone());
        let what = move |world: &mut World| {
            let put = world.put(place, key, clone);
            world.note(|| format!("{name}: put {key:?} {place:?} {put:?} {content:?}"));
            put
        };
        self.request(what).await
    }

    pub async fn put_shared(&self, place: Place, key: Key, content: Rc<Content>) -> Answer<Put> {
        let name = self.name.clone();
        let what = move |world: &mut World| {
            let put = world.put(place, key, content);
            world.note(|| format!("{name}: put {key:?} {place:?} {put:?}"));
            put
        };
        self.request(what).await
    }

    pub async fn delete(&self, place: Place, key: Key) -> Answer<()> {
        let name = self.name.clone();
        let what = move |world: &mut World| {
            world.note(|| format!("{name}: delete {key:?} {place:?}"));
            world.delete(place, &key);
        };
        self.request(what).await
    }

    pub async fn get(&self, place: Place, key: Key) -> Answer<Option<Object>> {
        self.request(move |world| world.objects(place).get(&key).cloned()).await
    }

    /// A listing sees all that is there from its beginning to its end; what comes or goes
    /// meanwhile it sees or not.
    pub async fn list(
        &self,
        place: Place,
        wanted: impl Fn(&Key) -> bool + Copy + 'static,
    ) -> Answer<Vec<(Key, Object)>> {
        let all = move |world: &mut World| -> Vec<(Key, Object)> {
            let objects = world.objects(place).iter().filter(|(key, _)| wanted(key));
            objects.map(|(key, object)| (*key, object.clone())).collect()
        };
        let before = self.request(all).await?;
        let after = self.request(all).await?;
        let mut world = self.world.borrow_mut();
        let mut seen = Vec::with_capacity(after.len());
        let (mut before, mut after) = (before.into_iter().peekable(), after.into_iter().peekable());
        loop {
            // Both in the order of names.
            let next = match (before.peek(), after.peek()) {
                (None, None) => return Ok(seen),
                (Some((one, _)), Some((other, _))) => one.cmp(other),
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
            };
            if next.is_eq() {
                before.next();
            }
            let is_seen = next.is_eq() || world.chance(500);
            let entry = if next.is_lt() { before.next() } else { after.next() };
            seen.extend(entry.filter(|_| is_seen));
        }
    }
}

fn done_word(is_done: bool) -> &'static str {
    if is_done { "is done, or will be" } else { "is not done" }
}

struct Sleep {
    world: Rc<RefCell<World>>,
    until: u64,
    is_registered: bool,
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<()> {
        let world = self.world.clone();
        let mut world = world.borrow_mut();
        if self.is_registered && world.now >= self.until {
            return Poll::Ready(());
        }
        if !self.is_registered {
            self.is_registered = true;
            let task = world.running;
            world.at(self.until, Event::Wake(task));
        }
        Poll::Pending
    }
}

/// Several operations of one actor in flight together; the first failure is the answer.
pub async fn together<T>(
    mut all: Vec<Pin<Box<dyn Future<Output = Answer<T>> + '_>>>,
) -> Answer<Vec<T>> {
    let mut answers: Vec<Option<Answer<T>>> = all.iter().map(|_| None).collect();
    std::future::poll_fn(|context| {
        for (future, answer) in all.iter_mut().zip(&mut answers) {
            if answer.is_none()
                && let Poll::Ready(ready) = future.as_mut().poll(context)
            {
                *answer = Some(ready);
            }
        }
        if answers.iter().all(Option::is_some) { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
    // A killed process knows nothing of the others.
    let is_crash = |answer: &Option<Answer<T>>| matches!(answer, Some(Err(Stop::Crash)));
    if answers.iter().any(is_crash) {
        return Err(Stop::Crash);
    }
    answers.into_iter().flatten().collect()
}

pub type Task = Pin<Box<dyn Future<Output = ()>>>;

/// Runs all actors until they are through, something is wrong, or the time is over.
pub fn run(world: &Rc<RefCell<World>>, mut tasks: Vec<Option<Task>>, hours_max: u64) {
    for task in 0..tasks.len() {
        poll(world, &mut tasks, task);
    }
    let end = START + hours_max * HOUR;
    loop {
        let event = {
            let mut world = world.borrow_mut();
            let Some(Reverse((when, order))) = world.queue.pop() else { return };
            if when > end || world.violation.is_some() {
                return;
            }
            world.now = when;
            world.events.remove(&order)
        };
        match event {
            Some(Event::Wake(task)) => poll(world, &mut tasks, task),
            Some(Event::Effect(effect)) => effect(&mut world.borrow_mut()),
            None => {}
        }
    }
}

fn poll(world: &Rc<RefCell<World>>, tasks: &mut [Option<Task>], number: usize) {
    world.borrow_mut().running = number;
    if let Some(task) = &mut tasks[number]
        && task.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_ready()
    {
        tasks[number] = None;
    }
}
