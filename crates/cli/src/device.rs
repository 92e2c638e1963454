//! The only place that knows which backends were compiled in.

#[cfg(feature = "cuda")]
mod cuda;
#[cfg(any(feature = "cuda", feature = "wgpu"))]
mod guard;
mod list;
#[cfg(feature = "wgpu")]
mod wgpu;

use burn::tensor::backend::Backend;
use i2vgen_kernels::largest_tensor;
use i2vgen_pipeline::{Estimate, available_memory};

use crate::failure::Failure;

pub(crate) use list::devices;

/// What is done on a device, whatever its backend.
pub(crate) trait Task: Send {
    fn run<B: Backend>(self, device: &B::Device) -> Result<(), Failure>;
}

/// Runs a task on the device of a name like `cuda:1`.
pub(crate) fn dispatch(device: &str, task: impl Task) -> Result<(), Failure> {
    let (name, number) = device.split_once(':').unwrap_or((device, "0"));
    let index: usize = number.parse().map_err(|_| {
        Failure::Input(format!(
            "--device: '{device}' must be a name with an optional number, like cuda:0"
        ))
    })?;
    let refused = |problem: String| Failure::Input(format!("--device: {device}: {problem}"));
    match name {
        #[cfg(feature = "cpu")]
        // On one of the threads that compute: another would sleep and be woken at every operation.
        "cpu" if index == 0 => {
            rayon::scope(|_| task.run::<burn::backend::Flex>(&Default::default()))
        }
        #[cfg(feature = "cuda")]
        "cuda" => {
            let found = cuda::find(index).map_err(refused)?;
            guard::run::<burn::backend::Cuda>(device, task, &found)
        }
        #[cfg(feature = "wgpu")]
        "wgpu" => {
            let found = wgpu::find(index).map_err(refused)?;
            guard::run::<burn::backend::Wgpu>(device, task, &found)
        }
        #[cfg(feature = "cpu")]
        "cpu" => Err(refused("there is only one cpu; use cpu".into())),
        missing if ["cpu", "cuda", "wgpu"].contains(&missing) => Err(refused(format!(
            "this program was built without it; {}",
            how_to_build(missing)
        ))),
        _ => Err(Failure::Input(format!(
            "--device: '{name}' is unknown; use cpu, cuda or wgpu ('i2vgen devices' lists what is here)"
        ))),
    }
}

/// Bytes that a run on the device of a name may take, if that is known.
pub(crate) fn memory(device: &str) -> Option<u64> {
    match device.split_once(':').unwrap_or((device, "0")) {
        ("cpu", _) => available_memory(),
        #[cfg(feature = "cuda")]
        ("cuda", index) => cuda::memory(index.parse().ok()?),
        _ => None,
    }
}

/// Why a run would not fit in so much memory, or in the buffers of a device; nothing if it fits.
pub(crate) fn misfits<B: Backend>(
    estimate: &Estimate,
    memory: Option<u64>,
    device: &B::Device,
) -> Vec<String> {
    let memory = memory.map(|bytes| estimate.fits(bytes));
    let buffers = largest_tensor::<B>(device).map(|bytes| estimate.fits_buffers(bytes));
    [memory, buffers]
        .into_iter()
        .flatten()
        .filter_map(Result::err)
        .collect()
}

/// How a program with that backend is had.
fn how_to_build(name: &str) -> String {
    format!("build it with: cargo build --release --features {name}")
}
