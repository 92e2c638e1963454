//! Convolutions over channels-last tensors.

use burn::tensor::{Tensor, backend::Backend, module, ops::ConvOptions};

use crate::{
    add,
    linear::linear,
    nearest_resize,
    precision::widened,
    trace::{Operation, note},
};

/// Zero padding on each side of an image, in pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Padding {
    /// Rows above.
    pub top: usize,
    /// Columns on the left.
    pub left: usize,
    /// Rows below.
    pub bottom: usize,
    /// Columns on the right.
    pub right: usize,
}

impl Padding {
    /// The same padding on all four sides.
    pub const fn same(n: usize) -> Self {
        Self {
            top: n,
            left: n,
            bottom: n,
            right: n,
        }
    }
}

/// 2-D convolution with square stride.
///
/// # Shapes
/// `x [n, h, w, in]`, `weight [out, in, kh, kw]`, `bias [r, out]` → `[n, h', w', out]`, where `r` divides `n` and row `i`
/// of the bias is added to the `n / r` consecutive images from `i · n / r` on (`r = 1`: one bias for all).
pub fn conv2d<B: Backend>(
    x: Tensor<B, 4>,
    weight: Tensor<B, 4>,
    bias: Option<Tensor<B, 2>>,
    stride: usize,
    padding: Padding,
) -> Tensor<B, 4> {
    conv2d_onto(x, weight, bias, stride, padding, None)
}

/// [`conv2d`] and its result added to `residual`: the end of a residual block. On a GPU with matrix units that is one kernel,
/// which rounds once.
///
/// # Shapes
/// As [`conv2d`], with `residual [n, h', w', out]`.
pub fn conv2d_add<B: Backend>(
    x: Tensor<B, 4>,
    weight: Tensor<B, 4>,
    bias: Option<Tensor<B, 2>>,
    stride: usize,
    padding: Padding,
    residual: Tensor<B, 4>,
) -> Tensor<B, 4> {
    conv2d_onto(x, weight, bias, stride, padding, Some(residual))
}

fn conv2d_onto<B: Backend>(
    x: Tensor<B, 4>,
    weight: Tensor<B, 4>,
    bias: Option<Tensor<B, 2>>,
    stride: usize,
    padding: Padding,
    residual: Option<Tensor<B, 4>>,
) -> Tensor<B, 4> {
    note(|| Operation::Conv2d {
        x: x.dims(),
        weight: weight.dims(),
        bias: bias.as_ref().map(|bias| bias.dims()[0]),
        stride,
        padding,
        residual: residual.is_some(),
    });
    #[cfg(any(feature = "wgpu", feature = "cuda"))]
    let x = {
        let weight = weight.clone().permute([0, 2, 3, 1]);
        let (bias, residual) = (bias.as_ref(), residual.as_ref());
        match crate::cube::try_conv2d(x, &weight, bias, stride, padding, residual) {
            Ok(done) => return done,
            Err(x) => x,
        }
    };
    plus(conv2d_alone(x, weight, bias, stride, padding), residual)
}

/// `y + residual`, if there is one.
pub(crate) fn plus<B: Backend, const D: usize>(
    y: Tensor<B, D>,
    residual: Option<Tensor<B, D>>,
) -> Tensor<B, D> {
    match residual {
        Some(residual) => add(y, residual),
        None => y,
    }
}

fn conv2d_alone<B: Backend>(
    x: Tensor<B, 4>,
    weight: Tensor<B, 4>,
    bias: Option<Tensor<B, 2>>,
    stride: usize,
    padding: Padding,
) -> Tensor<B, 4> {
    #[cfg(feature = "flex")]
    let x = match crate::flex::try_conv2d(x, &weight, bias.as_ref(), stride, padding) {
        Ok(done) => return done,
        Err(x) => x,
    };
    #[cfg(feature = "flex")]
    let x = match crate::flex::in_f32(x, |x| {
        let bias = bias.clone().map(crate::flex::widen);
        conv2d(x, crate::flex::widen(weight.clone()), bias, stride, padding)
    }) {
        Ok(done) => return done,
        Err(x) => x,
    };
    let Padding {
        top,
        left,
        bottom,
        right,
    } = padding;
    let (x, symmetric) = if top == bottom && left == right {
        (x, [top, left])
    } else {
        (
            extended(extended(x, 1, top, bottom), 2, left, right),
            [0, 0],
        )
    };
    let y = convolved(x, weight, stride, symmetric);
    match bias {
        Some(bias) => {
            let [n, h, w, c] = y.dims();
            let [r, _] = bias.dims();
            let y = y.reshape([r, n / r * h * w, c]) + bias.unsqueeze_dim(1);
            y.reshape([n, h, w, c])
        }
        None => y,
    }
}

