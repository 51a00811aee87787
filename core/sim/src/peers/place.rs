//! Where a replica is: a folder, or a prefix on a real S3 server that keeps its objects in a folder.
//!
//! Either way what has arrived can be seen in the file system, without asking either of the programs that
//! are compared.

use std::fs;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use super::{Outcome, Process, wait_until};

const ACCESS_KEY: &str = "replicate-test";
const SECRET_KEY: &str = "replicate-test-secret";
const BUCKET: &str = "bucket";

/// A running `versitygw`: S3 on loopback, one bucket, objects as files.
#[derive(Debug)]
pub struct Gateway {
    address: String,
    objects: PathBuf,
    _process: Process,
}

impl Gateway {
    /// Starts it on a free port, with everything in this folder.
    pub fn start(program: &Path, folder: &Path) -> Outcome<Self> {
        let root = folder.join("s3");
        fs::create_dir_all(root.join(BUCKET)).map_err(|e| format!("create {}: {e}", root.display()))?;
        let address = format!("127.0.0.1:{}", free_port()?);
        let mut command = Command::new(program);
        command.env("ROOT_ACCESS_KEY", ACCESS_KEY).env("ROOT_SECRET_KEY", SECRET_KEY);
        command.args(["--port", &address, "--quiet", "--keep-alive", "posix"]).arg(&root);
        let mut process = Process::start("versitygw", &mut command, &folder.join("versitygw.log"))?;
        wait_until("the S3 server answers", Duration::from_secs(20), || {
            process.still_runs()?;
            Ok(TcpStream::connect(&address).ok())
        })?;
        Ok(Self { address, objects: root.join(BUCKET), _process: process })
    }

    /// Host and port.
    #[must_use]
    pub fn address(&self) -> &str {
        &self.address
    }

    /// A replica's place on it.
    #[must_use]
    pub fn place(&self, prefix: &str) -> Place {
        let s3 = S3 { endpoint: format!("http://{}", self.address), prefix: prefix.to_owned() };
        Place { folder: self.objects.join(prefix), s3: Some(s3) }
    }
}

/// A port that was free a moment ago.
fn free_port() -> Outcome<u16> {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").map_err(|e| format!("no free port: {e}"))?;
    listener.local_addr().map(|a| a.port()).map_err(|e| format!("no free port: {e}"))
}

/// Where one replica is.
#[derive(Clone, Debug)]
pub struct Place {
    folder: PathBuf,
    s3: Option<S3>,
}

#[derive(Clone, Debug)]
struct S3 {
    endpoint: String,
    prefix: String,
}

/// An LTX file that has arrived.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct File {
    /// Level.
    pub level: u8,
    /// First transaction id.
    pub min: u64,
    /// Last transaction id.
    pub max: u64,
    /// Bytes.
    pub size: u64,
}

impl Place {
    /// A folder.
    #[must_use]
    pub fn file(folder: impl Into<PathBuf>) -> Self {
        Self { folder: folder.into(), s3: None }
    }

    /// The same place reached by another way, such as a proxy. A folder has only one.
    #[must_use]
    pub fn through(&self, endpoint: &str) -> Self {
        let s3 = self.s3.as_ref().map(|s3| S3 { endpoint: endpoint.to_owned(), prefix: s3.prefix.clone() });
        Self { folder: self.folder.clone(), s3 }
    }

    /// The URL as our command takes it.
    #[must_use]
    pub fn url(&self) -> String {
        match &self.s3 {
            None => format!("file://{}", self.folder.display()),
            Some(s3) => format!("s3://{BUCKET}/{}?endpoint={}&region=us-east-1", s3.prefix, s3.endpoint),
        }
    }

    /// The replica as Litestream's configuration takes it, one key a line.
    #[must_use]
    pub fn yaml(&self) -> Vec<String> {
        match &self.s3 {
            None => vec!["type: file".to_owned(), format!("path: {}", self.folder.display())],
            Some(s3) => vec![
                "type: s3".to_owned(),
                format!("endpoint: {}", s3.endpoint),
                format!("bucket: {BUCKET}"),
                format!("path: {}", s3.prefix),
                "region: us-east-1".to_owned(),
                "force-path-style: true".to_owned(),
                format!("access-key-id: {ACCESS_KEY}"),
                format!("secret-access-key: {SECRET_KEY}"),
            ],
        }
    }

    /// The credentials as our command takes them.
    #[must_use]
    pub fn environment(&self) -> Vec<(&'static str, &'static str)> {
        match &self.s3 {
            None => Vec::new(),
            Some(_) => vec![("REPLICATE_S3_ACCESS_KEY", ACCESS_KEY), ("REPLICATE_S3_SECRET_KEY", SECRET_KEY)],
        }
    }

    /// The folder that everything of this replica arrives in.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The folder of a level, in the layout that belongs to this kind of store.
    #[must_use]
    pub fn level_folder(&self, level: u8) -> PathBuf {
        match self.s3 {
            None => self.folder.join(format!("ltx/{level}")),
            Some(_) => self.folder.join(format!("{level:04x}")),
        }
    }

    /// The LTX files that have arrived, by level and id. A name that has no business in the layout is an error.
    pub fn files(&self) -> Outcome<Vec<File>> {
        let mut files = Vec::new();
        for level in 0..=9 {
            let folder = self.level_folder(level);
            let Ok(entries) = fs::read_dir(&folder) else { continue };
            for entry in entries.flatten() {
                // Temporary names come and go; a file that was merged and deleted meanwhile is gone.
                let name = entry.file_name();
                let Some((min, max)) = parse_name(&name.to_string_lossy()) else { continue };
                let Ok(meta) = entry.metadata() else { continue };
                files.push(File { level, min, max, size: meta.len() });
            }
        }
        files.sort_unstable();
        Ok(files)
    }

    /// The highest transaction id that has arrived; 0 if nothing has.
    pub fn last(&self) -> Outcome<u64> {
        Ok(self.files()?.iter().map(|file| file.max).max().unwrap_or(0))
    }

    /// An error if something lies where the other kind of store would have it.
    pub fn check_layout(&self) -> Outcome {
        let foreign = if self.s3.is_some() { "ltx" } else { "0000" };
        if self.folder.join(foreign).exists() {
            return Err(format!("the layout is wrong: {foreign}/ in {}", self.folder.display()));
        }
        Ok(())
    }
}

fn parse_name(name: &str) -> Option<(u64, u64)> {
    let (min, max) = name.strip_suffix(".ltx")?.split_once('-')?;
    let parse = |text: &str| (text.len() == 16).then(|| u64::from_str_radix(text, 16).ok()).flatten();
    Some((parse(min)?, parse(max)?))
}
