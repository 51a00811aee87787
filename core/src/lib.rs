//! Continuous backup of SQLite databases to object storage, from inside the program that uses them.

pub mod blob;
pub mod clock;
pub mod config;
pub mod disk;
pub mod error;
pub mod event;
pub mod sqlite;
pub mod store;

mod auto;
mod capture;
mod fleet;
mod restore;
mod ship;
mod spool;

pub use error::{Error, ErrorKind, Result};