/// Without a bias, and with the same padding on opposite sides.
fn convolved<B: Backend>(
    x: Tensor<B, 4>,
    weight: Tensor<B, 4>,
    stride: usize,
    padding: [usize; 2],
) -> Tensor<B, 4> {
    let [out, c, kh, kw] = weight.dims();
    if [kh, kw, stride] == [1; 3] && padding == [0; 2] {
        return linear(x, weight.reshape([out, c]), None);
    }
    // burn's own convolution adds up in the dtype of its input.
    let dtype = x.dtype();
    let (x, weight) = (widened(x).permute([0, 3, 1, 2]), widened(weight));
    let options = ConvOptions::new([stride, stride], padding, [1, 1], 1);
    let y = module::conv2d(x, weight, None, options);
    y.permute([0, 2, 3, 1]).cast(dtype)
}

/// Doubles the size by repeating pixels, then convolves with stride 1 and as much zero padding as keeps the size.
///
/// On the CPU, a 3×3 convolution of many channels never makes the doubled image.
///
/// # Shapes
/// `x [n, h, w, in]`, `weight [out, in, k, k]` with odd `k`, `bias [out]` → `[n, 2h, 2w, out]`
pub fn upsample_conv2d<B: Backend>(
    x: Tensor<B, 4>,
    weight: Tensor<B, 4>,
    bias: Option<Tensor<B, 1>>,
) -> Tensor<B, 4> {
    #[cfg(feature = "flex")]
    let x = match crate::flex::in_f32(x, |x| {
        let bias = bias.clone().map(crate::flex::widen);
        upsample_conv2d(x, crate::flex::widen(weight.clone()), bias)
    }) {
        Ok(done) => return done,
        Err(x) => x,
    };
    #[cfg(feature = "flex")]
    let x = match crate::flex::try_upsample_conv2d(x, &weight, bias.as_ref()) {
        Ok(done) => return done,
        Err(x) => x,
    };
    let [_, h, w, _] = x.dims();
    let padding = Padding::same(weight.dims()[2] / 2);
    let x = nearest_resize(x, 2 * h, 2 * w);
    conv2d(x, weight, bias.map(|bias| bias.unsqueeze()), 1, padding)
}

/// With zeros before and after it along an axis. (burn 0.21's `pad` fails in half precision: it pads with f32.)
fn extended<B: Backend>(x: Tensor<B, 4>, axis: usize, before: usize, after: usize) -> Tensor<B, 4> {
    let zeros = |len: usize| {
        let mut dims = x.dims();
        dims[axis] = len;
        (len > 0).then(|| Tensor::zeros(dims, (&x.device(), x.dtype())))
    };
    let parts = [zeros(before), Some(x.clone()), zeros(after)];
    Tensor::cat(parts.into_iter().flatten().collect(), axis)
}

/// Convolution with kernel 3 and zero padding 1 along the frame axis (PyTorch's `Conv3d` with kernel `(3, 1, 1)`).
///
/// Computed as three matrix products over shifted frames, which every backend does well; on a GPU as a single one.
///
/// # Shapes
/// `x [b, f, s, in]`, `weight [out, in, 3, 1, 1]`, `bias [out]` → `[b, f, s, out]`
pub fn frame_conv<B: Backend>(
    x: Tensor<B, 4>,
    weight: Tensor<B, 5>,
    bias: Tensor<B, 1>,
) -> Tensor<B, 4> {
    frame_conv_onto(x, weight, bias, None)
}

