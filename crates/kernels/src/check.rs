//! Whether a backend computes an operation of a given shape right.
//!
//! GPU libraries choose among many kernels by shape, and their known errors are of single shapes. So the shapes that a
//! model has are worth a test on the device that shall run it.

use burn::tensor::{DType, Tensor, TensorData, backend::Backend, bf16, f16};

use crate::{
    End, Mask, Operation, Padding, attention, conv2d, conv2d_add, frame_conv, frame_conv_add,
    linear, linear_add, linear_geglu,
};

/// How many results are computed again on the host, if there are more.
const SAMPLES: usize = 4096;

/// Computes an operation on pseudo-random values on a device, and a sample of its results on the host in f64.
///
/// The largest difference, as a part of the largest result; NaN if any result is not finite. A right kernel is off by a
/// few ten-millionths in f32, by a few thousandths in f16.
pub fn check<B: Backend>(operation: &Operation, dtype: DType, device: &B::Device) -> f64 {
    let input = |count: usize, seed: u64| Input::new(count, seed, dtype);
    match *operation {
        Operation::Conv2d {
            x,
            weight,
            bias,
            stride,
            padding,
            residual,
        } => {
            let [a, w] = [input(count(&x), 1), input(count(&weight), 2)];
            let b = bias.map(|rows| input(rows * weight[0], 3));
            let bias = |b: &Input| b.tensor([b.0.len() / weight[0], weight[0]], device);
            let (image, kernel) = (a.tensor(x, device), w.tensor(weight, device));
            let bias = b.as_ref().map(bias);
            let size = |i: usize, both: usize| (x[i] + both - weight[i + 1]) / stride + 1;
            let h = size(1, padding.top + padding.bottom);
            let dims = [x[0], h, size(2, padding.left + padding.right), weight[0]];
            let r = residual.then(|| input(count(&dims), 4));
            let y = match &r {
                None => conv2d::<B>(image, kernel, bias, stride, padding),
                Some(r) => conv2d_add(image, kernel, bias, stride, padding, r.tensor(dims, device)),
            };
            let sample = samples(count(&dims)).map(|at| {
                let [n, row, column, channel] = position(at, dims);
                let sum = conv_at(
                    (&a, x),
                    (&w, weight),
                    [n, row, column, channel],
                    stride,
                    padding,
                );
                let shift = b.as_ref().map_or(0.0, |b| {
                    let rows = b.0.len() / weight[0];
                    b.at(n / (x[0] / rows) * weight[0] + channel)
                });
                (at, sum + shift + r.as_ref().map_or(0.0, |r| r.at(at)))
            });
            difference(y, sample)
        }
        Operation::FrameConv { x, out, residual } => {
            let [b, f, s, c] = x;
            let [a, w, shift] = [input(count(&x), 1), input(out * c * 3, 2), input(out, 3)];
            let (frames, taps) = (a.tensor(x, device), w.tensor([out, c, 3, 1, 1], device));
            let bias = shift.tensor([out], device);
            let r = residual.then(|| input(b * f * s * out, 4));
            let y = match &r {
                None => frame_conv::<B>(frames, taps, bias),
                Some(r) => frame_conv_add(frames, taps, bias, r.tensor([b, f, s, out], device)),
            };
            let sample = samples(b * f * s * out).map(|at| {
                let [batch, frame, place, channel] = position(at, [b, f, s, out]);
                let taps = (0..3).filter(|tap| (1..=f).contains(&(frame + tap)));
                let sum: f64 = taps
                    .map(|tap| {
                        let row = ((batch * f + frame + tap - 1) * s + place) * c;
                        let product = |i: usize| a.at(row + i) * w.at((channel * c + i) * 3 + tap);
                        (0..c).map(product).sum::<f64>()
                    })
                    .sum();
                (
                    at,
                    sum + shift.at(channel) + r.as_ref().map_or(0.0, |r| r.at(at)),
                )
            });
            difference(y, sample)
        }
        Operation::Linear {
            x: [rows, c],
            out,
            bias,
            end,
        } => {
            let columns = if end == End::Geglu { 2 * out } else { out };
            let [a, w] = [input(rows * c, 1), input(columns * c, 2)];
            let b = bias.then(|| input(columns, 3));
            let r = (end == End::Residual).then(|| input(rows * out, 4));
            let (x, weight) = (
                a.tensor([1, rows, c], device),
                w.tensor([columns, c], device),
            );
            let bias = b.as_ref().map(|b| b.tensor([columns], device));
            let y = match (end, &r) {
                (End::Geglu, _) => linear_geglu::<B>(x, weight, bias),
                (_, Some(r)) => linear_add(x, weight, bias, r.tensor([1, rows, out], device)),
                _ => linear(x, weight, bias),
            };
            let sample = samples(rows * out).map(|at| {
                let (row, channel) = (at / out, at % out);
                let value = |channel: usize| {
                    let product = |i: usize| a.at(row * c + i) * w.at(channel * c + i);
                    let sum: f64 = (0..c).map(product).sum();
                    sum + b.as_ref().map_or(0.0, |b| b.at(channel))
                };
                let value = match end {
                    End::Geglu => value(channel) * gelu(value(channel + out)),
                    _ => value(channel) + r.as_ref().map_or(0.0, |r| r.at(at)),
                };
                (at, value)
            });
            difference(y, sample)
        }
        Operation::Attention { q, m, heads, mask } => {
            let [b, n, c] = q;
            let d = c / heads;
            // Larger than the values, so that some keys count more than others.
            let queries = input(b * n * c, 1).times(4.0);
            let [keys, values] = [input(b * m * c, 2), input(b * m * c, 3)];
            let y = attention::<B>(
                queries.tensor(q, device),
                keys.tensor([b, m, c], device),
                values.tensor([b, m, c], device),
                heads,
                mask,
            );
            let rows = samples_of(b * n * heads, SAMPLES.div_ceil(d));
            let sample = rows.flat_map(|row| {
                let [batch, query, head] = [row / heads / n, row / heads % n, row % heads];
                let seen = match mask {
                    Mask::None => m,
                    Mask::Causal => m.min(query + 1),
                };
                let at = (batch * n + query) * c + head * d;
                let key = |j: usize| (batch * m + j) * c + head * d;
                let score = |j: usize| -> f64 {
                    let product = |i: usize| queries.at(at + i) * keys.at(key(j) + i);
                    (0..d).map(product).sum::<f64>() / (d as f64).sqrt()
                };
                let scores: Vec<f64> = (0..seen).map(score).collect();
                let top = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                let weights: Vec<f64> = scores.iter().map(|s| (s - top).exp()).collect();
                let total: f64 = weights.iter().sum();
                let result = |i: usize| {
                    let sum: f64 = (0..seen).map(|j| weights[j] * values.at(key(j) + i)).sum();
                    (at + i, sum / total)
                };
                (0..d).map(result).collect::<Vec<_>>()
            });
            difference(y, sample)
        }
    }
}

