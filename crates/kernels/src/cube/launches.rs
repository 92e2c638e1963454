//! Which kernels a GPU backend launches: each launch costs some microseconds, whatever it computes.

use std::{
    sync::{Mutex, PoisonError},
    thread::sleep,
    time::Duration,
};

use burn_cubecl::cubecl::config::{
    CubeClRuntimeConfig, RuntimeConfig, profiling::ProfilingLogLevel,
};

static SEEN: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// Notes the kernels that all GPU backends of the process launch from now on, for [`launches`].
///
/// Call it before the first tensor is on a GPU: it sets CubeCL's configuration, which panics if CubeCL has already read it.
/// It does nothing and returns false if the program has a logger (of crate `log`), because CubeCL tells it through that one.
pub fn record_launches() -> bool {
    if log::set_logger(&Recorder).is_err() {
        return false;
    }
    log::set_max_level(log::LevelFilter::Info);
    let mut config = CubeClRuntimeConfig::default();
    config.profiling.logger.level = ProfilingLogLevel::Minimal;
    config.profiling.logger.log = Some(Default::default());
    CubeClRuntimeConfig::set(config);
    true
}

/// The names of the kernels launched since the last call, in order. Wait for the device before: only then they all are.
pub fn launches() -> Vec<String> {
    let seen = || SEEN.lock().unwrap_or_else(PoisonError::into_inner);
    // CubeCL tells them on a thread of its own.
    let mut before = usize::MAX;
    while seen().len() != before {
        before = seen().len();
        sleep(Duration::from_millis(200));
    }
    std::mem::take(&mut *seen())
}

struct Recorder;

impl log::Log for Recorder {
    fn enabled(&self, metadata: &log::Metadata<'_>) -> bool {
        metadata.target().starts_with("cubecl")
    }

    fn log(&self, record: &log::Record<'_>) {
        let message = record.args().to_string();
        if let Some(name) = message.strip_prefix("Executing ") {
            let mut seen = SEEN.lock().unwrap_or_else(PoisonError::into_inner);
            seen.push(name.to_owned());
        }
    }

    fn flush(&self) {}
}
