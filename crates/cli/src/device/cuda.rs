//! The GPUs that CUDA finds, asked for before burn does, which panics where there is none.

use std::{
    panic::{self, AssertUnwindSafe},
    path::Path,
};

use burn::backend::cuda::CudaDevice;
use cudarc::{
    driver::{result, sys::CUdevice_attribute},
    nvrtc,
};

use super::list::Device;

/// The device of `cuda:index`.
pub(super) fn find(index: usize) -> Result<CudaDevice, String> {
    let count = count()?;
    if index >= count {
        return Err(match count {
            1 => "there is only cuda:0".to_owned(),
            _ => format!("there are only cuda:0 to cuda:{}", count - 1),
        });
    }
    toolkit()?;
    Ok(CudaDevice::new(index))
}

/// All devices in the order of their numbers.
pub(super) fn list() -> Result<Vec<Device>, String> {
    let problem = toolkit().err();
    (0..count()?)
        .map(|index| {
            let (name, major, minor) = describe(index).map_err(unanswered)?;
            Ok(Device {
                name: format!("cuda:{index}"),
                adapter: name,
                api: "CUDA".to_owned(),
                driver: format!("compute capability {major}.{minor}"),
                problem: problem.clone(),
            })
        })
        .collect()
}

/// Bytes of a device's memory.
pub(super) fn memory(index: usize) -> Option<u64> {
    let device = result::device::get(index as i32).ok()?;
    // SAFETY: the handle comes from the driver, and this only reads.
    let bytes = unsafe { result::device::total_mem(device) };
    bytes.ok().map(|bytes| bytes as u64)
}

/// What `f` returns, unless it panics; then nothing is printed.
fn quietly<T>(f: impl FnOnce() -> T) -> Option<T> {
    let before = panic::take_hook();
    panic::set_hook(Box::new(|_| ()));
    let result = panic::catch_unwind(AssertUnwindSafe(f));
    panic::set_hook(before);
    result.ok()
}

/// At least one, or an error.
fn count() -> Result<usize, String> {
    // Without the driver's library, cudarc panics.
    let count = quietly(|| {
        result::init()?;
        result::device::get_count()
    });
    match count {
        Some(Ok(count @ 1..)) => Ok(count as usize),
        Some(Ok(_)) => Err("no NVIDIA GPU found".to_owned()),
        Some(Err(error)) => Err(unanswered(error)),
        None => Err(
            "the driver's library libcuda is not there; install NVIDIA's driver (Debian: nvidia-driver)".to_owned(),
        ),
    }
}

fn unanswered(error: result::DriverError) -> String {
    format!("the driver does not answer: {error}; reinstall NVIDIA's driver")
}

fn describe(index: usize) -> Result<(String, i32, i32), result::DriverError> {
    let device = result::device::get(index as i32)?;
    // SAFETY: the handle comes from the driver, and these only read.
    let attribute = |name| unsafe { result::device::get_attribute(device, name) };
    Ok((
        result::device::get_name(device)?,
        attribute(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?,
        attribute(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?,
    ))
}

/// burn compiles its kernels while it runs, with NVIDIA's compiler and headers.
fn toolkit() -> Result<(), String> {
    let compiler = quietly(|| {
        let program = nvrtc::result::create_program(c"", None);
        // SAFETY: it was just made and is not used again.
        program.and_then(|program| unsafe { nvrtc::result::destroy_program(program) })
    });
    if !matches!(compiler, Some(Ok(()))) {
        return Err(
            "the compiler's library libnvrtc is not there; install the CUDA toolkit (Debian: nvidia-cuda-toolkit)"
                .to_owned(),
        );
    }
    // Where burn looks.
    let usual = ["/usr/local/cuda", "/opt/cuda", "/usr/bin/nvcc"];
    if cfg!(target_os = "linux")
        && std::env::var_os("CUDA_PATH").is_none()
        && !usual.iter().any(|path| Path::new(path).exists())
    {
        return Err(format!(
            "the CUDA toolkit's headers are not in {} nor {}; install the CUDA toolkit, or set CUDA_PATH to its folder",
            usual[0], usual[1]
        ));
    }
    Ok(())
}
