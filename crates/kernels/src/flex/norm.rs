use burn::tensor::{Tensor, backend::Backend};
use multiversion::multiversion;
use rayon::prelude::*;

use super::{GRAIN, eligible, from_vec, math, unwrap, values, zeros};

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
    let mut y = zeros(rows * c);
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

    let moments: Vec<[Vec<f32>; 2]> = (0..n)
        .into_par_iter()
        .map(|i| group_moments(&x[i * s * c..(i + 1) * s * c], c, groups))
        .collect();

    let mut y = zeros(n * s * c);
    let part = GRAIN.div_ceil(c) * c;
    y.par_chunks_mut(s * c)
        .zip(x.par_chunks(s * c))
        .enumerate()
        .for_each(|(i, (y, x))| {
            let [mean, var] = &moments[i];
            let scale: Vec<f32> = var
                .iter()
                .zip(weight)
                .map(|(v, w)| w / (v + eps as f32).sqrt())
                .collect();
            let kernel = if silu { affine_silu } else { affine };
            y.par_chunks_mut(part)
                .zip(x.par_chunks(part))
                .for_each(|(y, x)| kernel(y, x, mean, &scale, bias));
        });
    Ok(from_vec(y, [n, s, c]))
}

/// Per channel, mean and variance of the channel's group over all positions of one image.
///
/// Parts that stay in the cache are read twice, for the means and then for the squared distances from them (the one-pass
/// formula loses all digits when |mean| >> std), and the parts are combined exactly: the squares around another centre are
/// larger by the squared distance of the centres (Chan, Golub and LeVeque, 1979).
fn group_moments(image: &[f32], c: usize, groups: usize) -> [Vec<f32>; 2] {
    let part = GRAIN.div_ceil(c);
    let width = c / groups;
    // Per part: its positions, and per channel the sum and the squared distances.
    let parts: Vec<(usize, Vec<f32>, Vec<f32>)> = image
        .par_chunks(part * c)
        .map(|rows| {
            let count = rows.len() / c;
            let (mut sums, mut squares) = (vec![0.0; c], vec![0.0; c]);
            column_sums(&mut sums, rows);
            let means: Vec<f32> = sums.iter().map(|sum| sum / count as f32).collect();
            column_squares(&mut squares, rows, &means);
            (count, means, squares)
        })
        .collect();
    let (mut mean, mut var) = (vec![0.0; c], vec![0.0; c]);
    let total = (image.len() / groups) as f64;
    for group in 0..groups {
        let range = group * width..(group + 1) * width;
        let sum = |term: &dyn Fn(f64, f64, f64) -> f64| -> f64 {
            let of_part = |(count, means, squares): &(usize, Vec<f32>, Vec<f32>)| {
                let columns = means[range.clone()].iter().zip(&squares[range.clone()]);
                let terms = columns.map(|(m, q)| term(*count as f64, f64::from(*m), f64::from(*q)));
                terms.sum::<f64>()
            };
            parts.iter().map(of_part).sum::<f64>() / total
        };
        let centre = sum(&|count, mean, _| count * mean);
        let variance = sum(&|count, mean, squares| squares + count * (mean - centre).powi(2));
        mean[range.clone()].fill(centre as f32);
        var[range.clone()].fill(variance as f32);
    }
    [mean, var]
}

#[multiversion(targets = "simd")]
fn column_sums(sums: &mut [f32], rows: &[f32]) {
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
