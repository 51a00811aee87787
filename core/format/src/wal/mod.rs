//! SQLite's write-ahead log: header, frames, and the committed transactions in it.
//!
//! Nothing here believes a frame that the running checksum does not prove, so half-written transactions and
//! leftovers of older generations are never taken for data.

mod checksum;
mod frame;
mod header;
mod scan;

pub use checksum::wal_checksum;
pub use frame::{FRAME_HEADER_LEN, Frame, FrameChain, FrameHeader};
pub(crate) use header::WAL_VERSION;
pub use header::{Salts, WAL_HEADER_LEN, WalHeader};
pub use scan::{ScanLimits, WalDelta, WalScan, scan_wal};
