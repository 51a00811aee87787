//! Objects in a folder.
//!
//! ```text
//! <bucket>/<segment>/…/=<last segment>   an object: body, metadata as JSON, length of the JSON (u32), magic
//! .staging/<number>                      what is being written
//! .uploads/<id>/info, <id>/<number>      an upload in parts; each part is an object, too
//! ```
//!
//! One file for body and metadata makes a rename the moment at which both appear. The `=` keeps an object `a`
//! apart from the folder of `a/b`. Conditions are decided and names change under one lock.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

const MAGIC: &[u8; 4] = b"LBS3";

static NUMBER: AtomicU64 = AtomicU64::new(0);

/// What is kept beside a body.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub(super) struct Meta {
    pub(super) etag: String,
    pub(super) content_type: Option<String>,
    pub(super) user: BTreeMap<String, String>,
}

/// An object that was opened; it stays readable when it is replaced.
#[derive(Debug)]
pub(super) struct Stored {
    pub(super) file: File,
    pub(super) len: u64,
    pub(super) modified: SystemTime,
    pub(super) meta: Meta,
}

/// Whether a change of a name may happen, given what is there.
pub(super) type Condition<'a> = &'a (dyn Fn(Option<&Meta>) -> bool + Sync);

/// The folder of a server.
#[derive(Debug)]
pub(super) struct Folder {
    root: PathBuf,
    names: Mutex<()>,
}

/// A file that is being written; removed unless it is committed.
#[derive(Debug)]
pub(super) struct Staged {
    pub(super) file: File,
    path: PathBuf,
}

impl Drop for Staged {
    fn drop(&mut self) {
        // After a rename there is nothing to remove.
        let _ = fs::remove_file(&self.path);
    }
}

impl Folder {
    pub(super) fn open(root: &Path) -> io::Result<Self> {
        for folder in [".staging", ".uploads"] {
            fs::create_dir_all(root.join(folder))?;
        }
        Ok(Self { root: root.to_owned(), names: Mutex::default() })
    }

