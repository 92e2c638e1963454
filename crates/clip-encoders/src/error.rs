//! The crate's error.

use i2vgen_checkpoint::CheckpointError;

/// What can go wrong in the encoders.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CLIPError {
    /// The folder or its weights.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// A config that a tower cannot be built from.
    #[error("CLIP config: {0}")]
    Config(String),
    /// Tokenizer files that cannot be used.
    #[error("tokenizer {path}: {problem}")]
    Tokenizer {
        /// Where it was read from.
        path: String,
        /// What is wrong.
        problem: String,
    },
    /// More layers skipped than there are.
    #[error(
        "clip_skip {skip} is too large: the text encoder has {layers} layers here; use a smaller clip_skip"
    )]
    ClipSkip {
        /// The request.
        skip: usize,
        /// Layers of the model.
        layers: usize,
    },
    /// A sequence longer than the position table.
    #[error("{tokens} tokens are more than the text encoder's {max} positions")]
    TooManyTokens {
        /// Length of the sequence.
        tokens: usize,
        /// Rows of the position table.
        max: usize,
    },
    /// A token that the text encoder has no row for.
    #[error(
        "token id {id} is not below the text encoder's vocab_size {vocab_size}; its tokenizer belongs to another model"
    )]
    TokenId {
        /// The token.
        id: i64,
        /// Rows of the token table.
        vocab_size: usize,
    },
    /// Pixels of the wrong shape.
    #[error(
        "the image encoder needs pixels of shape [n, {channels}, {side}, {side}], not {found:?}"
    )]
    PixelShape {
        /// Channels that the tower takes.
        channels: usize,
        /// Side that the tower takes.
        side: usize,
        /// What was given.
        found: Vec<usize>,
    },
    /// A prompt whose brackets or weights cannot be read.
    #[error("prompt weights, character {position}: {problem}")]
    Weighting {
        /// Which character of the prompt, from 1.
        position: usize,
        /// What is wrong and what to write.
        problem: String,
    },
    /// Weights for another number of tokens.
    #[error("{weights} weights for {tokens} tokens; give one per token, as encode_weighted does")]
    WeightCount {
        /// Weights given.
        weights: usize,
        /// Tokens of the hidden states.
        tokens: usize,
    },
}