/// `x · Φ(x)`: half of the error function's integral by Simpson's rule.
fn gelu(x: f64) -> f64 {
    const STEPS: usize = 1000;
    let density = |t: f64| (-t * t / 2.0).exp() / (2.0 * std::f64::consts::PI).sqrt();
    // Beyond it the density is 0 in f64.
    let end = x.clamp(-40.0, 40.0);
    let width = end / STEPS as f64;
    let weight = |i: usize| {
        if i == 0 || i == STEPS {
            1.0
        } else {
            2.0 + 2.0 * (i % 2) as f64
        }
    };
    let sum: f64 = (0..=STEPS)
        .map(|i| weight(i) * density(i as f64 * width))
        .sum();
    x * (0.5 + sum * width / 3.0)
}

/// One result of a convolution, without bias.
fn conv_at(
    (x, [_, h, w, c]): (&Input, [usize; 4]),
    (weight, [_, _, kh, kw]): (&Input, [usize; 4]),
    [n, row, column, channel]: [usize; 4],
    stride: usize,
    padding: Padding,
) -> f64 {
    let mut sum = 0.0;
    for (i, j) in (0..kh).flat_map(|i| (0..kw).map(move |j| (i, j))) {
        let source = |at: usize, tap: usize, before: usize, len: usize| {
            let source = (at * stride + tap).checked_sub(before)?;
            (source < len).then_some(source)
        };
        let (Some(y), Some(z)) = (
            source(row, i, padding.top, h),
            source(column, j, padding.left, w),
        ) else {
            continue;
        };
        let from = ((n * h + y) * w + z) * c;
        let product = |k: usize| x.at(from + k) * weight.at(((channel * c + k) * kh + i) * kw + j);
        sum += (0..c).map(product).sum::<f64>();
    }
    sum
}

