//! A schedule: what happens, and when.

use serde::{Deserialize, Serialize};

pub use super::db::copy::Mode;
use super::rng::Rng;
pub use super::stored::Loss;

/// When a step is taken, counted from the one before it.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub enum When {
    /// In the middle of the engine's work: after it has called the database, the disk or the store so often.
    /// Also after a second without that.
    Calls(u32),
    /// After this time.
    Millis(u32),
}

/// What a store does wrong.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub enum Trouble {
    /// Calls fail and have no effect.
    Refused,
    /// Calls fail after their effect.
    AnswerLost,
    /// Calls take long.
    Slow,
    /// Bodies of gets end early.
    Cut,
    /// Listings do not show what is new.
    Stale,
    /// Listings end early.
    Short,
    /// Listings fail in the middle.
    Broken,
    /// Everything is refused, as by a provider that throttles.
    Throttled,
    /// Bodies go in parts, and one of them is refused.
    Torn,
}

/// What of the local state rots.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub enum Place {
    Spool,
    Ledger,
    State,
}

/// What happens.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub enum What {
    /// The application commits: pages written, and by how much the database grows.
    Commit { pages: u8, grow: i8 },
    /// It commits so often, one page each.
    Burst { commits: u8 },
    /// It writes every page in one commit and gives so many back.
    Vacuum { shrink: u8 },
    /// It begins a transaction that writes frames before it ends.
    Begin { spilled: u8 },
    /// It ends that transaction.
    End { commit: bool },
    /// It begins a long read.
    Read,
    /// It ends a long read.
    EndRead,
    /// It copies the WAL back.
    Checkpoint(Mode),
    /// It begins to copy the WAL back: so many pages are copied.
    BeginCopy { pages: u8 },
    /// It finishes that.
    EndCopy,
    /// It closes the database.
    Close,
    /// It is killed.
    Die,
    /// It is killed between the last frame of a transaction and the index.
    DieCommitting,
    /// Every commit is synced from now on, or not.
    FullSync(bool),
    /// The database is replaced by another file.
    Replace { page_size: u8, pages: u8 },
    /// The database is removed.
    Remove,
    /// While nobody has the database open: its WAL is removed.
    RemoveWal,
    /// While nobody has it open: it is rewritten outside of WAL mode, maybe with another page size.
    Rewrite { page_size: u8, pages: u8, wal_mode: bool },
    /// While the engine is down: the local state is removed.
    RemoveState,
    /// While the engine runs: the files that wait for the store are removed, and their folder.
    RemoveSpool,
    /// The whole host, not the store, is kept as it is now.
    SaveHost,
    /// While the engine is down: the host goes back to what was kept.
    RevertHost,
    /// The host is lost. Another one, whose clock is off by so much, restores the database and goes on.
    Move { skew: i32 },
    /// The engine starts.
    Start,
    /// It is told to stop within this time.
    Stop { millis: u32 },
    /// It is killed.
    Kill,
    /// Somebody calls `sync`.
    Sync,
    /// The host loses power.
    PowerLoss(#[serde(with = "loss")] Loss),
    /// The disk is full for so long.
    DiskFull { millis: u32 },
    /// So many of a hundred calls to the disk fail, for so long.
    DiskErrors { percent: u8, millis: u32 },
    /// So many of a hundred calls to the database fail, for so long.
    DoorErrors { percent: u8, millis: u32 },
    /// A bit of the local state turns over.
    Rot(Place),
    /// The store is in trouble: so many of a hundred calls, for so long.
    Store { trouble: Trouble, percent: u8, millis: u32 },
    /// The wall clock jumps.
    Jump { millis: i32 },
    /// Another writer stores an object under the next id.
    Foreign,
    /// Somebody restores the newest state while all this goes on.
    Restore,
}

mod loss {
    use super::Loss;
    use serde::{Deserialize, Deserializer, Serializer};

    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks for it")]
    pub(super) fn serialize<S: Serializer>(loss: &Loss, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(match loss {
            Loss::All => "all",
            Loss::None => "none",
            Loss::Some => "some",
        })
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Loss, D::Error> {
        let text = String::deserialize(from)?;
        match text.as_str() {
            "all" => Ok(Loss::All),
            "none" => Ok(Loss::None),
            "some" => Ok(Loss::Some),
            other => Err(serde::de::Error::custom(format!("no loss: {other}"))),
        }
    }
}

/// One step. Its seed is for whatever it draws, so that it does the same when others are left out.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct Step {
    pub when: When,
    pub what: What,
    pub seed: u64,
}

