use burn::tensor::{Tensor, backend::Backend};
use gemm::Parallelism;
use multiversion::multiversion;
use rayon::prelude::*;

use super::{
    eligible, from_vec,
    gemm::{Matrix, product},
    math, unwrap, values, zeros,
};
use crate::{Mask, memory_budget};

/// Size of the score block of one task, in elements (1 MiB): it stays in the second-level cache.
const SCORE_BUDGET: usize = 1 << 18;

/// One task per (batch, head, block of queries): scores, softmax and the weighted sum stay within its cache block.
pub(crate) fn try_attention<B: Backend>(
    q: Tensor<B, 3>,
    k: &Tensor<B, 3>,
    v: &Tensor<B, 3>,
    heads: usize,
    mask: Mask,
) -> Result<Tensor<B, 3>, Tensor<B, 3>> {
    if !eligible(&q) || !eligible(k) || !eligible(v) {
        return Err(q);
    }
    let [b, n, c] = q.dims();
    let [_, m, _] = k.dims();
    let d = c / heads;
    let (q, k, v) = (unwrap(q), unwrap(k.clone()), unwrap(v.clone()));
    let (q, k, v) = (values(&q), values(&k), values(&v));
    let mut y = zeros(b * n * c);
    let budget = SCORE_BUDGET.min(memory_budget() / size_of::<f32>());
    let block = (budget / m).clamp(1, n.clamp(1, 256));
    let scale = 1.0 / (d as f32).sqrt();
    y.par_chunks_mut(n * c).enumerate().for_each(|(batch, y)| {
        y.par_chunks_mut(block * c)
            .enumerate()
            .for_each(|(part, y)| {
                let rows = y.len() / c;
                let start = part * block;
                let mut scores = vec![0.0; rows * m];
                for head in 0..heads {
                    let keys = batch * m * c + head * d;
                    let head_q = Matrix {
                        data: &q[(batch * n + start) * c + head * d..],
                        row: c,
                        column: 1,
                    };
                    let head_k = Matrix {
                        data: &k[keys..],
                        row: 1,
                        column: c,
                    };
                    let head_v = Matrix {
                        data: &v[keys..],
                        row: c,
                        column: 1,
                    };
                    let serial = Parallelism::None;
                    product(
                        [rows, d, m],
                        &mut scores,
                        m,
                        false,
                        scale,
                        head_q,
                        head_k,
                        serial,
                    );
                    for (i, row) in scores.chunks_exact_mut(m).enumerate() {
                        let visible = match mask {
                            Mask::None => m,
                            Mask::Causal => (start + i + 1).min(m),
                        };
                        softmax(&mut row[..visible]);
                        row[visible..].fill(0.0);
                    }
                    let weights = Matrix {
                        data: &scores,
                        row: m,
                        column: 1,
                    };
                    product(
                        [rows, m, d],
                        &mut y[head * d..],
                        c,
                        false,
                        1.0,
                        weights,
                        head_v,
                        serial,
                    );
                }
            });
    });
    Ok(from_vec(y, [b, n, c]))
}

#[multiversion(targets = "simd")]
fn softmax(row: &mut [f32]) {
    let mut lanes = [f32::NEG_INFINITY; 16];
    let parts = row.chunks_exact(16);
    for x in parts.remainder() {
        lanes[0] = lanes[0].max(*x);
    }
    for part in parts {
        for (lane, x) in lanes.iter_mut().zip(part) {
            *lane = if *x > *lane { *x } else { *lane };
        }
    }
    let max = lanes.into_iter().fold(f32::NEG_INFINITY, f32::max);
    let mut sums = [0.0_f32; 16];
    let mut parts = row.chunks_exact_mut(16);
    for part in &mut parts {
        for (sum, x) in sums.iter_mut().zip(part) {
            *x = math::exp(*x - max);
            *sum += *x;
        }
    }
    for (sum, x) in sums.iter_mut().zip(parts.into_remainder()) {
        *x = math::exp(*x - max);
        *sum += *x;
    }
    let scale = 1.0 / sums.iter().sum::<f32>();
    row.iter_mut().for_each(|x| *x *= scale);
}

