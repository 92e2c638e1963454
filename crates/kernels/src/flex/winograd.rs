//! 3×3 convolutions with a quarter of the multiplications: Winograd's minimal filtering F(4×4, 3×3) (Lavin and Gray, 2015,
//! <https://arxiv.org/abs/1509.09308>).
//!
//! A tile of 4×4 outputs needs 6×6 inputs. Tiles and kernels are polynomials in two variables; their values at 6×6 points
//! are multiplied (36 matrix products over the channels) and the outputs interpolated. The points are 0, ±3/4, ±3/2 and ∞:
//! exact in binary, and a fifth of the error of the usual 0, ±1, ±2, ∞ (3e-6 of the largest output instead of 1.5e-5).

use gemm::Parallelism;
use multiversion::multiversion;
use rayon::prelude::*;

use super::{
    gemm::{Matrix, product},
    zeros,
};
use crate::memory_budget;

/// Points of evaluation besides 0 and infinity: ±[`A`] and ±[`B`].
const A: f32 = 0.75;
const B: f32 = 1.5;
const AA: f32 = A * A;
const BB: f32 = B * B;

/// Channels that are transformed together.
const LANES: usize = 16;
type Lanes = [f32; LANES];

/// Values of one tile or kernel over all points.
const POINTS: usize = 36;
/// Keeps rows of values from lying a multiple of 4 KiB apart, where they would evict each other from the cache.
const GAP: usize = 16;

/// Size of the kernels' values that are computed at once where that costs nothing, in elements (4 MiB).
const CACHED: usize = 1 << 20;

/// A convolution with stride 1 of `n` images.
#[derive(Clone, Copy)]
pub(super) struct Size {
    pub(super) n: usize,
    pub(super) h: usize,
    pub(super) w: usize,
    pub(super) c: usize,
    pub(super) out: usize,
    pub(super) top: usize,
    pub(super) left: usize,
    pub(super) oh: usize,
    pub(super) ow: usize,
}

impl Size {
    /// Tiles in a line of them, and such lines in an image.
    fn tiles(&self) -> [usize; 2] {
        [self.ow.div_ceil(4), self.oh.div_ceil(4)]
    }

    /// Whether the method is faster than the direct one: the channels fill the lanes, the tiles the image, and there are
    /// enough of them to pay for the transformation of the kernels.
    pub(super) fn pays(&self) -> bool {
        let [across, down] = self.tiles();
        self.c.is_multiple_of(LANES)
            && self.out.is_multiple_of(LANES)
            && self.c.min(self.out) >= 2 * LANES
            && self.n * across * down >= 16
            && POINTS * across * down < 6 * self.oh * self.ow
    }
}

