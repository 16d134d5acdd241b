//! Whose identity a guest that starts has: a restored copy gets its own.

pub mod copies;
