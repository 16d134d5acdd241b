//! What a backup does to a guest's stacks in everyday situations.

// Not every module uses all of it.
#[allow(dead_code)]
#[path = "faults/scene.rs"]
mod scene;

mod stacks {
    mod aftermath;
    mod budget;
    mod engines;
    mod foreground;
    mod not_back;
    mod not_in_backup;
    mod order;
    mod shared;
    mod start;
    mod trial;
}
