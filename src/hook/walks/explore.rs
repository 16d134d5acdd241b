//! Every order in which the actors of a scenario can act, with at most one thing that goes wrong.

use std::collections::{HashMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::rc::Rc;

use super::actors::{Actor, Role, State, backup};
use super::step::{Kind, Twist};
use super::world::{Container, Guest, WAIT_MS, World};
use crate::config::Settings;
use crate::run::Run;
use crate::vzdump::Mode;

/// So often nothing happens but that time passes; then whoever still waits does so for ever.
const MOST_WAITS: u32 = 12;

/// So many ends that are wrong show what is wrong.
pub const ENOUGH: usize = 3;

pub struct Scenario {
    pub name: &'static str,
    pub mode: Mode,
    pub containers: Vec<Container>,
    pub second: Second,
    pub faults: usize,
    pub disk_fills: bool,
    pub settings: Settings,
    /// That container is removed by somebody while it is down.
    pub removed: Option<usize>,
}

/// Who acts beside vzdump and the guard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Second {
    Nobody,
    /// At any time while the backup is made. The guard comes after both.
    Meanwhile(Other),
    /// At any time after vzdump and its hook were killed together, beside the guard.
    AfterDeath(Other),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Other {
    Guard,
    Person,
    NextJob,
    /// The node boots: the guests are down before, and all processes gone.
    Boot,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    /// The actor's process is killed; what it asks the engine for has been sent or not.
    Killed(usize, bool),
    /// vzdump itself is killed, and its hook not.
    WorkerKilled,
    /// vzdump and its hook are killed.
    GroupKilled(bool),
    AnswerLost(usize),
    DiskFull,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Move {
    Goes(usize, Twist),
    Begins,
    CarriedOut(usize),
    Removed(usize),
    TimePasses,
    Wrong(Fault),
}

#[derive(Clone)]
struct Node {
    world: World,
    actors: Vec<Actor>,
    begun: bool,
    removed: bool,
    faults: usize,
    group_killed: bool,
    waits: u32,
    path: Option<Rc<Path>>,
}

struct Path {
    words: String,
    before: Option<Rc<Path>>,
}

/// What a scenario came to.
#[derive(Debug, Default)]
pub struct Walked {
    pub states: usize,
    pub ends: usize,
    /// Orders from the beginning to an end.
    pub interleavings: f64,
    /// Steps of the longest of them.
    pub depth: usize,
    /// What was wrong at ends, with the way there. With [`ENOUGH`] of them the walk is over.
    pub wrong: Vec<String>,
}

pub fn explore(scenario: &Scenario) -> Walked {
    let mut first = Node {
        world: World::new(scenario.containers.clone()),
        actors: Vec::new(),
        begun: false,
        removed: false,
        faults: scenario.faults,
        group_killed: false,
        waits: 0,
        path: None,
    };
    first.add(scenario, Role::Vzdump { pid: 100, parts: backup(scenario.mode) });
    let mut walked = Walked::default();
    let mut known: HashSet<u64> = HashSet::from([first.key()]);
    let mut ways: HashMap<u64, Vec<u64>> = HashMap::new();
    let start = first.key();
    let mut stack = vec![first];
    while let Some(node) = stack.pop() {
        let key = node.key();
        let moves = node.moves(scenario);
        walked.states += 1;
        let mut next = Vec::with_capacity(moves.len());
        if moves.iter().all(|step| matches!(step, Move::Wrong(_))) {
            walked.ends += 1;
            if let Some(why) = node.wrong(scenario) {
                walked.wrong.push(format!("{}: {why}{}", scenario.name, node.way()));
                if walked.wrong.len() >= ENOUGH {
                    return walked;
                }
            }
        }
        for step in moves {
            let mut after = node.clone();
            after.make(scenario, step);
            let key = after.key();
            next.push(key);
            if known.insert(key) {
                stack.push(after);
            }
        }
        ways.insert(key, next);
    }
    let (interleavings, depth) = measured(start, &ways);
    walked.interleavings = interleavings;
    walked.depth = depth;
    walked
}

/// How many ways lead from there to an end, and how long the longest is.
fn measured(start: u64, ways: &HashMap<u64, Vec<u64>>) -> (f64, usize) {
    let mut known: HashMap<u64, (f64, usize)> = HashMap::new();
    let mut stack = vec![(start, false)];
    while let Some((key, expanded)) = stack.pop() {
        if known.contains_key(&key) {
            continue;
        }
        let next = &ways[&key];
        if expanded || next.is_empty() {
            let of = |key: &u64| known.get(key).copied().expect("the states are in no circle");
            let count: f64 = next.iter().map(|key| of(key).0).sum();
            let depth = next.iter().map(|key| of(key).1 + 1).max().unwrap_or(0);
            known.insert(key, (if next.is_empty() { 1.0 } else { count }, depth));
        } else {
            stack.push((key, true));
            stack.extend(next.iter().map(|key| (*key, false)));
        }
    }
    known[&start]
}

impl Node {
    fn key(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        self.world.hash_into(&mut hasher);
        for actor in &self.actors {
            (&actor.role, &actor.log, &actor.state).hash(&mut hasher);
            (actor.waited || actor.asleep_since != self.world.version).hash(&mut hasher);
        }
        (self.begun, self.removed, self.faults, self.group_killed, self.waits).hash(&mut hasher);
        hasher.finish()
    }

    fn add(&mut self, scenario: &Scenario, role: Role) {
        let mut actor = Actor::new(role);
        if let Role::Vzdump { pid, .. } = &actor.role {
            self.world.alive.insert(*pid);
        }
        if !actor.is_vzdump() {
            self.go_on(scenario, &mut actor, self.actors.len(), (false, Twist::Straight));
        }
        self.actors.push(actor);
    }

    fn go_on(&mut self, scenario: &Scenario, actor: &mut Actor, me: usize, how: (bool, Twist)) {
        actor.go_on(me, &mut self.world, scenario.mode, &scenario.settings, how);
    }

    fn job_is_at_work(&self) -> bool {
        self.actors[0].lives()
    }

    /// Whoever is no part of the pair that is explored comes when that can do nothing more.
    fn comes_later(&self, scenario: &Scenario, at: usize) -> bool {
        let actor = &self.actors[at];
        match scenario.second {
            Second::Nobody => false,
            Second::Meanwhile(_) => actor.role == Role::Guard && at == self.first_guard(),
            Second::AfterDeath(_) if self.job_is_at_work() => at != 0,
            // The guard that the next job starts.
            Second::AfterDeath(Other::NextJob) => {
                let next = self.actors.iter().rposition(Actor::is_vzdump);
                next.is_some_and(|next| next > 0 && at > next && self.actors[next].lives())
            }
            Second::AfterDeath(_) => false,
        }
    }

    fn first_guard(&self) -> usize {
        let guard = |actor: &Actor| actor.role == Role::Guard;
        self.actors.iter().position(guard).unwrap_or(usize::MAX)
    }

    fn moves(&self, scenario: &Scenario) -> Vec<Move> {
        let mut moves: Vec<Move> = (0..self.world.in_flight.len()).map(Move::CarriedOut).collect();
        let can = |at: &usize| self.can(*at);
        let first = (0..self.actors.len()).filter(|at| !self.comes_later(scenario, *at));
        moves.extend(first.filter(can).map(|at| self.goes(at)));
        if !self.begun && self.may_begin(scenario) {
            moves.push(Move::Begins);
        }
        if let Some(at) = scenario.removed.filter(|_| !self.removed) {
            let id = &scenario.containers[at].id;
            if self.world.containers.iter().any(|it| it.id == *id)
                && !self.world.running().contains(id)
            {
                moves.push(Move::Removed(at));
            }
        }
        if moves.is_empty() {
            let later = (0..self.actors.len()).filter(|at| self.comes_later(scenario, *at));
            moves.extend(later.filter(can).map(|at| self.goes(at)));
        }
        let waits = |actor: &Actor| matches!(actor.state, State::Ready(_));
        if moves.is_empty() && self.waits < MOST_WAITS && self.actors.iter().any(waits) {
            moves.push(Move::TimePasses);
        }
        if self.faults > 0 {
            moves.extend(self.faults(scenario).into_iter().map(Move::Wrong));
        }
        moves
    }

    fn can(&self, at: usize) -> bool {
        let actor = &self.actors[at];
        match &actor.state {
            State::Between => true,
            State::Ended | State::Dead => false,
            State::Ready(next) => match &next.kind {
                Kind::Lock { path, waits: true } => {
                    actor.waited || !self.world.locks.contains_key(path)
                }
                Kind::Sleep => actor.waited || actor.asleep_since != self.world.version,
                _ => true,
            },
        }
    }

    fn goes(&self, at: usize) -> Move {
        let twist = match &self.actors[at].state {
            State::Ready(next) => match &next.kind {
                Kind::Lock { path, waits: true } if self.world.locks.contains_key(path) => {
                    Twist::TimedOut
                }
                _ => Twist::Straight,
            },
            _ => Twist::Straight,
        };
        Move::Goes(at, twist)
    }

    fn may_begin(&self, scenario: &Scenario) -> bool {
        match scenario.second {
            Second::Nobody => false,
            Second::Meanwhile(Other::Guard) => self.first_guard() != usize::MAX,
            Second::Meanwhile(_) => true,
            Second::AfterDeath(_) => self.group_killed,
        }
    }

    fn faults(&self, scenario: &Scenario) -> Vec<Fault> {
        let job = &self.actors[0];
        let sends = |actor: &Actor| match &actor.state {
            State::Ready(next) => matches!(next.kind, Kind::Stop(_)),
            _ => false,
        };
        let mut faults = Vec::new();
        if job.lives() {
            faults.push(Fault::GroupKilled(false));
            if sends(job) {
                faults.push(Fault::GroupKilled(true));
            }
        }
        if matches!(scenario.second, Second::AfterDeath(_)) {
            return if self.group_killed { Vec::new() } else { faults };
        }
        if job.lives() && self.world.alive.contains(&100) {
            faults.push(Fault::WorkerKilled);
        }
        for (at, actor) in self.actors.iter().enumerate() {
            let State::Ready(next) = &actor.state else { continue };
            faults.push(Fault::Killed(at, false));
            if sends(actor) {
                faults.push(Fault::Killed(at, true));
            }
            if matches!(next.kind, Kind::Stop(_) | Kind::Start(_)) {
                faults.push(Fault::AnswerLost(at));
            }
            if next.kind == Kind::Change && scenario.disk_fills && !self.world.disk_full {
                faults.push(Fault::DiskFull);
            }
        }
        faults.dedup();
        faults
    }

    fn make(&mut self, scenario: &Scenario, step: Move) {
        let words = self.words(step);
        match step {
            Move::Goes(at, twist) => self.goes_on(scenario, at, twist),
            Move::Begins => {
                self.begun = true;
                match scenario.second {
                    Second::Meanwhile(other) | Second::AfterDeath(other) => {
                        self.begins(scenario, other);
                    }
                    Second::Nobody => {}
                }
            }
            Move::CarriedOut(at) => {
                let id = self.world.in_flight.remove(at);
                self.world.stop(&id);
            }
            Move::Removed(at) => {
                self.removed = true;
                let id = scenario.containers[at].id.clone();
                self.world.containers.retain(|container| container.id != id);
                self.world.changed();
            }
            Move::TimePasses => {
                self.waits += 1;
                self.world.now_ms += WAIT_MS;
                // Somebody has made room.
                self.world.disk_full = false;
                self.actors.iter_mut().for_each(|actor| actor.waited = true);
            }
            Move::Wrong(fault) => self.goes_wrong(scenario, fault),
        }
        self.path = Some(Rc::new(Path { words, before: self.path.take() }));
        while self.world.armed > 0 {
            self.world.armed -= 1;
            self.add(scenario, Role::Guard);
        }
    }

    fn goes_on(&mut self, scenario: &Scenario, at: usize, twist: Twist) {
        let mut actor = self.actors[at].clone();
        let due = matches!(actor.state, State::Ready(_));
        actor.waited = false;
        self.go_on(scenario, &mut actor, at, (due, twist));
        // An orphaned hook has nobody to call another.
        if let Role::Vzdump { pid, .. } = &actor.role
            && !self.world.alive.contains(pid)
            && actor.state == State::Between
        {
            actor.state = State::Ended;
        }
        self.actors[at] = actor;
    }

    fn begins(&mut self, scenario: &Scenario, other: Other) {
        match other {
            Other::Guard => self.add(scenario, Role::Guard),
            Other::Person => self.add(scenario, Role::Person),
            Other::NextJob => {
                self.add(scenario, Role::Vzdump { pid: 200, parts: backup(scenario.mode) });
            }
            Other::Boot => {
                for (at, actor) in self.actors.iter_mut().enumerate() {
                    if actor.lives() {
                        actor.die(at, &mut self.world, false);
                    }
                }
                self.world.locks.clear();
                self.world.alive.clear();
                self.world.boot += 1;
                self.world.now_ms = 5_000;
                self.world.stop_guest();
                self.world.start_guest();
                self.add(scenario, Role::Boot);
            }
        }
    }

    fn goes_wrong(&mut self, scenario: &Scenario, fault: Fault) {
        self.faults -= 1;
        match fault {
            Fault::Killed(at, sent) => {
                let mut actor = self.actors[at].clone();
                actor.die(at, &mut self.world, sent);
                if let Role::Vzdump { pid, .. } = &actor.role
                    && self.world.alive.contains(pid)
                {
                    actor.hook_was_killed(&mut self.world);
                }
                self.actors[at] = actor;
            }
            Fault::WorkerKilled => {
                self.world.alive.remove(&100);
                self.world.changed();
                if self.actors[0].state == State::Between {
                    self.actors[0].state = State::Dead;
                }
            }
            Fault::GroupKilled(sent) => {
                self.group_killed = true;
                self.world.alive.remove(&100);
                let mut actor = self.actors[0].clone();
                actor.die(0, &mut self.world, sent);
                self.actors[0] = actor;
            }
            Fault::AnswerLost(at) => self.goes_on(scenario, at, Twist::Lost),
            Fault::DiskFull => self.world.disk_full = true,
        }
    }

    fn words(&self, step: Move) -> String {
        let next = |at: usize| match &self.actors[at].state {
            State::Ready(next) => next.words.clone(),
            _ => format!("{:?}", self.actors[at].role),
        };
        let role = |at: usize| match &self.actors[at].role {
            Role::Vzdump { pid, parts } => {
                let part = parts.first().map(|part| format!("{part:?}")).unwrap_or_default();
                format!("hook {pid} {part}")
            }
            other => format!("{other:?} {at}"),
        };
        match step {
            Move::Goes(at, twist) => format!("{}: {} ({twist:?})", role(at), next(at)),
            Move::Wrong(Fault::Killed(at, sent)) => {
                format!("KILLED (sent: {sent}) before: {}: {}", role(at), next(at))
            }
            other => format!("{other:?}, before: {}: {}", role(0), next(0)),
        }
    }

    fn way(&self) -> String {
        let mut words = Vec::new();
        let mut path = self.path.as_ref();
        while let Some(step) = path {
            words.push(step.words.as_str());
            path = step.before.as_ref();
        }
        words.reverse();
        format!("\n    {}", words.join("\n    "))
    }

    /// What is wrong with this end, if anything is.
    fn wrong(&self, scenario: &Scenario) -> Option<String> {
        let ran = |container: &&Container| container.status == super::world::Status::Running;
        let before: Vec<&str> =
            scenario.containers.iter().filter(ran).map(|it| it.id.as_str()).collect();
        let running = self.world.running();
        let is_removed =
            |id: &str| scenario.removed.is_some_and(|at| scenario.containers[at].id == id);
        let is_down = |id: &&&str| {
            let excused = self.removed && is_removed(id);
            !excused && !running.iter().any(|it| it == **id)
        };
        if let Some(down) = before.iter().find(is_down) {
            return Some(format!("{} is down, and nobody is left to bring it back", &down[..1]));
        }
        if let Some(up) = running.iter().find(|id| !before.contains(&id.as_str())) {
            return Some(format!("{} runs, and did not before", &up[..1]));
        }
        if self.world.guest != Guest::Running {
            return Some(format!("the guest is {:?}", self.world.guest));
        }
        let is_run = |path: &&std::path::PathBuf| path.to_string_lossy().contains("/runs/");
        let left = self.world.files.iter().find(|(path, _)| is_run(path));
        // Nothing of it is down: the backup died before its guard was started, or its guard died when it only watched that
        // all stays up. The next job or boot ends it.
        let journalled = self.world.records.iter().any(|record| record.json()["kind"] == "backup");
        let is_harmless = |run: &Run| run.quiesce.is_none() && !journalled || run.only_looks();
        let is_ended_by_somebody =
            matches!(scenario.second, Second::AfterDeath(Other::NextJob | Other::Boot));
        if let Some((path, run)) = left
            && (is_ended_by_somebody
                || !serde_json::from_slice(&run.bytes()).is_ok_and(|run| is_harmless(&run)))
        {
            return Some(format!("{} is left", path.display()));
        }
        let records = self.world.records.iter().map(super::world::Blob::json);
        let backups: Vec<String> = records
            .filter(|record| record["kind"] == "backup")
            .map(|record| record["run"].to_string())
            .collect();
        let mut once = backups.clone();
        once.sort();
        once.dedup();
        (once.len() < backups.len()).then(|| format!("a run is journalled twice: {backups:?}"))
    }
}
