pub mod pbs;
pub mod sys;
