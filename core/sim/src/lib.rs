//! Loopback S3 server and simulation.
