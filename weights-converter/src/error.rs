use std::path::{Path, PathBuf};

/// Letters of an explanation.
const MAX_REASON: usize = 1000;

/// Everything that can go wrong while converting.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConvertError {
    /// A file that is not what its name or place promises.
    #[error("'{path}' is not a usable checkpoint: {reason}")]
    Source {
        /// The file.
        path: PathBuf,
        /// What is wrong and what to do.
        reason: String,
    },
    /// The tensors of a checkpoint do not make up the wanted component.
    #[error("'{path}' does not hold a complete {component}: {reason}")]
    Mismatch {
        /// The file.
        path: PathBuf,
        /// The component.
        component: String,
        /// What is missing, foreign or of another shape.
        reason: String,
    },
    /// A configuration that is missing a field or contradicts itself.
    #[error("configuration of the {component}: {reason}")]
    Config {
        /// The component.
        component: String,
        /// What is wrong.
        reason: String,
    },
    /// A tensor cannot be read from its file.
    #[error("tensor '{tensor}' cannot be read ({reason}); download the file again")]
    Damaged {
        /// The tensor.
        tensor: String,
        /// Why.
        reason: String,
    },
    /// A value does not fit the number format that was asked for.
    #[error(
        "tensor '{tensor}' has values beyond the range of {dtype}; convert with a wider --dtype (bf16 or f32), or keep"
    )]
    Overflow {
        /// The tensor.
        tensor: String,
        /// The format.
        dtype: String,
    },
    /// The output folder cannot be used.
    #[error("{0}")]
    Target(String),
    /// Reading or writing failed.
    #[error("cannot access '{path}': {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
}

impl ConvertError {
    /// What is wrong with a file. Names in it may have been made to disturb a terminal.
    pub(crate) fn source(path: &Path, reason: impl Into<String>) -> Self {
        let reason: String = reason.into();
        let mut shown: String = reason.chars().take(MAX_REASON).collect();
        if shown.len() < reason.len() {
            shown.push('…');
        }
        Self::Source {
            path: path.to_owned(),
            reason: shown.replace(char::is_control, "\u{fffd}"),
        }
    }

    pub(crate) fn io(path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { path, source }
    }
}
