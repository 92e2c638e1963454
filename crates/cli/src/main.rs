//! i2vgen
fn main() {}
