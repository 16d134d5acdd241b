use serde::{Deserialize, Serialize};

/// Whether the guest ran when its backup began.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum GuestBefore {
    Down,
    Running,
}

/// Whether pre-stop has examined the guest; not if another process held the guest's lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PreStop {
    NotCome,
    Looked,
}

impl PreStop {
    /// pre-stop examines the guest now.
    pub fn look(&mut self) {
        *self = PreStop::Looked;
    }
}

/// vzdump's progress in copying the guest's data.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DataCopy {
    /// Starting containers now disturbs the backup.
    Pending,
    /// Starting containers no longer disturbs the backup.
    Done,
    /// vzdump has thawed or started the guest again: what happens to the guest from now on is not
    /// vzdump's doing.
    GuestReturned,
}

impl DataCopy {
    /// The data is copied, because a phase after the copy has come.
    pub fn done(&mut self) {
        if *self == DataCopy::Pending {
            *self = DataCopy::Done;
        }
    }

    /// The guest is thawed or started again, so its data is copied.
    pub fn return_guest(&mut self) {
        *self = DataCopy::GuestReturned;
    }

    /// Whether the data is copied.
    pub fn is_done(self) -> bool {
        self != DataCopy::Pending
    }
}

/// The proof that the containers stayed at rest until the data was copied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Proof {
    /// Nothing was stopped, or the data is not copied yet.
    NotDue,
    /// The data is copied, and the containers were not inspected since.
    Due,
    /// The first process after the copy has inspected them, before it started anything.
    Done,
}

impl Proof {
    /// The data was copied while the containers were meant to be at rest.
    pub fn fall_due(&mut self) {
        if *self == Proof::NotDue {
            *self = Proof::Due;
        }
    }

    /// The containers were inspected.
    pub fn done(&mut self) {
        if *self == Proof::Due {
            *self = Proof::Done;
        }
    }
}

/// The shutdown of the guest for its backup (stop mode).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Shutdown {
    /// vzdump has not been allowed to shut it down yet.
    NotAsked,
    /// vzdump had died before it was allowed to shut the guest down.
    Withheld { at_ms: u64 },
    /// vzdump was allowed to shut the guest down.
    HandedOver { at_ms: u64 },
    /// The guest was seen down while its archive was made.
    SeenDown { asked_ms: Option<u64> },
    /// The guest was seen started again after that.
    Returned { asked_ms: Option<u64>, at_ms: u64 },
}

impl Shutdown {
    /// vzdump is allowed to shut the guest down.
    pub fn hand_over(&mut self, now_ms: u64) {
        if matches!(self, Shutdown::NotAsked | Shutdown::Withheld { .. }) {
            *self = Shutdown::HandedOver { at_ms: now_ms };
        }
    }

    /// vzdump has died before it was allowed to shut the guest down.
    pub fn withhold(&mut self, now_ms: u64) {
        if *self == Shutdown::NotAsked {
            *self = Shutdown::Withheld { at_ms: now_ms };
        }
    }

    /// The guest is down.
    pub fn see_down(&mut self) {
        if !self.was_down() {
            *self = Shutdown::SeenDown { asked_ms: self.asked_ms() };
        }
    }

    /// The guest runs. That means a restart only if it was seen down before.
    pub fn start(&mut self, now_ms: u64) {
        if let Shutdown::SeenDown { asked_ms } = *self {
            *self = Shutdown::Returned { asked_ms, at_ms: now_ms };
        }
    }

    /// Whether the guest was seen down while its archive was made.
    pub fn was_down(self) -> bool {
        matches!(self, Shutdown::SeenDown { .. } | Shutdown::Returned { .. })
    }

    /// Whether the guest may still go down because of this shutdown.
    pub fn may_still_come(self) -> bool {
        matches!(self, Shutdown::HandedOver { .. })
    }

    /// When the guest was ready for its shutdown.
    pub fn asked_ms(self) -> Option<u64> {
        match self {
            Shutdown::NotAsked => None,
            Shutdown::Withheld { at_ms } | Shutdown::HandedOver { at_ms } => Some(at_ms),
            Shutdown::SeenDown { asked_ms } | Shutdown::Returned { asked_ms, .. } => asked_ms,
        }
    }

    /// How long the guest was down.
    pub fn downtime_ms(self) -> Option<u64> {
        match self {
            Shutdown::Returned { asked_ms, at_ms } => Some(at_ms.saturating_sub(asked_ms?)),
            _ => None,
        }
    }
}

/// Whether the `backup` record is in the journal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Journalled {
    No,
    /// It is about to be written. A process that finds the run in this state looks into the journal
    /// first.
    Writing,
    /// It is there, or there is none to write; the run stays only for what is not back yet.
    Yes,
}

impl Journalled {
    /// The record is written next.
    pub fn begin(&mut self) {
        if *self == Journalled::No {
            *self = Journalled::Writing;
        }
    }

    /// The record is in the journal.
    pub fn done(&mut self) {
        *self = Journalled::Yes;
    }

    /// Whether the record is in the journal.
    pub fn is_done(self) -> bool {
        self == Journalled::Yes
    }
}
