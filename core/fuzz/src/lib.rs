//! What several targets share: an input that is read like a tape, a disk in memory, and a store that lies.

pub mod disk;
pub mod liar;
pub mod tape;
