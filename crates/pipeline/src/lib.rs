//! The I2VGen-XL pipeline: an image and a sentence become a video.
