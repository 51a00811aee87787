//! What the command promises on its outside: spellings, streams, exit codes, fields, and that secrets do
//! not show. These run the real program.

mod support;

use serde_json::Value;
use support::{Run, replicate};

const SECRET: &str = "hush-hush-hush";

fn error_of(run: &Run) -> Value {
    let object: Value = serde_json::from_str(run.stderr.trim()).unwrap_or_else(|e| panic!("{e}: {}", run.stderr));
    object["error"].clone()
}

#[test]
fn version_is_printed_in_both_forms() {
    let run = replicate(&["version"]);
    assert_eq!((run.code, run.stdout.as_str()), (0, concat!("replicate ", env!("CARGO_PKG_VERSION"), "\n")));
    for spelling in [&["version", "--json"][..], &["version", "-json"], &["version", "-json=true"]] {
        let run = replicate(spelling);
        let object: Value = serde_json::from_str(&run.stdout).expect("JSON");
        assert_eq!(object["name"], "replicate");
        assert_eq!(object["version"], env!("CARGO_PKG_VERSION"));
    }
}

#[test]
fn help_goes_to_the_output_and_has_the_exit_codes() {
    for line in [&["--help"][..], &["restore", "--help"], &["restore", "-help"], &["replicate", "-h"]] {
        let run = replicate(line);
        assert_eq!(run.code, 0, "{line:?}: {}", run.stderr);
        assert!(run.stdout.contains("Exit codes:") && run.stdout.contains("14  NO_BACKUP"), "{}", run.stdout);
        assert!(run.stderr.is_empty());
    }
}

#[test]
fn wrong_command_lines_end_with_2_and_say_why_on_the_error_stream() {
    for (line, named) in [
        (&["restor", "file:///x"][..], "restor"),
        (&["restore", "--nonsense", "file:///x"], "--nonsense"),
        (&["restore", "-o", "x", "-txid", "12", "file:///x"], "16 hex digits"),
        (&["restore", "-o", "x", "-txid", "0000000000000000", "file:///x"], "begin at 1"),
        (&["restore", "-o", "x", "-timestamp", "yesterday", "file:///x"], "expected a time"),
        (&["restore", "-o", "x", "-integrity-check", "some", "file:///x"], "some"),
        (&["restore", "-o", "x", "-parallelism", "0", "file:///x"], "0"),
        (
            &["restore", "-txid", "0000000000000001", "-timestamp", "2026-01-01T00:00:00Z", "file:///x"],
            "cannot be used",
        ),
        (&["ltx", "-level", "10", "file:///x"], "0 to 9"),
        (&["ltx", "some/folder"], "not a replica URL"),
        (&["ltx", "ftp://host/x"], "ftp"),
        (&["ltx"], "no replica is named"),
        (&["restore", "s3://bucket"], "-o OUT"),
        (&["replicate", "a.db", "file:///x", "file:///y"], "file:///y"),
        (&["replicate", "a.db", "file:///x", "-sync-interval", "soon"], "sync_interval"),
        (&["replicate", "a.db", "file:///x", "-stop-timeout", "soon"], "expected a duration"),
        (&["replicate", "a.db", "file:///x", "--endpoint", "http://127.0.0.1:1"], "endpoint"),
        (&["replicate", "a.db", "file:///x", "--age-recipient", "age1x"], "REPLICATE_AGE_RECIPIENT"),
    ] {
        let run = replicate(line);
        assert_eq!(run.code, 2, "{line:?}: {}", run.stderr);
        assert!(run.stderr.starts_with("error: ") && run.stderr.contains(named), "{line:?}: {}", run.stderr);
        assert!(run.stdout.is_empty(), "{line:?}: {}", run.stdout);

        let with_json = [line, &["--json"]].concat();
        let run = replicate(&with_json);
        let error = error_of(&run);
        assert_eq!((run.code, &error["kind"], &error["exit_code"]), (2, &"CONFIG".into(), &2.into()), "{line:?}");
        assert!(error["message"].as_str().is_some_and(|m| !m.is_empty() && !m.contains('\n')), "{error}");
    }
}

#[test]
fn errors_as_json_have_the_documented_fields() {
    let run = replicate(&["ltx", "-json"]);
    let error = error_of(&run);
    let mut fields: Vec<_> = error.as_object().expect("an object").keys().map(String::as_str).collect();
    fields.sort_unstable();
    assert_eq!(fields, ["code", "exit_code", "hint", "kind", "message", "reason", "retryable"]);
    assert!(run.stdout.is_empty());
}

#[test]
fn what_follows_two_dashes_is_never_a_flag() {
    let run = replicate(&["ltx", "--", "-level"]);
    assert_eq!(run.code, 2);
    assert!(run.stderr.contains("not a replica URL: \"-level\""), "{}", run.stderr);
}

#[test]
fn secrets_do_not_show() {
    let url = format!("s3://key:{SECRET}@bucket/path");
    let flag = format!("--secret-key={SECRET}");
    let lines: [&[&str]; 8] = [
        &["ltx", &url],
        &["ltx", &url, "extra"],
        &[&url],
        &["ltx", "file:///x", &flag],
        &["ltx", "file:///x", "-secret-key", SECRET],
        &["ltx", "s3://bucket/path", "-session-token", SECRET],
        &["replicate", "a.db", "file:///x", "-age-identity", SECRET],
        &["version", &url],
    ];
    for line in lines {
        for json in [&[][..], &["--json"]] {
            let run = replicate(&[line, json].concat());
            assert_eq!(run.code, 2, "{line:?}: {}", run.stderr);
            assert!(!run.stdout.contains(SECRET) && !run.stderr.contains(SECRET), "{line:?}: {}", run.stderr);
        }
    }
}

