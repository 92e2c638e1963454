//! 3×3 convolutions with a fraction of the multiplications: minimal filtering (Lavin and Gray, 2015,
//! <https://arxiv.org/abs/1509.09308>).
//!
//! A tile of outputs needs a tile of inputs. Tiles and kernels are polynomials in two variables; their values at some points
//! are multiplied (matrix products over the channels) and the outputs interpolated. What the points are is told by
//! [`Plain`] and [`Enlarged`], for one of the two axes.

use gemm::Parallelism;
use multiversion::multiversion;
use rayon::prelude::*;

use super::{
    gemm::{Matrix, product},
    zeros,
};
use crate::memory_budget;

/// Channels that are transformed together.
const LANES: usize = 16;
type Lanes = [f32; LANES];

/// Keeps rows of values from lying a multiple of 4 KiB apart, where they would evict each other from the cache.
const GAP: usize = 16;

/// Size of the kernels' values that are computed at once where that costs nothing, in elements (4 MiB).
const CACHED: usize = 1 << 20;

/// Outputs of a tile in each direction.
const OUT: usize = 4;

/// How a line of [`OUT`] outputs is computed from `IN` inputs with `PRODUCTS` products.
pub(super) trait Method<const IN: usize, const PRODUCTS: usize> {
    /// Inputs from one tile to the next.
    const STEP: usize;
    /// Which of the values of a tile each product takes.
    const FACTOR: [usize; PRODUCTS];

    /// Values of a tile's line, for each lane (the matrix Bᵀ of the paper).
    fn evaluate_tile(d: [&Lanes; IN]) -> [Lanes; IN];

    /// Values of a kernel's line (the matrix G).
    fn evaluate_kernel(w: [&Lanes; 3]) -> [Lanes; PRODUCTS];

    /// Outputs from the products (the matrix Aᵀ).
    fn interpolate(m: [&Lanes; PRODUCTS]) -> [Lanes; OUT];
}

/// F(4×4, 3×3): a quarter of the multiplications.
///
/// The points are 0, ±3/4, ±3/2 and ∞: exact in binary, and a fifth of the error of the usual 0, ±1, ±2, ∞ (3e-6 of the
/// largest output instead of 1.5e-5).
pub(super) struct Plain;

/// Points of evaluation of [`Plain`] besides 0 and infinity: ±[`A`] and ±[`B`].
const A: f32 = 0.75;
const B: f32 = 1.5;
const AA: f32 = A * A;
const BB: f32 = B * B;

impl Method<6, 6> for Plain {
    const STEP: usize = 4;
    const FACTOR: [usize; 6] = [0, 1, 2, 3, 4, 5];

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

    /// Divided by the points' products of differences.
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

    #[inline(always)]
    fn interpolate(m: [&Lanes; 6]) -> [Lanes; OUT] {
        let mut y = [[0.0; LANES]; OUT];
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
}

/// The convolution of an image of which every pixel is doubled first, from the pixels as they were: 25 products instead of
/// 36 for 4×4 outputs, of 4×4 inputs instead of 6×6, and no doubled image.
///
/// Outputs of even places are those of the kernel `w0, w1 + w2`, outputs of odd places of `w0 + w1, w2` one input later. As
/// polynomials these are `w0·(1 - z) + s·z` and `s·z + w2·(z - 1)·z` with the sum `s` of all three weights: at the points 0,
/// 1 and ∞ one product serves both, and only -1 takes two. Additions and halves are all that it takes; the error is a
/// seventh of that of [`Plain`].
pub(super) struct Enlarged;

impl Method<4, 5> for Enlarged {
    const STEP: usize = 2;
    const FACTOR: [usize; 5] = [0, 1, 2, 2, 3];

    #[inline(always)]
    fn evaluate_tile(d: [&Lanes; 4]) -> [Lanes; 4] {
        let mut v = [[0.0; LANES]; 4];
        for l in 0..LANES {
            let [d0, d1, d2, d3] = d.map(|d| d[l]);
            v[0][l] = d0 - d2;
            v[1][l] = d1 + d2;
            v[2][l] = d2 - d1;
            v[3][l] = d3 - d1;
        }
        v
    }

