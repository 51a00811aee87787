//! LTX, SQLite WAL and WAL-index formats to the byte.
//!
//! This crate turns bytes into values and values into bytes. It opens no file, reads no clock, starts no
//! thread and trusts no input: every size is bounded before memory is taken for it, and bad bytes are an
//! error that says where and what, never a panic.
//!
//! A backup is a chain of LTX files. Each holds the pages that some transactions changed; the first holds all
//! pages. The pages come from SQLite's write-ahead log: [`WalHeader`], [`FrameChain`] and [`WalScan`] find what
//! is committed there, with [`WalIndexHeader`] as a quick look at its end. [`Encoder`] writes an LTX file,
//! [`Decoder`] reads and verifies one, [`Merger`] makes one of several, and [`PageIndex`] finds single pages.
//!
//! ```
//! use replicate_format::{Decoder, Encoder, Header, PageEncoding, PageSize, Pgno, Txid, TxidRange};
//!
//! let page_size = PageSize::new(4096).expect("a power of two");
//! let txids = TxidRange::single(Txid(1)).expect("not zero");
//! let header = Header::untracked(page_size, 1, txids, 1_700_000_000_000);
//!
//! let mut encoder = Encoder::new(Vec::new(), header, PageEncoding::Frame)?;
//! encoder.page(Pgno::FIRST, &[7; 4096])?;
//! let (encoded, file) = encoder.finish()?;
//! assert_eq!(encoded.size, file.len() as u64);
//!
//! let mut decoder = Decoder::new(file.as_slice())?;
//! let mut page = vec![0; 4096];
//! assert_eq!(decoder.next_page(&mut page)?, Some(Pgno::FIRST));
//! assert_eq!(page, [7; 4096]);
//! assert_eq!(decoder.next_page(&mut page)?, None);
//! assert_eq!(decoder.finish()?, encoded.trailer);
//! # Ok::<(), replicate_format::FormatError>(())
//! ```

#![cfg_attr(not(test), deny(clippy::disallowed_methods, clippy::disallowed_macros))]
#![forbid(unsafe_code)]

pub mod checksum;
pub mod db_header;
pub mod error;
pub mod ltx;
pub mod types;
pub mod v3;
mod varint;
pub mod wal;
pub mod wal_index;

pub use checksum::{CHECKSUM_FLAG, Crc64, RollingChecksum, crc64, page_checksum};
pub use db_header::{DB_HEADER_LEN, DB_MAGIC, DbHeader};
pub use error::FormatError;
pub use ltx::{
    Aside, Decoder, Encoded, Encoder, FILE_MIN, FLAG_NO_CHECKSUM, FileName, HEADER_LEN, Header, IndexEntry, MAGIC,
    MergedPages, Merger, PAGE_HEADER_LEN, PageEncoder, PageEncoding, PageIndex, TAIL_MIN, TRAILER_LEN, Trailer,
    decode_page_frame, encode_page_frame, ltx_file_name, parse_ltx_file_name, tail_needed,
};
pub use types::{InvalidNumber, Level, PageSize, Pgno, Txid, TxidRange};
pub use v3::{V3Generation, V3Segment, V3Snapshot};
pub use wal::{
    FRAME_HEADER_LEN, Frame, FrameChain, FrameHeader, Salts, ScanLimits, WAL_HEADER_LEN, WalDelta, WalHeader, WalScan,
    scan_wal, wal_checksum,
};
pub use wal_index::{READ_MARK_UNUSED, WAL_INDEX_HEADER_LEN, WalIndexHeader};
