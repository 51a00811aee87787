//! `cargo xtask demo`: the product's one line at work, against an S3 server of its own on this machine.
//!
//! Everything it makes lies in one scratch folder that is removed at the end; it reads no configuration of
//! the user's.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};

use crate::Outcome;
use crate::sh;
use crate::wheel;

const BUCKET: &str = "demo";
const ACCESS_KEY: &str = "demo";
const SECRET_KEY: &str = "demo-secret";

/// The command.
pub(crate) fn run(arguments: &[String]) -> Outcome {
    sh::no_arguments(arguments)?;
    println!("building (minutes the first time, seconds later)");
    sh::run(&mut sh::cargo(&["build", "--quiet", "--locked", "--package", "replicate-loopback-s3", "--bins"]))?;
    let python = wheel::fresh_venv("demo", &[])?;
    let scratch = Scratch::new()?;
    let store = scratch.0.join("store");
    sh::make_dir(&store.join(BUCKET))?;
    let server = Server::start(&store)?;
    println!("S3 server on {}", server.endpoint);
    let mut demo = sh::cmd(python);
    demo.arg("examples/python/demo.py").arg(scratch.0.join("work"));
    demo.env("HOME", &scratch.0).env("PYTHONDONTWRITEBYTECODE", "1");
    for (name, _) in std::env::vars_os().filter(|(n, _)| n.to_string_lossy().starts_with("REPLICATE_")) {
        demo.env_remove(name);
    }
    demo.env("REPLICATE_S3_ENDPOINT", &server.endpoint)
        .env("REPLICATE_S3_BUCKET", BUCKET)
        .env("REPLICATE_S3_PATH", "app")
        .env("REPLICATE_S3_ACCESS_KEY", ACCESS_KEY)
        .env("REPLICATE_S3_SECRET_KEY", SECRET_KEY);
    sh::run(&mut demo)?;
    let objects = objects(&store.join(BUCKET))?;
    let sealed = objects.iter().filter(|object| object.sealed).count();
    let bytes: u64 = objects.iter().map(|object| object.bytes).sum();
    println!("the bucket holds {} objects, {} KiB", objects.len(), bytes.div_ceil(1024));
    println!("{sealed} of them begin with {:?}: age files", MAGIC.trim_end());
    if sealed != objects.len() || sealed == 0 {
        return Err("an object in the bucket is not sealed".to_owned());
    }
    Ok(())
}

/// A folder that goes away with this value.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Outcome<Self> {
        let path = sh::target().join(format!("demo-{}", std::process::id()));
        sh::fresh_dir(&path)?;
        sh::make_dir(&path.join("work"))?;
        Ok(Self(path))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(e) = std::fs::remove_dir_all(&self.0) {
            eprintln!("cannot remove {}: {e}", self.0.display());
        }
    }
}

/// The loopback S3 server; it ends with this value.
struct Server {
    child: Child,
    endpoint: String,
}

impl Server {
    fn start(store: &Path) -> Outcome<Self> {
        let mut command = sh::cmd(sh::target().join("debug/replicate-loopback-s3"));
        command.arg("--dir").arg(store).args(["--port", "0", "--access-key", ACCESS_KEY, "--secret-key", SECRET_KEY]);
        let child = command.stdout(Stdio::piped()).spawn().map_err(|e| format!("cannot start the S3 server: {e}"))?;
        let mut server = Self { child, endpoint: String::new() };
        let out = server.child.stdout.take().expect("standard output was piped");
        // It prints its endpoint when it is ready to be used, and ends its output if it fails before that.
        let mut lines = BufReader::new(out).lines().map_while(Result::ok);
        let endpoint = lines.find_map(|l| l.split_whitespace().find(|w| w.starts_with("http://")).map(str::to_owned));
        server.endpoint = endpoint.ok_or("the S3 server ended before it was ready")?;
        Ok(server)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Already gone is what we want; nothing else can fail for a child of ours.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What sealed objects begin with.
const MAGIC: &str = "age-encryption.org/v1\n";

/// A file of the replica.
struct Object {
    bytes: u64,
    sealed: bool,
}

/// The replica's files under a folder.
fn objects(folder: &Path) -> Outcome<Vec<Object>> {
    let mut found = Vec::new();
    let error = |e: std::io::Error| format!("cannot list {}: {e}", folder.display());
    for entry in std::fs::read_dir(folder).map_err(error)? {
        let path = entry.map_err(error)?.path();
        if path.is_dir() {
            found.extend(objects(&path)?);
        } else if path.extension().is_some_and(|x| x == "ltx") {
            let bytes = std::fs::read(&path).map_err(error)?;
            found.push(Object { bytes: bytes.len() as u64, sealed: bytes.starts_with(MAGIC.as_bytes()) });
        }
    }
    Ok(found)
}
