//! The Rust blocks of the README as doc tests: they compile and run with every `cargo xtask test`.
//!
//! A crate of its own because the README lies outside the folder of the library's package. It holds no code.

#![cfg_attr(doctest, doc = include_str!("../../../README.md"))]
