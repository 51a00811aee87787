//! The command where locks of open file descriptions do not exist: it is alone in its process, so classic locks
//! do. A filter of system calls takes the others away.

mod support;

use std::os::unix::process::CommandExt;
use std::process::Command;

use rusqlite::Connection;
use support::{Replicating, replicate};

/// Makes every lock command of open file descriptions fail, as a kernel or sandbox without them does.
fn without_description_locks(command: &mut Command) {
    // SAFETY: the closure makes system calls only, on memory of its own; it neither allocates nor locks.
    unsafe { command.pre_exec(install_filter) };
}

fn install_filter() -> std::io::Result<()> {
    use libc::{BPF_ABS, BPF_JEQ, BPF_JGE, BPF_JMP, BPF_JUMP, BPF_K, BPF_LD, BPF_RET, BPF_STMT, BPF_W};
    // `struct seccomp_data`: the number of the call at 0, its second argument at 24.
    let number = libc::SYS_fcntl as u32;
    let (first, last) = (libc::F_OFD_GETLK as u32, libc::F_OFD_SETLKW as u32);
    let refuse = libc::SECCOMP_RET_ERRNO | libc::EINVAL as u32;
    // SAFETY: these only fill structures in.
    let mut program = unsafe {
        [
            BPF_STMT((BPF_LD | BPF_W | BPF_ABS) as u16, 0),
            BPF_JUMP((BPF_JMP | BPF_JEQ | BPF_K) as u16, number, 0, 4),
            BPF_STMT((BPF_LD | BPF_W | BPF_ABS) as u16, 24),
            BPF_JUMP((BPF_JMP | BPF_JGE | BPF_K) as u16, first, 0, 2),
            BPF_JUMP((BPF_JMP | BPF_JGE | BPF_K) as u16, last + 1, 1, 0),
            BPF_STMT((BPF_RET | BPF_K) as u16, refuse),
            BPF_STMT((BPF_RET | BPF_K) as u16, libc::SECCOMP_RET_ALLOW),
        ]
    };
    let filter = libc::sock_fprog { len: program.len() as u16, filter: program.as_mut_ptr() };
    // SAFETY: the filter is valid for the call; the last call is refused before it looks at its pointer, or fails.
    unsafe {
        if libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0
            || libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const filter) != 0
        {
            return Err(std::io::Error::last_os_error());
        }
        let tried = libc::fcntl(2, libc::F_OFD_GETLK, std::ptr::null_mut::<libc::flock>());
        match std::io::Error::last_os_error().raw_os_error() {
            Some(libc::EINVAL) if tried == -1 => Ok(()),
            _ => Err(std::io::Error::from_raw_os_error(libc::EPROTO)),
        }
    }
}

#[test]
fn the_command_replicates_where_the_library_must_refuse() {
    let folder = tempfile::tempdir().expect("a folder");
    let text = |name: &str| folder.path().join(name).display().to_string();
    let url = format!("file://{}", text("replica"));
    let application = Connection::open(text("app.db")).expect("open");
    application.execute_batch("PRAGMA journal_mode=WAL; CREATE TABLE t (n INTEGER PRIMARY KEY)").expect("create");

    let running = Replicating::start_as(&text("app.db"), &url, without_description_locks);
    for _ in 0..200 {
        application.execute("INSERT INTO t DEFAULT VALUES", []).expect("insert");
    }
    application.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(())).expect("checkpoint");
    application.execute("INSERT INTO t DEFAULT VALUES", []).expect("insert");
    let (code, diary) = running.stop();
    assert_eq!(code, 0, "{diary:?}");

    let run = replicate(&["restore", "-o", &text("out.db"), "-integrity-check", "full", &url]);
    assert_eq!(run.code, 0, "{}", run.stderr);
    let restored = Connection::open(text("out.db")).expect("open");
    let rows: u32 = restored.query_row("SELECT count(*) FROM t", [], |row| row.get(0)).expect("count");
    assert_eq!(rows, 201);
}
