use burn::tensor::{Tensor, backend::Backend};
use rayon::prelude::*;

use super::{
    eligible, from_vec,
    gemm::{Matrix, product, threads},
    linear::fill_rows,
    unwrap, values,
};
use crate::Padding;

/// Size of the patch matrix that is built at once, in elements (8 MiB).
const PATCH_BUDGET: usize = 2 << 20;

/// Patches (im2col) of a band of output rows, then one matrix product with the whole weight.
pub(crate) fn try_conv2d<B: Backend>(
    x: Tensor<B, 4>,
    weight: &Tensor<B, 4>,
    bias: Option<&Tensor<B, 2>>,
    stride: usize,
    padding: Padding,
) -> Result<Tensor<B, 4>, Tensor<B, 4>> {
    let [n, h, w, c] = x.dims();
    let [out, _, kh, kw] = weight.dims();
    let Padding {
        top,
        left,
        bottom,
        right,
    } = padding;
    let fits = h + top + bottom >= kh && w + left + right >= kw;
    if !eligible(&x) || !eligible(weight) || !fits {
        return Err(x);
    }
    let oh = (h + top + bottom - kh) / stride + 1;
    let ow = (w + left + right - kw) / stride + 1;
    let x = unwrap(x);
    let x = values(&x);
    // The loader stores convolution weights physically as [out, kh, kw, in], so this copies nothing.
    let weight = unwrap(weight.clone().permute([0, 2, 3, 1]));
    let weight = Matrix {
        data: values(&weight),
        row: 1,
        column: kh * kw * c,
    };
    let mut y = vec![0.0; n * oh * ow * out];
    if let Some(bias) = bias {
        let [rows, _] = bias.dims();
        let bias = unwrap(bias.clone());
        for (y, row) in y
            .chunks_exact_mut(n / rows * oh * ow * out)
            .zip(values(&bias).chunks(out))
        {
            fill_rows(y, row);
        }
    }

    let k = kh * kw * c;
    if kh == 1 && kw == 1 && stride == 1 && padding == Padding::same(0) {
        let pixels = Matrix {
            data: x,
            row: c,
            column: 1,
        };
        let m = n * h * w;
        product(
            [m, c, out],
            &mut y,
            out,
            bias.is_some(),
            1.0,
            pixels,
            weight,
            threads(m, c, out),
        );
        return Ok(from_vec(y, [n, oh, ow, out]));
    }

    // Bands of whole output lines, over all images.
    let lines = (PATCH_BUDGET / (ow * k)).clamp(1, n * oh);
    let mut patches = vec![0.0; lines * ow * k];
    for (band, y) in y.chunks_mut(lines * ow * out).enumerate() {
        let count = y.len() / (ow * out);
        let patches = &mut patches[..count * ow * k];
        patches
            .par_chunks_mut(ow * k)
            .enumerate()
            .for_each(|(i, patches)| {
                let line = band * lines + i;
                let image = &x[line / oh * h * w * c..(line / oh + 1) * h * w * c];
                let top_row = (line % oh * stride) as isize - top as isize;
                for (j, patch) in patches.chunks_exact_mut(k).enumerate() {
                    let left_column = (j * stride) as isize - left as isize;
                    for (i, patch) in patch.chunks_exact_mut(kw * c).enumerate() {
                        let row = top_row + i as isize;
                        if row < 0 || row >= h as isize {
                            patch.fill(0.0);
                        } else {
                            copy_run(
                                patch,
                                &image[row as usize * w * c..][..w * c],
                                left_column,
                                c,
                            );
                        }
                    }
                }
            });
        let m = count * ow;
        let patches = Matrix {
            data: patches,
            row: k,
            column: 1,
        };
        product(
            [m, k, out],
            y,
            out,
            bias.is_some(),
            1.0,
            patches,
            weight,
            threads(m, k, out),
        );
    }
    Ok(from_vec(y, [n, oh, ow, out]))
}

/// Copies the pixels from column `start` on, with zeros for those outside the image row.
fn copy_run(patch: &mut [f32], row: &[f32], start: isize, c: usize) {
    let (len, w) = ((patch.len() / c) as isize, (row.len() / c) as isize);
    let first = (-start).clamp(0, len);
    let last = (w - start).clamp(first, len);
    let (first, last) = (first as usize, last as usize);
    patch[..first * c].fill(0.0);
    if last > first {
        let from = (start + first as isize) as usize * c;
        patch[first * c..last * c].copy_from_slice(&row[from..from + (last - first) * c]);
    }
    patch[last * c..].fill(0.0);
}

/// Three products over shifted frames, accumulated in the output: no patches, no copies.
pub(crate) fn try_frame_conv<B: Backend>(
    x: Tensor<B, 4>,
    weight: &Tensor<B, 5>,
    bias: &Tensor<B, 1>,
) -> Result<Tensor<B, 4>, Tensor<B, 4>> {
    if !eligible(&x) || !eligible(weight) {
        return Err(x);
    }
    let [b, f, s, c] = x.dims();
    let [out, ..] = weight.dims();
    let x = unwrap(x);
    // Physically [out, 3, in], as for conv2d.
    let weight = unwrap(weight.clone().permute([0, 2, 3, 4, 1]));
    let weight = values(&weight);
    let mut y = vec![0.0; b * f * s * out];
    fill_rows(&mut y, values(&unwrap(bias.clone())));
    let (frame_in, frame_out) = (s * c, s * out);
    for (y, x) in y
        .chunks_exact_mut(f * frame_out)
        .zip(values(&x).chunks_exact(f * frame_in))
    {
        for tap in 0..3 {
            // Tap 0 sees the frame before, tap 2 the frame after; outside the video is zero.
            let frames = if tap == 1 { f } else { f - 1 };
            let x = &x[if tap == 2 { frame_in } else { 0 }..];
            let y = &mut y[if tap == 0 { frame_out } else { 0 }..];
            let m = frames * s;
            let rows = Matrix {
                data: x,
                row: c,
                column: 1,
            };
            let weight = Matrix {
                data: &weight[tap * c..],
                row: 1,
                column: 3 * c,
            };
            product(
                [m, c, out],
                y,
                out,
                true,
                1.0,
                rows,
                weight,
                threads(m, c, out),
            );
        }
    }
    Ok(from_vec(y, [b, f, s, out]))
}
