//! Cross-crate tests, and what the tests of several crates share.

pub mod hub_server;

/// The README's example must compile.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
pub struct Readme;
