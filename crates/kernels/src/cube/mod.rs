//! Hand-written kernels for burn's GPU backends, in CubeCL: one source for CUDA, Vulkan, Metal and WebGPU.
//!
//! As in the kernels for the CPU a `try_*` function hands its tensor back if the backend is another one, and the caller
//! composes burn operations. Inputs may be f32, f16 or bf16; all arithmetic is in f32, and a result is rounded once. Under
//! burn's fusion the same kernels run as operations of their own between the fused ones.

mod activation;
mod convolve;
mod cuda;
mod device;
mod flash;
mod frame_attention;
mod frames;
#[cfg(feature = "fusion")]
mod fused;
mod group_norm;
mod kernel;
mod launches;
mod layer_norm;
mod matrix_units;
mod moments;
mod products;
mod softmax;
mod tensors;
mod trial;

pub(crate) use device::largest_tensor;
pub use device::{fit_memory_budget, keep_kernels};
pub use launches::{launches, record_launches};
pub use trial::uses_warpgroups;

use std::any::TypeId;

use burn::tensor::{DType, Tensor, backend::Backend};
use burn_cubecl::{CubeRuntime, cubecl, tensor::CubeTensor};

use self::{
    convolve::Convolution,
    kernel::{Kernel, run},
};
use crate::Padding;

pub(crate) fn try_group_norm<B: Backend>(
    x: Tensor<B, 3>,
    weight: &Tensor<B, 1>,
    bias: &Tensor<B, 1>,
    groups: usize,
    eps: f64,
    silu: bool,
) -> Result<Tensor<B, 3>, Tensor<B, 3>> {
    if !eligible(&x) || weight.dtype() != bias.dtype() || x.dims()[0] >= MOST_CUBES {
        return Err(x);
    }
    let inputs = [float(x), float(weight.clone()), float(bias.clone())];
    Ok(run::<B, 3>(Kernel::GroupNorm { groups, eps, silu }, inputs))
}

pub(crate) fn try_layer_norm<B: Backend>(
    x: Tensor<B, 2>,
    weight: &Tensor<B, 1>,
    bias: &Tensor<B, 1>,
    eps: f64,
) -> Result<Tensor<B, 2>, Tensor<B, 2>> {
    if !eligible(&x) || weight.dtype() != bias.dtype() {
        return Err(x);
    }
    let inputs = [float(x), float(weight.clone()), float(bias.clone())];
    Ok(run::<B, 2>(Kernel::LayerNorm { eps }, inputs))
}

pub(crate) fn try_geglu<B: Backend>(x: Tensor<B, 3>) -> Result<Tensor<B, 3>, Tensor<B, 3>> {
    if !eligible(&x) {
        return Err(x);
    }
    Ok(run::<B, 3>(Kernel::Geglu, [float(x)]))
}

/// Each position of an [`eligible`] tensor with those of the frame before and after it, zeros where there is none: value
/// `3·i + t` of the last axis is channel `i` of frame `f + t − 1`.
///
/// # Shapes
/// `[b, f, s, c]` → `[b, f, s, 3·c]`
pub(crate) fn frame_patches<B: Backend>(x: Tensor<B, 4>) -> Tensor<B, 4> {
    run::<B, 4>(Kernel::FramePatches, [float(x)])
}

/// `a [.., m, k]`, `b [.., k, n]` of an [`eligible`] backend → `[.., m, n]` in `dtype`. f32 is multiplied as such.
pub(crate) fn matmul<B: Backend, const D: usize>(
    a: Tensor<B, D>,
    b: Tensor<B, D>,
    dtype: DType,
) -> Tensor<B, D> {
    run::<B, D>(Kernel::Matmul { dtype }, [float(a), float(b)])
}

/// What [`try_linear`] does with its result.
pub(crate) enum Ending<B: Backend, const D: usize> {
    None,
    /// Adds it to this.
    Residual(Tensor<B, D>),
    /// Multiplies its first half by the GELU of the second.
    Geglu,
}

