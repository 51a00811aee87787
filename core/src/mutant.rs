//! Deliberate defects, for proof that the simulation would find them.
//!
//! `mutant!(Name)` is a place where the engine can be made wrong. Without the feature `testing` and in builds without
//! debug assertions it is the constant `false`, so that a release cannot hold one. With it a defect is switched on
//! for one thread, which is what one simulation runs on, or for a whole process, which is what torture runs.

/// Whether this defect is switched on.
macro_rules! mutant {
    ($name:ident) => {{
        #[cfg(all(feature = "testing", debug_assertions))]
        let on = crate::mutant::is_on(crate::mutant::Mutant::$name);
        #[cfg(not(all(feature = "testing", debug_assertions)))]
        let on = false;
        on
    }};
}

#[cfg(feature = "testing")]
macro_rules! mutants {
    ($($(#[$doc:meta])* $name:ident;)*) => {
        /// The defects.
        #[derive(Clone, Copy, Debug, Eq, PartialEq)]
        pub enum Mutant { $($(#[$doc])* $name,)* }

        impl Mutant {
            /// Every one.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];
        }
    };
}

#[cfg(feature = "testing")]
mutants! {
    /// A new generation of the WAL is followed although nobody watched.
    SaltsUnchecked;
    /// The frame at the mark is not compared with what was noted.
    MarkUnproven;
    /// A WAL that has become shorter is taken for one in which nothing has happened.
    ShorterTrusted;
    /// Files that were replaced are taken for the ones that are open.
    ReplacedUnseen;
    /// Whether something was committed is told from the length alone.
    SizeOnly;
    /// After a time without a read transaction it is claimed that there was one.
    BreakForgotten;
    /// The read transaction that keeps frames in place ends although they are not captured.
    UncapturedReleased;
    /// Writers are not held while the last frames are read.
    SealSkipped;
    /// The last frames that were read while writers were held are dropped.
    SealedTailDropped;
    /// An image is taken from the database file alone.
    WalLeftOut;
    /// Another page size is no reason for a snapshot.
    PageSizeIgnored;
    /// What is captured is not noted in the ledger.
    LedgerStale;
    /// A new size of the database is not noted in the ledger.
    LedgerSizeStale;
    /// A file of the spool is not synced.
    FileSyncMissing;
    /// The folder of a new file is not synced.
    FolderSyncMissing;
    /// What is read from the spool is not compared with what was written.
    SpoolUnchecked;
    /// Capture goes on beyond the limit of the spool.
    SpoolUnlimited;
    /// A file is removed from the spool before the store has it.
    SpoolDeletedEarly;
    /// A capture counts as arrived before it is put.
    AcknowledgedEarly;
    /// The newest capture is put first.
    ShippedOutOfOrder;
    /// An object is put over one that is there.
    PutUnconditional;
    /// An object that is there is taken for ours.
    ExistingTrusted;
    /// A listing that lacks what was acknowledged is believed.
    ListingTrusted;
    /// A stop says that everything has arrived.
    StopFlushedAlways;
}

#[cfg(feature = "testing")]
thread_local! {
    static ON: std::cell::Cell<Option<Mutant>> = const { std::cell::Cell::new(None) };
}

/// Switches a defect on, or all off, for this thread.
#[cfg(feature = "testing")]
pub fn switch(mutant: Option<Mutant>) {
    ON.set(mutant);
}

/// The defect of the whole process, as its number in the list and one; 0: none.
#[cfg(feature = "testing")]
static EVERYWHERE: std::sync::atomic::AtomicU8 = std::sync::atomic::AtomicU8::new(0);

/// Switches a defect on for all threads of this process.
#[cfg(feature = "testing")]
pub fn switch_everywhere(mutant: Mutant) {
    EVERYWHERE.store(mutant as u8 + 1, std::sync::atomic::Ordering::Relaxed);
}

#[cfg(all(feature = "testing", debug_assertions))]
pub(crate) fn is_on(mutant: Mutant) -> bool {
    ON.get() == Some(mutant) || EVERYWHERE.load(std::sync::atomic::Ordering::Relaxed) == mutant as u8 + 1
}
