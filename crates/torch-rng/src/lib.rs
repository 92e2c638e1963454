//! Bit-exact port of torch's CPU random number generator.
