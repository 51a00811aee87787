//! A short selection of `cargo xtask torture`, so that the program itself stays alive.

use std::process::Command;

#[test]
fn a_short_torture_breaks_nothing() {
    let output = Command::new(env!("CARGO_BIN_EXE_torture")).arg("--quick").output().expect("it runs");
    let told = String::from_utf8_lossy(&output.stdout);
    println!("{told}");
    assert!(output.status.success(), "{told}{}", String::from_utf8_lossy(&output.stderr));
    // A case that did nothing has not passed.
    for case in ["kill", "disk", "server", "snapshot-race", "migration", "long-reader", "truncate-loop"] {
        assert!(told.contains(&format!("{case}: ok: ")), "{case}: {told}");
    }
}

#[test]
fn a_deliberate_defect_is_found() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_torture"));
    let output = command.args(["kill", "--rounds", "60", "--seed", "1", "--mutant", "AcknowledgedEarly"]).output();
    let output = output.expect("it runs");
    let told = String::from_utf8_lossy(&output.stdout);
    assert!(!output.status.success() && told.contains("were acknowledged, only"), "{told}");
    // What it keeps as evidence is none here.
    let folder = told.split("evidence: ").nth(1).and_then(|rest| rest.split(' ').next()).expect("a folder");
    std::fs::remove_dir_all(folder).expect("removed");
}
