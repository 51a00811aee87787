//! LTX version 3: the files a replica consists of.
//!
//! A file is a header, the pages in rising order, six zero bytes, an index of the pages, and a trailer with
//! the checksum. [`Encoder`] and [`Decoder`] work page by page and hold the whole file to the rules of the
//! format; [`PageIndex`] serves readers who want single pages; [`Merger`] makes one file of many.

mod decode;
mod encode;
mod frame;
mod frame_log;
mod header;
mod index;
mod index_sum;
mod merge;
mod name;
mod order;
mod window;

pub use decode::Decoder;
pub use encode::{Encoded, Encoder};
pub use frame::{PAGE_HEADER_LEN, PageEncoder, PageEncoding, decode_page_frame, encode_page_frame};
pub use frame_log::Aside;
pub use header::{FLAG_NO_CHECKSUM, HEADER_LEN, Header, MAGIC, TRAILER_LEN, Trailer};
pub use index::{FILE_MIN, IndexEntry, PageIndex, TAIL_MIN, tail_needed};
pub use merge::{MergedPages, Merger};
pub use name::{FileName, ltx_file_name, parse_ltx_file_name};
