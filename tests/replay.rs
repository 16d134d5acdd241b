//! Recorded runs of the real vzdump, and more in their shape, replayed against the real hook: whatever
//! happens, every container that ran before runs after.

mod replay {
    mod commands;
    pub mod made;
    mod own;
    pub mod promise;
    mod recorded;
}
