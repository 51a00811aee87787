//! Where blocking work runs: on the runtime's blocking pool, or, under simulation, in line.

/// How blocking work is run.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Blocking {
    /// On tokio's blocking pool, so that the runtime's workers stay free.
    Pool,
    /// On the spot: one thread, one order.
    #[cfg_attr(not(test), allow(dead_code, reason = "the way of tests and simulation"))]
    Inline,
}

impl Blocking {
    /// Runs it and returns its result. A panic inside goes on in the caller.
    pub(crate) async fn run<T: Send + 'static>(self, work: impl FnOnce() -> T + Send + 'static) -> T {
        match self {
            Self::Inline => work(),
            #[expect(clippy::disallowed_methods, reason = "the one home of spawn_blocking")]
            Self::Pool => match tokio::task::spawn_blocking(work).await {
                Ok(result) => result,
                Err(failed) => std::panic::resume_unwind(failed.into_panic()),
            },
        }
    }
}
