//! For tests, demo and bindings: [`loopback`] is an S3 server of ours inside the process, [`servers`] starts real
//! ones, [`peers`] the programs that we are compatible with.

pub mod loopback;
pub mod peers;
pub mod servers;
pub mod sim;