/// `y = conv(x, weight) + bias` for `x [n, h, w, c]`, `weight [out, 3, 3, c]` and `bias [r, out]`, of which each row serves
/// `n / r` images.
///
/// Takes up to [`memory_budget`] bytes of scratch, or what one line of tiles and 16 output channels need.
pub(super) fn conv(size: Size, y: &mut [f32], x: &[f32], weight: &[f32], bias: &[f32]) {
    let Size {
        n, c, out, oh, ow, ..
    } = size;
    let [across, down] = size.tiles();
    let images_per_bias = n * out / bias.len();
    // Half of the budget for the kernels' values, half for the tiles'.
    let budget = memory_budget() / 2 / (POINTS * size_of::<f32>());
    // When all tiles fit at once, their values are computed once, and as few kernels' as stay in the cache at a time.
    let at_once = n * down * across * (c + 2 * LANES) <= budget;
    let share = if at_once {
        budget.min(CACHED / POINTS)
    } else {
        budget
    };
    let parts = out.div_ceil((share / c).max(LANES));
    let width = out.div_ceil(parts).next_multiple_of(LANES);
    let lines = (budget / (c + width) / across).clamp(1, n * down);
    let lines = (n * down).div_ceil((n * down).div_ceil(lines));

    // What each line of tiles writes.
    let mut bands: Vec<&mut [f32]> = y
        .chunks_exact_mut(oh * ow * out)
        .flat_map(|image| image.chunks_mut(4 * ow * out))
        .collect();
    let pitch = POINTS * c + GAP;
    let mut kernels = zeros(width.min(out) * pitch);
    let mut tiles = zeros(lines * across * pitch);
    let mut products = zeros(POINTS * lines * across * width.min(out));
    for first in (0..out).step_by(width) {
        let width = width.min(out - first);
        let kernels = &mut kernels[..width * pitch];
        kernels
            .par_chunks_exact_mut(pitch)
            .zip(weight[first * 9 * c..].par_chunks_exact(9 * c))
            .for_each(|(values, kernel)| transform_kernel(values, kernel, c));
        for (block, bands) in bands.chunks_mut(lines).enumerate() {
            let count = bands.len() * across;
            let tiles = &mut tiles[..count * pitch];
            // All tiles fit at once: the values of the first part serve the others too.
            if first == 0 || lines < n * down {
                tiles
                    .par_chunks_exact_mut(pitch)
                    .enumerate()
                    .for_each(|(i, values)| {
                        let line = block * lines + i / across;
                        let image = &x[line / down * size.h * size.w * c..];
                        let pixels = pixels(&size, image, line % down * 4, i % across * 4);
                        transform_tile(values, &pixels, c);
                    });
            }
            let products = &mut products[..POINTS * count * width];
            products
                .par_chunks_exact_mut(count * width)
                .enumerate()
                .for_each(|(point, products)| {
                    let tiles = Matrix {
                        data: &tiles[point * c..],
                        row: pitch,
                        column: 1,
                    };
                    let kernels = Matrix {
                        data: &kernels[point * c..],
                        row: 1,
                        column: pitch,
                    };
                    let serial = Parallelism::None;
                    product(
                        [count, c, width],
                        products,
                        width,
                        false,
                        1.0,
                        tiles,
                        kernels,
                        serial,
                    );
                });
            bands.par_iter_mut().enumerate().for_each(|(i, y)| {
                let image = (block * lines + i) / down;
                let bias = &bias[image / images_per_bias * out + first..][..width];
                for tile in 0..across {
                    let values = &products[(i * across + tile) * width..];
                    let columns = 4.min(ow - 4 * tile);
                    let y = &mut y[4 * tile * out + first..];
                    interpolate(y, values, bias, [count * width, ow * out, out, columns]);
                }
            });
        }
    }
}

/// The 6×6 pixels of `image` behind the outputs from (`line`, `column`) on; none outside.
fn pixels<'a>(
    size: &Size,
    image: &'a [f32],
    line: usize,
    column: usize,
) -> [Option<&'a [f32]>; POINTS] {
    std::array::from_fn(|i| {
        let line = (line + i / 6)
            .checked_sub(size.top)
            .filter(|line| *line < size.h)?;
        let column = (column + i % 6)
            .checked_sub(size.left)
            .filter(|column| *column < size.w)?;
        Some(&image[(line * size.w + column) * size.c..][..size.c])
    })
}

fn lanes(x: &[f32]) -> &Lanes {
    x.first_chunk()
        .expect("the channels are a multiple of the lanes")
}

/// Values at the six points of the transpose of interpolation, for each lane (the matrix Bᵀ of the paper).
#[inline(always)]
fn evaluate_tile(d: [&Lanes; 6]) -> [Lanes; 6] {
    let mut v = [[0.0; LANES]; 6];
    for l in 0..LANES {
        let [d0, d1, d2, d3, d4, d5] = d.map(|d| d[l]);
        let (even_a, odd_a) = (d4 - BB * d2, A * (d3 - BB * d1));
        let (even_b, odd_b) = (d4 - AA * d2, B * (d3 - AA * d1));
        v[0][l] = AA * BB * d0 - (AA + BB) * d2 + d4;
        v[1][l] = even_a + odd_a;
        v[2][l] = even_a - odd_a;
        v[3][l] = even_b + odd_b;
        v[4][l] = even_b - odd_b;
        v[5][l] = AA * BB * d1 - (AA + BB) * d3 + d5;
    }
    v
}

