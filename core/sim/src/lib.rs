//! For tests: [`servers`] starts real S3 servers, [`peers`] the programs that we are compatible with.

pub mod peers;
pub mod servers;
pub mod sim;
