use burn::tensor::{Tensor, backend::Backend};
use multiversion::multiversion;
use rayon::prelude::*;

use super::{GRAIN, eligible, from_vec, math, unwrap, values};

pub(crate) fn try_layer_norm<B: Backend>(
    x: Tensor<B, 2>,
    weight: &Tensor<B, 1>,
    bias: &Tensor<B, 1>,
    eps: f64,
) -> Result<Tensor<B, 2>, Tensor<B, 2>> {
    if !eligible(&x) || !eligible(weight) {
        return Err(x);
    }
    let [rows, c] = x.dims();
    let (x, weight, bias) = (unwrap(x), unwrap(weight.clone()), unwrap(bias.clone()));
    let (weight, bias) = (values(&weight), values(&bias));
    let mut y = vec![0.0; rows * c];
    let part = GRAIN.div_ceil(c) * c;
    y.par_chunks_mut(part)
        .zip(values(&x).par_chunks(part))
        .for_each(|(y, x)| layer_norm(y, x, weight, bias, eps as f32));
    Ok(from_vec(y, [rows, c]))
}

#[multiversion(targets = "simd")]
fn layer_norm(y: &mut [f32], x: &[f32], weight: &[f32], bias: &[f32], eps: f32) {
    let c = weight.len();
    for (y, x) in y.chunks_exact_mut(c).zip(x.chunks_exact(c)) {
        let mean = sum(x, |x| x) / c as f32;
        let var = sum(x, |x| (x - mean) * (x - mean)) / c as f32;
        let scale = 1.0 / (var + eps).sqrt();
        for (((y, x), w), b) in y.iter_mut().zip(x).zip(weight).zip(bias) {
            *y = (x - mean) * scale * w + b;
        }
    }
}

/// Sum in sixteen interleaved accumulators: vectorises, and rounds less than one running sum.
#[inline(always)]
fn sum(x: &[f32], term: impl Fn(f32) -> f32) -> f32 {
    let mut lanes = [0.0_f32; 16];
    let parts = x.chunks_exact(16);
    let rest = parts.remainder();
    for part in parts {
        for (lane, x) in lanes.iter_mut().zip(part) {
            *lane += term(*x);
        }
    }
    for (lane, x) in lanes.iter_mut().zip(rest) {
        *lane += term(*x);
    }
    lanes.iter().sum()
}

pub(crate) fn try_group_norm<B: Backend>(
    x: Tensor<B, 3>,
    weight: &Tensor<B, 1>,
    bias: &Tensor<B, 1>,
    groups: usize,
    eps: f64,
    silu: bool,
) -> Result<Tensor<B, 3>, Tensor<B, 3>> {
    if !eligible(&x) || !eligible(weight) {
        return Err(x);
    }
    let [n, s, c] = x.dims();
    let (x, weight, bias) = (unwrap(x), unwrap(weight.clone()), unwrap(bias.clone()));
    let (x, weight, bias) = (values(&x), values(&weight), values(&bias));

    // Two passes (mean, then squared distances from it): the one-pass formula loses all digits when |mean| >> std.
    let zero = vec![0.0; c];
    let mean: Vec<Vec<f32>> = group_means(x, n, s, c, groups, |_| &zero, column_sums);
    let var: Vec<Vec<f32>> = group_means(x, n, s, c, groups, |i| &mean[i], column_squares);

    let mut y = vec![0.0; n * s * c];
    let part = GRAIN.div_ceil(c) * c;
    y.par_chunks_mut(s * c)
        .zip(x.par_chunks(s * c))
        .enumerate()
        .for_each(|(i, (y, x))| {
            let scale: Vec<f32> = var[i]
                .iter()
                .zip(weight)
                .map(|(v, w)| w / (v + eps as f32).sqrt())
                .collect();
            let kernel = if silu { affine_silu } else { affine };
            y.par_chunks_mut(part)
                .zip(x.par_chunks(part))
                .for_each(|(y, x)| kernel(y, x, &mean[i], &scale, bias));
        });
    Ok(from_vec(y, [n, s, c]))
}

/// Per image and channel, the mean of `columns` over the channel's group and all positions.
fn group_means<'a>(
    x: &[f32],
    n: usize,
    s: usize,
    c: usize,
    groups: usize,
    centre: impl Fn(usize) -> &'a [f32] + Sync,
    columns: fn(&mut [f32], &[f32], &[f32]),
) -> Vec<Vec<f32>> {
    let part = GRAIN.div_ceil(c);
    let width = c / groups;
    (0..n)
        .into_par_iter()
        .map(|i| {
            let image = &x[i * s * c..(i + 1) * s * c];
            let partial: Vec<Vec<f32>> = image
                .par_chunks(part * c)
                .map(|rows| {
                    let mut sums = vec![0.0; c];
                    columns(&mut sums, rows, centre(i));
                    sums
                })
                .collect();
            let mut out = vec![0.0; c];
            for group in 0..groups {
                let range = group * width..(group + 1) * width;
                let total: f64 = partial
                    .iter()
                    .flat_map(|p| &p[range.clone()])
                    .map(|v| f64::from(*v))
                    .sum();
                out[range].fill((total / (s * width) as f64) as f32);
            }
            out
        })
        .collect()
}

#[multiversion(targets = "simd")]
fn column_sums(sums: &mut [f32], rows: &[f32], _centre: &[f32]) {
    for row in rows.chunks_exact(sums.len()) {
        for (sum, x) in sums.iter_mut().zip(row) {
            *sum += x;
        }
    }
}

#[multiversion(targets = "simd")]
fn column_squares(sums: &mut [f32], rows: &[f32], centre: &[f32]) {
    for row in rows.chunks_exact(sums.len()) {
        for ((sum, x), m) in sums.iter_mut().zip(row).zip(centre) {
            *sum += (x - m) * (x - m);
        }
    }
}

#[multiversion(targets = "simd")]
fn affine(y: &mut [f32], x: &[f32], mean: &[f32], scale: &[f32], bias: &[f32]) {
    map_channels(y, x, mean, scale, bias, |x| x);
}

#[multiversion(targets = "simd")]
fn affine_silu(y: &mut [f32], x: &[f32], mean: &[f32], scale: &[f32], bias: &[f32]) {
    map_channels(y, x, mean, scale, bias, math::silu);
}

#[inline(always)]
fn map_channels(
    y: &mut [f32],
    x: &[f32],
    mean: &[f32],
    scale: &[f32],
    bias: &[f32],
    last: impl Fn(f32) -> f32,
) {
    let c = scale.len();
    for (y, x) in y.chunks_exact_mut(c).zip(x.chunks_exact(c)) {
        for ((((y, x), m), a), b) in y.iter_mut().zip(x).zip(mean).zip(scale).zip(bias) {
            *y = last((x - m) * a + b);
        }
    }
}
