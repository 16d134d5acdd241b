//! Who acts on the node, each by the production function that does.

use std::rc::Rc;

use super::step::{self, Entry, Led, Next, Twist};
use super::world::{Guest, World};
use crate::config::Settings;
use crate::hook::budget::Budget;
use crate::hook::guest_phases::GuestCall;
use crate::hook::{Due, duties, job_phases};
use crate::quiesce::{self, Errand};
use crate::sys::process::Process;
use crate::sys::{Root, clock};
use crate::vzdump::{Call, GuestType, Job, Mode, Phase, Subject, Vmid};

pub const VMID: Vmid = Vmid(9001);

/// Longer than any walk.
const LIMIT: std::time::Duration = std::time::Duration::from_secs(1_000_000);

/// What vzdump does, one after the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Part {
    /// The hook with a phase, by its place among all.
    Calls(usize),
    Freezes,
    Thaws,
    ShutsDown,
    Starts,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// A worker of vzdump with that pid: the part that it is at, and those that come after it.
    Vzdump {
        pid: i32,
        parts: Vec<Part>,
    },
    Guard,
    /// `stillpoint resume`.
    Person,
    /// `stillpoint recover`.
    Boot,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum State {
    /// It does that next.
    Ready(Next),
    /// vzdump itself does something.
    Between,
    Ended,
    Dead,
}

#[derive(Clone, Debug)]
pub struct Actor {
    pub role: Role,
    pub log: Rc<Vec<Entry>>,
    pub state: State,
    /// Of the world, when it went to sleep.
    pub asleep_since: u64,
    pub waited: bool,
}

pub fn part(phase: Phase) -> Part {
    Part::Calls(Phase::ALL.iter().position(|known| *known == phase).expect("it is one of all"))
}

fn phase(at: usize) -> Phase {
    Phase::ALL[at]
}

/// A backup that nothing goes wrong with.
pub fn backup(mode: Mode) -> Vec<Part> {
    let first = [Phase::JobStart, Phase::BackupStart, Phase::PreStop].map(part);
    let last = [Phase::LogEnd, Phase::JobEnd].map(part);
    let copy = match mode {
        Mode::Stop => {
            vec![Part::ShutsDown, part(Phase::BackupEnd), Part::Starts, part(Phase::PostRestart)]
        }
        _ => vec![Part::Freezes, Part::Thaws, part(Phase::PostRestart), part(Phase::BackupEnd)],
    };
    [first.to_vec(), copy, last.to_vec()].concat()
}

impl Actor {
    pub fn new(role: Role) -> Actor {
        let state = State::Between;
        Actor { role, log: Rc::default(), state, asleep_since: 0, waited: false }
    }

    pub fn lives(&self) -> bool {
        !matches!(self.state, State::Ended | State::Dead)
    }

    pub fn is_vzdump(&self) -> bool {
        matches!(self.role, Role::Vzdump { .. })
    }

    /// Goes on to the next thing that others may see; `due`: after doing the one that it stands before.
    pub fn go_on(
        &mut self,
        me: usize,
        world: &mut World,
        mode: Mode,
        settings: &Settings,
        (due, twist): (bool, Twist),
    ) {
        let role = self.role.clone();
        let part = match &role {
            Role::Vzdump { parts, .. } => match parts.first() {
                Some(Part::Calls(at)) => Some(phase(*at)),
                Some(own) => return self.vzdump_does(*own, world),
                None => {
                    self.state = State::Ended;
                    if let Role::Vzdump { pid, .. } = role {
                        world.alive.remove(&pid);
                        world.changed();
                    }
                    return;
                }
            },
            _ => None,
        };
        let root = Root::at("/tmp/stillpoint-walk".as_ref());
        let work = || match &role {
            Role::Vzdump { pid, .. } => {
                called(&root, settings, mode, *pid, part.expect("it is in a call"))
            }
            Role::Guard => u8::from(quiesce::guard(&root, VMID).is_err()),
            Role::Person => {
                let errand = Errand {
                    by: crate::journal::Actor::Person,
                    reason: "asked",
                    close: false,
                    run: None,
                };
                let deadline = clock::instant() + LIMIT;
                let back = quiesce::thaw(&root, VMID)
                    .and_then(|_| quiesce::bring_back_and_unlock(&root, VMID, deadline, errand));
                u8::from(back.is_err())
            }
            Role::Boot => {
                quiesce::recover_guest(
                    &root,
                    VMID,
                    crate::journal::Actor::Recover,
                    clock::instant() + LIMIT,
                );
                0
            }
        };
        match step::step(world, &mut self.log, me, settings, (due, twist), work) {
            Led::To(next) => {
                if next.kind == step::Kind::Sleep {
                    self.asleep_since = world.version;
                    self.waited = false;
                    self.forget_poll();
                }
                self.state = State::Ready(next);
            }
            Led::End(code) => self.returned(code, world),
        }
    }

