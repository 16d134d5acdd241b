//! Recorded runs of the real vzdump, and variants of them, replayed against the real hook: whatever
//! happens, every container that ran before runs afterwards.

mod replay {
    mod commands;
    pub mod made;
    mod own;
    pub mod promise;
    mod recorded;
}
