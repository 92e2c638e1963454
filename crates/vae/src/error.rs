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
    /// Tiles that are empty or not made of whole latents.
    #[error(
        "tiles are {}x{} pixels; both sides must be multiples of {factor}, the pixels per latent, and not 0",
        found[0],
        found[1]
    )]
    TileSize {
        /// Height and width in pixels.
        found: [usize; 2],
        /// Pixels per latent.
        factor: usize,
    },
    /// Tiles that do not overlap by a part of themselves.
    #[error("tile_overlap_factor is {0}; it must be at least 0 and less than 1 (common is 0.25)")]
    TileOverlap(f64),
}
