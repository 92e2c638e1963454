//! AutoencoderKL, the image autoencoder of I2VGen-XL.
