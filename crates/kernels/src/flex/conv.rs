use burn::tensor::{DType, Tensor, backend::Backend, bf16};
use rayon::prelude::*;

use super::{
    from_vec,
    gemm::{Matrix, Value, gathered, gathers, product, threads},
    half::round,
    linear::{fill_rows, usable},
    unwrap, values, widen, winograd, zeros,
};
use crate::Padding;

/// Size of the patch matrix that is built at once, in elements (8 MiB).
const PATCH_BUDGET: usize = 2 << 20;

/// Widest output for which a convolution multiplies before it gathers.
const NARROW: usize = 8;

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
    if !fits {
        return Err(x);
    }
    let oh = (h + top + bottom - kh) / stride + 1;
    let ow = (w + left + right - kw) / stride + 1;
    let image = winograd::Size {
        n,
        h,
        w,
        c,
        out,
        top,
        left,
        oh,
        ow,
    };
    let k = kh * kw * c;
    let m = n * oh * ow;
    let dtype = x.dtype();
    let direct = dtype == DType::BF16;
    let transformed = [kh, kw, stride] == [3, 3, 1] && image.pays();
    let few = stride == 1 && kh * kw > 1 && out <= NARROW;
    let gathers = gathers(m, k, out) && (direct || !transformed && !few);
    let Some(weight) = usable(&x, weight, gathers) else {
        return Err(x);
    };
    let x = unwrap(x);
    // The loader stores convolution weights physically as [out, kh, kw, in], so this copies nothing.
    let weight = unwrap(weight.permute([0, 2, 3, 1]));
    let mut y = zeros(m * out);
    if gathers {
        fill_images(&mut y, bias, n);
        let size = [m, k, out];
        if direct {
            let patch = patches(image, stride, kw, x.storage::<bf16>());
            gathered(size, &mut y, patch, &weight);
        } else {
            gathered(
                size,
                &mut y,
                patches(image, stride, kw, values(&x)),
                &weight,
            );
        }
        return Ok(round(from_vec(y, [n, oh, ow, out]), dtype));
    }
    let x = values(&x);
    if transformed {
        let bias = bias.map(|bias| unwrap(bias.clone()));
        let none = vec![0.0; out];
        let bias = bias.as_ref().map_or(&*none, values);
        winograd::conv::<winograd::Plain, _, _>(image, &mut y, x, values(&weight), bias);
        return Ok(from_vec(y, [n, oh, ow, out]));
    }
    fill_images(&mut y, bias, n);
    let weight = Matrix {
        data: values(&weight),
        row: 1,
        column: kh * kw * c,
    };
    if few {
        narrow(image, [kh, kw], &mut y, x, weight);
        return Ok(from_vec(y, [n, oh, ow, out]));
    }
    if kh == 1 && kw == 1 && stride == 1 && padding == Padding::same(0) {
        let pixels = Matrix {
            data: x,
            row: c,
            column: 1,
        };
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
    let mut patches = zeros(lines * ow * k);
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
                            let line = &image[row as usize * w * c..][..w * c];
                            copy_run(patch, line, left_column * c as isize);
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

/// Writes the bias into all pixels of `n` images; each of its rows serves as many of them.
fn fill_images<B: Backend>(y: &mut [f32], bias: Option<&Tensor<B, 2>>, n: usize) {
    let Some(bias) = bias else { return };
    let [rows, out] = bias.dims();
    let images = y.len() / n * (n / rows);
    let bias = unwrap(widen(bias.clone()));
    for (y, row) in y
        .chunks_exact_mut(images)
        .zip(values(&bias).chunks_exact(out))
    {
        fill_rows(y, row);
    }
}

/// The pixels behind every output as a line of a matrix, in the order of the weight's; zeros where there are none.
fn patches<T: Value>(
    size: winograd::Size,
    stride: usize,
    kw: usize,
    x: &[T],
) -> impl Fn(usize, usize, &mut [T]) + Sync {
    let winograd::Size {
        h,
        w,
        c,
        top,
        left,
        oh,
        ow,
        ..
    } = size;
    move |i, mut start, mut part| {
        let (image, line, column) = (i / (oh * ow), i / ow % oh, i % ow);
        let image = &x[image * h * w * c..][..h * w * c];
        let (first, column) = (line * stride, column * stride);
        // One line of the kernel after the other.
        while !part.is_empty() {
            let (ky, offset) = (start / (kw * c), start % (kw * c));
            let (run, rest) = part.split_at_mut(part.len().min(kw * c - offset));
            start += run.len();
            part = rest;
            match (first + ky).checked_sub(top).filter(|row| *row < h) {
                Some(row) => {
                    let row = &image[row * w * c..][..w * c];
                    let offset = (column * c + offset) as isize - (left * c) as isize;
                    copy_run(run, row, offset);
                }
                None => run.fill(T::zeroed()),
            }
        }
    }
}

/// The convolution of the image with every pixel doubled, from the image as it is.
pub(crate) fn try_upsample_conv2d<B: Backend>(
    x: Tensor<B, 4>,
    weight: &Tensor<B, 4>,
    bias: Option<&Tensor<B, 1>>,
) -> Result<Tensor<B, 4>, Tensor<B, 4>> {
    let [n, h, w, c] = x.dims();
    let [out, _, kh, kw] = weight.dims();
    let (oh, ow) = (2 * h, 2 * w);
    let size = winograd::Size {
        n,
        h,
        w,
        c,
        out,
        top: 1,
        left: 1,
        oh,
        ow,
    };
    let usable = usable(&x, weight, false).filter(|_| [kh, kw] == [3, 3] && size.pays());
    let Some(weight) = usable else {
        return Err(x);
    };
    let [x, weight] = [x, weight.permute([0, 2, 3, 1])].map(unwrap);
    let bias = bias.map(|bias| unwrap(bias.clone()));
    let none = vec![0.0; out];
    let bias = bias.as_ref().map_or(&*none, values);
    let mut y = zeros(n * oh * ow * out);
    let [x, weight] = [values(&x), values(&weight)];
    winograd::conv::<winograd::Enlarged, _, _>(size, &mut y, x, weight, bias);
    Ok(from_vec(y, [n, oh, ow, out]))
}

/// A convolution to few channels: the products of every pixel with all of the kernel's positions first, then their sums.
/// Patches would be many times wider than the output.
fn narrow(
    size: winograd::Size,
    [kh, kw]: [usize; 2],
    y: &mut [f32],
    x: &[f32],
    weight: Matrix<'_>,
) {
    let winograd::Size {
        h,
        w,
        c,
        out,
        top,
        left,
        oh,
        ow,
        ..
    } = size;
    let width = kh * kw * out;
    let weight = Matrix {
        column: c,
        ..weight
    };
    let lines = (PATCH_BUDGET / (w * width)).clamp(1, oh);
    let mut products = zeros((lines + kh - 1).min(h) * w * width);
    for (y, x) in y
        .chunks_exact_mut(oh * ow * out)
        .zip(x.chunks_exact(h * w * c))
    {
        for (band, y) in y.chunks_mut(lines * ow * out).enumerate() {
            let first = band * lines;
            let count = y.len() / (ow * out);
            let above = first.saturating_sub(top).min(h);
            let below = (first + count + kh - 1).saturating_sub(top).min(h);
            let m = (below - above) * w;
            let products = &mut products[..m * width];
            let pixels = Matrix {
                data: &x[above * w * c..],
                row: c,
                column: 1,
            };
            product(
                [m, c, width],
                products,
                width,
                false,
                1.0,
                pixels,
                weight,
                threads(m, c, width),
            );
            y.par_chunks_exact_mut(ow * out)
                .enumerate()
                .for_each(|(i, y)| {
                    for (ky, row) in (0..kh).map(|ky| (ky, (first + i + ky).wrapping_sub(top))) {
                        if !(above..below).contains(&row) {
                            continue;
                        }
                        let products = &products[(row - above) * w * width..][..w * width];
                        for (j, y) in y.chunks_exact_mut(out).enumerate() {
                            for (kx, column) in (0..kw).map(|kx| (kx, (j + kx).wrapping_sub(left)))
                            {
                                if column < w {
                                    let products = &products[column * width + ky * kw + kx..];
                                    for (y, product) in
                                        y.iter_mut().zip(products.iter().step_by(kh * kw))
                                    {
                                        *y += product;
                                    }
                                }
                            }
                        }
                    }
                });
        }
    }
}

/// Copies what the line `row` has from index `start` on, with zeros for what is outside.
fn copy_run<T: Value>(run: &mut [T], row: &[T], start: isize) {
    let (len, end) = (run.len() as isize, row.len() as isize);
    let first = (-start).clamp(0, len);
    let last = (end - start).clamp(first, len);
    let from = (start + first) as usize;
    let (first, last) = (first as usize, last as usize);
    run[..first].fill(T::zeroed());
    if last > first {
        run[first..last].copy_from_slice(&row[from..][..last - first]);
    }
    run[last..].fill(T::zeroed());
}

/// Three products over shifted frames, accumulated in the output: no patches, no copies.
pub(crate) fn try_frame_conv<B: Backend>(
    x: Tensor<B, 4>,
    weight: &Tensor<B, 5>,
    bias: &Tensor<B, 1>,
) -> Result<Tensor<B, 4>, Tensor<B, 4>> {
    let [b, f, s, c] = x.dims();
    let [out, ..] = weight.dims();
    let size = [b * f * s, 3 * c, out];
    let dtype = x.dtype();
    let Some(weight) = usable(&x, weight, gathers(b * f * s, 3 * c, out)) else {
        return Err(x);
    };
    let x = unwrap(x);
    // Physically [out, 3, in], as for conv2d.
    let weight = unwrap(weight.permute([0, 2, 3, 4, 1]));
    let mut y = zeros(b * f * s * out);
    fill_rows(&mut y, values(&unwrap(widen(bias.clone()))));
    if gathers(b * f * s, 3 * c, out) {
        match dtype {
            DType::BF16 => {
                let rows = frames([f, s, c], x.storage::<bf16>());
                gathered(size, &mut y, rows, &weight);
            }
            _ => gathered(size, &mut y, frames([f, s, c], values(&x)), &weight),
        }
        return Ok(round(from_vec(y, [b, f, s, out]), dtype));
    }
    let weight = values(&weight);
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

/// The values of the frame before, the same and the next one at every position as a line of a matrix; zeros where there is
/// none.
fn frames<T: Value>([f, s, c]: [usize; 3], x: &[T]) -> impl Fn(usize, usize, &mut [T]) + Sync {
    move |i, mut start, mut part| {
        let frame = i / s % f;
        while !part.is_empty() {
            let (tap, offset) = (start / c, start % c);
            let (run, rest) = part.split_at_mut(part.len().min(c - offset));
            start += run.len();
            part = rest;
            match (frame + tap).checked_sub(1).filter(|frame| *frame < f) {
                Some(_) => run.copy_from_slice(&x[(i + tap * s - s) * c + offset..][..run.len()]),
                None => run.fill(T::zeroed()),
            }
        }
    }
}
