//! The kernels by name, and the way from a backend's tensors to them.

use std::any::Any;

use burn::tensor::{DType, Shape, Tensor, TensorPrimitive, backend::Backend};
use burn_cubecl::{CubeRuntime, cubecl, tensor::CubeTensor};

#[cfg(feature = "fusion")]
use super::fused;
use super::{
    activation,
    convolve::{self, Convolution},
    flash, frame_attention, frames, group_norm, layer_norm, products, softmax,
};
/// What to run.
#[derive(Clone, Copy, Debug)]
pub(super) enum Kernel {
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
        convolution: Convolution,
        bias: bool,
    },
    /// Of the last axis of scores in f32.
    Softmax { dtype: DType },
    /// Of `q`, `k` and `v` `[b, n, c]`, with `warpgroups` as for a [`Convolution`].
    Attention { heads: usize, warpgroups: bool },
    /// Of `q`, `k` and `v` `[b, f, s, c]`.
    FrameAttention { heads: usize, lanes: usize },
}

impl Kernel {
    /// The shape of its result.
    pub(super) fn output(self, inputs: &[&Shape]) -> Shape {
        let mut shape = inputs[0].clone();
        let last = shape.num_dims() - 1;
        match self {
            Kernel::Geglu => shape[last] /= 2,
            Kernel::FramePatches => shape[last] *= 3,
            Kernel::Matmul { .. } => shape[last] = inputs[1][last],
            Kernel::Conv2d { convolution, .. } => {
                let (kernel, out) = ([inputs[1][1], inputs[1][2]], inputs[1][0]);
                let out = if convolution.geglu { out / 2 } else { out };
                shape = convolved(&shape, kernel, out, convolution.stride, convolution.padding);
            }
            _ => {}
        }
        shape
    }

    /// The dtype of its result.
    #[cfg(feature = "fusion")]
    pub(super) fn dtype(self, x: DType) -> DType {
        match self {
            Kernel::Matmul { dtype } | Kernel::Softmax { dtype } => dtype,
            _ => x,
        }
    }

    pub(super) fn launch<R: CubeRuntime>(self, inputs: Vec<CubeTensor<R>>) -> CubeTensor<R> {
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
            Kernel::Conv2d { convolution, bias } => {
                let (x, weight) = (next(), next());
                let bias = bias.then(&mut next);
                convolve::conv2d(x, weight, bias, inputs.next(), convolution)
            }
            Kernel::Softmax { dtype } => softmax::softmax(next(), dtype),
            Kernel::Attention { heads, warpgroups } => {
                flash::attention(next(), next(), next(), heads, warpgroups)
            }
            Kernel::FrameAttention { heads, lanes } => {
                frame_attention::frame_attention(next(), next(), next(), heads, lanes)
            }
        }
    }
}

/// The shape of a convolution's result, channels last.
pub(super) fn convolved(
    x: &Shape,
    kernel: [usize; 2],
    out: usize,
    stride: usize,
    padding: [usize; 2],
) -> Shape {
    let size = |i: usize| (x[i + 1] + 2 * padding[i] - kernel[i]) / stride + 1;
    Shape::new([x[0], size(0), size(1), out])
}

/// Runs a kernel on tensors of an [`eligible`] backend.
pub(super) fn run<B: Backend, const D: usize>(
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
