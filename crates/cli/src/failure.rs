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
    /// Of operations that a device computes wrong; each has had its own line.
    Check {
        /// How many.
        failed: usize,
        /// Of how many.
        total: usize,
    },
    /// Of a GPU or its driver, while it computed.
    #[cfg(any(feature = "cuda", feature = "wgpu"))]
    Device {
        /// As `--device` calls it.
        device: String,
        /// In burn's words.
        problem: String,
    },
}

impl Failure {
    /// 130 after Ctrl-C, as shells expect; 1 if jobs of a list or a check failed; 3 if the device did; otherwise 2.
    pub(crate) fn exit_code(&self) -> ExitCode {
        match self {
            Self::Pipeline(PipelineError::Cancelled) => ExitCode::from(130),
            Self::Jobs { .. } | Self::Check { .. } => ExitCode::from(1),
            #[cfg(any(feature = "cuda", feature = "wgpu"))]
            Self::Device { .. } => ExitCode::from(3),
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
            Self::Check { failed, total } => write!(
                f,
                "{failed} of {total} operations are computed wrong here, see above; use another device or driver"
            ),
            #[cfg(any(feature = "cuda", feature = "wgpu"))]
            Self::Device { device, problem } => write!(
                f,
                "{device} failed; try a smaller size, --split-guidance, --vae-tiling, a newer driver or --device cpu: {problem}"
            ),
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
