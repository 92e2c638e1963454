use std::process::ExitCode;

use i2vgen_pipeline::PipelineError;

/// Why the program ends without a result.
#[derive(Debug)]
pub(crate) enum Failure {
    /// From the library, in its words.
    Pipeline(PipelineError),
    /// Of the command line itself.
    Input(String),
    /// Of some jobs of a list, by their lines; each has had its own message.
    Jobs {
        /// The lines that failed.
        lines: Vec<usize>,
        /// How many there were to do.
        total: usize,
    },
}

impl Failure {
    /// 130 after Ctrl-C, as shells expect; 1 if jobs of a list failed; otherwise 2.
    pub(crate) fn exit_code(&self) -> ExitCode {
        match self {
            Self::Pipeline(PipelineError::Cancelled) => ExitCode::from(130),
            Self::Jobs { .. } => ExitCode::from(1),
            _ => ExitCode::from(2),
        }
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            // The library's names of options are the command line's, but for the dashes.
            Self::Pipeline(PipelineError::Option { name, problem }) => {
                write!(f, "--{}: {problem}", name.replace('_', "-"))
            }
            Self::Pipeline(error) => error.fmt(f),
            Self::Input(text) => f.write_str(text),
            Self::Jobs { lines, total } => {
                let names: Vec<_> = lines.iter().map(usize::to_string).collect();
                let (failed, names) = (lines.len(), names.join(", "));
                write!(
                    f,
                    "{failed} of {total} jobs failed, of line {names}; run it again for these"
                )
            }
        }
    }
}

impl<E: Into<PipelineError>> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::Pipeline(error.into())
    }
}
