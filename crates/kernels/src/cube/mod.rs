//! Hand-written kernels for burn's GPU backends, in CubeCL: one source for CUDA, Vulkan, Metal and WebGPU.
//!
//! As in the kernels for the CPU a `try_*` function hands its tensor back if the backend is another one, and the caller
//! composes burn operations. Inputs may be f32, f16 or bf16; all arithmetic is in f32, and a result is rounded once. Under
//! burn's fusion the same kernels run as operations of their own between the fused ones.

mod activation;
mod convolve;
mod device;
mod flash;
mod frame_attention;
mod frames;
#[cfg(feature = "fusion")]
mod fused;
mod group_norm;
mod launches;
mod layer_norm;
mod matrix_units;
mod moments;
mod products;
mod softmax;

pub(crate) use device::largest_tensor;
pub use device::{fit_memory_budget, keep_kernels};
pub use launches::{launches, record_launches};

use std::any::{Any, TypeId};

use burn::tensor::{DType, Shape, Tensor, TensorPrimitive, backend::Backend};
use burn_cubecl::{CubeRuntime, cubecl, kernel::into_contiguous, tensor::CubeTensor};
use cubecl::{ir::AddressType, prelude::*};

use crate::Padding;

/// Units of a cube; every GPU runs that many.
const UNITS: usize = 256;

/// What to run.
#[derive(Clone, Copy, Debug)]
enum Kernel {
    /// Of `x [n, s, c]`, weight and bias.
    GroupNorm { groups: usize, eps: f64, silu: bool },
    /// Of `x [rows, c]`, weight and bias.
    LayerNorm { eps: f64 },
    /// `[b, n, 2·c]` → `[b, n, c]`
    Geglu,
    /// `[b, f, s, c]` → `[b, f, s, c·3]`
    FramePatches,
    /// Of `a [.., m, k]` and `b [.., k, n]`.
    Matmul { dtype: DType },
    /// Of `x [n, h, w, in]`, `weight [out, kh, kw, in]`, perhaps a bias, perhaps what is added.
    Conv2d {
        stride: usize,
        padding: [usize; 2],
        bias: bool,
        geglu: bool,
    },
    /// Of the last axis of scores in f32.
    Softmax { dtype: DType },
    /// Of `q`, `k` and `v` `[b, n, c]`.
    Attention { heads: usize },
    /// Of `q`, `k` and `v` `[b, f, s, c]`.
    FrameAttention { heads: usize, lanes: usize },
}

impl Kernel {
    /// The shape of its result.
    fn output(self, inputs: &[&Shape]) -> Shape {
        let mut shape = inputs[0].clone();
        let last = shape.num_dims() - 1;
        match self {
            Kernel::Geglu => shape[last] /= 2,
            Kernel::FramePatches => shape[last] *= 3,
            Kernel::Matmul { .. } => shape[last] = inputs[1][last],
            Kernel::Conv2d {
                stride,
                padding,
                geglu,
                ..
            } => {
                let (kernel, out) = ([inputs[1][1], inputs[1][2]], inputs[1][0]);
                let out = if geglu { out / 2 } else { out };
                shape = convolved(&shape, kernel, out, stride, padding);
            }
            _ => {}
        }
        shape
    }

    /// The dtype of its result.
    #[cfg(feature = "fusion")]
    fn dtype(self, x: DType) -> DType {
        match self {
            Kernel::Matmul { dtype } | Kernel::Softmax { dtype } => dtype,
            _ => x,
        }
    }

