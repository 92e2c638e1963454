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
    /// Of a device that cannot hold what is asked for, before it computed.
    TooLarge {
        /// As `--device` calls it.
        device: String,
        /// What is too large for it, and what to do.
        problem: String,
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
            Self::TooLarge { .. } => ExitCode::from(3),
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
            Self::TooLarge { device, problem } => write!(f, "--device: {device}: {problem}"),
            #[cfg(any(feature = "cuda", feature = "wgpu"))]
            Self::Device { device, problem } => {
                write!(f, "{device} failed; {}: {problem}", advice(problem))
            }
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

/// What may help against what burn, wgpu or a driver says.
#[cfg(any(feature = "cuda", feature = "wgpu"))]
fn advice(problem: &str) -> &'static str {
    let problem = problem.to_lowercase();
    let says = |words: &[&str]| words.iter().any(|word| problem.contains(word));
    if says(&[
        "buffertoobig",
        "out of memory",
        "out_of_memory",
        "can't allocate",
        "too large",
    ]) {
        "it has not enough memory, or too small buffers; use a smaller --height, --width or --num-frames, --memory low, \
         --vae-tiling or --decode-chunk-size 1"
    } else if says(&[
        "lost",
        "cuda_error_launch_failed",
        "cuda_error_ecc",
        "cuda_error_unknown",
    ]) {
        "it was lost; start again, and use a newer driver or --device cpu if that does not help"
    } else if says(&["compil", "shader"]) {
        "a kernel cannot be compiled; use a newer driver or another device ('i2vgen warmup --check' tests every shape)"
    } else if says(&["cuda_error_illegal", "cuda_error_misaligned", "execution"]) {
        "a kernel failed, which is a fault of this program or of the driver ('i2vgen warmup --check' tests every shape); use \
         another size, a newer driver or --device cpu"
    } else {
        "try a smaller size, --memory low, a newer driver or --device cpu"
    }
}

impl<E: Into<PipelineError>> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::Pipeline(error.into())
    }
}

#[cfg(all(test, any(feature = "cuda", feature = "wgpu")))]
mod tests {
    use super::advice;

    #[test]
    fn advice_is_about_the_problem() {
        for (problem, word) in [
            (
                "wgpu error: Out of Memory Caused by: In Device::create_buffer",
                "--vae-tiling",
            ),
            (
                "Io(BufferTooBig { size: 268435456, backtrace:",
                "--decode-chunk-size",
            ),
            (
                "DriverError(CUDA_ERROR_OUT_OF_MEMORY, \"out of memory\")",
                "--memory low",
            ),
            ("Validation Error Caused by: Parent device is lost", "lost"),
            ("CompilationError: nvrtc says no", "compiled"),
            // As `tests/cuda-on-cpu` makes them.
            (
                "DriverError(CUDA_ERROR_LAUNCH_FAILED, \"unspecified launch failure\")",
                "lost",
            ),
            (
                "Launch(An unknown error happened during launch Caused by: DriverError(CUDA_ERROR_ILLEGAL_ADDRESS, \"an",
                "a kernel failed",
            ),
            ("Unknown error happened during execution", "a kernel failed"),
            (
                "Launch(A compilation error happened during launch Caused by: Unable to load the PTX: \
                 DriverError(CUDA_ERROR_INVALID_PTX, \"a PTX JIT compilation failed\")",
                "compiled",
            ),
            ("no reason given", "--device cpu"),
        ] {
            assert!(
                advice(problem).contains(word),
                "{problem}: {}",
                advice(problem)
            );
        }
    }
}
