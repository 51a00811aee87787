//! SIGINT, SIGTERM and SIGHUP: the first asks for an orderly end, the second ends the process at once.
//!
//! The signals are blocked in every thread and taken by one that waits for them, so nothing ever runs inside
//! a signal handler. Must be called before other threads exist, as they inherit what is blocked.

use std::mem::MaybeUninit;

use replicate::{Error, ErrorKind};

use crate::exit;

/// Calls `first` on the first signal, with its number, from a thread of its own.
pub(crate) fn on_first(first: impl FnOnce(i32) + Send + 'static) -> Result<(), Error> {
    let set = block()?;
    let waiting = move || {
        let number = wait(&set);
        let second = std::thread::Builder::new().name("signal".into()).spawn(move || {
            let number = wait(&set);
            std::process::exit(exit::of_signal(number).into());
        });
        first(number);
        drop(second);
    };
    let started = std::thread::Builder::new().name("signals".into()).spawn(waiting);
    started.map(drop).map_err(|e| Error::new(ErrorKind::Internal, format!("start a thread: {e}")))
}

/// Blocks the signals in this thread and all that it will start.
fn block() -> Result<libc::sigset_t, Error> {
    let mut numbers = vec![libc::SIGINT, libc::SIGTERM];
    if !is_ignored(libc::SIGHUP) {
        numbers.push(libc::SIGHUP);
    }
    let mut set = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: sigemptyset initialises the set it is given, the others change it; the pointers are valid for
    // the calls, and a null old set is allowed.
    let failed = unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        for number in numbers {
            libc::sigaddset(set.as_mut_ptr(), number);
        }
        libc::pthread_sigmask(libc::SIG_BLOCK, set.as_ptr(), std::ptr::null_mut())
    };
    if failed != 0 {
        let error = std::io::Error::from_raw_os_error(failed);
        return Err(Error::new(ErrorKind::Internal, format!("block signals: {error}")));
    }
    // SAFETY: sigemptyset has initialised it.
    Ok(unsafe { set.assume_init() })
}

/// Blocks every signal in this thread.
pub(crate) fn block_all() {
    let mut set = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: sigfillset initialises the set it is given; a null old set is allowed. Both fail only for arguments
    // that are wrong.
    unsafe {
        libc::sigfillset(set.as_mut_ptr());
        libc::pthread_sigmask(libc::SIG_BLOCK, set.as_ptr(), std::ptr::null_mut());
    }
}

/// Whether the signal was set to be ignored by who started us, as `nohup` does.
fn is_ignored(number: i32) -> bool {
    let mut current = MaybeUninit::<libc::sigaction>::uninit();
    // SAFETY: a null new action only asks; the old one is written if the call succeeds, and only then read.
    unsafe {
        libc::sigaction(number, std::ptr::null(), current.as_mut_ptr()) == 0
            && current.assume_init().sa_sigaction == libc::SIG_IGN
    }
}

fn wait(set: &libc::sigset_t) -> i32 {
    loop {
        let mut number = 0;
        // SAFETY: both pointers are valid for the call, and the set is initialised.
        if unsafe { libc::sigwait(set, &mut number) } == 0 {
            return number;
        }
    }
}
