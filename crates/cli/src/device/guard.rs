//! A driver that gives up becomes an error.

use burn::tensor::backend::Backend;
use i2vgen_kernels::guarded;

use super::Task;
use crate::failure::Failure;

/// Runs a task on a GPU.
pub(super) fn run<B: Backend>(
    name: &str,
    task: impl Task,
    device: &B::Device,
) -> Result<(), Failure> {
    let prepared = || {
        prepare::<B>(device);
        task.run::<B>(device)
    };
    guarded(prepared).map_err(|failure| Failure::Device {
        device: name.to_owned(),
        problem: failure.0,
    })?
}

/// What holds for the whole process, before the first tensor.
fn prepare<B: Backend>(device: &B::Device) {
    if let Some(folder) = dirs::cache_dir() {
        i2vgen_kernels::keep_kernels(&folder.join("i2vgen"));
    }
    i2vgen_kernels::fit_memory_budget::<B>(device);
}
