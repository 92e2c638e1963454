//! The only place that knows which backends were compiled in.

use burn::tensor::backend::Backend;

use crate::failure::Failure;

/// What is done on a device, whatever its backend.
pub(crate) trait Task {
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
    match name {
        #[cfg(feature = "cpu")]
        "cpu" if index == 0 => task.run::<burn::backend::Flex>(&Default::default()),
        #[cfg(feature = "cuda")]
        "cuda" => task.run::<burn::backend::Cuda>(&burn::backend::cuda::CudaDevice::new(index)),
        #[cfg(feature = "wgpu")]
        "wgpu" => {
            use burn::backend::wgpu::WgpuDevice;
            let device = match device.contains(':') {
                true => WgpuDevice::DiscreteGpu(index),
                false => WgpuDevice::DefaultDevice,
            };
            task.run::<burn::backend::Wgpu>(&device)
        }
        "cpu" => Err(Failure::Input(
            "--device: there is only one cpu; use cpu".into(),
        )),
        #[cfg(not(feature = "cuda"))]
        "cuda" => Err(not_built_in(name)),
        #[cfg(not(feature = "wgpu"))]
        "wgpu" => Err(not_built_in(name)),
        _ => Err(Failure::Input(format!(
            "--device: '{name}' is unknown; use cpu, cuda or wgpu"
        ))),
    }
}

#[cfg(not(all(feature = "cuda", feature = "wgpu")))]
fn not_built_in(name: &str) -> Failure {
    Failure::Input(format!(
        "--device: this program was built without {name}; build it with: cargo build --release --features {name}"
    ))
}