    fn launch<R: CubeRuntime>(self, inputs: Vec<CubeTensor<R>>) -> CubeTensor<R> {
        let mut inputs = inputs.into_iter();
        let mut next = || inputs.next().expect("every kernel is given its inputs");
        match self {
            Kernel::GroupNorm { groups, eps, silu } => {
                group_norm::group_norm(next(), next(), next(), groups, eps, silu)
            }
            Kernel::LayerNorm { eps } => layer_norm::layer_norm(next(), next(), next(), eps),
            Kernel::Geglu => activation::geglu(next()),
            Kernel::FramePatches => frames::patches(next()),
            Kernel::Matmul { dtype } => products::matmul(next(), next(), dtype),
            Kernel::Conv2d {
                stride,
                padding,
                bias,
                geglu,
            } => {
                let (x, weight) = (next(), next());
                let bias = bias.then(&mut next);
                convolve::conv2d(x, weight, bias, stride, padding, geglu, inputs.next())
            }
            Kernel::Softmax { dtype } => softmax::softmax(next(), dtype),
            Kernel::Attention { heads } => flash::attention(next(), next(), next(), heads),
            Kernel::FrameAttention { heads, lanes } => {
                frame_attention::frame_attention(next(), next(), next(), heads, lanes)
            }
        }
    }
}

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
    let kernel = Kernel::Conv2d {
        stride,
        padding: [padding.top, padding.left],
        bias: bias.is_some(),
        geglu: false,
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
    let x = x.reshape([1, 1, rows, input]);
    let weight = weight.clone().reshape([out, 1, 1, input]);
    let mut inputs = vec![float(x), float(weight)];
    inputs.extend(bias.map(|bias| float(bias.clone().unsqueeze::<2>())));
    if let Ending::Residual(residual) = ending {
        inputs.push(float(residual.reshape([1, 1, rows, results])));
    }
    let kernel = Kernel::Conv2d {
        stride: 1,
        padding: [0; 2],
        bias: bias.is_some(),
        geglu,
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
    let inputs = [float(q), float(k.clone()), float(v.clone())];
    Ok(run::<B, 3>(Kernel::Attention { heads }, inputs))
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

/// The shape of a convolution's result, channels last.
fn convolved(
    x: &Shape,
    kernel: [usize; 2],
    out: usize,
    stride: usize,
    padding: [usize; 2],
) -> Shape {
    let size = |i: usize| (x[i + 1] + 2 * padding[i] - kernel[i]) / stride + 1;
    Shape::new([x[0], size(0), size(1), out])
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

/// Runs a kernel on tensors of an [`eligible`] backend.
fn run<B: Backend, const D: usize>(
    kernel: Kernel,
    inputs: impl Into<Vec<B::FloatTensorPrimitive>>,
) -> Tensor<B, D> {
    let inputs = inputs.into();
    #[cfg(feature = "wgpu")]
    let inputs = match run_on::<cubecl::wgpu::WgpuRuntime, _>(kernel, inputs) {
        Ok(y) => return Tensor::from_primitive(TensorPrimitive::Float(y)),
        Err(inputs) => inputs,
    };
    #[cfg(feature = "cuda")]
    let inputs = match run_on::<cubecl::cuda::CudaRuntime, _>(kernel, inputs) {
        Ok(y) => return Tensor::from_primitive(TensorPrimitive::Float(y)),
        Err(inputs) => inputs,
    };
    unreachable!("the backend's type was checked: {}", inputs.len())
}

/// Runs a kernel if the tensors are those of runtime `R`.
fn run_on<R: CubeRuntime, P: 'static>(kernel: Kernel, inputs: Vec<P>) -> Result<P, Vec<P>> {
    let inputs = match cast::<_, Vec<CubeTensor<R>>>(inputs) {
        Ok(inputs) => return cast(kernel.launch(inputs)).map_err(|_| Vec::new()),
        Err(inputs) => inputs,
    };
    #[cfg(feature = "fusion")]
    let inputs = match cast::<_, Vec<fused::Fused<R>>>(inputs) {
        Ok(inputs) => return cast(fused::register(kernel, inputs)).map_err(|_| Vec::new()),
        Err(inputs) => inputs,
    };
    Err(inputs)
}

/// `a` as a `T`, if it is one.
fn cast<A: 'static, T: 'static>(a: A) -> Result<T, A> {
    let mut slot = Some(a);
    let any: &mut dyn Any = &mut slot;
    match any.downcast_mut::<Option<T>>().and_then(Option::take) {
        Some(t) => Ok(t),
        None => Err(slot.expect("nothing was taken")),
    }
}

fn float<B: Backend, const D: usize>(x: Tensor<B, D>) -> B::FloatTensorPrimitive {
    x.into_primitive().tensor()
}

/// A tensor whose rows (its last axis) are contiguous and lie one after the other, and the distance of two rows. CUDA's
/// tensors have unused values after each row, so that a contiguous copy of each would be made for nothing.
fn in_rows<R: CubeRuntime>(x: CubeTensor<R>) -> (CubeTensor<R>, usize) {
    let pitch = |x: &CubeTensor<R>| {
        let (shape, strides) = (x.meta.shape(), x.meta.strides());
        let last = shape.num_dims() - 1;
        let mut outer = (0..last).rev().filter(|axis| shape[*axis] > 1);
        let first = outer.next();
        let pitch = first.map_or(shape[last], |axis| strides[axis]);
        let mut expected = first.map_or(0, |axis| pitch * shape[axis]);
        for axis in outer {
            if strides[axis] != expected {
                return None;
            }
            expected *= shape[axis];
        }
        (strides[last] == 1 && pitch >= shape[last]).then_some(pitch)
    };
    match pitch(&x) {
        Some(pitch) => (x, pitch),
        None => {
            let x = into_contiguous(x);
            let shape = x.meta.shape();
            let pitch = shape[shape.num_dims() - 1];
            (x, pitch)
        }
    }
}

/// A tensor whose last axis is contiguous and whose other strides are whole vectors of `lanes` values, and those strides,
/// counted in vectors.
fn in_lines<R: CubeRuntime>(x: CubeTensor<R>, lanes: usize) -> (CubeTensor<R>, Vec<usize>) {
    let last = x.meta.shape().num_dims() - 1;
    let fits = |x: &CubeTensor<R>| {
        let strides = x.meta.strides();
        strides[last] == 1 && strides[..last].iter().all(|s| s.is_multiple_of(lanes))
    };
    let x = match fits(&x) {
        true => x,
        false => into_contiguous(x),
    };
    // A single channel has to be a whole vector, too.
    let strides = x.meta.strides()[..last].iter().map(|s| s / lanes).collect();
    (x, strides)
}

/// A new contiguous tensor beside `like`.
fn empty<R: CubeRuntime>(like: &CubeTensor<R>, shape: Shape, dtype: DType) -> CubeTensor<R> {
    burn_cubecl::ops::numeric::empty_device_contiguous_dtype(
        like.client.clone(),
        like.device.clone(),
        shape,
        dtype,
    )
}

/// The most values that one unit may read at once: what the device does well, and every one of `multiples` is a multiple of.
fn width<R: CubeRuntime>(tensors: &[&CubeTensor<R>], multiples: &[usize]) -> usize {
    let widest = |x: &&CubeTensor<R>| {
        let mut sizes = x.client.io_optimized_vector_sizes(x.dtype.size());
        sizes.find(|size| multiples.iter().all(|n| n.is_multiple_of(*size)))
    };
    tensors.iter().filter_map(widest).min().unwrap_or(1)
}

/// Integers wide enough for the index of any value.
fn addresses<R: CubeRuntime>(tensors: &[&CubeTensor<R>]) -> AddressType {
    let types = tensors.iter().map(|x| x.required_address_type());
    types.max().unwrap_or_default()
}

/// A launch of at least `units` units.
fn units<R: CubeRuntime>(client: &ComputeClient<R>, units: usize) -> (CubeCount, CubeDim) {
    let dim = CubeDim::new(client, units);
    (
        cubecl::calculate_cube_count_elemwise(client, units, dim),
        dim,
    )
}

/// A launch of at least `cubes` cubes.
fn cubes<R: CubeRuntime>(client: &ComputeClient<R>, cubes: usize) -> CubeCount {
    cubecl::calculate_cube_count_elemwise(client, cubes, CubeDim::new_single())
}