    /// Whether it is new.
    pub(super) fn create_bucket(&self, name: &str) -> io::Result<bool> {
        match fs::create_dir(self.bucket(name)) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(false),
            other => other.map(|()| true),
        }
    }

    /// Fails when it holds anything.
    pub(super) fn remove_bucket(&self, name: &str) -> io::Result<()> {
        fs::remove_dir(self.bucket(name))
    }

    pub(super) fn has_bucket(&self, name: &str) -> bool {
        self.bucket(name).is_dir()
    }

    pub(super) fn buckets(&self) -> io::Result<Vec<(String, SystemTime)>> {
        let mut buckets = Vec::new();
        for entry in fs::read_dir(&self.root)? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if !name.starts_with('.') && entry.file_type()?.is_dir() {
                buckets.push((name, entry.metadata()?.modified()?));
            }
        }
        buckets.sort();
        Ok(buckets)
    }

    /// Bucket names were checked by the protocol front: no slash, no leading dot.
    fn bucket(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    fn object(&self, bucket: &str, key: &str) -> PathBuf {
        let (folders, last) = key.rsplit_once('/').map_or((None, key), |(f, l)| (Some(f), l));
        let mut path = self.bucket(bucket);
        path.extend(folders.iter().flat_map(|folders| folders.split('/')).map(escape));
        path.join(format!("={}", escape(last)))
    }

    pub(super) fn read(&self, bucket: &str, key: &str) -> io::Result<Option<Stored>> {
        missing_is_none(read(&self.object(bucket, key)))
    }

    pub(super) fn stage(&self) -> io::Result<Staged> {
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let path = self.root.join(".staging").join(format!("{}-{number}", std::process::id()));
        Ok(Staged { file: File::create(&path)?, path })
    }

    /// Makes what was written an object, if the condition holds; whether it did.
    pub(super) fn commit(
        &self,
        staged: Staged,
        meta: &Meta,
        bucket: &str,
        key: &str,
        condition: Condition<'_>,
    ) -> io::Result<bool> {
        self.finish(staged, meta, &self.object(bucket, key), condition)
    }

    fn finish(&self, mut staged: Staged, meta: &Meta, path: &Path, condition: Condition<'_>) -> io::Result<bool> {
        let json = serde_json::to_vec(meta)?;
        staged.file.write_all(&json)?;
        staged.file.write_all(&u32::try_from(json.len()).map_err(io::Error::other)?.to_le_bytes())?;
        staged.file.write_all(MAGIC)?;
        let _names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        let there = missing_is_none(read(path))?;
        if !condition(there.as_ref().map(|stored| &stored.meta)) {
            return Ok(false);
        }
        fs::create_dir_all(path.parent().unwrap_or(&self.root))?;
        fs::rename(&staged.path, path)?;
        Ok(true)
    }

    /// Removes an object, if the condition holds; whether it did.
    pub(super) fn remove(&self, bucket: &str, key: &str, condition: Condition<'_>) -> io::Result<bool> {
        let path = self.object(bucket, key);
        let _names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        let there = missing_is_none(read(&path))?;
        if !condition(there.as_ref().map(|stored| &stored.meta)) {
            return Ok(false);
        }
        missing_is_none(fs::remove_file(&path))?;
        let bucket = self.bucket(bucket);
        let folders = path.ancestors().skip(1).take_while(|folder| *folder != bucket);
        // Up to the first that is not empty.
        let _ = folders.map(fs::remove_dir).take_while(Result::is_ok).count();
        Ok(true)
    }

    /// The keys below a prefix, in order.
    pub(super) fn keys(&self, bucket: &str, prefix: &str) -> io::Result<Vec<String>> {
        let mut at = self.bucket(bucket);
        let folders = prefix.rsplit_once('/').map(|(folders, _)| folders);
        at.extend(folders.iter().flat_map(|folders| folders.split('/')).map(escape));
        let mut keys = Vec::new();
        walk(&at, &folders.map(|f| format!("{f}/")).unwrap_or_default(), &mut keys)?;
        keys.retain(|key| key.starts_with(prefix));
        keys.sort();
        Ok(keys)
    }

    /// Starts an upload in parts.
    pub(super) fn start_upload(&self, upload: &Upload) -> io::Result<String> {
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_err(io::Error::other)?;
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let id = format!("{:x}-{:x}-{number:x}", since.as_nanos(), std::process::id());
        let folder = self.root.join(".uploads").join(&id);
        fs::create_dir(&folder)?;
        fs::write(folder.join("info"), serde_json::to_vec(upload)?)?;
        Ok(id)
    }

    fn upload_folder(&self, id: &str) -> PathBuf {
        // Whatever a client sends stays one name.
        self.root.join(".uploads").join(escape(id))
    }

    pub(super) fn upload(&self, id: &str) -> io::Result<Option<Upload>> {
        let info = missing_is_none(fs::read(self.upload_folder(id).join("info")))?;
        info.map(|info| serde_json::from_slice(&info).map_err(io::Error::from)).transpose()
    }

    /// When an upload was started.
    pub(super) fn begun(&self, id: &str) -> io::Result<SystemTime> {
        fs::metadata(self.upload_folder(id).join("info"))?.modified()
    }

    pub(super) fn uploads(&self) -> io::Result<Vec<(String, Upload)>> {
        let mut uploads = Vec::new();
        for entry in fs::read_dir(self.root.join(".uploads"))? {
            let id = entry?.file_name().to_string_lossy().into_owned();
            uploads.extend(self.upload(&id)?.map(|upload| (id, upload)));
        }
        uploads.sort_by(|a, b| (&a.1.key, &a.0).cmp(&(&b.1.key, &b.0)));
        Ok(uploads)
    }

    pub(super) fn commit_part(&self, staged: Staged, etag: &str, id: &str, number: i32) -> io::Result<bool> {
        let path = self.upload_folder(id).join(number.to_string());
        if self.upload(id)?.is_none() {
            return Ok(false);
        }
        self.finish(staged, &Meta { etag: etag.to_owned(), ..Meta::default() }, &path, &|_| true)
    }

    pub(super) fn part(&self, id: &str, number: i32) -> io::Result<Option<Stored>> {
        missing_is_none(read(&self.upload_folder(id).join(number.to_string())))
    }

    /// The numbers of its parts, in order.
    pub(super) fn parts(&self, id: &str) -> io::Result<Vec<i32>> {
        let mut numbers = Vec::new();
        for entry in fs::read_dir(self.upload_folder(id))? {
            numbers.extend(entry?.file_name().to_str().and_then(|name| name.parse::<i32>().ok()));
        }
        numbers.sort_unstable();
        Ok(numbers)
    }

    pub(super) fn end_upload(&self, id: &str) -> io::Result<()> {
        missing_is_none(fs::remove_dir_all(self.upload_folder(id))).map(drop)
    }
}

