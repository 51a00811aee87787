//! Loopback S3 server and simulation.

pub mod peers;
