//! Keys on the command line: made, shown in halves, and used to replicate and to restore.

mod support;

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use serde_json::Value;
use support::{Replicating, command, replicate};

const SECRET: &str = "AGE-SECRET-KEY-";

#[test]
fn keygen_writes_the_private_key_to_a_file_of_its_own_and_prints_the_public_one() {
    let folder = tempfile::tempdir().expect("a folder");
    for (kind, prefix) in [("pq", "age1pq1"), ("x25519", "age1"), ("xw", "age1xw1")] {
        let path = folder.path().join(format!("{kind}.key"));
        let file = path.to_str().expect("text");
        let run = replicate(&["keygen", "-kind", kind, "-o", file]);
        assert_eq!(run.code, 0, "{}", run.stderr);
        let public = run.stdout.trim();
        assert!(public.starts_with(prefix) && !run.stdout.contains(SECRET), "{}", run.stdout);
        let text = std::fs::read_to_string(&path).expect("written");
        assert!(text.contains(&format!("# public key: {public}\n{SECRET}")), "{kind}");
        assert_eq!(std::fs::metadata(&path).expect("there").permissions().mode() & 0o777, 0o600);

        let again = replicate(&["keygen", "-o", file]);
        assert_eq!(again.code, 22, "{}", again.stderr);
        assert_eq!(std::fs::read_to_string(&path).expect("kept"), text);
        assert_eq!(replicate(&["keygen", "-y", file]).stdout.trim(), public);
        let told: Value = serde_json::from_str(&replicate(&["keygen", "--json", "-y", file]).stdout).expect("JSON");
        assert_eq!(told["recipients"], serde_json::json!([public]));
    }
    let run = replicate(&["keygen"]);
    assert!(run.code == 0 && run.stdout.contains("\nAGE-SECRET-KEY-PQ-1"), "{}", run.stdout);
    let made: Value = serde_json::from_str(&replicate(&["keygen", "--json"]).stdout).expect("JSON");
    assert!(made["identity"].as_str().is_some_and(|key| key.starts_with(SECRET)), "{made}");
    let wrong = replicate(&["keygen", "-y", folder.path().join("pq.key.pub").to_str().expect("text")]);
    assert_ne!(wrong.code, 0);
    assert_eq!(replicate(&["keygen", "--kind", "rsa"]).code, 2);
}

fn database(path: &Path) {
    let db = rusqlite::Connection::open(path).expect("opens");
    db.execute_batch("PRAGMA journal_mode=WAL; CREATE TABLE t (v); INSERT INTO t VALUES ('kept');").expect("writes");
}

#[test]
fn what_is_replicated_with_a_public_key_is_restored_with_the_private_one_only() {
    let folder = tempfile::tempdir().expect("a folder");
    let at = |name: &str| folder.path().join(name).to_str().expect("text").to_owned();
    let (db, key, url) = (at("app.db"), at("backup.key"), format!("file://{}", at("replica")));
    database(Path::new(&db));
    let public = replicate(&["keygen", "-o", &key]).stdout.trim().to_owned();

    let (code, _) = Replicating::start_as(&db, &url, |command| {
        command.args(["--age-recipient", &public]);
    })
    .stop();
    assert_eq!(code, 0);
    for file in std::fs::read_dir(folder.path().join("replica/ltx/0")).expect("files") {
        let bytes = std::fs::read(file.expect("a file").path()).expect("read");
        assert!(bytes.starts_with(b"age-encryption.org/v1\n-> mlkem768x25519 "));
    }

    let output = at("back.db");
    let run = replicate(&["restore", "-o", &output, &url]);
    assert_eq!(run.code, 20, "{}", run.stderr);
    assert!(run.stderr.contains("REPLICATE_AGE_IDENTITY"), "{}", run.stderr);
    for flag in ["--identity", "-age-identity-file"] {
        let run = replicate(&["restore", "--overwrite", "-o", &output, flag, &key, &url]);
        assert_eq!(run.code, 0, "{}", run.stderr);
        let restored = rusqlite::Connection::open(&output).expect("opens");
        let value: String = restored.query_row("SELECT v FROM t", [], |row| row.get(0)).expect("there");
        assert_eq!(value, "kept");
    }
    // The environment's keys count also beside a URL on the command line.
    let run =
        command(&["restore", "--overwrite", "-o", &output, &url]).env("REPLICATE_AGE_IDENTITY_FILE", &key).output();
    assert!(run.expect("runs").status.success());
    let private = std::fs::read_to_string(&key).expect("read").lines().last().expect("a line").to_owned();
    for arguments in [
        &["restore", "-o", &output, &url, "--age-identity", &private][..],
        &["replicate", &db, &url, "--age-recipient", &private],
    ] {
        let run = replicate(arguments);
        assert_eq!(run.code, 2);
        assert!(!run.stderr.contains(&private[20..30]) && run.stdout.is_empty(), "{}", run.stderr);
    }
}
