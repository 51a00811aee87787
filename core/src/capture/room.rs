//! How much of the disk is taken: never the last of it, which the host needs more than we do.

use std::io;

use super::{Capture, lock};
use crate::error::{Error, ErrorKind, Result};

/// What is left free, at the least and at the most; in between twice the size of the database.
const RESERVE: (u64, u64) = (4 << 20, 64 << 20);
/// Bytes of an image after which the room is looked at again.
pub(super) const LOOK_EVERY: u64 = 8 << 20;

impl Capture {
    /// Free bytes; without an answer there is no limit but the disk's own.
    pub(super) fn free(&self) -> u64 {
        lock(&self.spool).free_space().unwrap_or(u64::MAX)
    }

    /// Refuses to write so many bytes if the database, of so many pages, would be left with too little room.
    pub(super) fn check_room(&self, pages: u32, bytes: u64) -> Result<()> {
        let size = u64::from(pages) * self.position.page_size.map_or(4096, |size| u64::from(size.get()));
        let (free, reserve) = (self.free(), size.saturating_mul(2).clamp(RESERVE.0, RESERVE.1));
        if free >= reserve.saturating_add(bytes) {
            return Ok(());
        }
        let message = format!("the disk is nearly full free={free} reserve={reserve} wanted={bytes}");
        Err(Error::new(ErrorKind::Disk, message)
            .with_hint("free space on this disk; replication resumes by itself, and nothing is lost")
            .with_source(io::Error::from(io::ErrorKind::StorageFull)))
    }
}

/// Whether this is a full disk.
pub(super) fn is_full(error: &Error) -> bool {
    let source = std::error::Error::source(error).and_then(|source| source.downcast_ref::<io::Error>());
    source.is_some_and(|e| matches!(e.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded))
}