#[test]
fn secret_flags_name_the_variable() {
    let run = replicate(&["ltx", "s3://bucket/path", "--secret-key", "x"]);
    assert!(run.stderr.contains("REPLICATE_S3_SECRET_KEY"), "{}", run.stderr);
    let help = replicate(&["ltx", "--help"]);
    assert!(!help.stdout.contains("--secret-key"), "{}", help.stdout);
}

#[test]
fn unknown_variables_are_warned_of() {
    let run = support::command(&["ltx"]).env("REPLICATE_S3_BUKET", "x").output().expect("runs");
    let stderr = String::from_utf8_lossy(&run.stderr);
    assert!(stderr.contains("warning: unknown variable REPLICATE_S3_BUKET"), "{stderr}");

    let run = support::command(&["ltx", "--json"]).env("REPLICATE_S3_BUKET", "x").output().expect("runs");
    let stderr = String::from_utf8_lossy(&run.stderr);
    let objects: Vec<Value> =
        stderr.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"))).collect();
    assert_eq!(objects[0]["warning"]["message"], "unknown variable REPLICATE_S3_BUKET, ignored");
    assert_eq!(objects[1]["error"]["kind"], "CONFIG");
}

#[test]
fn a_number_of_requests_out_of_range_is_refused_by_the_library() {
    let folder = tempfile::tempdir().expect("a folder");
    let (url, out) = (format!("file://{}", folder.path().display()), folder.path().join("out.db"));
    for number in ["0", "65"] {
        let run = replicate(&["restore", "-o", &out.display().to_string(), "--json", "--parallelism", number, &url]);
        let error = error_of(&run);
        assert_eq!((run.code, error["kind"].as_str()), (2, Some("CONFIG")), "{error}");
        assert!(error["message"].as_str().is_some_and(|text| text.contains("1 to 64")), "{error}");
    }
    let help = replicate(&["restore", "--help"]);
    assert!(help.stdout.contains("1 to 64 [default: 32]"), "{}", help.stdout);
}

#[test]
fn a_url_takes_the_place_of_the_environments_replica() {
    let folder = tempfile::tempdir().expect("a folder");
    let url = format!("file://{}", folder.path().display());
    let run = support::command(&["restore", "-o", "x.db", "-json", &url])
        .current_dir(folder.path())
        .envs([
            ("REPLICATE_URL", "file:///elsewhere"),
            ("REPLICATE_S3_ENDPOINT", "http://127.0.0.1:1"),
            ("REPLICATE_S3_BUCKET", "elsewhere"),
            ("REPLICATE_S3_PATH", "elsewhere"),
            ("REPLICATE_S3_ACCESS_KEY", "key"),
            ("REPLICATE_S3_SECRET_KEY", SECRET),
        ])
        .output()
        .expect("runs");
    let run = Run::of(&run);
    assert_eq!(run.code, 14, "an empty replica is no backup: {}", run.stderr);
}

#[test]
fn the_environment_alone_is_enough() {
    let folder = tempfile::tempdir().expect("a folder");
    let place = format!("file://{}/replica", folder.path().display());
    let app = rusqlite::Connection::open(folder.path().join("app.db")).expect("open");
    app.execute_batch("PRAGMA journal_mode=WAL; CREATE TABLE t (n); INSERT INTO t VALUES (7)").expect("sql");
    let given = [("REPLICATE_URL", place.as_str()), ("REPLICATE_SYNC_INTERVAL", "20ms")];
    let (code, diary) = support::Replicating::with(&[&folder.path().join("app.db").display().to_string()], |command| {
        command.envs(given);
    })
    .stop();
    assert_eq!((code, &diary[0]["replica"]), (0, &place.as_str().into()));
    let run = |arguments: &[&str], variables: &[(&str, &str)]| {
        let mut command = support::command(arguments);
        let output = command.current_dir(folder.path()).envs(variables.iter().copied()).output();
        Run::of(&output.expect("runs"))
    };
    let listed = run(&["ltx", "-json"], &given);
    assert!(listed.code == 0 && listed.stdout.contains("max_txid"), "{}", listed.stderr);
    let restored = run(&["restore", "-o", "out.db"], &given);
    assert_eq!(restored.code, 0, "{}", restored.stderr);
    let copy = rusqlite::Connection::open(folder.path().join("out.db")).expect("open");
    let row: u32 = copy.query_row("SELECT n FROM t", [], |row| row.get(0)).expect("sql");
    assert_eq!(row, 7);

    // A port of this host that nobody listens on.
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("an address");
    let endpoint = format!("http://{nobody}");
    let service = [
        ("REPLICATE_S3_ENDPOINT", endpoint.as_str()),
        ("REPLICATE_S3_BUCKET", "mine"),
        ("REPLICATE_S3_ACCESS_KEY", "key"),
        ("REPLICATE_S3_SECRET_KEY", SECRET),
    ];
    let unreached = run(&["ltx"], &service);
    assert_eq!(unreached.code, 13, "{}", unreached.stderr);
    let wrong = run(&["ltx"], &[("REPLICATE_URL", "ftp://host/x")]);
    assert_eq!(wrong.code, 2, "{}", wrong.stderr);
}