    #[inline(always)]
    fn evaluate_kernel(w: [&Lanes; 3]) -> [Lanes; 5] {
        let mut v = [[0.0; LANES]; 5];
        for l in 0..LANES {
            let [w0, w1, w2] = w.map(|w| w[l]);
            v[0][l] = w0;
            v[1][l] = 0.5 * (w0 + w1 + w2);
            v[2][l] = 0.5 * (w0 - w1 - w2);
            v[3][l] = 0.5 * (w2 - w1 - w0);
            v[4][l] = w2;
        }
        v
    }

    #[inline(always)]
    fn interpolate(m: [&Lanes; 5]) -> [Lanes; OUT] {
        let mut y = [[0.0; LANES]; OUT];
        for l in 0..LANES {
            let [m0, m1, m2, m3, m4] = m.map(|m| m[l]);
            y[0][l] = m0 + m1 + m2;
            y[1][l] = m1 + m3;
            y[2][l] = m1 - m2;
            y[3][l] = m1 - m3 + m4;
        }
        y
    }
}

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
    /// Whether the methods are faster than the direct one: the channels fill the lanes, the tiles the image, and there are
    /// enough of them to pay for the transformation of the kernels.
    pub(super) fn pays(&self) -> bool {
        let [across, down] = [self.ow.div_ceil(OUT), self.oh.div_ceil(OUT)];
        self.c.is_multiple_of(LANES)
            && self.out.is_multiple_of(LANES)
            && self.c.min(self.out) >= 2 * LANES
            && self.n * across * down >= 16
            && 6 * across * down < self.oh * self.ow
    }
}

