//! What a spool file holds, told by a checksum of each block: whoever reads a part of it knows that this part is what was
//! written, without having read the rest.

use std::sync::Arc;

use replicate_format::{Crc64, crc64};

/// Bytes a block: as sealing takes them, so that what it reads ends with a block.
pub(super) const BLOCK: usize = 64 << 10;

/// CRC-64 of each block of a file, of the last one as far as it reaches.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Sums(Arc<[u64]>);

impl Sums {
    /// One number for all of them.
    pub(super) fn tag(&self) -> u64 {
        let mut crc = Crc64::new();
        self.0.iter().for_each(|sum| crc.update(&sum.to_le_bytes()));
        crc.value()
    }

    /// Whether these bytes are those of the file from the start of a block on. They end with a block, or the file.
    pub(super) fn hold(&self, first: usize, bytes: &[u8]) -> bool {
        let known = self.0.get(first..).unwrap_or_default();
        bytes.len().div_ceil(BLOCK) <= known.len()
            && bytes.chunks(BLOCK).zip(known).all(|(block, &sum)| crc64(block) == sum)
    }
}

/// Takes the bytes of a file as they come.
#[derive(Debug, Default)]
pub(super) struct Summing {
    sums: Vec<u64>,
    crc: Crc64,
    /// Bytes in the block that is not full.
    filled: usize,
}

impl Summing {
    pub(super) fn update(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let (now, rest) = bytes.split_at(bytes.len().min(BLOCK - self.filled));
            self.crc.update(now);
            self.filled += now.len();
            if self.filled == BLOCK {
                self.end_block();
            }
            bytes = rest;
        }
    }

    /// The checksums of all that has come.
    pub(super) fn finish(mut self) -> Sums {
        if self.filled > 0 {
            self.end_block();
        }
        Sums(self.sums.into())
    }

    fn end_block(&mut self) {
        self.sums.push(std::mem::take(&mut self.crc).value());
        self.filled = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_told_apart_however_the_bytes_came() {
        let bytes: Vec<u8> = (0..BLOCK * 2 + 100).map(|n| (n / 7) as u8).collect();
        let of = |piece: usize| {
            let mut summing = Summing::default();
            bytes.chunks(piece).for_each(|bytes| summing.update(bytes));
            summing.finish()
        };
        let sums = of(bytes.len());
        for piece in [1000, BLOCK, BLOCK + 1] {
            assert_eq!(of(piece), sums);
        }
        assert!(sums.hold(0, &bytes) && sums.hold(1, &bytes[BLOCK..BLOCK * 2]) && sums.hold(2, &bytes[BLOCK * 2..]));
        assert!(!sums.hold(1, &bytes[..BLOCK]), "another block");
        assert!(!sums.hold(2, &bytes[BLOCK * 2..BLOCK * 2 + 99]), "not all of it");
        assert!(!sums.hold(3, &bytes[..1]) && !sums.hold(2, &[bytes.as_slice(), &bytes].concat()), "beyond the end");
        let mut other = Summing::default();
        other.update(&bytes[1..]);
        assert_ne!(other.finish().tag(), sums.tag());
    }
}
