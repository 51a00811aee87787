//! Deliberate defects, for proof that the simulation would find them.
//!
//! `mutant!(Name)` is a place where the engine can be made wrong. Without the feature `testing` and in builds without
//! debug assertions it is the constant `false`, so that a release cannot hold one. With it a defect is switched on
//! for one thread, which is what one simulation runs on.

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

#[cfg(all(feature = "testing", debug_assertions))]
pub(crate) fn is_on(mutant: Mutant) -> bool {
    ON.get() == Some(mutant)
}
