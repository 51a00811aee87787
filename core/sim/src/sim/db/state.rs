//! What a database holds at a commit: one number a page, and pages that differ whenever they are written.

use replicate_format::{DB_MAGIC, PageSize};

/// A number of 64 bits for some bytes. Not the checksum of any file format on purpose: the judge is independent.
#[must_use]
pub fn digest(bytes: &[u8]) -> u64 {
    let mut hash = 0x9ae1_6a3b_2f90_404f_u64 ^ bytes.len() as u64;
    let mut chunks = bytes.chunks_exact(8);
    for chunk in &mut chunks {
        let word = u64::from_le_bytes([chunk[0], chunk[1], chunk[2], chunk[3], chunk[4], chunk[5], chunk[6], chunk[7]]);
        hash = (hash ^ word).wrapping_mul(0xff51_afd7_ed55_8ccd).rotate_left(29);
    }
    for byte in chunks.remainder() {
        hash = (hash ^ u64::from(*byte)).wrapping_mul(0xff51_afd7_ed55_8ccd).rotate_left(29);
    }
    hash ^ (hash >> 32)
}

/// A database at a commit.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct State {
    pub page_size: u32,
    /// The digest of each page.
    pub pages: Vec<u64>,
}

impl State {
    /// Of the bytes of a database.
    #[must_use]
    pub fn of(page_size: u32, bytes: &[u8]) -> Self {
        Self { page_size, pages: bytes.chunks(page_size as usize).map(digest).collect() }
    }

    /// One number for all of it.
    #[must_use]
    pub fn hash(&self) -> u64 {
        let mut hash = u64::from(self.page_size) << 32 | self.pages.len() as u64;
        for page in &self.pages {
            hash = (hash ^ page).wrapping_mul(0xff51_afd7_ed55_8ccd).rotate_left(29);
        }
        hash ^ (hash >> 32)
    }
}

/// The content of a page as some write left it; no two writes leave the same.
#[must_use]
pub fn page(size: PageSize, pgno: u32, stamp: u64) -> Vec<u8> {
    let mut page = vec![(stamp % 251) as u8; size.len()];
    // Some of it does not compress.
    let mut noise = stamp.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    for chunk in page[128..192].chunks_exact_mut(8) {
        noise ^= noise << 13;
        noise ^= noise >> 7;
        noise ^= noise << 17;
        chunk.copy_from_slice(&noise.to_le_bytes());
    }
    page[104..112].copy_from_slice(&stamp.to_le_bytes());
    page[112..116].copy_from_slice(&pgno.to_le_bytes());
    page
}

/// Makes a page 1 begin as a database does.
pub fn head(page: &mut [u8], size: PageSize, pages: u32, wal_mode: bool) {
    page[..100].fill(0);
    page[..16].copy_from_slice(&DB_MAGIC);
    page[16..18].copy_from_slice(&(size.get() as u16).to_be_bytes());
    let version = if wal_mode { 2 } else { 1 };
    page[18..24].copy_from_slice(&[version, version, 0, 64, 32, 32]);
    page[28..32].copy_from_slice(&pages.to_be_bytes());
}
