//! The page index while a file is written: about three bytes a page instead of an entry each.
//!
//! The frames of a file follow each other without gaps from byte 100 on, so the step of the page number and
//! the length of the frame say everything. The encoder writes its index from this log.

use crate::Pgno;
use crate::ltx::header::HEADER_LEN;
use crate::varint;

/// Bytes of index text produced at once.
const PIECE: usize = 16 * 1024;

/// Where each frame of a file lies, in the order of the file.
#[derive(Debug, Default)]
pub(crate) struct FrameLog {
    packed: Vec<u8>,
    last: u32,
    pages: u64,
}

impl FrameLog {
    /// Notes the next frame. Page numbers rise; the caller has checked it.
    pub(crate) fn push(&mut self, pgno: Pgno, len: usize) {
        debug_assert!(pgno.get() > self.last, "page numbers rise");
        varint::put(&mut self.packed, u64::from(pgno.get() - self.last));
        varint::put(&mut self.packed, len as u64);
        self.last = pgno.get();
        self.pages += 1;
    }

    /// The page of the last frame.
    pub(crate) const fn last(&self) -> Option<Pgno> {
        Pgno::new(self.last)
    }

    /// Frames noted.
    pub(crate) const fn pages(&self) -> u64 {
        self.pages
    }

    /// The index as the file holds it, its closing zero included, in pieces of at most some 16 KiB; each
    /// piece goes through `each`. Returns the bytes of all pieces.
    pub(crate) fn index_pieces<E>(&self, mut each: impl FnMut(&[u8]) -> Result<(), E>) -> Result<u64, E> {
        let mut piece = Vec::with_capacity(PIECE + 3 * varint::MAX_LEN);
        let (mut total, mut pgno, mut offset) = (0, 0, HEADER_LEN as u64);
        let mut rest = self.packed.as_slice();
        while let (Some(step), Some(len)) = (varint::take(&mut rest), varint::take(&mut rest)) {
            pgno += step;
            varint::put(&mut piece, pgno);
            varint::put(&mut piece, offset);
            varint::put(&mut piece, len);
            offset += len;
            if piece.len() >= PIECE {
                total += piece.len() as u64;
                each(&piece)?;
                piece.clear();
            }
        }
        piece.push(0);
        each(&piece)?;
        Ok(total + piece.len() as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ltx::{PAGE_HEADER_LEN, PageIndex, TAIL_MIN, Trailer};

    fn index(log: &FrameLog) -> Vec<u8> {
        let mut out = Vec::new();
        let len = log.index_pieces(|piece| {
            assert!(piece.len() < PIECE + 40, "pieces stay small");
            out.extend_from_slice(piece);
            Ok::<_, ()>(())
        });
        assert_eq!(len, Ok(out.len() as u64));
        out
    }

    #[test]
    fn an_index_says_offsets_of_any_length_in_bytes() {
        // Each frame ends around the next offset at which a variable-length number grows.
        for around in [-1_i64, 0, 1] {
            let mut log = FrameLog::default();
            let mut end = HEADER_LEN as u64;
            for (n, shift) in (1..).zip([7, 14, 21, 28, 35, 42]) {
                let next = (1_u64 << shift).strict_add_signed(around);
                log.push(Pgno::new(n * 1000).expect("not zero"), usize::try_from(next - end).expect("64 bits"));
                end = next;
            }
            let mut tail = index(&log);
            let size = tail.len() as u64;
            tail.extend(size.to_be_bytes());
            tail.extend(Trailer { post_apply_checksum: 0, file_checksum: 1 << 63 }.encode());
            let file_len = end + PAGE_HEADER_LEN as u64 + size + TAIL_MIN as u64;
            let read = PageIndex::decode(&tail, file_len).expect("an index");
            assert_eq!(read.len(), 6);
            let offsets: Vec<_> = read.iter().skip(1).map(|entry| entry.offset).collect();
            assert_eq!(offsets, [7, 14, 21, 28, 35].map(|shift| (1_u64 << shift).strict_add_signed(around)));
        }
    }

    #[test]
    fn a_page_costs_a_few_bytes() {
        let mut log = FrameLog::default();
        (1..=100_000).for_each(|n| log.push(Pgno::new(n).expect("not zero"), 2100));
        assert!(log.packed.len() <= 300_000);
        assert_eq!(log.pages(), 100_000);
        assert!(index(&log).len() > 10 * PIECE, "written in many pieces");
        assert_eq!(log.last(), Pgno::new(100_000));
    }
}
