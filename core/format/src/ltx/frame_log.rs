//! The page index while a file is written: about three bytes a page instead of an entry each.
//!
//! The frames of a file follow each other without gaps from byte 100 on, so the step of the page number and
//! the length of the frame say everything. The encoder writes its index from this log. With somewhere to put it
//! ([`Aside`]), a log takes the same memory however long it is.

use std::fmt;
use std::io;

use crate::Pgno;
use crate::ltx::header::HEADER_LEN;
use crate::varint;

/// Bytes of index text produced at once.
const PIECE: usize = 16 * 1024;

/// Bytes of the log that are kept in memory where there is somewhere else to put them.
const KEPT: usize = 256 * 1024;
/// Bytes read back at a time.
const READ: usize = 16 * 1024;

/// Somewhere outside of memory for what an encoder has to remember until its end.
pub trait Aside: fmt::Debug + Send {
    /// Takes bytes behind those it has.
    ///
    /// # Errors
    /// What the encoder then reports.
    fn append(&mut self, bytes: &[u8]) -> io::Result<()>;

    /// Gives bytes back: as many as fit, fewer only at the end.
    ///
    /// # Errors
    /// What the encoder then reports.
    fn read_at(&self, offset: u64, bytes: &mut [u8]) -> io::Result<usize>;
}

/// Where each frame of a file lies, in the order of the file.
#[derive(Debug, Default)]
pub(crate) struct FrameLog {
    /// What was put aside, and how much of it there is.
    aside: Option<Box<dyn Aside>>,
    put: u64,
    /// What follows.
    packed: Vec<u8>,
    last: u32,
    pages: u64,
}

impl FrameLog {
    /// Where to put what does not fit in memory.
    pub(crate) fn set_aside(&mut self, aside: Box<dyn Aside>) {
        self.aside = Some(aside);
    }

    /// Notes the next frame. Page numbers rise; the caller has checked it.
    pub(crate) fn push(&mut self, pgno: Pgno, len: usize) -> io::Result<()> {
        debug_assert!(pgno.get() > self.last, "page numbers rise");
        varint::put(&mut self.packed, u64::from(pgno.get() - self.last));
        varint::put(&mut self.packed, len as u64);
        self.last = pgno.get();
        self.pages += 1;
        if let Some(aside) = &mut self.aside
            && self.packed.len() >= KEPT
        {
            aside.append(&self.packed)?;
            self.put += self.packed.len() as u64;
            self.packed.clear();
        }
        Ok(())
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
    pub(crate) fn index_pieces<E: From<io::Error>>(
        &self,
        mut each: impl FnMut(&[u8]) -> Result<(), E>,
    ) -> Result<u64, E> {
        let mut index = Index::new();
        let mut read: Vec<u8> = Vec::new();
        let mut at = 0;
        while let Some(aside) = self.aside.as_ref().filter(|_| at < self.put) {
            // A number that was cut stays in front.
            let have = read.len();
            let more = usize::try_from(self.put - at).unwrap_or(usize::MAX).min(READ);
            read.resize(have + more, 0);
            if aside.read_at(at, &mut read[have..])? < more {
                return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
            }
            at += more as u64;
            let left = index.add(&read, &mut each)?;
            read.drain(..read.len() - left);
        }
        read.extend_from_slice(&self.packed);
        index.add(&read, &mut each)?;
        index.end(each)
    }
}

/// The index under way.
struct Index {
    piece: Vec<u8>,
    total: u64,
    pgno: u64,
    offset: u64,
}

impl Index {
    fn new() -> Self {
        Self { piece: Vec::with_capacity(PIECE + 3 * varint::MAX_LEN), total: 0, pgno: 0, offset: HEADER_LEN as u64 }
    }

    /// Takes the whole entries of the log in front; how many bytes are left.
    fn add<E>(&mut self, mut log: &[u8], each: &mut impl FnMut(&[u8]) -> Result<(), E>) -> Result<usize, E> {
        loop {
            let mut rest = log;
            let (Some(step), Some(len)) = (varint::take(&mut rest), varint::take(&mut rest)) else {
                return Ok(log.len());
            };
            log = rest;
            self.pgno += step;
            varint::put(&mut self.piece, self.pgno);
            varint::put(&mut self.piece, self.offset);
            varint::put(&mut self.piece, len);
            self.offset += len;
            if self.piece.len() >= PIECE {
                self.total += self.piece.len() as u64;
                each(&self.piece)?;
                self.piece.clear();
            }
        }
    }

    fn end<E>(mut self, mut each: impl FnMut(&[u8]) -> Result<(), E>) -> Result<u64, E> {
        self.piece.push(0);
        each(&self.piece)?;
        Ok(self.total + self.piece.len() as u64)
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
            Ok::<_, io::Error>(())
        });
        assert_eq!(len.expect("memory works"), out.len() as u64);
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
                log.push(Pgno::new(n * 1000).expect("not zero"), usize::try_from(next - end).expect("64 bits"))
                    .expect("memory works");
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
        (1..=100_000).for_each(|n| log.push(Pgno::new(n).expect("not zero"), 2100).expect("memory works"));
        assert!(log.packed.len() <= 300_000);
        assert_eq!(log.pages(), 100_000);
        assert!(index(&log).len() > 10 * PIECE, "written in many pieces");
        assert_eq!(log.last(), Pgno::new(100_000));
    }
    #[derive(Debug, Default)]
    struct Memory(Vec<u8>);

    impl Aside for Memory {
        fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
            self.0.extend_from_slice(bytes);
            Ok(())
        }

        fn read_at(&self, offset: u64, bytes: &mut [u8]) -> io::Result<usize> {
            let there = &self.0[usize::try_from(offset).expect("small")..];
            let len = there.len().min(bytes.len());
            bytes[..len].copy_from_slice(&there[..len]);
            Ok(len)
        }
    }

    #[test]
    fn what_is_put_aside_makes_the_same_index() {
        let (mut whole, mut aside) = (FrameLog::default(), FrameLog::default());
        aside.set_aside(Box::<Memory>::default());
        for n in 1..=400_000_u32 {
            let len = 20 + (n as usize * 7919) % 5000;
            for log in [&mut whole, &mut aside] {
                log.push(Pgno::new(3 * n).expect("not zero"), len).expect("memory works");
            }
            assert!(aside.packed.len() < KEPT);
        }
        assert!(aside.put > 2 * KEPT as u64 && whole.put == 0);
        assert!(index(&whole) == index(&aside));
    }

    #[test]
    fn what_was_put_aside_and_is_gone_is_an_error() {
        let mut log = FrameLog::default();
        log.set_aside(Box::<Memory>::default());
        (1..=200_000).for_each(|n| log.push(Pgno::new(n).expect("not zero"), 2100).expect("memory works"));
        log.aside = Some(Box::<Memory>::default());
        assert!(log.index_pieces(|_| Ok::<_, io::Error>(())).is_err());
    }
}
