//! Merges consecutive LTX files into one: the newest copy of each page wins.
//!
//! [`MergedPages`] gives the pages, for a restore that writes them into a database; [`Merger`] packs them into
//! a new file, for compaction. Both read all inputs side by side, each once, with one page of memory an input.
//! A corrupt input may show only at its end, after pages of the output have gone out: nothing made from a
//! merge is good before its `finish` has returned.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::io::{Read, Write};

use crate::error::{FormatError, Result};
use crate::ltx::decode::Decoder;
use crate::ltx::encode::{Encoded, Encoder};
use crate::ltx::frame::PageEncoding;
use crate::ltx::header::Header;
use crate::{Pgno, TxidRange};

/// One input and the page it stands at.
#[derive(Debug)]
struct Source<R> {
    decoder: Decoder<R>,
    page: Vec<u8>,
}

/// The pages of several files as if they had been applied one after the other.
#[derive(Debug)]
pub struct MergedPages<R> {
    sources: Vec<Source<R>>,
    header: Header,
    /// Pages that the sources stand at. The greatest is the lowest page, and of that the latest source.
    heads: BinaryHeap<(Reverse<Pgno>, usize)>,
    /// Sources that stand at the page given out last.
    spent: Vec<usize>,
    failed: bool,
}

impl<R: Read> MergedPages<R> {
    /// Starts a merge of files in ascending order.
    ///
    /// # Errors
    /// No input, page sizes that differ, and files that do not follow each other.
    pub fn new(inputs: Vec<Decoder<R>>) -> Result<Self> {
        let header = merged_header(&inputs)?;
        let page = || vec![0; header.page_size.len()];
        let sources: Vec<_> = inputs.into_iter().map(|decoder| Source { decoder, page: page() }).collect();
        let spent = (0..sources.len()).collect();
        Ok(Self { sources, header, heads: BinaryHeap::new(), spent, failed: false })
    }

    /// The header that the merged file has: range from the first input to the last, size of the database and
    /// time of the last, without checksums and WAL position.
    #[must_use]
    pub const fn header(&self) -> &Header {
        &self.header
    }

    /// The next page and its content. `None` when all inputs have given all pages.
    ///
    /// # Errors
    /// Any fault of an input. The merge gives nothing more then.
    pub fn next_page(&mut self) -> Result<Option<(Pgno, &[u8])>> {
        Ok(self.advance()?.map(|(pgno, source)| (pgno, self.sources[source].page.as_slice())))
    }

    /// Reads every input to its end and checks it.
    ///
    /// # Errors
    /// Any fault of an input.
    pub fn finish(mut self) -> Result<()> {
        while self.advance()?.is_some() {}
        for source in self.sources {
            source.decoder.finish()?;
        }
        Ok(())
    }

    /// Moves to the next page and says which source has it.
    fn advance(&mut self) -> Result<Option<(Pgno, usize)>> {
        if self.failed {
            return Err(FormatError::Misuse { what: "merge", why: "it is used after an error" });
        }
        self.failed = true;
        let next = self.next_head()?;
        self.failed = false;
        Ok(next)
    }

    fn next_head(&mut self) -> Result<Option<(Pgno, usize)>> {
        loop {
            while let Some(i) = self.spent.pop() {
                let source = &mut self.sources[i];
                if let Some(pgno) = source.decoder.next_page(&mut source.page)? {
                    self.heads.push((Reverse(pgno), i));
                }
            }
            let Some((Reverse(pgno), newest)) = self.heads.pop() else { return Ok(None) };
            self.spent.push(newest);
            while let Some(&(Reverse(same), older)) = self.heads.peek() {
                if same != pgno {
                    break;
                }
                self.heads.pop();
                self.spent.push(older);
            }
            // A page beyond the final size was cut off by a later file.
            if pgno.get() <= self.header.commit {
                return Ok(Some((pgno, newest)));
            }
        }
    }
}

fn merged_header<R: Read>(inputs: &[Decoder<R>]) -> Result<Header> {
    let (Some(first), Some(last)) = (inputs.first(), inputs.last()) else {
        return Err(FormatError::Misuse { what: "merge", why: "it has no input" });
    };
    for pair in inputs.windows(2) {
        let (before, after) = (pair[0].header(), pair[1].header());
        if after.page_size != before.page_size {
            let expected = before.page_size.to_string();
            return Err(FormatError::invalid("page size of a merge", 8, expected, after.page_size));
        }
        if !after.txids.extends(before.txids.max()) {
            let expected = format!("a range that extends {}", before.txids);
            return Err(FormatError::invalid("transactions of a merge", 16, expected, after.txids));
        }
    }
    let (first, last) = (first.header(), last.header());
    let txids = TxidRange::new(first.txids.min(), last.txids.max()).expect("each range reaches further");
    Ok(Header::untracked(first.page_size, last.commit, txids, last.timestamp_ms))
}

/// Writes one LTX file from several.
#[allow(missing_debug_implementations)] // Holds an encoder.
pub struct Merger<R, W> {
    pages: MergedPages<R>,
    encoder: Encoder<W>,
    last: Option<Pgno>,
}

impl<R: Read, W: Write> Merger<R, W> {
    /// Starts a merge of files in ascending order into `writer`.
    ///
    /// # Errors
    /// No input, page sizes that differ, and files that do not follow each other.
    pub fn new(inputs: Vec<Decoder<R>>, writer: W, encoding: PageEncoding) -> Result<Self> {
        let pages = MergedPages::new(inputs)?;
        let encoder = Encoder::new(writer, *pages.header(), encoding)?;
        Ok(Self { pages, encoder, last: None })
    }

    /// The header of the merged file.
    #[must_use]
    pub const fn header(&self) -> &Header {
        self.pages.header()
    }

    /// The last page written, against the size of the database in the header.
    #[must_use]
    pub const fn progress(&self) -> Option<Pgno> {
        self.last
    }

    /// Merges one page. `false` when there is none left.
    ///
    /// # Errors
    /// Any fault of an input, pages that make no valid file, and whatever the writer reports.
    pub fn step(&mut self) -> Result<bool> {
        let Some((pgno, source)) = self.pages.advance()? else { return Ok(false) };
        let source = &self.pages.sources[source];
        match source.decoder.current_frame() {
            // Packed as the output wants it, and just unpacked: packing it again would cost most of the merge.
            Some((start, frame)) if start.canonical && start.encoding == self.encoder.encoding() => {
                self.encoder.page_copied(&source.page, frame, start)?;
            }
            _ => self.encoder.page(pgno, &source.page)?,
        }
        self.last = Some(pgno);
        Ok(true)
    }

    /// Merges what is left, checks every input to its end, and only then closes the new file.
    ///
    /// # Errors
    /// As [`Merger::step`]; the output is then no file and must be thrown away.
    pub fn finish(mut self) -> Result<(Encoded, W)> {
        while self.step()? {}
        self.pages.finish()?;
        self.encoder.finish()
    }
}
