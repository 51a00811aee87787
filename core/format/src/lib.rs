//! LTX, SQLite WAL and WAL-index formats to the byte.
//!
//! This crate turns bytes into values and values into bytes. It opens no file, reads no clock, starts no
//! thread and trusts no input: every size is bounded before memory is taken for it, and bad bytes are an
//! error that says where and what, never a panic.

pub mod types;

pub use types::{Level, PageSize, Pgno, Txid, TxidRange};
