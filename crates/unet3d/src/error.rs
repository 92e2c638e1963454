use i2vgen_checkpoint::CheckpointError;

/// What can go wrong in the UNet.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum UNetError {
    /// The folder or its weights.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// A config that this UNet cannot be built from.
    #[error("UNet config: {0}")]
    Config(String),
    /// A tensor of the wrong shape.
    #[error("{name} has shape {found:?}, the UNet needs {expected}")]
    Shape {
        /// Which argument.
        name: &'static str,
        /// Its shape.
        found: Vec<usize>,
        /// The shape in words.
        expected: String,
    },
    /// A conditioning that was prepared by a UNet with another config.
    #[error("the conditioning was prepared by another UNet; call prepare on this one")]
    ForeignConditioning,
    /// A cache that was filled with another conditioning or by another UNet.
    #[error("the cache holds features of other rows or another size; clear it first")]
    ForeignCache,
    /// A FreeU factor that is infinite or not a number.
    #[error(
        "FreeU factors s1, s2, b1, b2 are {0:?}; all must be finite numbers (common are 0.9, 0.2, 1.4, 1.6)"
    )]
    FreeU([f64; 4]),
}
