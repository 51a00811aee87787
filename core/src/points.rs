//! Named places at which a test ends the process, as SIGKILL does at any of them by chance.
//!
//! `point!(Name)` is nothing without the feature `testing`. With it a program can ask (through `simulation`) to be
//! killed when it comes to a place for the n-th time; the torture program does, in children that it starts for that.
//! Nothing is flushed, unlocked or told: what the next process finds is what the kernel has.

/// A place where a test may end the process.
macro_rules! point {
    ($name:ident) => {
        #[cfg(feature = "testing")]
        crate::points::pass(crate::points::Point::$name);
    };
}

#[cfg(feature = "testing")]
macro_rules! points {
    ($($(#[$doc:meta])* $name:ident;)*) => {
        /// The places.
        #[derive(Clone, Copy, Debug, Eq, PartialEq)]
        pub enum Point { $($(#[$doc])* $name,)* }

        impl Point {
            /// Every one.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// Its name.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$name => stringify!($name),)* }
            }
        }
    };
}

#[cfg(feature = "testing")]
points! {
    /// A file of the spool is on the disk under its temporary name.
    SpoolSynced;
    /// It has its name, and the folder is not synced.
    SpoolRenamed;
    /// It is there for good; nobody knows it yet.
    SpoolPublished;
    /// Files that the store has are gone from the spool.
    SpoolReleased;
    /// The state record is about to be written.
    StateUnwritten;
    /// It is written.
    StateWritten;
    /// The ledger tells that entries of later captures may be in it, and they are not yet.
    LedgerAhead;
    /// Its entries are on the disk, and its header is that of before.
    LedgerEntries;
    /// Its header is new.
    LedgerFlushed;
    /// A new ledger is whole, under its temporary name, and its capture is in the spool.
    LedgerUnplaced;
    /// It has its name, and the folder is not synced.
    LedgerRenamed;
    /// A new read transaction has begun beside the old one.
    Pinned;
    /// Writers are held.
    Sealed;
    /// Writers are held, the last frames are in memory, and all is copied back.
    SealedCopied;
    /// Writers go on, and the last frames are in memory only.
    Unsealed;
    /// An image of the database is whole and not yet in the spool.
    ImageMade;
    /// Everything is about to be captured anew: spool and ledger are empty.
    StartedOver;
    /// An object is about to be put.
    PutBefore;
    /// The store has it, and nobody knows.
    PutAfter;
    /// The store has a part of it.
    PartPut;
    /// The restored database is whole, without its name.
    RestoreWritten;
    /// The log of the old database is out of the way, and that database still there.
    RestoreAside;
    /// The restored database has its name, and the folder is not synced.
    RestoreRenamed;
}

#[cfg(feature = "testing")]
static ARMED: std::sync::Mutex<Option<(Point, u32)>> = std::sync::Mutex::new(None);

/// Has this process killed when any of its threads comes to this place for the n-th time from now on.
#[cfg(feature = "testing")]
pub fn crash_at(point: Point, nth: u32) {
    *ARMED.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some((point, nth));
}

#[cfg(feature = "testing")]
pub(crate) fn pass(point: Point) {
    let mut armed = ARMED.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let Some((at, left)) = armed.as_mut() else { return };
    if *at != point {
        return;
    }
    *left = left.saturating_sub(1);
    if *left == 0 {
        // It cannot fail for oneself; and nobody may go on if it did.
        let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
        loop {
            std::hint::spin_loop();
        }
    }
}
