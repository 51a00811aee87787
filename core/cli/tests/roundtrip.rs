//! The command end to end on a file store: replicate, stop by a signal, list, restore, and what restore
//! refuses. The application whose database is replicated is this test, in a process of its own.

mod support;

use std::path::{Path, PathBuf};

use rusqlite::Connection;
use serde_json::Value;
use support::{Replicating, replicate};

struct Place {
    folder: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().expect("a folder") }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }

    fn url(&self) -> String {
        format!("file://{}", self.text("replica"))
    }

    fn database(&self) -> Connection {
        let database = Connection::open(self.path("app.db")).expect("open");
        database
            .execute_batch("PRAGMA journal_mode=WAL; CREATE TABLE IF NOT EXISTS t (n INTEGER PRIMARY KEY, x BLOB)")
            .expect("create");
        database
    }

    /// Replicates this many rows and stops in order; the diary.
    fn replicated(&self, rows: u32) -> Vec<Value> {
        let database = self.database();
        let running = Replicating::start(&self.text("app.db"), &self.url());
        insert(&database, rows);
        let (code, diary) = running.stop();
        assert_eq!(code, 0, "{diary:?}");
        diary
    }
}

fn insert(database: &Connection, rows: u32) {
    for _ in 0..rows {
        database.execute("INSERT INTO t (x) VALUES (randomblob(300))", []).expect("insert");
    }
}

fn rows(path: &Path) -> u32 {
    let database = Connection::open(path).expect("open");
    database.query_row("SELECT count(*) FROM t", [], |row| row.get(0)).expect("count")
}

#[test]
fn what_was_committed_before_the_signal_is_restored() {
    let place = Place::new();
    let diary = place.replicated(50);
    let events: Vec<_> = diary.iter().filter_map(|line| line["event"].as_str()).collect();
    assert_eq!((events.first(), events.last()), (Some(&"started"), Some(&"stopped")), "{events:?}");
    let stopped = diary.last().expect("a line");
    assert_eq!(stopped["flushed"], true, "{stopped}");
    assert_eq!(stopped["local_txid"], stopped["remote_txid"], "{stopped}");
    for line in &diary {
        assert!(line["time"].as_str().is_some_and(|t| t.ends_with('Z')), "{line}");
    }

    let run = replicate(&["restore", "-o", &place.text("out.db"), "-json", &place.url()]);
    assert_eq!(run.code, 0, "{}", run.stderr);
    let report: Value = serde_json::from_str(&run.stdout).expect("JSON");
    assert_eq!(report["txid"], stopped["remote_txid"]);
    assert_eq!(report["integrity_check"], "quick");
    assert_eq!(report["db_path"], place.text("out.db"));
    let mut fields: Vec<_> = report.as_object().expect("an object").keys().map(String::as_str).collect();
    fields.sort_unstable();
    let documented = [
        "bytes",
        "db_path",
        "duration_ms",
        "fetched",
        "files",
        "integrity_check",
        "pages",
        "replica",
        "timestamp",
        "txid",
    ];
    assert_eq!(fields, documented);
    assert_eq!(rows(&place.path("out.db")), 50);
}

#[test]
fn a_database_that_was_restored_at_the_start_is_told() {
    let place = Place::new();
    let replicated = place.replicated(3);
    let newest = &replicated.last().expect("a line")["remote_txid"];
    for name in ["app.db", "app.db-wal", "app.db-shm"] {
        let gone = std::fs::remove_file(place.path(name));
        assert!(gone.is_ok() || name != "app.db", "{gone:?}");
    }
    let (code, diary) = Replicating::start(&place.text("app.db"), &place.url()).stop();
    assert_eq!(code, 0, "{diary:?}");
    let restored: Vec<_> = diary.iter().filter(|line| line["event"] == "restored").collect();
    assert!(matches!(&restored[..], [line] if line["txid"] == *newest), "{diary:?}");
    assert_eq!(rows(&place.path("app.db")), 3);
}

