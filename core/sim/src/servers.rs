//! Real S3 servers as child processes: started on a free port over a folder of their own, killed by their
//! process id.
//!
//! `versitygw` is taken from the environment variable `REPLICATE_VERSITYGW`, else from `target/tools/bin`, where
//! `cargo xtask test` installs it, else from `PATH`. A test without it fails.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use replicate::config::{S3Credentials, S3Location};

/// The access key of every server here.
pub const ACCESS_KEY: &str = "replicate-test";
/// The secret key of every server here.
pub const SECRET_KEY: &str = "replicate-test-secret";

/// How long a server may take until it answers.
const START: Duration = Duration::from_secs(20);

/// A certificate and its key as PEM files.
#[derive(Clone, Debug)]
pub struct TlsFiles {
    /// The chain.
    pub certificate: PathBuf,
    /// The private key.
    pub key: PathBuf,
}

/// A running versitygw over a temporary folder.
#[derive(Debug)]
pub struct VersityGw {
    child: Option<Child>,
    port: u16,
    tls: Option<TlsFiles>,
    root: tempfile::TempDir,
}

impl VersityGw {
    /// Starts one over HTTP.
    ///
    /// # Panics
    ///
    /// When the program is missing or does not start.
    #[must_use]
    pub fn start() -> Self {
        Self::start_with(None)
    }

    /// Starts one over HTTPS.
    ///
    /// # Panics
    ///
    /// When the program is missing or does not start.
    #[must_use]
    pub fn start_tls(tls: TlsFiles) -> Self {
        Self::start_with(Some(tls))
    }

    fn start_with(tls: Option<TlsFiles>) -> Self {
        let root = tempfile::tempdir().expect("a temporary folder");
        for folder in ["data", "meta"] {
            std::fs::create_dir(root.path().join(folder)).expect("a folder for the server");
        }
        let mut server = Self { child: None, port: 0, tls, root };
        // Between choosing a free port and listening on it somebody else may take it.
        let mut last = String::new();
        for _ in 0..5 {
            server.port = free_port();
            match server.spawn() {
                Ok(()) => return server,
                Err(why) => last = why,
            }
        }
        panic!("versitygw does not start: {last}");
    }

    fn spawn(&mut self) -> Result<(), String> {
        let log = std::fs::File::create(self.root.path().join("log")).map_err(|e| e.to_string())?;
        let mut command = Command::new(versitygw());
        command.env("ROOT_ACCESS_KEY", ACCESS_KEY).env("ROOT_SECRET_KEY", SECRET_KEY).args([
            "--port",
            &format!("127.0.0.1:{}", self.port),
            "--quiet",
            "--keep-alive",
        ]);
        if let Some(tls) = &self.tls {
            command.arg("--cert").arg(&tls.certificate).arg("--key").arg(&tls.key);
        }
        command.arg("posix").arg("--sidecar").arg(self.root.path().join("meta")).arg(self.root.path().join("data"));
        command.stdin(Stdio::null()).stderr(log.try_clone().map_err(|e| e.to_string())?).stdout(log);
        let mut child = command.spawn().map_err(|e| format!("{e}: {:?}", command.get_program()))?;
        let until = Instant::now() + START;
        while Instant::now() < until {
            if let Ok(Some(status)) = child.try_wait() {
                let log = std::fs::read_to_string(self.root.path().join("log")).unwrap_or_default();
                return Err(format!("{status}: {log}"));
            }
            if answers(self.port, self.tls.is_some()) {
                self.child = Some(child);
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        self.child = Some(child);
        self.kill();
        Err("no answer".to_owned())
    }

    /// Its URL.
    #[must_use]
    pub fn endpoint(&self) -> String {
        format!("{}://127.0.0.1:{}", if self.tls.is_some() { "https" } else { "http" }, self.port)
    }

    /// The process id; `None` after a kill.
    #[must_use]
    pub fn id(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// Its folder: buckets are folders in it.
    #[must_use]
    pub fn data(&self) -> PathBuf {
        self.root.path().join("data")
    }

    /// Makes a bucket.
    pub fn create_bucket(&self, name: &str) {
        std::fs::create_dir_all(self.data().join(name)).expect("a bucket");
    }

    /// The user metadata that it keeps beside an object, as it keeps it.
    #[must_use]
    pub fn metadata(&self, bucket: &str, key: &str) -> String {
        let file = self.root.path().join("meta").join(bucket).join(key).join("meta/metadata");
        std::fs::read_to_string(file).unwrap_or_default()
    }

    /// A place in it, with its keys; the bucket is made.
    #[must_use]
    pub fn location(&self, bucket: &str, prefix: &str) -> S3Location {
        self.create_bucket(bucket);
        location(&self.endpoint(), bucket, prefix)
    }

    /// Kills it, as a crash would.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            // It may have ended by itself; either way it is gone after the wait.
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Starts it again after [`kill`](Self::kill), on the same port and folder.
    ///
    /// # Panics
    ///
    /// When it does not start.
    pub fn restart(&mut self) {
        self.kill();
        if let Err(why) = self.spawn() {
            panic!("versitygw does not start again: {why}");
        }
    }
}

impl Drop for VersityGw {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A place behind an endpoint, with the keys of the servers here.
///
/// # Panics
///
/// When one of them is malformed.
#[must_use]
pub fn location(endpoint: &str, bucket: &str, prefix: &str) -> S3Location {
    let mut location = S3Location::new(bucket, prefix).expect("a place");
    location.set_endpoint(endpoint).expect("an endpoint");
    location.credentials = Some(S3Credentials {
        access_key: ACCESS_KEY.to_owned(),
        secret_key: SECRET_KEY.to_owned(),
        session_token: None,
    });
    location
}

/// A port that is free now.
///
/// # Panics
///
/// When this host has no loopback network.
#[must_use]
pub fn free_port() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    listener.local_addr().expect("its address").port()
}

fn answers(port: u16, tls: bool) -> bool {
    let ask = || -> io::Result<bool> {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(1))?;
        if tls {
            return Ok(true);
        }
        stream.set_read_timeout(Some(Duration::from_secs(2)))?;
        stream.write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
        Ok(stream.read(&mut [0; 16])? > 0)
    };
    ask().unwrap_or(false)
}

fn versitygw() -> PathBuf {
    if let Some(path) = std::env::var_os("REPLICATE_VERSITYGW").filter(|path| !path.is_empty()) {
        return path.into();
    }
    // Installed with its version in its name; the newest by name.
    let tools = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/tools/bin");
    let installed = std::fs::read_dir(tools).into_iter().flatten().flatten().map(|entry| entry.path());
    let is_it = |path: &PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("versitygw-"));
    let on_path = std::env::var_os("PATH").unwrap_or_default();
    let on_path = std::env::split_paths(&on_path).map(|folder| folder.join("versitygw")).find(|path| path.is_file());
    let found = installed.filter(is_it).max().or(on_path);
    found.unwrap_or_else(|| panic!("versitygw is missing; run cargo xtask test, which installs it"))
}
