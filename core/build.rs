//! Compiles the one C file of the library: the variadic `fcntl` that SQLite calls (see `src/sqlite/oslock.rs`).

fn main() {
    println!("cargo::rerun-if-changed=src/sqlite/fcntl_shim.c");
    if std::env::var("CARGO_CFG_TARGET_OS").as_deref() == Ok("linux") {
        // Hidden, so that no artefact exports it and two artefacts in one process keep their own.
        cc::Build::new()
            .file("src/sqlite/fcntl_shim.c")
            .flag("-fvisibility=hidden")
            .warnings_into_errors(true)
            .compile("replicate_fcntl_shim");
    }
}
