use std::process::ExitCode;

use i2vgen_pipeline::PipelineError;

/// Why the program ends without a result.
#[derive(Debug)]
pub(crate) enum Failure {
    /// From the library, in its words.
    Pipeline(PipelineError),
    /// Of the command line itself.
    Input(String),
}

impl Failure {
    /// 130 after Ctrl-C, as shells expect; otherwise 2.
    pub(crate) fn exit_code(&self) -> ExitCode {
        match self {
            Self::Pipeline(PipelineError::Cancelled) => ExitCode::from(130),
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
        }
    }
}

impl<E: Into<PipelineError>> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::Pipeline(error.into())
    }
}