/// In half precision, added up in f32, on devices with matrix units, with the same padding on opposite sides.
///
/// # Shapes
/// `x [n, h, w, in]`, `weight [out, kh, kw, in]`, `bias [r, out]`, `residual [n, h', w', out]` → `[n, h', w', out]`
pub(crate) fn try_conv2d<B: Backend>(
    x: Tensor<B, 4>,
    weight: &Tensor<B, 4>,
    bias: Option<&Tensor<B, 2>>,
    stride: usize,
    padding: Padding,
    residual: Option<&Tensor<B, 4>>,
) -> Result<Tensor<B, 4>, Tensor<B, 4>> {
    let symmetric = padding.top == padding.bottom && padding.left == padding.right;
    let alike = residual.is_none_or(|residual| residual.dtype() == x.dtype());
    if !symmetric || !alike || !multiplies(&x, weight, weight.dims()[0]) {
        return Err(x);
    }
    let mut inputs = vec![float(x), float(weight.clone())];
    inputs.extend(bias.map(|bias| float(bias.clone())));
    inputs.extend(residual.map(|residual| float(residual.clone())));
    let convolution = Convolution {
        stride,
        padding: [padding.top, padding.left],
        geglu: false,
        warpgroups: uses_warpgroups::<B>(&weight.device(), weight.dtype()),
    };
    let kernel = Kernel::Conv2d {
        convolution,
        bias: bias.is_some(),
    };
    Ok(run::<B, 4>(kernel, inputs))
}

/// As [`try_conv2d`].
///
/// # Shapes
/// `x [.., in]`, `weight [out, in]`, `bias [out]` → `[.., out]`, or half as many with [`Ending::Geglu`]
pub(crate) fn try_linear<B: Backend, const D: usize>(
    x: Tensor<B, D>,
    weight: &Tensor<B, 2>,
    bias: Option<&Tensor<B, 1>>,
    ending: Ending<B, D>,
) -> Result<Tensor<B, D>, Tensor<B, D>> {
    let geglu = matches!(ending, Ending::Geglu);
    let mut dims = x.dims();
    let [out, input] = weight.dims();
    let rows = x.shape().num_elements() / input;
    let results = if geglu { out / 2 } else { out };
    let alike = match &ending {
        Ending::Residual(residual) => residual.dtype() == x.dtype(),
        _ => true,
    };
    if !alike || !multiplies(&x, weight, results) {
        return Err(x);
    }
    dims[D - 1] = results;
    let warpgroups = uses_warpgroups::<B>(&x.device(), x.dtype());
    let x = x.reshape([1, 1, rows, input]);
    let weight = weight.clone().reshape([out, 1, 1, input]);
    let mut inputs = vec![float(x), float(weight)];
    inputs.extend(bias.map(|bias| float(bias.clone().unsqueeze::<2>())));
    if let Ending::Residual(residual) = ending {
        inputs.push(float(residual.reshape([1, 1, rows, results])));
    }
    let kernel = Kernel::Conv2d {
        convolution: Convolution {
            stride: 1,
            padding: [0; 2],
            geglu,
            warpgroups,
        },
        bias: bias.is_some(),
    };
    Ok(run::<B, 4>(kernel, inputs).reshape(dims))
}

/// Whether [`convolve`] takes these operands.
fn multiplies<B: Backend, const D: usize, const W: usize>(
    x: &Tensor<B, D>,
    weight: &Tensor<B, W>,
    results: usize,
) -> bool {
    eligible(x)
        && weight.dtype() == x.dtype()
        && convolve::takes(x.dims()[D - 1], results)
        && multiplies_half::<B>(&x.device(), x.dtype())
}

