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