/// What an upload in parts will be.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(super) struct Upload {
    pub(super) bucket: String,
    pub(super) key: String,
    pub(super) meta: Meta,
}

impl Stored {
    /// Appends the body to another file.
    pub(super) fn copy_to(mut self, to: &mut File) -> io::Result<u64> {
        self.file.seek(SeekFrom::Start(0))?;
        io::copy(&mut self.file.take(self.len), to)
    }
}

fn read(path: &Path) -> io::Result<Stored> {
    let file = File::open(path)?;
    let about = file.metadata()?;
    let damaged = || io::Error::new(io::ErrorKind::InvalidData, format!("not an object: {}", path.display()));
    let mut tail = [0; 8];
    let end = about.len().checked_sub(8).ok_or_else(damaged)?;
    file.read_exact_at(&mut tail, end)?;
    let [a, b, c, d, magic @ ..] = tail;
    let json_len = u32::from_le_bytes([a, b, c, d]);
    let len = end.checked_sub(u64::from(json_len)).filter(|_| magic == *MAGIC).ok_or_else(damaged)?;
    let mut json = vec![0; usize::try_from(json_len).map_err(io::Error::other)?];
    file.read_exact_at(&mut json, len)?;
    Ok(Stored { len, modified: about.modified()?, meta: serde_json::from_slice(&json)?, file })
}

fn walk(at: &Path, prefix: &str, keys: &mut Vec<String>) -> io::Result<()> {
    let Some(entries) = missing_is_none(fs::read_dir(at))? else { return Ok(()) };
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        match name.strip_prefix('=') {
            Some(last) => keys.push(format!("{prefix}{}", unescape(last))),
            None => walk(&entry.path(), &format!("{prefix}{}/", unescape(&name)), keys)?,
        }
    }
    Ok(())
}

fn missing_is_none<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(found) => Ok(Some(found)),
        Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(None),
        Err(e) => Err(e),
    }
}

/// A segment of a key as a file name: `%XX` for whatever could mean something else.
fn escape(segment: &str) -> String {
    match segment {
        "" => return "%".to_owned(),
        "." => return "%2E".to_owned(),
        ".." => return "%2E%2E".to_owned(),
        _ => {}
    }
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    segment.bytes().map(|b| if plain(b) { char::from(b).to_string() } else { format!("%{b:02X}") }).collect()
}

fn unescape(name: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = name.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        let code =
            after.get(..2).and_then(|d| std::str::from_utf8(d).ok()).and_then(|d| u8::from_str_radix(d, 16).ok());
        match (byte, code) {
            (b'%', Some(code)) => {
                bytes.push(code);
                rest = &after[2..];
            }
            (b'%', None) => rest = after,
            _ => {
                bytes.push(byte);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_key_is_a_file_inside_its_bucket() {
        let root = tempfile::tempdir().expect("a folder");
        let folder = Folder::open(root.path()).expect("opened");
        assert!(folder.create_bucket("bkt").expect("made"));
        let keys = ["../../x", "./a", "//a", "=a", "a", "a/b", "a//b", "a/=", "%41", "ü/✓", "a b?&"];
        for key in keys {
            let mut staged = folder.stage().expect("staged");
            staged.file.write_all(key.as_bytes()).expect("written");
            assert!(folder.commit(staged, &Meta::default(), "bkt", key, &|there| there.is_none()).expect(key), "{key}");
        }
        let mut sorted = keys.to_vec();
        sorted.sort_unstable();
        assert_eq!(folder.keys("bkt", "").expect("listed"), sorted);
        assert_eq!(folder.keys("bkt", "a/").expect("listed"), ["a//b", "a/=", "a/b"]);
        for key in keys {
            let stored = folder.read("bkt", key).expect("read").expect("there");
            assert_eq!(stored.len, key.len() as u64);
            assert!(folder.remove("bkt", key, &|there| there.is_some()).expect("removed"));
        }
        folder.remove_bucket("bkt").expect("empty again");
    }
}