/// Pseudo-random values from −1 to 1 that the dtype holds exactly.
struct Input(Vec<f32>, DType);

impl Input {
    fn new(count: usize, seed: u64, dtype: DType) -> Self {
        let mut state = Random(seed);
        let value = |_| state.next() as f32 / (1u64 << 32) as f32 * 2.0 - 1.0;
        Self((0..count).map(value).collect(), dtype).rounded()
    }

    fn times(mut self, factor: f32) -> Self {
        self.0.iter_mut().for_each(|value| *value *= factor);
        self.rounded()
    }

    fn rounded(mut self) -> Self {
        let round = match self.1 {
            DType::F16 => |x: f32| f16::from_f32(x).to_f32(),
            DType::BF16 => |x: f32| bf16::from_f32(x).to_f32(),
            _ => |x: f32| x,
        };
        self.0.iter_mut().for_each(|value| *value = round(*value));
        self
    }

    fn at(&self, index: usize) -> f64 {
        f64::from(self.0[index])
    }

    fn tensor<B: Backend, const D: usize>(
        &self,
        dims: [usize; D],
        device: &B::Device,
    ) -> Tensor<B, D> {
        let data = TensorData::new(self.0.clone(), dims);
        Tensor::<B, D>::from_data(data, (device, DType::F32)).cast(self.1)
    }
}

/// Knuth's linear congruential generator; the upper half of its state.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        let step = self.0.wrapping_mul(6_364_136_223_846_793_005);
        self.0 = step.wrapping_add(1_442_695_040_888_963_407);
        self.0 >> 32
    }
}

fn count(dims: &[usize]) -> usize {
    dims.iter().product()
}

fn position<const D: usize>(mut at: usize, dims: [usize; D]) -> [usize; D] {
    let mut position = [0; D];
    for axis in (0..D).rev() {
        position[axis] = at % dims[axis];
        at /= dims[axis];
    }
    position
}

fn samples(count: usize) -> impl Iterator<Item = usize> {
    samples_of(count, SAMPLES)
}

/// All indices, or if there are more than `most`, that many of them, with the first and the last.
fn samples_of(count: usize, most: usize) -> impl Iterator<Item = usize> {
    let mut random = Random(7);
    let few = count <= most;
    (0..count.min(most)).map(move |i| match (few, i) {
        (true, _) => i,
        (_, 0) => 0,
        (_, 1) => count - 1,
        _ => random.next() as usize % count,
    })
}

fn difference<B: Backend, const D: usize>(
    found: Tensor<B, D>,
    expected: impl Iterator<Item = (usize, f64)>,
) -> f64 {
    let found = found.cast(DType::F32).into_data();
    let Ok(found) = found.as_slice::<f32>() else {
        return f64::NAN;
    };
    if found.iter().any(|value| !value.is_finite()) {
        return f64::NAN;
    }
    let (mut off, mut scale) = (0.0_f64, 0.0_f64);
    for (at, value) in expected {
        off = off.max((f64::from(found[at]) - value).abs());
        scale = scale.max(value.abs());
    }
    off / scale.max(f64::MIN_POSITIVE)
}
