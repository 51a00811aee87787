//! Threads of ours take no signals: a host that waits for one (`sigwait`), or expects it on a thread of its
//! own, must get it there.

/// Blocks every asynchronous signal on the calling thread, which must be one of ours.
pub(crate) fn block_signals() {
    // SAFETY: both sets are local and initialised before they are read; the mask is the calling thread's own.
    unsafe {
        let mut set = std::mem::zeroed::<libc::sigset_t>();
        libc::sigfillset(&raw mut set);
        for fault in [libc::SIGSEGV, libc::SIGBUS, libc::SIGFPE, libc::SIGILL, libc::SIGTRAP, libc::SIGABRT] {
            libc::sigdelset(&raw mut set, fault);
        }
        libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut());
    }
}