/// Values of a kernel line at the six points, divided by the points' products of differences (the matrix G).
#[inline(always)]
fn evaluate_kernel(w: [&Lanes; 3]) -> [Lanes; 6] {
    const NA: f32 = 1.0 / (2.0 * AA * (AA - BB));
    const NB: f32 = 1.0 / (2.0 * BB * (BB - AA));
    let mut v = [[0.0; LANES]; 6];
    for l in 0..LANES {
        let [w0, w1, w2] = w.map(|w| w[l]);
        let (even_a, odd_a) = ((w0 + AA * w2) * NA, w1 * (A * NA));
        let (even_b, odd_b) = ((w0 + BB * w2) * NB, w1 * (B * NB));
        v[0][l] = w0 * (1.0 / (AA * BB));
        v[1][l] = even_a + odd_a;
        v[2][l] = even_a - odd_a;
        v[3][l] = even_b + odd_b;
        v[4][l] = even_b - odd_b;
        v[5][l] = w2;
    }
    v
}

/// Four outputs of a line from the products at the six points (the matrix Aᵀ).
#[inline(always)]
fn interpolate_line(m: [&Lanes; 6]) -> [Lanes; 4] {
    let mut y = [[0.0; LANES]; 4];
    for l in 0..LANES {
        let [m0, m1, m2, m3, m4, m5] = m.map(|m| m[l]);
        let (sum_a, odd_a) = (m1 + m2, A * (m1 - m2));
        let (sum_b, odd_b) = (m3 + m4, B * (m3 - m4));
        y[0][l] = m0 + sum_a + sum_b;
        y[1][l] = odd_a + odd_b;
        y[2][l] = AA * sum_a + BB * sum_b;
        y[3][l] = AA * odd_a + BB * odd_b + m5;
    }
    y
}

#[multiversion(targets = "simd")]
fn transform_tile(values: &mut [f32], pixels: &[Option<&[f32]>; POINTS], c: usize) {
    const NONE: Lanes = [0.0; LANES];
    for channel in (0..c).step_by(LANES) {
        let columns: [[Lanes; 6]; 6] = std::array::from_fn(|j| {
            evaluate_tile(std::array::from_fn(|i| {
                pixels[6 * i + j].map_or(&NONE, |pixel| lanes(&pixel[channel..]))
            }))
        });
        for i in 0..6 {
            let line = evaluate_tile(std::array::from_fn(|j| &columns[j][i]));
            for (j, value) in line.into_iter().enumerate() {
                values[(6 * i + j) * c + channel..][..LANES].copy_from_slice(&value);
            }
        }
    }
}

#[multiversion(targets = "simd")]
fn transform_kernel(values: &mut [f32], kernel: &[f32], c: usize) {
    for channel in (0..c).step_by(LANES) {
        let columns: [[Lanes; 6]; 3] = std::array::from_fn(|j| {
            evaluate_kernel(std::array::from_fn(|i| {
                lanes(&kernel[(3 * i + j) * c + channel..])
            }))
        });
        for i in 0..6 {
            let line = evaluate_kernel(std::array::from_fn(|j| &columns[j][i]));
            for (j, value) in line.into_iter().enumerate() {
                values[(6 * i + j) * c + channel..][..LANES].copy_from_slice(&value);
            }
        }
    }
}

/// Writes the outputs of one tile for as many channels as `bias` has: values of one point to the next are `point` apart,
/// lines of `y` are `line` apart, of which there may be fewer than four, and pixels `pixel`.
#[multiversion(targets = "simd")]
fn interpolate(
    y: &mut [f32],
    values: &[f32],
    bias: &[f32],
    [point, line, pixel, columns]: [usize; 4],
) {
    let last = (columns - 1) * pixel + bias.len();
    let rows = ((y.len() - last) / line + 1).min(4);
    for (channel, bias) in bias.chunks_exact(LANES).enumerate() {
        let channel = channel * LANES;
        let inner: [[Lanes; 4]; 6] = std::array::from_fn(|j| {
            interpolate_line(std::array::from_fn(|i| {
                lanes(&values[(6 * i + j) * point + channel..])
            }))
        });
        for i in 0..rows {
            let outputs = interpolate_line(std::array::from_fn(|j| &inner[j][i]));
            for (j, output) in outputs.iter().take(columns).enumerate() {
                let y = &mut y[i * line + j * pixel + channel..][..LANES];
                for ((y, output), bias) in y.iter_mut().zip(output).zip(bias) {
                    *y = output + bias;
                }
            }
        }
    }
}