/// A whole simulation.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct Schedule {
    /// For whatever no step draws.
    pub seed: u64,
    #[serde(default)]
    pub manner: Manner,
    pub steps: Vec<Step>,
}

/// What does not change in the course of a simulation.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Serialize, Deserialize)]
pub struct Manner {
    /// The store takes bodies in parts; only the last call makes an object of them.
    pub parts: bool,
    /// The clock of the store, in milliseconds before that of the first host.
    pub store_ahead: i32,
    /// Objects are sealed.
    pub sealed: Option<Sealing>,
    /// And authenticated by a secret that host and reader share.
    #[serde(default)]
    pub authenticated: bool,
}

/// How objects are sealed.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub enum Sealing {
    /// The host has only the public key.
    WriteOnly,
    /// It has the private one, too.
    ReadBack,
    /// As that, and each start draws one of two keys to seal to.
    Rekeyed,
}

impl Manner {
    /// Drawn apart from the steps.
    fn draw(seed: u64) -> Self {
        let mut rng = Rng::new(seed ^ 0x3a17_c0de);
        let sealings = [Sealing::WriteOnly, Sealing::WriteOnly, Sealing::ReadBack, Sealing::Rekeyed];
        let parts = rng.percent(30);
        let store_ahead = if rng.percent(30) { rng.between(0, 7_200_000) as i32 - 3_600_000 } else { 0 };
        // Few: keys cost more time than all the rest.
        let sealed = if rng.percent(4) { Some(rng.pick(&sealings)) } else { None };
        let authenticated = sealed.is_some() && rng.percent(50);
        Self { parts, store_ahead, sealed, authenticated }
    }
}

/// Page sizes by number: mostly small ones.
pub const PAGE_SIZES: [u32; 4] = [512, 1024, 512, 4096];

/// What a schedule is mostly about.
#[derive(Clone, Copy)]
enum Theme {
    Writing,
    /// A writer that hardly pauses.
    Load,
    Checkpoints,
    Downtime,
    Power,
    Store,
    Disk,
    Everything,
}

impl Schedule {
    /// The schedule of a seed.
    #[must_use]
    pub fn of(seed: u64) -> Self {
        let mut rng = Rng::new(seed);
        let theme = rng.pick(&[
            Theme::Writing,
            Theme::Load,
            Theme::Checkpoints,
            Theme::Checkpoints,
            Theme::Downtime,
            Theme::Downtime,
            Theme::Power,
            Theme::Store,
            Theme::Disk,
            Theme::Everything,
        ]);
        let count = if matches!(theme, Theme::Load) { rng.between(20, 150) } else { rng.between(6, 44) };
        // Some schedules are dense: much happens inside of the engine's calls. Others leave it time.
        let dense = rng.between(20, 95);
        let steps = (0..count).map(|_| {
            let when = if matches!(theme, Theme::Load) {
                match rng.below(10) {
                    0..=3 => When::Calls(rng.below(40) as u32),
                    4..=6 => When::Calls(rng.below(5) as u32),
                    _ => When::Millis(rng.below(30) as u32),
                }
            } else if rng.percent(dense) {
                When::Calls(rng.below(24) as u32)
            } else {
                let longest = rng.pick(&[5, 50, 500, 4000]);
                When::Millis(rng.below(longest) as u32)
            };
            Step { when, what: draw(theme, &mut rng), seed: rng.bits() }
        });
        Self { steps: steps.collect(), manner: Manner::draw(seed), seed }
    }
}

fn draw(theme: Theme, rng: &mut Rng) -> What {
    let special = match theme {
        Theme::Writing | Theme::Load => 15,
        Theme::Everything => 60,
        _ => 45,
    };
    if !rng.percent(special) {
        return match theme {
            Theme::Load if rng.percent(90) => match rng.percent(80) {
                true => commit(rng),
                false => What::Burst { commits: rng.between(2, 20) as u8 },
            },
            _ => ordinary(rng),
        };
    }
    match theme {
        Theme::Writing => downtime(rng),
        Theme::Checkpoints | Theme::Load => checkpoints(rng),
        Theme::Downtime => downtime(rng),
        Theme::Power => power(rng),
        Theme::Store => store(rng),
        Theme::Disk => disk(rng),
        Theme::Everything => match rng.below(5) {
            0 => checkpoints(rng),
            1 => downtime(rng),
            2 => power(rng),
            3 => store(rng),
            _ => disk(rng),
        },
    }
}

