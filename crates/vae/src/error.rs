use i2vgen_checkpoint::CheckpointError;

/// What can go wrong in the VAE.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum VaeError {
    /// The folder or its weights.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// A config that this autoencoder cannot be built from.
    #[error("VAE config: {0}")]
    Config(String),
    /// An image whose size the encoder cannot halve often enough.
    #[error(
        "image is {height}x{width} pixels with {channels} channels; the VAE needs {expected} channels and at least {factor} pixels on each side"
    )]
    ImageShape {
        /// Pixels.
        height: usize,
        /// Pixels.
        width: usize,
        /// Channels.
        channels: usize,
        /// Channels that the encoder takes.
        expected: usize,
        /// Pixels per latent.
        factor: usize,
    },
    /// Latents of the wrong width.
    #[error("latents have {channels} channels, the VAE decodes {expected}")]
    LatentShape {
        /// Channels.
        channels: usize,
        /// Channels that the decoder takes.
        expected: usize,
    },
}
