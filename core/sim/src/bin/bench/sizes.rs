//! How much is measured.

use std::time::Duration;

/// The sizes of a run.
#[derive(Clone, Copy)]
pub(crate) struct Sizes {
    pub(crate) name: &'static str,
    pub(crate) rounds: usize,
    /// Commits in a round of the latency measurement.
    pub(crate) commits: usize,
    /// How long the writer writes.
    pub(crate) writing: Duration,
    /// Bytes of the database that is written to.
    pub(crate) load_bytes: u64,
    /// Bytes of the large database that is stored and restored.
    pub(crate) large_bytes: u64,
    /// Files of level 0 after its first image.
    pub(crate) large_files: usize,
    /// Bytes of the small database with many files.
    pub(crate) small_bytes: u64,
    /// Files of level 0 after its first image.
    pub(crate) small_files: usize,
    /// How long what follows a first snapshot is looked at.
    pub(crate) after_snapshot: Duration,
    /// Databases that idle, and how long they are looked at.
    pub(crate) idle: [(usize, Duration); 3],
}

const MIB: u64 = 1 << 20;
const SECOND: Duration = Duration::from_secs(1);

/// Whether everything runs.
pub(crate) const QUICK: Sizes = Sizes {
    name: "quick",
    rounds: 1,
    commits: 8,
    writing: Duration::from_secs(3),
    load_bytes: 16 * MIB,
    large_bytes: 64 * MIB,
    large_files: 50,
    small_bytes: 4 * MIB,
    small_files: 300,
    after_snapshot: Duration::from_secs(5),
    idle: [(1, Duration::from_secs(10)), (10, SECOND), (50, SECOND)],
};

/// The sizes of the goals.
pub(crate) const NORMAL: Sizes = Sizes {
    name: "normal",
    rounds: 3,
    // More than a hundred in two rounds: fewer have no 99th percentile.
    commits: 52,
    writing: Duration::from_secs(6),
    load_bytes: 64 * MIB,
    large_bytes: 1024 * MIB,
    large_files: 200,
    small_bytes: 16 * MIB,
    small_files: 5000,
    after_snapshot: Duration::from_secs(35),
    idle: [(1, Duration::from_secs(60)), (100, Duration::from_secs(20)), (1000, Duration::from_secs(20))],
};
