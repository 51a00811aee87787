//! The payload of an age file: chunks of 64 KiB, each sealed under its number, the last one marked as such.

use std::ops::Range;

use age_core::format::FileKey;
use age_core::secrecy::ExposeSecret;

use super::SealError;
use super::crypto::{self, Secret32, TAG};

/// Plain bytes of a chunk; only the last one may have fewer.
pub(crate) const CHUNK: u64 = 64 << 10;
/// The same sealed.
pub(crate) const SEALED_CHUNK: u64 = CHUNK + TAG as u64;
/// Random bytes between header and chunks.
pub(crate) const NONCE: usize = 16;

/// Seals and opens the chunks of one file.
#[derive(Clone)]
pub(crate) struct PayloadKey(Secret32);

impl PayloadKey {
    /// The key of a file with this nonce.
    pub(crate) fn new(file_key: &FileKey, nonce: &[u8; NONCE]) -> Self {
        Self(crypto::hkdf(file_key.expose_secret(), nonce, b"payload"))
    }

    fn nonce(number: u64, last: bool) -> [u8; 12] {
        let mut nonce = [0; 12];
        nonce[3..11].copy_from_slice(&number.to_be_bytes());
        nonce[11] = u8::from(last);
        nonce
    }

    /// Seals a chunk in place; the tag belongs behind it.
    pub(crate) fn seal(&self, number: u64, last: bool, chunk: &mut [u8]) -> [u8; TAG] {
        crypto::seal(&self.0, Self::nonce(number, last), chunk)
    }

    /// Opens a chunk in place; how many plain bytes are in front then.
    pub(crate) fn open(&self, number: u64, last: bool, chunk: &mut [u8]) -> Result<usize, SealError> {
        let opened = crypto::open(&self.0, Self::nonce(number, last), chunk);
        opened.ok_or(SealError::Payload { chunk: number, why: "it was changed, or the file was cut" })
    }
}

/// Where things are in an age file.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Geometry {
    /// Where the chunks begin.
    pub(crate) start: u64,
    /// Bytes of the plain data.
    pub(crate) plain: u64,
    /// Chunks; at least one.
    pub(crate) chunks: u64,
}

impl Geometry {
    /// Of plain data of this length behind a header of that one.
    pub(crate) fn of_plain(header: u64, plain: u64) -> Self {
        Self { start: header + NONCE as u64, plain, chunks: plain.div_ceil(CHUNK).max(1) }
    }

    /// Of an object of this length; nothing if no plain length gives it.
    pub(crate) fn of_object(header: u64, object: u64) -> Option<Self> {
        let sealed = object.checked_sub(header.checked_add(NONCE as u64)?)?;
        let chunks = sealed.div_ceil(SEALED_CHUNK);
        let geometry = Self::of_plain(header, sealed.checked_sub(TAG as u64 * chunks)?);
        (geometry.chunks == chunks).then_some(geometry)
    }

    /// Bytes of the object.
    pub(crate) fn object(&self) -> u64 {
        self.start + self.plain + TAG as u64 * self.chunks
    }

    /// The chunks that hold this range of plain bytes, which lies within the data.
    pub(crate) fn chunks_of(&self, range: &Range<u64>) -> Range<u64> {
        match range.is_empty() {
            true => 0..0,
            false => range.start / CHUNK..(range.end - 1) / CHUNK + 1,
        }
    }

    /// The chunks that this range of the object touches; none if it ends before them.
    pub(crate) fn chunks_at(&self, object: &Range<u64>) -> Range<u64> {
        match object.end <= self.start {
            true => 0..0,
            false => {
                object.start.saturating_sub(self.start) / SEALED_CHUNK..(object.end - 1 - self.start) / SEALED_CHUNK + 1
            }
        }
    }

    /// Where chunks lie in the object.
    pub(crate) fn sealed_range(&self, chunks: &Range<u64>) -> Range<u64> {
        let at = |chunk: u64| (self.start + chunk * SEALED_CHUNK).min(self.object());
        at(chunks.start)..at(chunks.end)
    }

    /// Where the plain bytes of a chunk lie in the data.
    pub(crate) fn plain_range(&self, chunk: u64) -> Range<u64> {
        chunk * CHUNK..((chunk + 1) * CHUNK).min(self.plain)
    }

    /// Whether it is the last one.
    pub(crate) fn is_last(&self, chunk: u64) -> bool {
        chunk + 1 == self.chunks
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_go_both_ways_and_impossible_ones_are_none() {
        let mut possible = std::collections::BTreeSet::new();
        for plain in (0..200).chain(65_500..65_600).chain(131_000..131_200) {
            let geometry = Geometry::of_plain(168, plain);
            assert_eq!(Geometry::of_object(168, geometry.object()), Some(geometry));
            possible.insert(geometry.object());
        }
        for object in 0..131_072 + 184 + 32 {
            let read = Geometry::of_object(168, object);
            assert_eq!(read.map(|g| g.object()), read.map(|_| object));
            let around = (object < 184 + 16 + 200) || (65_500..65_600).contains(&(object.saturating_sub(184 + 16)));
            if around {
                assert_eq!(read.is_some(), possible.contains(&object), "{object}");
            }
        }
        assert_eq!(Geometry::of_object(u64::MAX - 4, u64::MAX), None);
    }
}
