//! The GPUs that wgpu finds, asked for with wgpu itself: burn panics where there is none.

use burn::{
    backend::wgpu::{WgpuDevice, graphics::AutoGraphicsApi, graphics::GraphicsApi},
    tensor::read_sync,
};
use wgpu::{
    Adapter, AdapterInfo, Backends, DeviceType, DownlevelFlags, Instance, InstanceDescriptor,
};

use super::list::Device;

const NONE: &str = "no GPU found; install its driver (Debian, Ubuntu: libvulkan1 and, for AMD, Intel or computing on the \
    CPU, mesa-vulkan-drivers; for NVIDIA, nvidia-driver), or use --device cpu";

/// An adapter under the name that burn has for it.
struct Found {
    adapter: Adapter,
    device: WgpuDevice,
}

/// The device of `wgpu:index`.
pub(super) fn find(index: usize) -> Result<WgpuDevice, String> {
    let mut found = adapters();
    let count = found.len();
    if index >= count {
        return Err(match count {
            0 => NONE.to_owned(),
            1 => "there is only wgpu:0".to_owned(),
            _ => format!("there are only wgpu:0 to wgpu:{}", count - 1),
        });
    }
    let Found { adapter, device } = found.swap_remove(index);
    match problem(&adapter) {
        None => Ok(device),
        Some(problem) => Err(format!(
            "{} {problem}; use another one ('i2vgen devices' lists them)",
            adapter.get_info().name
        )),
    }
}

/// All devices in the order of their numbers.
pub(super) fn list() -> Result<Vec<Device>, String> {
    let found = adapters();
    if found.is_empty() {
        return Err(NONE.to_owned());
    }
    let device = |(index, found): (usize, Found)| {
        let info = found.adapter.get_info();
        Device {
            name: format!("wgpu:{index}"),
            api: format!("{:?}", info.backend),
            driver: driver(&info),
            problem: problem(&found.adapter),
            adapter: match info.device_type {
                DeviceType::Cpu => format!("{}, the CPU", info.name),
                _ => info.name,
            },
        }
    };
    Ok(found.into_iter().enumerate().map(device).collect())
}

/// Real GPUs first, the fastest kind of them before the others.
fn adapters() -> Vec<Found> {
    let api = AutoGraphicsApi::backend();
    let instance = Instance::new(InstanceDescriptor {
        backends: Backends::from(api),
        ..InstanceDescriptor::new_without_display_handle()
    });
    let adapters = read_sync(instance.enumerate_adapters(api.into()));
    // burn counts each kind on its own, in this order.
    let mut counts = [0; 3];
    let mut next = |kind: usize| {
        counts[kind] += 1;
        counts[kind] - 1
    };
    let mut found: Vec<(usize, Found)> = Vec::new();
    for adapter in adapters {
        let (rank, device) = match adapter.get_info().device_type {
            DeviceType::DiscreteGpu => (0, WgpuDevice::DiscreteGpu(next(0))),
            DeviceType::IntegratedGpu => (1, WgpuDevice::IntegratedGpu(next(1))),
            DeviceType::VirtualGpu => (2, WgpuDevice::VirtualGpu(next(2))),
            DeviceType::Cpu => (3, WgpuDevice::Cpu),
            // burn cannot tell which one is meant.
            DeviceType::Other => continue,
        };
        // burn knows one of these.
        if device == WgpuDevice::Cpu && found.iter().any(|(_, f)| f.device == WgpuDevice::Cpu) {
            continue;
        }
        found.push((rank, Found { adapter, device }));
    }
    found.sort_by_key(|(rank, _)| *rank);
    found.into_iter().map(|(_, found)| found).collect()
}

fn driver(info: &AdapterInfo) -> String {
    format!("{} {}", info.driver, info.driver_info)
        .trim()
        .to_owned()
}

/// What an adapter lacks that burn's kernels need: what WebGPU guarantees.
fn problem(adapter: &Adapter) -> Option<String> {
    let flags = adapter.get_downlevel_capabilities().flags;
    if !flags.contains(DownlevelFlags::COMPUTE_SHADERS) {
        return Some("has no compute shaders".to_owned());
    }
    let (have, need) = (adapter.limits(), wgpu::Limits::default());
    let limits = [
        (
            "threads per workgroup",
            have.max_compute_invocations_per_workgroup,
            need.max_compute_invocations_per_workgroup,
        ),
        (
            "bytes of workgroup memory",
            have.max_compute_workgroup_storage_size,
            need.max_compute_workgroup_storage_size,
        ),
        (
            "buffers per shader",
            have.max_storage_buffers_per_shader_stage,
            need.max_storage_buffers_per_shader_stage,
        ),
        (
            "workgroups per dimension",
            have.max_compute_workgroups_per_dimension,
            need.max_compute_workgroups_per_dimension,
        ),
    ];
    let lacking = limits.into_iter().find(|(_, have, need)| have < need);
    lacking.map(|(what, have, need)| format!("has {have} {what} where {need} are needed"))
}