/// `y = conv(x, weight) + bias` with the method `M` for `x [n, h, w, c]`, `weight [out, 3, 3, c]` and `bias [r, out]`, of
/// which each row serves `n / r` images.
///
/// Takes up to [`memory_budget`] bytes of scratch, or what one line of tiles and 16 output channels need.
pub(super) fn conv<M: Method<IN, PRODUCTS>, const IN: usize, const PRODUCTS: usize>(
    size: Size,
    y: &mut [f32],
    x: &[f32],
    weight: &[f32],
    bias: &[f32],
) {
    let Size {
        n, c, out, oh, ow, ..
    } = size;
    let [across, down] = [ow.div_ceil(OUT), oh.div_ceil(OUT)];
    let (points, multiples) = (IN * IN, PRODUCTS * PRODUCTS);
    let images_per_bias = n * out / bias.len();
    // Half of the budget for the kernels' values, half for the tiles'.
    let budget = memory_budget() / 2 / (multiples * size_of::<f32>());
    // When all tiles fit at once, their values are computed once, and as few kernels' as stay in the cache at a time.
    let at_once = n * down * across * (c + 2 * LANES) <= budget;
    let share = if at_once {
        budget.min(CACHED / multiples)
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
        .flat_map(|image| image.chunks_mut(OUT * ow * out))
        .collect();
    let (tile_pitch, kernel_pitch) = (points * c + GAP, multiples * c + GAP);
    let mut kernels = zeros(width.min(out) * kernel_pitch);
    let mut tiles = zeros(lines * across * tile_pitch);
    let mut products = zeros(multiples * lines * across * width.min(out));
    for first in (0..out).step_by(width) {
        let width = width.min(out - first);
        let kernels = &mut kernels[..width * kernel_pitch];
        kernels
            .par_chunks_exact_mut(kernel_pitch)
            .zip(weight[first * 9 * c..].par_chunks_exact(9 * c))
            .for_each(|(values, kernel)| transform_kernel::<M, IN, PRODUCTS>(values, kernel, c));
        for (block, bands) in bands.chunks_mut(lines).enumerate() {
            let count = bands.len() * across;
            let tiles = &mut tiles[..count * tile_pitch];
            // All tiles fit at once: the values of the first part serve the others too.
            if first == 0 || lines < n * down {
                tiles
                    .par_chunks_exact_mut(tile_pitch)
                    .enumerate()
                    .for_each(|(i, values)| {
                        let line = block * lines + i / across;
                        let image = &x[line / down * size.h * size.w * c..];
                        let (line, column) = (line % down * M::STEP, i % across * M::STEP);
                        let pixels = pixels(&size, image, line, column);
                        transform_tile::<M, IN, PRODUCTS>(values, &pixels, c);
                    });
            }
            let products = &mut products[..multiples * count * width];
            products
                .par_chunks_exact_mut(count * width)
                .enumerate()
                .for_each(|(i, products)| {
                    let point = M::FACTOR[i / PRODUCTS] * IN + M::FACTOR[i % PRODUCTS];
                    let tiles = Matrix {
                        data: &tiles[point * c..],
                        row: tile_pitch,
                        column: 1,
                    };
                    let kernels = Matrix {
                        data: &kernels[i * c..],
                        row: 1,
                        column: kernel_pitch,
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
                    let columns = OUT.min(ow - OUT * tile);
                    let y = &mut y[OUT * tile * out + first..];
                    let steps = [count * width, ow * out, out, columns];
                    interpolate::<M, IN, PRODUCTS>(y, values, bias, steps);
                }
            });
        }
    }
}

/// The square of pixels of `image` with the upper left one at (`line`, `column`) of the padded image; none outside.
fn pixels<'a, const IN: usize>(
    size: &Size,
    image: &'a [f32],
    line: usize,
    column: usize,
) -> [[Option<&'a [f32]>; IN]; IN] {
    let line = |i: usize| (line + i).checked_sub(size.top).filter(|i| *i < size.h);
    let column = |j: usize| (column + j).checked_sub(size.left).filter(|j| *j < size.w);
    std::array::from_fn(|i| {
        std::array::from_fn(|j| Some(&image[(line(i)? * size.w + column(j)?) * size.c..][..size.c]))
    })
}

fn lanes(x: &[f32]) -> &Lanes {
    x.first_chunk()
        .expect("the channels are a multiple of the lanes")
}

#[multiversion(targets = "simd")]
fn transform_tile<M: Method<IN, PRODUCTS>, const IN: usize, const PRODUCTS: usize>(
    values: &mut [f32],
    pixels: &[[Option<&[f32]>; IN]; IN],
    c: usize,
) {
    const NONE: Lanes = [0.0; LANES];
    for channel in (0..c).step_by(LANES) {
        let columns: [[Lanes; IN]; IN] = std::array::from_fn(|j| {
            M::evaluate_tile(std::array::from_fn(|i| {
                pixels[i][j].map_or(&NONE, |pixel| lanes(&pixel[channel..]))
            }))
        });
        for i in 0..IN {
            let line = M::evaluate_tile(std::array::from_fn(|j| &columns[j][i]));
            for (j, value) in line.into_iter().enumerate() {
                values[(IN * i + j) * c + channel..][..LANES].copy_from_slice(&value);
            }
        }
    }
}

#[multiversion(targets = "simd")]
fn transform_kernel<M: Method<IN, PRODUCTS>, const IN: usize, const PRODUCTS: usize>(
    values: &mut [f32],
    kernel: &[f32],
    c: usize,
) {
    for channel in (0..c).step_by(LANES) {
        let columns: [[Lanes; PRODUCTS]; 3] = std::array::from_fn(|j| {
            M::evaluate_kernel(std::array::from_fn(|i| {
                lanes(&kernel[(3 * i + j) * c + channel..])
            }))
        });
        for i in 0..PRODUCTS {
            let line = M::evaluate_kernel(std::array::from_fn(|j| &columns[j][i]));
            for (j, value) in line.into_iter().enumerate() {
                values[(PRODUCTS * i + j) * c + channel..][..LANES].copy_from_slice(&value);
            }
        }
    }
}

/// Writes the outputs of one tile for as many channels as `bias` has: values of one product to the next are `point` apart,
/// lines of `y` are `line` apart, of which there may be fewer than a tile has, and pixels `pixel`.
#[multiversion(targets = "simd")]
fn interpolate<M: Method<IN, PRODUCTS>, const IN: usize, const PRODUCTS: usize>(
    y: &mut [f32],
    values: &[f32],
    bias: &[f32],
    [point, line, pixel, columns]: [usize; 4],
) {
    let last = (columns - 1) * pixel + bias.len();
    let rows = ((y.len() - last) / line + 1).min(OUT);
    for (channel, bias) in bias.chunks_exact(LANES).enumerate() {
        let channel = channel * LANES;
        let inner: [[Lanes; OUT]; PRODUCTS] = std::array::from_fn(|j| {
            M::interpolate(std::array::from_fn(|i| {
                lanes(&values[(PRODUCTS * i + j) * point + channel..])
            }))
        });
        for i in 0..rows {
            let outputs = M::interpolate(std::array::from_fn(|j| &inner[j][i]));
            for (j, output) in outputs.iter().take(columns).enumerate() {
                let y = &mut y[i * line + j * pixel + channel..][..LANES];
                for ((y, output), bias) in y.iter_mut().zip(output).zip(bias) {
                    *y = output + bias;
                }
            }
        }
    }
}
