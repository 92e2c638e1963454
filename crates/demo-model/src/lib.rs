//! A small trained I2VGen-XL checkpoint, embedded.
