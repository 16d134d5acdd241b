//! One step of one actor: its function is called anew, is given again all that it has been given so far, does the next thing
//! that others may see, and goes on to the one after that, before which it is left. So an actor's state is what it has been
//! given, which can be copied and compared.

use std::cell::{Cell, RefCell};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use serde_json::Value;

use super::world::{Blob, Guest, World};
use crate::config::Settings;
use crate::sys::look::{Answer, Reply, Request};
use crate::sys::walk::{self, Change, Walk};

/// What an actor does next, or has done, as far as others are concerned.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Nobody else sees it, and nobody else changes it at that time.
    Own,
    /// It looks at what others may change, and sees it together with what it does next.
    Look,
    /// It changes something.
    Change,
    Lock {
        path: PathBuf,
        waits: bool,
    },
    Sleep,
    /// It has the engine stop that container.
    Stop(String),
    /// Likewise start it.
    Start(String),
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Given {
    Done(Result<(), io::ErrorKind>),
    Read(Result<Blob, io::ErrorKind>),
    Engine(Result<(u16, Blob), io::ErrorKind>),
    Number(u64),
    Word(String),
    Is(bool),
    Guest(Option<bool>),
    Names(Vec<String>),
    Records(Vec<Blob>),
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Entry {
    pub kind: Kind,
    pub given: Given,
}

/// What an actor waits for to do.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Next {
    pub kind: Kind,
    pub words: String,
}

/// What happens to the thing that is done in this step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Twist {
    Straight,
    /// It is done, and its answer is lost.
    Lost,
    /// It waited for a lock for too long.
    TimedOut,
}

/// Where a step has led.
pub enum Led {
    To(Next),
    /// The function has returned.
    End(u8),
}

struct NotYet;

struct Step {
    me: usize,
    world: RefCell<World>,
    log: RefCell<Vec<Entry>>,
    place: Cell<usize>,
    due: Cell<bool>,
    twist: Twist,
    next: RefCell<Option<Next>>,
    settings: Settings,
}

/// Does the next thing (where `due`), and goes on to the one after it.
pub fn step(
    world: &mut World,
    log: &mut Rc<Vec<Entry>>,
    me: usize,
    settings: &Settings,
    (due, twist): (bool, Twist),
    work: impl FnOnce() -> u8,
) -> Led {
    let step = Rc::new(Step {
        me,
        world: RefCell::new(world.clone()),
        log: RefCell::new(log.as_ref().clone()),
        place: Cell::new(0),
        due: Cell::new(due),
        twist,
        next: RefCell::new(None),
        settings: settings.clone(),
    });
    let as_walk: Rc<dyn Walk> = step.clone();
    let ended = catch_unwind(AssertUnwindSafe(|| walk::within(as_walk, work)));
    let led = match ended {
        Ok(code) => Led::End(code),
        Err(why) if why.is::<NotYet>() => Led::To(step.next.take().expect("it was left there")),
        Err(panic) => resume_unwind(panic),
    };
    *world = step.world.borrow().clone();
    *log = Rc::new(step.log.borrow().clone());
    led
}

impl Step {
    fn does(
        &self,
        kind: Kind,
        words: impl FnOnce() -> String,
        act: impl FnOnce(&mut World) -> Given,
    ) -> Given {
        let place = self.place.get();
        if let Some(entry) = self.log.borrow().get(place) {
            assert_eq!(entry.kind, kind, "{}: it does something else than before", words());
            self.place.set(place + 1);
            return entry.given.clone();
        }
        let waits = !matches!(kind, Kind::Own | Kind::Look);
        if waits && !self.due.replace(false) {
            *self.next.borrow_mut() = Some(Next { kind, words: words() });
            resume_unwind(Box::new(NotYet));
        }
        let given = act(&mut self.world.borrow_mut());
        self.log.borrow_mut().push(Entry { kind, given: given.clone() });
        self.place.set(place + 1);
        given
    }

    fn done(
        &self,
        kind: Kind,
        words: impl FnOnce() -> String,
        act: impl FnOnce(&mut World) -> Result<(), io::ErrorKind>,
    ) -> io::Result<()> {
        match self.does(kind, words, |world| Given::Done(act(world))) {
            Given::Done(done) => done.map_err(io::Error::from),
            other => panic!("{other:?}"),
        }
    }
}