/// Attention between the few frames of every position, read and written in place of the frame axis.
pub(crate) fn try_frame_attention<B: Backend>(
    q: Tensor<B, 4>,
    k: &Tensor<B, 4>,
    v: &Tensor<B, 4>,
    heads: usize,
) -> Result<Tensor<B, 4>, Tensor<B, 4>> {
    if !eligible(&q) || !eligible(k) || !eligible(v) {
        return Err(q);
    }
    let [b, f, s, c] = q.dims();
    let (q, k, v) = (unwrap(q), unwrap(k.clone()), unwrap(v.clone()));
    let (q, k, v) = (values(&q), values(&k), values(&v));
    let mut y = zeros(b * f * s * c);
    // Positions are independent, but a position's frames lie far apart: a task takes a run of positions, computes it in
    // a block of its own and the blocks are copied out.
    const RUN: usize = 16;
    let runs = s.div_ceil(RUN);
    let blocks: Vec<Vec<f32>> = (0..b * runs)
        .into_par_iter()
        .map(|task| {
            let (batch, first) = (task / runs, task % runs * RUN);
            let count = RUN.min(s - first);
            let mut block = vec![0.0; count * f * c];
            let mut scores = vec![0.0; f * f];
            for (i, block) in block.chunks_exact_mut(f * c).enumerate() {
                let base = (batch * f * s + first + i) * c;
                for head in 0..heads {
                    attend_frames(
                        &mut block[head * (c / heads)..],
                        [&q[base..], &k[base..], &v[base..]].map(|x| &x[head * (c / heads)..]),
                        [f, s * c, c, c / heads],
                        &mut scores,
                    );
                }
            }
            block
        })
        .collect();
    y.par_chunks_mut(s * c).enumerate().for_each(|(image, y)| {
        let (batch, frame) = (image / f, image % f);
        for (run, y) in y.chunks_mut(RUN * c).enumerate() {
            let block = &blocks[batch * runs + run];
            for (y, block) in y.chunks_exact_mut(c).zip(block.chunks_exact(f * c)) {
                y.copy_from_slice(&block[frame * c..(frame + 1) * c]);
            }
        }
    });
    Ok(from_vec(y, [b, f, s, c]))
}

/// One head at one position: rows of `q`, `k`, `v` are `stride` apart, rows of `y` are `c` apart.
#[multiversion(targets = "simd")]
fn attend_frames(
    y: &mut [f32],
    [q, k, v]: [&[f32]; 3],
    [f, stride, c, d]: [usize; 4],
    scores: &mut [f32],
) {
    let scale = 1.0 / (d as f32).sqrt();
    for i in 0..f {
        let q = &q[i * stride..i * stride + d];
        for j in 0..f {
            let k = &k[j * stride..j * stride + d];
            let mut lanes = [0.0_f32; 16];
            let (qs, ks) = (q.chunks_exact(16), k.chunks_exact(16));
            for (q, k) in qs.remainder().iter().zip(ks.remainder()) {
                lanes[0] += q * k;
            }
            for (q, k) in qs.zip(ks) {
                for ((lane, q), k) in lanes.iter_mut().zip(q).zip(k) {
                    *lane += q * k;
                }
            }
            scores[i * f + j] = lanes.iter().sum::<f32>() * scale;
        }
    }
    for i in 0..f {
        let row = &mut scores[i * f..(i + 1) * f];
        let max = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let mut total = 0.0;
        for x in row.iter_mut() {
            *x = math::exp(*x - max);
            total += *x;
        }
        let y = &mut y[i * c..i * c + d];
        y.fill(0.0);
        for (j, weight) in row.iter().enumerate() {
            let weight = weight / total;
            for (y, v) in y.iter_mut().zip(&v[j * stride..j * stride + d]) {
                *y += weight * v;
            }
        }
    }
}
