//! What a person at a terminal sees: the progress bar, and nothing of it anywhere else.

mod support;

use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::process::Stdio;

use rusqlite::Connection;
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use support::Replicating;

/// Both ends of a terminal.
fn terminal() -> (OwnedFd, File) {
    let ours = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).expect("a terminal");
    grantpt(&ours).expect("granted");
    unlockpt(&ours).expect("unlocked");
    let name = ptsname(&ours, Vec::new()).expect("a name");
    let theirs = File::options().read(true).write(true).open(name.to_str().expect("text")).expect("opened");
    (ours, theirs)
}

/// Restores with the error stream on a terminal: what the terminal got, and what the output got.
fn restored_at_a_terminal(arguments: &[&str]) -> (String, String) {
    let (ours, theirs) = terminal();
    let mut command = support::command(arguments);
    command.env("TERM", "xterm").env_remove("NO_COLOR").stdout(Stdio::piped()).stderr(theirs);
    let child = command.spawn().expect("it starts");
    // The terminal ends for us when nobody else has it open.
    drop(command);
    let seen = std::thread::spawn(move || {
        let (mut seen, mut part) = (Vec::new(), [0; 4096]);
        let mut ours = File::from(ours);
        while let Ok(count @ 1..) = ours.read(&mut part) {
            seen.extend_from_slice(&part[..count]);
        }
        String::from_utf8_lossy(&seen).into_owned()
    });
    let output = child.wait_with_output().expect("it ends");
    assert!(output.status.success(), "{}", output.status);
    (seen.join().expect("read"), String::from_utf8_lossy(&output.stdout).into_owned())
}

#[test]
fn a_person_sees_a_progress_bar_that_is_gone_in_the_end_and_nobody_else_does() {
    let folder = tempfile::tempdir().expect("a folder");
    let (database, url) = (folder.path().join("app.db"), format!("file://{}/replica", folder.path().display()));
    let app = Connection::open(&database).expect("open");
    app.execute_batch(
        "PRAGMA journal_mode=WAL; CREATE TABLE t (x);
         WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 2000)
         INSERT INTO t SELECT randomblob(1000) FROM n",
    )
    .expect("sql");
    let (code, _) = Replicating::start(&database.display().to_string(), &url).stop();
    assert_eq!(code, 0);
    let out = folder.path().join("out.db").display().to_string();

    let (seen, output) = restored_at_a_terminal(&["restore", "-o", &out, &url]);
    assert!(seen.contains('█') && seen.contains("MiB/"), "{seen:?}");
    let last = seen.rsplit('\r').next().unwrap_or_default();
    assert!(last.replace("\u{1b}[2K", "").is_empty(), "{last:?}");
    assert!(output.starts_with("restored ") && output.lines().count() == 1, "{output:?}");

    let (seen, output) = restored_at_a_terminal(&["restore", "-force", "-json", "-o", &out, &url]);
    assert_eq!(seen, "");
    assert!(output.starts_with('{'), "{output:?}");

    let run = support::replicate(&["restore", "-force", "-o", &out, &url]);
    assert_eq!((run.code, run.stderr.as_str()), (0, ""));
}