/// [`frame_conv`] and its result added to `residual`, on a GPU with matrix units in one kernel.
///
/// # Shapes
/// As [`frame_conv`], with `residual [b, f, s, out]`.
pub fn frame_conv_add<B: Backend>(
    x: Tensor<B, 4>,
    weight: Tensor<B, 5>,
    bias: Tensor<B, 1>,
    residual: Tensor<B, 4>,
) -> Tensor<B, 4> {
    frame_conv_onto(x, weight, bias, Some(residual))
}

fn frame_conv_onto<B: Backend>(
    x: Tensor<B, 4>,
    weight: Tensor<B, 5>,
    bias: Tensor<B, 1>,
    residual: Option<Tensor<B, 4>>,
) -> Tensor<B, 4> {
    note(|| Operation::FrameConv {
        x: x.dims(),
        out: weight.dims()[0],
        residual: residual.is_some(),
    });
    #[cfg(any(feature = "wgpu", feature = "cuda"))]
    let x = {
        // Frames are the rows, positions the columns of an image.
        let [out, c, ..] = weight.dims();
        let weight = weight
            .clone()
            .permute([0, 2, 3, 4, 1])
            .reshape([out, 3, 1, c]);
        let (bias, residual) = (bias.clone().unsqueeze(), residual.as_ref());
        let padding = Padding {
            left: 0,
            right: 0,
            ..Padding::same(1)
        };
        match crate::cube::try_conv2d(x, &weight, Some(&bias), 1, padding, residual) {
            Ok(done) => return done,
            Err(x) => x,
        }
    };
    plus(frame_conv_alone(x, weight, bias), residual)
}

fn frame_conv_alone<B: Backend>(
    x: Tensor<B, 4>,
    weight: Tensor<B, 5>,
    bias: Tensor<B, 1>,
) -> Tensor<B, 4> {
    #[cfg(feature = "flex")]
    let x = match crate::flex::try_frame_conv(x, &weight, &bias) {
        Ok(done) => return done,
        Err(x) => x,
    };
    #[cfg(feature = "flex")]
    let x = match crate::flex::in_f32(x, |x| {
        frame_conv(
            x,
            crate::flex::widen(weight.clone()),
            crate::flex::widen(bias.clone()),
        )
    }) {
        Ok(done) => return done,
        Err(x) => x,
    };
    #[cfg(any(feature = "wgpu", feature = "cuda"))]
    if crate::cube::eligible(&x) {
        return frame_conv_of_patches(x, weight, bias);
    }
    let [b, f, s, c] = x.dims();
    let [out, ..] = weight.dims();
    let taps = weight.reshape([out, c, 3]).permute([2, 1, 0]);
    let tap = |i: usize| taps.clone().narrow(0, i, 1).unsqueeze::<4>();
    let mut y = x.clone().matmul(tap(1)) + bias.unsqueeze();
    if f > 1 {
        let edge = Tensor::zeros([b, 1, s, c], (&x.device(), x.dtype()));
        let before = Tensor::cat(vec![edge.clone(), x.clone().narrow(1, 0, f - 1)], 1);
        let after = Tensor::cat(vec![x.narrow(1, 1, f - 1), edge], 1);
        y = y + before.matmul(tap(0)) + after.matmul(tap(2));
    }
    y
}

/// The same as one product of a matrix with the values of three frames side by side, made for as many positions at a time as
/// the budget allows. The weights are used as they lie in memory.
#[cfg(any(feature = "wgpu", feature = "cuda"))]
fn frame_conv_of_patches<B: Backend>(
    x: Tensor<B, 4>,
    weight: Tensor<B, 5>,
    bias: Tensor<B, 1>,
) -> Tensor<B, 4> {
    let [b, f, _, c] = x.dims();
    let [out, ..] = weight.dims();
    let matrix = weight.reshape([out, c * 3]).transpose();
    let bytes = b * f * c * 3 * x.dtype().size();
    crate::in_turns(x, crate::memory_budget() / bytes, 2, |x, _| {
        let [.., s, _] = x.dims();
        let patches = crate::cube::frame_patches(x).reshape([b * f * s, c * 3]);
        let dtype = patches.dtype();
        let y = crate::matmul(patches, matrix.clone(), dtype) + bias.clone().unsqueeze();
        y.reshape([b, f, s, out])
    })
}
