//! One banned call for each entry of `.ci/clippy.toml`. `cargo xtask check` runs clippy on this crate
//! and fails unless every one of them is reported: so the list is really loaded, and every path in it is real.
//! This code is never run.

#![deny(clippy::disallowed_methods, clippy::disallowed_macros)]
#![allow(unused_must_use, unsafe_code, clippy::missing_safety_doc)]

use std::fs;
use std::path::Path;

/// Time.
pub fn time() {
    std::time::SystemTime::now();
    std::time::Instant::now();
    std::thread::sleep(std::time::Duration::ZERO);
}

/// Time of the runtime.
pub fn runtime_time() {
    let (moment, span) = (tokio::time::Instant::now(), std::time::Duration::ZERO);
    drop(tokio::time::sleep(span));
    drop(tokio::time::sleep_until(moment));
    tokio::time::interval(span);
    tokio::time::interval_at(moment, span);
    drop(tokio::time::timeout(span, std::future::ready(())));
    drop(tokio::time::timeout_at(moment, std::future::ready(())));
}

/// Blocking work.
pub fn blocking() {
    drop(tokio::task::spawn_blocking(|| ()));
    tokio::task::block_in_place(|| ());
}

/// Databases, and files by system calls.
pub unsafe fn databases(path: &Path, name: &std::ffi::CStr, folder: std::os::fd::BorrowedFd<'_>) {
    use rusqlite::{Connection, OpenFlags};
    use rustix::fs::{Mode, OFlags};
    let _ = Connection::open(path);
    let _ = Connection::open_with_flags(path, OpenFlags::default());
    let _ = Connection::open_with_flags_and_vfs(path, OpenFlags::default(), c"unix");
    let _ = rustix::fs::open(path, OFlags::RDONLY, Mode::empty());
    let _ = rustix::fs::openat(folder, path, OFlags::RDONLY, Mode::empty());
    // SAFETY: never run.
    unsafe {
        libc::open(name.as_ptr(), 0);
        libc::open64(name.as_ptr(), 0);
        libc::openat(0, name.as_ptr(), 0);
        libc::openat64(0, name.as_ptr(), 0);
    }
}

/// Environment.
pub unsafe fn environment() {
    std::env::var("x");
    std::env::var_os("x");
    std::env::vars();
    std::env::vars_os();
    // SAFETY: never run.
    unsafe {
        std::env::set_var("x", "y");
        std::env::remove_var("x");
    }
}

/// Files.
pub fn files(path: &Path, permissions: fs::Permissions) {
    fs::File::open(path);
    fs::File::create(path);
    fs::File::create_new(path);
    fs::OpenOptions::new().open(path);
    fs::DirBuilder::new().create(path);
    fs::canonicalize(path);
    fs::copy(path, path);
    fs::create_dir(path);
    fs::create_dir_all(path);
    fs::exists(path);
    fs::hard_link(path, path);
    fs::metadata(path);
    fs::read(path);
    fs::read_dir(path);
    fs::read_link(path);
    fs::read_to_string(path);
    fs::remove_dir(path);
    fs::remove_dir_all(path);
    fs::remove_file(path);
    fs::rename(path, path);
    fs::set_permissions(path, permissions);
    fs::symlink_metadata(path);
    fs::write(path, "");
}

/// Output.
pub fn output() {
    print!("x");
    println!("x");
    eprint!("x");
    eprintln!("x");
}