/// What applications do all day.
fn ordinary(rng: &mut Rng) -> What {
    match rng.below(20) {
        0..=9 => commit(rng),
        10 if rng.percent(20) => What::Vacuum { shrink: rng.below(6) as u8 },
        10 => What::Burst { commits: rng.between(2, 30) as u8 },
        11 => What::Begin { spilled: rng.below(5) as u8 },
        12 => What::End { commit: rng.percent(70) },
        13 => What::Read,
        14 => What::EndRead,
        15 => What::Checkpoint(Mode::Passive),
        16 => What::Close,
        17 => What::Sync,
        18 => What::Restore,
        _ => What::Start,
    }
}

fn commit(rng: &mut Rng) -> What {
    let grow = match rng.below(8) {
        0 => rng.between(1, 9) as i8,
        1 => -(rng.between(1, 9) as i8),
        2 => 1,
        _ => 0,
    };
    What::Commit { pages: rng.below(5) as u8, grow }
}

fn checkpoints(rng: &mut Rng) -> What {
    match rng.below(12) {
        0 => What::Checkpoint(Mode::Full),
        1 => What::Checkpoint(Mode::Restart),
        2 | 3 => What::Checkpoint(Mode::Truncate),
        4 | 5 => What::Checkpoint(Mode::Passive),
        6 => What::BeginCopy { pages: rng.below(6) as u8 },
        7 => What::EndCopy,
        8 => What::DieCommitting,
        9 => What::Die,
        10 => What::Burst { commits: rng.between(5, 60) as u8 },
        _ => What::DoorErrors { percent: rng.pick(&[5, 20, 50]), millis: rng.between(10, 2000) as u32 },
    }
}

fn downtime(rng: &mut Rng) -> What {
    let (page_size, pages) = (rng.index(PAGE_SIZES.len()) as u8, rng.between(1, 20) as u8);
    match rng.below(20) {
        0..=3 => What::Kill,
        4 | 5 => What::Stop { millis: rng.pick(&[0, 50, 1000, 30_000]) },
        6..=9 => What::Start,
        10 => What::Replace { page_size, pages },
        11 => What::RemoveWal,
        12 => What::Rewrite { page_size, pages, wal_mode: rng.percent(70) },
        13 => What::RemoveState,
        14 => What::SaveHost,
        15 => What::RevertHost,
        16 if rng.percent(60) => What::Move { skew: rng.between(0, 7_200_000) as i32 - 3_600_000 },
        16 => What::Remove,
        17 => What::Close,
        18 => What::DieCommitting,
        _ => What::Checkpoint(rng.pick(&[Mode::Truncate, Mode::Restart])),
    }
}

fn power(rng: &mut Rng) -> What {
    match rng.below(10) {
        0..=3 => What::PowerLoss(Loss::draw(rng)),
        4..=6 => What::Start,
        7 => What::FullSync(rng.percent(50)),
        8 => What::Kill,
        _ => What::Rot(rng.pick(&[Place::Spool, Place::Ledger, Place::State])),
    }
}

fn store(rng: &mut Rng) -> What {
    let trouble = rng.pick(&[
        Trouble::Refused,
        Trouble::AnswerLost,
        Trouble::AnswerLost,
        Trouble::Slow,
        Trouble::Cut,
        Trouble::Stale,
        Trouble::Short,
        Trouble::Broken,
        Trouble::Throttled,
        Trouble::Torn,
    ]);
    match rng.below(10) {
        0..=5 => What::Store { trouble, percent: rng.pick(&[10, 30, 70, 100]), millis: rng.between(20, 20_000) as u32 },
        6 => What::Kill,
        7 | 8 => What::Start,
        _ if rng.percent(15) => What::Foreign,
        _ => What::Jump { millis: rng.between(0, 4_000_000) as i32 - 2_000_000 },
    }
}

fn disk(rng: &mut Rng) -> What {
    match rng.below(10) {
        0 | 1 => What::DiskFull { millis: rng.between(10, 8000) as u32 },
        2..=4 => What::DiskErrors { percent: rng.pick(&[2, 10, 40]), millis: rng.between(10, 4000) as u32 },
        5 | 6 => What::Rot(rng.pick(&[Place::Spool, Place::Spool, Place::Ledger, Place::State])),
        7 => What::Kill,
        8 => What::RemoveSpool,
        _ => What::Start,
    }
}