fn is_run(path: &Path) -> bool {
    path.parent().is_some_and(|parent| parent.ends_with("runs"))
}

fn name(path: &Path) -> String {
    path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

impl Walk for Step {
    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        let kind = if is_run(path) { Kind::Look } else { Kind::Own };
        let read = |world: &mut World| {
            Given::Read(world.files.get(path).cloned().ok_or(io::ErrorKind::NotFound))
        };
        match self.does(kind, || format!("reads {}", name(path)), read) {
            Given::Read(read) => Ok(read?.bytes()),
            other => panic!("{other:?}"),
        }
    }

    fn replace(&self, path: &Path, content: &[u8]) -> io::Result<()> {
        let kind = if is_run(path) { Kind::Change } else { Kind::Own };
        self.done(
            kind,
            || format!("writes {}", name(path)),
            |world| {
                if world.disk_full {
                    return Err(io::ErrorKind::StorageFull);
                }
                world.files.insert(path.to_path_buf(), Blob::new(content.to_vec()));
                world.changed();
                Ok(())
            },
        )
    }

    fn repeats_write(&self) -> Option<io::Result<()>> {
        let place = self.place.get();
        let Entry { kind: Kind::Change, given: Given::Done(done) } =
            self.log.borrow().get(place)?.clone()
        else {
            panic!("it does something else than before");
        };
        self.place.set(place + 1);
        Some(done.map_err(io::Error::from))
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let kind = if is_run(path) { Kind::Change } else { Kind::Own };
        self.done(
            kind,
            || format!("removes {}", name(path)),
            |world| {
                world.files.remove(path);
                world.changed();
                Ok(())
            },
        )
    }

    fn names(&self, directory: &Path) -> Vec<String> {
        let names = |world: &mut World| {
            let inside = world.files.keys().filter(|path| path.parent() == Some(directory));
            Given::Names(inside.map(|path| name(path)).collect())
        };
        match self.does(Kind::Look, || format!("lists {}", name(directory)), names) {
            Given::Names(names) => names,
            other => panic!("{other:?}"),
        }
    }

    fn settings(&self) -> Settings {
        self.settings.clone()
    }

    fn append(&self, record: Value) -> io::Result<()> {
        let words = || format!("journals {}", record["kind"]);
        self.done(Kind::Change, words, |world| {
            if world.disk_full {
                return Err(io::ErrorKind::StorageFull);
            }
            world.records.push(Blob::new(record.to_string().into_bytes()));
            world.changed();
            Ok(())
        })
    }

    fn records(&self) -> Vec<Value> {
        let records = |world: &mut World| Given::Records(world.records.clone());
        match self.does(Kind::Look, || "reads the journal".to_string(), records) {
            Given::Records(records) => records.iter().map(Blob::json).collect(),
            other => panic!("{other:?}"),
        }
    }

    fn lock(&self, path: &Path, waits: bool) -> io::Result<()> {
        let kind = Kind::Lock { path: path.to_path_buf(), waits };
        self.done(
            kind,
            || format!("locks {}", name(path)),
            |world| {
                if world.locks.contains_key(path) {
                    assert!(!waits || self.twist == Twist::TimedOut);
                    return Err(io::ErrorKind::TimedOut);
                }
                world.locks.insert(path.to_path_buf(), self.me);
                Ok(())
            },
        )
    }

    fn unlock(&self, path: &Path) {
        let unlock = |world: &mut World| {
            world.locks.remove(path);
            world.changed();
            Ok(())
        };
        let unlocked = self.done(Kind::Own, || format!("unlocks {}", name(path)), unlock);
        unlocked.expect("that never fails");
    }

    fn now_ms(&self) -> u64 {
        match self.does(Kind::Own, String::new, |world| Given::Number(world.now_ms)) {
            Given::Number(now) => now,
            other => panic!("{other:?}"),
        }
    }

    fn sleep(&self, _time: Duration) {
        self.done(Kind::Sleep, || "sleeps".to_string(), |_| Ok(())).expect("that never fails");
    }

    fn token(&self) -> String {
        let token = |world: &mut World| {
            world.tokens += 1;
            Given::Word(format!("token-{}", world.tokens))
        };
        match self.does(Kind::Own, String::new, token) {
            Given::Word(word) => word,
            other => panic!("{other:?}"),
        }
    }

    fn alive(&self, pid: i32) -> bool {
        let alive = |world: &mut World| Given::Is(world.alive.contains(&pid));
        match self.does(Kind::Look, || format!("looks whether vzdump {pid} lives"), alive) {
            Given::Is(is) => is,
            other => panic!("{other:?}"),
        }
    }

    fn boot(&self) -> String {
        match self.does(Kind::Own, String::new, |world| Given::Number(world.boot)) {
            Given::Number(boot) => format!("boot-{boot}"),
            other => panic!("{other:?}"),
        }
    }

    fn start(&self, arguments: &[&str]) -> io::Result<()> {
        assert_eq!(arguments[0], "guard", "{arguments:?}");
        self.done(
            Kind::Change,
            || "starts a guard".to_string(),
            |world| {
                world.armed += 1;
                world.changed();
                Ok(())
            },
        )
    }

    fn guest(&self) -> Option<bool> {
        let guest = |world: &mut World| {
            Given::Guest(match world.guest {
                Guest::Down => None,
                Guest::Running => Some(false),
                Guest::Frozen => Some(true),
            })
        };
        match self.does(Kind::Look, || "looks at the guest".to_string(), guest) {
            Given::Guest(guest) => guest,
            other => panic!("{other:?}"),
        }
    }

    fn change_guest(&self, change: Change) -> io::Result<()> {
        self.done(
            Kind::Change,
            || format!("has the guest {change:?}"),
            |world| {
                match change {
                    Change::Thaw => world.guest = Guest::Running,
                    Change::Start => world.start_guest(),
                }
                world.changed();
                Ok(())
            },
        )
    }

    fn ask(&self, request: &Request) -> io::Result<Answer> {
        let mine = |path: &str| path.ends_with("quiesced.json");
        let given = self.does(
            Kind::Own,
            || format!("asks the guest for {request:?}"),
            |world| {
                Given::Read(match request {
                    Request::Read { path, .. } if mine(path) => {
                        world.note.clone().ok_or(io::ErrorKind::NotFound)
                    }
                    Request::Remove { .. } => {
                        world.note = None;
                        Ok(Blob::new(Vec::new()))
                    }
                    Request::IsDirectory { .. } | Request::Replace { .. } => {
                        Ok(Blob::new(Vec::new()))
                    }
                    _ => Err(io::ErrorKind::NotFound),
                })
            },
        );
        let reply = match (request, given) {
            (Request::IsDirectory { .. }, _) => Reply::Is(true),
            (Request::Owner, _) => Reply::User(0),
            (Request::Read { .. }, Given::Read(Ok(content))) => {
                return Ok(Answer { content: content.bytes(), ..Answer::from(Reply::Content) });
            }
            (Request::Replace { .. } | Request::Remove { .. }, _) => Reply::Done,
            _ => Reply::Nothing,
        };
        Ok(Answer::from(reply))
    }

    fn give(&self, content: &[u8]) {
        let write = |world: &mut World| {
            world.note = Some(Blob::new(content.to_vec()));
            Ok(())
        };
        self.done(Kind::Own, || "writes the note".to_string(), write).expect("that never fails");
    }

    fn engine(&self, method: &str, path: &str) -> io::Result<(u16, Vec<u8>)> {
        let id = |verb: &str| {
            let rest = path.strip_prefix("/containers/")?;
            rest.strip_suffix(verb).map(ToString::to_string)
        };
        let kind = match (id("/stop"), id("/start")) {
            (Some(id), _) => Kind::Stop(id),
            (_, Some(id)) => Kind::Start(id),
            _ if path.contains("/containers/") => Kind::Look,
            _ => Kind::Own,
        };
        let short: String = path.chars().take(20).collect();
        let ask = |world: &mut World| {
            if world.guest != Guest::Running {
                return Given::Engine(Err(io::ErrorKind::TimedOut));
            }
            let (status, body) = world.engine(method, path);
            Given::Engine(match self.twist {
                Twist::Lost => Err(io::ErrorKind::TimedOut),
                _ => Ok((status, Blob::new(body))),
            })
        };
        match self.does(kind, || format!("asks the engine: {method} {short}"), ask) {
            Given::Engine(answer) => {
                let (status, body) = answer?;
                Ok((status, body.bytes()))
            }
            other => panic!("{other:?}"),
        }
    }
}
