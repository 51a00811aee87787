//! Options: one table, one parser, checked whole before anything starts.
//!
//! Environment variables, keyword arguments, URL queries and command flags all end in [`Options::set`] with
//! a key of the table and a text; [`Options::check`] turns them into a frozen [`Config`] or an error that
//! names the key.

mod key;
mod url;







pub use self::key::ConfigKey;
pub use self::url::{S3Location, StoreLocation};