    /// Who has woken, changed nothing, as before, and goes to sleep again might as well have slept on.
    fn forget_poll(&mut self) {
        use step::{Given, Kind};
        let Some(last) = self.log.iter().rposition(|entry| entry.kind == Kind::Sleep) else {
            return;
        };
        let poll = &self.log[last + 1..];
        let before = &self.log[..last];
        let as_before = |(one, other): (&Entry, &Entry)| {
            let looked = match one.kind {
                Kind::Own | Kind::Look | Kind::Lock { .. } => true,
                _ => matches!(one.given, Given::Done(Err(_))),
            };
            let alike = match (&one.given, &other.given) {
                (Given::Number(_), Given::Number(_)) | (Given::Read(_), Given::Read(_)) => true,
                (one, other) => one == other,
            };
            looked && one.kind == other.kind && alike
        };
        if before.len() >= poll.len()
            && poll.iter().zip(&before[before.len() - poll.len()..]).all(as_before)
        {
            self.log = Rc::new(before.to_vec());
        }
    }

    fn vzdump_does(&mut self, part: Part, world: &mut World) {
        match part {
            Part::Freezes => world.guest = Guest::Frozen,
            Part::Thaws => world.guest = Guest::Running,
            Part::ShutsDown => world.stop_guest(),
            Part::Starts => world.start_guest(),
            Part::Calls(_) => unreachable!("that is the hook's"),
        }
        world.changed();
        if let Role::Vzdump { parts, .. } = &mut self.role {
            parts.remove(0);
        }
    }

    fn returned(&mut self, code: u8, world: &mut World) {
        world.changed();
        self.log = Rc::default();
        match &mut self.role {
            Role::Vzdump { parts, .. } => {
                parts.remove(0);
                if code != 0 {
                    abort(parts, world);
                }
                self.state = State::Between;
            }
            _ => self.state = State::Ended,
        }
    }

    /// Its process is killed. `sent`: what it asks the engine for has been sent.
    pub fn die(&mut self, me: usize, world: &mut World, sent: bool) {
        if let (State::Ready(next), true) = (&self.state, sent)
            && let step::Kind::Stop(id) = &next.kind
        {
            world.in_flight.push(id.clone());
        }
        world.locks.retain(|_, holder| *holder != me);
        world.changed();
        self.log = Rc::default();
        self.state = State::Dead;
    }

    /// vzdump finds that its hook was killed.
    pub fn hook_was_killed(&mut self, world: &mut World) {
        if let Role::Vzdump { parts, .. } = &mut self.role {
            parts.remove(0);
            abort(parts, world);
            self.state = State::Between;
        }
    }
}

/// What is left of a backup that fails now. A guest that vzdump has down or frozen it brings back itself.
fn abort(parts: &mut Vec<Part>, world: &World) {
    let over = !parts.iter().any(|it| *it == part(Phase::LogEnd));
    if over {
        return;
    }
    let guest = match world.guest {
        Guest::Running => None,
        Guest::Frozen => Some(Part::Thaws),
        Guest::Down => Some(Part::Starts),
    };
    *parts = guest.into_iter().collect();
    parts.extend([Phase::BackupAbort, Phase::LogEnd, Phase::JobEnd].map(part));
}

fn called(root: &Root, settings: &Settings, mode: Mode, pid: i32, phase: Phase) -> u8 {
    let worker = Process { pid, started: 1, boot: "boot-1".to_string() };
    let job = Job { upid: None, worker, session: 0 };
    match phase {
        Phase::JobStart => {
            job_phases::bring_back_leftovers(root, settings, &job);
            0
        }
        Phase::JobEnd => {
            job_phases::end_runs(root, settings, &job);
            0
        }
        _ => {
            let subject = Subject {
                mode,
                vmid: VMID,
                guest_type: GuestType::Lxc,
                hostname: None,
                target: None,
            };
            let call = &Call { phase, subject: Some(subject), storage: None };
            let budget = Budget::begin(root, LIMIT, VMID, &job);
            let Due::Guest(subject, due) = duties(call) else { return 0 };
            GuestCall { root, settings, job, call, subject, budget }.perform(due)
        }
    }
}
