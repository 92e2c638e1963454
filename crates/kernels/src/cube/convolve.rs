mod form;
mod kernel;
mod reader;
mod warpgroup;

use burn_cubecl::{CubeRuntime, cubecl, kernel::into_contiguous, tensor::CubeTensor};
use cubecl::prelude::*;

use self::{form::Form, kernel::convolve, warpgroup::Warpgroups};
use super::{
    cuda,
    kernel::convolved,
    matrix_units::{LANES, WIDTH},
    tensors::{addresses, empty, in_rows},
};

/// Which convolution.
#[derive(Clone, Copy, Debug)]
pub(super) struct Convolution {
    pub(super) stride: usize,
    pub(super) padding: [usize; 2],
    /// Whether half of the channels are a gate.
    pub(super) geglu: bool,
    /// Whether the device's groups of warps multiply, see [`uses_warpgroups`](super::uses_warpgroups).
    pub(super) warpgroups: bool,
}

/// Whether the kernel is made for so many channels.
pub(super) fn takes(input: usize, output: usize) -> bool {
    input.is_multiple_of(WIDTH) && output.is_multiple_of(2)
}

/// Convolution, and with a kernel of 1×1 the matrix product, as one product with the patches of the image, of which none is
/// written to memory: each cube fetches the rows of `x` under its positions tap by tap. The sums are in f32, and what follows
/// on them, too, before they are rounded: the bias; with `geglu` the first half of the channels times the GELU of the second;
/// the residual. With `warpgroups` by the kernel for devices that have them, where it takes the sizes.
///
/// # Shapes
/// `x [n, h, w, in]`, `weight [out, kh, kw, in]` in half precision, `bias [r, out]` with `r` a divisor of `n`,
/// `residual [n, h', w', out]` → `[n, h', w', out]`, or half as many channels with `geglu`
pub(super) fn conv2d<R: CubeRuntime>(
    x: CubeTensor<R>,
    weight: CubeTensor<R>,
    bias: Option<CubeTensor<R>>,
    residual: Option<CubeTensor<R>>,
    convolution: Convolution,
) -> CubeTensor<R> {
    let Convolution {
        stride,
        padding,
        geglu,
        warpgroups,
    } = convolution;
    let (x, x_pitch) = in_vectors(x);
    let (weight, weight_pitch) = in_vectors(weight);
    let shape = x.meta.shape().clone();
    let (h, w, c) = (shape[1], shape[2], shape[3]);
    let images = [shape[0], h, w];
    let of_weight = weight.meta.shape();
    let (channels, kernel) = (of_weight[0], [of_weight[1], of_weight[2]]);
    let out = if geglu { channels / 2 } else { channels };
    let shape = convolved(&shape, kernel, out, stride, padding);
    let (area, ow) = (shape[1] * shape[2], shape[2]);
    let rows = shape[0] * area;
    let y = empty(&x, shape, x.dtype);
    let client = x.client.clone();
    let vectors = channels * kernel[0] * kernel[1] * weight_pitch;
    let warpgroups = warpgroups && warpgroup::takes(images, x_pitch, vectors, out);
    let form = Form::new(channels, kernel, stride, padding, geglu);
    let form = form.for_device(&client, rows, c, out, warpgroups);
    let across = out.div_ceil(form.results());
    // Something that is not read stands for what is absent.
    let bias = bias.map(into_contiguous);
    let bias_rows = bias.as_ref().map_or(0, |bias| rows / bias.meta.shape()[0]);
    let bias = bias.unwrap_or_else(|| x.clone());
    let adds = residual.is_some();
    let residual = residual.map_or_else(|| x.clone(), into_contiguous);
    if warpgroups {
        let cubes = rows.div_ceil(form.rows()) * across;
        let kernel = Warpgroups::new(form, [x.dtype, bias.dtype], cubes, &client);
        let cubes = CubeCount::Static(cubes as u32, 1, 1);
        let numbers = [
            rows,
            h,
            w,
            area,
            ow,
            x_pitch,
            weight_pitch,
            bias_rows,
            adds as usize,
            across,
            c / WIDTH,
            out,
        ];
        let tensors = [x, weight, bias, residual, y.clone()];
        // SAFETY: what lies outside of the image, the channels or the result is neither read nor written.
        unsafe { cuda::launch(kernel, cubes, tensors, numbers, &client) };
        return y;
    }
    let types = [x.dtype.into(), bias.dtype.into()];
    // SAFETY: what lies outside of the image, the channels or the result is neither read nor written.
    unsafe {
        convolve::launch_unchecked(
            &client,
            CubeCount::Static((rows.div_ceil(form.rows()) * across) as u32, 1, 1),
            CubeDim::new_2d(LANES as u32, form.planes as u32),
            addresses(&[&x, &weight, &y, &residual]),
            WIDTH,
            x.into_tensor_arg(),
            weight.into_tensor_arg(),
            bias.into_tensor_arg(),
            residual.into_tensor_arg(),
            y.clone().into_tensor_arg(),
            rows,
            h,
            w,
            area,
            ow,
            x_pitch,
            weight_pitch,
            bias_rows,
            adds as u32,
            across,
            c / WIDTH,
            out,
            form,
            types,
        );
    }
    y
}

/// Rows of whole vectors, and the distance of two, counted in vectors.
fn in_vectors<R: CubeRuntime>(x: CubeTensor<R>) -> (CubeTensor<R>, usize) {
    let (x, pitch) = in_rows(x);
    if pitch.is_multiple_of(WIDTH) {
        return (x, pitch / WIDTH);
    }
    let x = into_contiguous(x);
    let c = x.meta.shape()[x.meta.shape().num_dims() - 1];
    (x, c / WIDTH)
}
