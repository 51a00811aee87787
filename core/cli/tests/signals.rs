//! What signals do: the first ends in order, the second at once, and one that comes before there is anything to
//! end in order ends the wait.

mod support;

use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rusqlite::Connection;

const LIMIT: Duration = Duration::from_secs(20);

/// A store that takes connections and never answers.
struct Silent(TcpListener);

impl Silent {
    fn new() -> Self {
        Self(TcpListener::bind("127.0.0.1:0").expect("a port"))
    }

    fn url(&self) -> String {
        format!("s3://bucket/path?endpoint=http://{}", self.0.local_addr().expect("an address"))
    }
}

/// A running command that is not left behind.
struct Running(Child);

impl Running {
    fn start(database: &Path, store: &Silent) -> Self {
        let mut command = support::command(&["replicate", "--stop-timeout", "10m"]);
        command.arg(database).arg(store.url()).stdout(Stdio::null()).stderr(Stdio::null());
        command.envs([("REPLICATE_S3_ACCESS_KEY", "key"), ("REPLICATE_S3_SECRET_KEY", "hush")]);
        Self(command.spawn().expect("it starts"))
    }

    fn signal(&self, name: &str) {
        let sent = Command::new("kill").args([name, &self.0.id().to_string()]).status().expect("kill runs");
        assert!(sent.success());
    }

    /// The command runs a thread for each thing it waits for; this is how one sees what it waits for.
    fn has_thread(&self, name: &str) -> bool {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", self.0.id())).into_iter().flatten();
        let names = tasks.flatten().map(|task| std::fs::read_to_string(task.path().join("comm")).unwrap_or_default());
        names.into_iter().any(|comm| comm.trim() == name)
    }

    fn ended(&mut self) -> Option<i32> {
        self.0.try_wait().expect("waited").map(|status| status.code().unwrap_or(-1))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ended = self.0.kill().and_then(|()| self.0.wait());
    }
}

fn until<T>(what: &str, mut holds: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + LIMIT;
    loop {
        if let Some(value) = holds() {
            return value;
        }
        assert!(Instant::now() < deadline, "{what}: not in time");
        std::thread::yield_now();
    }
}

#[test]
fn the_first_signal_ships_what_there_is_and_the_second_ends_at_once() {
    for (first, second, code) in [("-TERM", "-INT", 130), ("-INT", "-TERM", 143)] {
        let (folder, store) = (tempfile::tempdir().expect("a folder"), Silent::new());
        let database = folder.path().join("app.db");
        let app = Connection::open(&database).expect("open");
        app.execute_batch("PRAGMA journal_mode=WAL; CREATE TABLE t (n)").expect("create");
        let mut running = Running::start(&database, &store);
        until("it replicates", || running.has_thread("events").then_some(()));
        running.signal(first);
        // From then on one waits for the second, and the store is still being tried.
        until("the first signal is taken", || running.has_thread("signal").then_some(()));
        assert_eq!(running.ended(), None);
        running.signal(second);
        assert_eq!(until("it ends", || running.ended()), code);
    }
}

#[test]
fn a_signal_ends_the_restore_that_comes_before_replication() {
    let (folder, store) = (tempfile::tempdir().expect("a folder"), Silent::new());
    let database = folder.path().join("app.db");
    let mut running = Running::start(&database, &store);
    store.0.set_nonblocking(true).expect("set");
    let _asked = until("it asks the store", || store.0.accept().ok());
    running.signal("-TERM");
    assert_eq!(until("it ends", || running.ended()), 143);
    assert!(!database.exists());
}