#[test]
fn warnings_of_the_library_go_to_the_error_stream() {
    let place = Place::new();
    let database = Connection::open(place.path("app.db")).expect("open");
    database.execute_batch("PRAGMA journal_mode=DELETE; CREATE TABLE t (n INTEGER PRIMARY KEY, x)").expect("create");
    drop(database);
    let errors = std::fs::File::create(place.path("errors")).expect("created");
    let prepare = |command: &mut std::process::Command| {
        command.stderr(errors);
    };
    let (code, diary) = Replicating::start_as(&place.text("app.db"), &place.url(), prepare).stop();
    assert_eq!(code, 0, "{diary:?}");
    let errors = std::fs::read_to_string(place.path("errors")).expect("readable");
    let warning: Value = serde_json::from_str(&errors).unwrap_or_else(|e| panic!("{e}: {errors}"));
    let message = warning["warning"]["message"].as_str().expect("text");
    assert!(message.starts_with("switched the database to WAL mode"), "{message}");
}

#[test]
fn an_existing_output_is_refused_unless_overwriting_was_asked_for() {
    let place = Place::new();
    place.replicated(3);
    let (out, url) = (place.text("out.db"), place.url());
    assert_eq!(replicate(&["restore", "-o", &out, &url]).code, 0);

    let refused = replicate(&["restore", "-o", &out, &url]);
    assert_eq!(refused.code, 22, "{}", refused.stderr);
    assert!(refused.stderr.starts_with("error: "), "{}", refused.stderr);
    assert_eq!(replicate(&["restore", "-o", &out, "-if-db-not-exists", &url]).code, 0);
    for flag in ["-force", "--overwrite"] {
        assert_eq!(replicate(&["restore", "-o", &out, flag, &url]).code, 0, "{flag}");
    }
    assert_eq!(rows(&place.path("out.db")), 3);
}

#[test]
fn no_backup_is_14_and_may_be_skipped_but_an_unreached_state_may_not() {
    let place = Place::new();
    let (out, empty) = (place.text("out.db"), format!("file://{}", place.text("empty")));
    assert_eq!(replicate(&["restore", "-o", &out, &empty]).code, 14);
    let skipped = replicate(&["restore", "-o", &out, "-if-replica-exists", "-json", &empty]);
    assert_eq!(skipped.code, 0, "{}", skipped.stderr);
    let object: Value = serde_json::from_str(&skipped.stdout).expect("JSON");
    assert_eq!(object["skipped"], "no-backup");

    place.replicated(1);
    let far = ["restore", "-o", &out, "-if-replica-exists", "-txid", "00000000000fffff", &place.url()];
    assert_eq!(replicate(&far).code, 14);
    assert!(!place.path("out.db").exists());
}

#[test]
fn without_o_the_output_is_named_after_the_replica() {
    let place = Place::new();
    place.replicated(2);
    let here = place.path("here");
    std::fs::create_dir(&here).expect("a folder");
    let status = support::command(&["restore", &place.url()]).current_dir(&here).status().expect("runs");
    assert!(status.success());
    assert_eq!(rows(&here.join("replica")), 2);
}

#[test]
fn listing_has_the_documented_columns_and_fields() {
    let place = Place::new();
    place.replicated(5);
    let run = replicate(&["ltx", "-level", "all", &place.url()]);
    let head: Vec<_> = run.stdout.lines().next().unwrap_or_default().split_whitespace().collect();
    assert_eq!(head, ["level", "min_txid", "max_txid", "size", "created"]);

    let run = replicate(&["ltx", "-json", &place.url()]);
    let files: Value = serde_json::from_str(&run.stdout).expect("JSON");
    let files = files.as_array().expect("an array");
    assert!(!files.is_empty());
    for file in files {
        assert_eq!(file["level"], 0);
        assert_eq!(file["min_txid"].as_str().map(str::len), Some(16));
        assert!(file["size"].as_u64().is_some_and(|size| size > 100));
        assert!(file["timestamp"].as_str().is_some_and(|t| t.starts_with("20") && t.ends_with('Z')));
    }
}

#[test]
fn every_listed_transaction_and_time_can_be_restored() {
    let place = Place::new();
    place.replicated(4);
    let run = replicate(&["ltx", "-json", &place.url()]);
    let files: Value = serde_json::from_str(&run.stdout).expect("JSON");
    for file in files.as_array().expect("an array") {
        for (flag, field) in [("-txid", "max_txid"), ("--timestamp", "timestamp")] {
            let value = file[field].as_str().expect("text");
            let run = replicate(&["restore", "-force", "-o", &place.text("out.db"), flag, value, &place.url()]);
            assert_eq!(run.code, 0, "{flag} {value}: {}", run.stderr);
        }
    }
}
