use std::{fmt, path::PathBuf};

/// Everything that can be wrong with a model folder.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CheckpointError {
    /// The folder itself is not there.
    #[error("model folder '{0}' does not exist; give the path of a diffusers model folder")]
    FolderNotFound(PathBuf),
    /// A file was given where a folder is needed.
    #[error("'{0}' is not a folder; give the path of a diffusers model folder")]
    NotAFolder(PathBuf),
    /// The converter was interrupted while writing it.
    #[error("'{0}' is incomplete: its conversion was interrupted; convert again")]
    Incomplete(PathBuf),
    /// A file that the folder must have is not there.
    #[error("'{0}' is missing; the model folder is incomplete: download or convert it again")]
    FileNotFound(String),
    /// No weight file with any of the known names.
    #[error("no weights in '{folder}': expected '{expected}' (or its sharded or fp16 form)")]
    NoWeights {
        /// Where they were looked for.
        folder: String,
        /// The usual file name.
        expected: String,
    },
    /// The wanted variant is not there, others are.
    #[error("'{folder}' has no '{variant}' variant of its weights")]
    NoVariant {
        /// Where it was looked for.
        folder: String,
        /// The variant.
        variant: String,
    },
    /// Only PyTorch pickles are there.
    #[error(
        "'{0}' is a PyTorch pickle; convert the folder first: cargo xtask convert folder DIR --output DIR"
    )]
    Pickle(String),
    /// Reading or writing failed.
    #[error("cannot access '{path}': {source}")]
    Io {
        /// The file.
        path: String,
        /// Why.
        source: std::io::Error,
    },
    /// A JSON file does not parse or lacks fields.
    #[error("'{path}' is not a valid configuration: {reason}")]
    Json {
        /// The file.
        path: String,
        /// What the parser says.
        reason: String,
    },
    /// A weight file is truncated, damaged or of another format.
    #[error("'{path}' is not a valid safetensors file: {reason}; download or convert it again")]
    Damaged {
        /// The file.
        path: String,
        /// What is wrong.
        reason: String,
    },
    /// A tensor in a number format that weights do not use.
    #[error(
        "tensor '{tensor}' in '{path}' has dtype {dtype}; supported are F16, BF16, F32 and F64"
    )]
    Dtype {
        /// The file.
        path: String,
        /// The tensor.
        tensor: String,
        /// Its dtype.
        dtype: String,
    },
    /// The backend was asked for a dtype that is not a float.
    #[error("cannot load weights as {0}; choose f32, f16 or bf16")]
    TargetDtype(String),
    /// The model and the file do not belong together.
    #[error("{0}")]
    Mismatch(Box<LoadReport>),
    /// A folder whose `model_index.json` names another pipeline or lacks a component.
    #[error("{0}")]
    ModelIndex(String),
}

/// Which tensors did not find their place.
#[derive(Clone, Debug, Default)]
pub struct LoadReport {
    /// Where the weights come from.
    pub source: String,
    /// Parameters that were loaded.
    pub loaded: usize,
    /// Parameters of the model that the file does not have.
    pub missing: Vec<String>,
    /// Tensors of the file that the model does not have.
    pub unexpected: Vec<String>,
    /// Tensors with another shape: name, expected, found.
    pub wrong_shape: Vec<(String, Vec<usize>, Vec<usize>)>,
}

impl LoadReport {
    /// Whether every tensor found its place.
    pub fn is_complete(&self) -> bool {
        self.missing.is_empty() && self.unexpected.is_empty() && self.wrong_shape.is_empty()
    }
}

impl fmt::Display for LoadReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "weights in '{}' do not fit the model described by its config.json ({} tensors fit)",
            self.source, self.loaded
        )?;
        let list = |f: &mut fmt::Formatter<'_>, what: &str, names: Vec<String>| {
            if names.is_empty() {
                return Ok(());
            }
            write!(f, "; {} {what}: {}", names.len(), names.join(", "))
        };
        list(f, "missing", self.missing.clone())?;
        list(f, "unexpected", self.unexpected.clone())?;
        let shapes = self.wrong_shape.iter();
        let shapes = shapes.map(|(name, want, got)| format!("{name} {got:?} instead of {want:?}"));
        list(f, "of wrong shape", shapes.collect())
    }
}
