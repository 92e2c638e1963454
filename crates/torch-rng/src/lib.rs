#![doc = include_str!("../README.md")]

mod generator;
mod half;
mod mt19937;
mod normal;

pub use generator::Generator;