/// Whether [`convolve`] and [`flash`] run on a device, for operands of suitable sizes.
pub(crate) fn multiplies_half<B: Backend>(device: &B::Device, dtype: DType) -> bool {
    has_gpu_kernels::<B>()
        && products::is_half(dtype)
        && device::has_matrix_units::<B>(device, dtype)
}

/// Of the last axis of scores in f32; the weights are rounded to `dtype`.
pub(crate) fn try_softmax<B: Backend>(
    scores: Tensor<B, 4>,
    dtype: DType,
) -> Result<Tensor<B, 4>, Tensor<B, 4>> {
    if !eligible(&scores) || scores.dtype() != DType::F32 {
        return Err(scores);
    }
    Ok(run::<B, 4>(Kernel::Softmax { dtype }, [float(scores)]))
}

/// Without a mask, in half precision, on devices with matrix units.
pub(crate) fn try_attention<B: Backend>(
    q: Tensor<B, 3>,
    k: &Tensor<B, 3>,
    v: &Tensor<B, 3>,
    heads: usize,
) -> Result<Tensor<B, 3>, Tensor<B, 3>> {
    let [b, _, c] = q.dims();
    if !eligible(&q)
        || [k.dtype(), v.dtype()] != [q.dtype(); 2]
        || !flash::takes(c / heads)
        || b.max(heads) >= MOST_CUBES
        || !multiplies_half::<B>(&q.device(), q.dtype())
    {
        return Err(q);
    }
    let warpgroups = uses_warpgroups::<B>(&q.device(), q.dtype());
    let inputs = [float(q), float(k.clone()), float(v.clone())];
    Ok(run::<B, 3>(Kernel::Attention { heads, warpgroups }, inputs))
}

/// On devices whose planes exchange values.
pub(crate) fn try_frame_attention<B: Backend>(
    q: Tensor<B, 4>,
    k: &Tensor<B, 4>,
    v: &Tensor<B, 4>,
    heads: usize,
) -> Result<Tensor<B, 4>, Tensor<B, 4>> {
    let channels = q.dims()[3] / heads;
    let same = [k.dtype(), v.dtype()] == [q.dtype(); 2];
    if !eligible(&q) || !same {
        return Err(q);
    }
    let Some(lanes) = device::frame_lanes::<B>(&q.device(), q.dtype(), channels) else {
        return Err(q);
    };
    let inputs = [float(q), float(k.clone()), float(v.clone())];
    Ok(run::<B, 4>(Kernel::FrameAttention { heads, lanes }, inputs))
}

/// Cubes along one axis of a launch, on every GPU.
const MOST_CUBES: usize = 1 << 16;

/// Whether the kernels may run on this tensor.
pub(crate) fn eligible<B: Backend, const D: usize>(x: &Tensor<B, D>) -> bool {
    has_gpu_kernels::<B>()
        && matches!(x.dtype(), DType::F32 | DType::F16 | DType::BF16)
        && x.shape().num_elements() > 0
}

/// Whether the hand-written GPU kernels run on a backend: on burn's GPU backends, with fusion and without.
pub fn has_gpu_kernels<B: Backend>() -> bool {
    let primitive = TypeId::of::<B::FloatTensorPrimitive>();
    let mut known = Vec::new();
    #[cfg(feature = "wgpu")]
    known.extend(primitives::<cubecl::wgpu::WgpuRuntime>());
    #[cfg(feature = "cuda")]
    known.extend(primitives::<cubecl::cuda::CudaRuntime>());
    known.contains(&primitive)
}

/// The types of a runtime's tensors: as they are, and under fusion.
fn primitives<R: CubeRuntime>() -> Vec<TypeId> {
    vec![
        TypeId::of::<CubeTensor<R>>(),
        #[cfg(feature = "fusion")]
        TypeId::of::<fused::Fused<R>>(),
    ]
}

fn float<B: Backend, const D: usize>(x: Tensor<B, D>) -> B::FloatTensorPrimitive {
    x.into_primitive().tensor()
}
