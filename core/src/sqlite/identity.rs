//! What a file is, whatever its name.

use std::io;
use std::path::Path;

/// What a file *is*, whatever its name: its device and its number there.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct FileId {
    /// The device.
    pub dev: u64,
    /// The number of the inode on it.
    pub ino: u64,
}

impl FileId {
    /// What an open file is.
    ///
    /// # Errors
    /// As `fstat`.
    pub fn of_file(file: &std::fs::File) -> io::Result<Self> {
        Ok(Self::of(&file.metadata()?))
    }

    /// What the path names now, without opening it; `None` if nothing.
    ///
    /// # Errors
    /// What the system answers, except that there is no such file.
    pub fn of_path(path: &Path) -> io::Result<Option<Self>> {
        #[expect(clippy::disallowed_methods, reason = "it opens nothing, so no lock can be lost")]
        match std::fs::metadata(path) {
            Ok(meta) => Ok(Some(Self::of(&meta))),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e),
        }
    }

    fn of(meta: &std::fs::Metadata) -> Self {
        use std::os::unix::fs::MetadataExt;
        Self { dev: meta.dev(), ino: meta.ino() }
    }
}
