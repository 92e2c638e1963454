//! FreeU: stronger backbone, fewer low frequencies in the skips (<https://arxiv.org/abs/2309.11497>; diffusers
//! `utils/torch_utils.py`).

use std::f64::consts::TAU;

use burn::tensor::{DType, Tensor, TensorData, backend::Backend};

use i2vgen_kernels::matmul;

use crate::UNetError;

/// Factors of one up block.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FreeU {
    /// Multiplies the first half of the backbone's channels.
    pub(crate) backbone: f64,
    /// Multiplies the low frequencies of the skips.
    pub(crate) skip: f64,
}

impl FreeU {
    /// Those of the first two up blocks; none if a factor is 0, which turns FreeU off.
    pub(crate) fn blocks(
        s1: f64,
        s2: f64,
        b1: f64,
        b2: f64,
    ) -> Result<Option<[Self; 2]>, UNetError> {
        let factors = [s1, s2, b1, b2];
        if factors.iter().any(|factor| !factor.is_finite()) {
            return Err(UNetError::FreeU(factors));
        }
        let block = |skip, backbone| Self { backbone, skip };
        let on = factors.iter().all(|factor| *factor != 0.0);
        Ok(on.then(|| [block(s1, b1), block(s2, b2)]))
    }

    /// What a layer concatenates: backbone and skip after FreeU.
    ///
    /// # Shapes
    /// `x [n, h, w, c]`, `skip [n, h, w, d]` → the same
    pub(crate) fn apply<B: Backend>(
        self,
        x: Tensor<B, 4>,
        skip: Tensor<B, 4>,
    ) -> [Tensor<B, 4>; 2] {
        let [_, _, _, c] = x.dims();
        let (half, rest) = (c / 2, c - c / 2);
        let x = match half {
            0 => x,
            _ => {
                let scaled = x.clone().narrow(3, 0, half) * self.backbone;
                Tensor::cat(vec![scaled, x.narrow(3, half, rest)], 3)
            }
        };
        [x, scale_low_frequencies(skip, self.skip)]
    }
}

/// Multiplies the frequencies {−1, 0} × {−1, 0} of every image by `scale` and takes the real part, as diffusers does
/// with a Fourier transform, a mask of 2×2 and the inverse.
///
/// No transform is needed. The real part of what the mask picks is `V Vᵀ x / (h·w)`, with the cosine and the sine of each
/// of its frequencies as the columns of `V`.
///
/// # Shapes
/// `[n, h, w, c]` → the same
fn scale_low_frequencies<B: Backend>(x: Tensor<B, 4>, scale: f64) -> Tensor<B, 4> {
    let [n, h, w, c] = x.dims();
    let dtype = x.dtype();
    let waves = waves::<B>(h, w, &x.device());
    let waves = waves.unsqueeze::<3>().repeat_dim(0, n);
    let x = x.reshape([n, h * w, c]).cast(DType::F32);
    let low = matmul(waves.clone().swap_dims(1, 2), x.clone(), DType::F32);
    let low = low * ((scale - 1.0) / (h * w) as f64);
    let change = matmul(waves, low, DType::F32);
    (x + change).cast(dtype).reshape([n, h, w, c])
}

/// Cosines and sines of the frequencies {−1, 0} × {−1, 0} as columns; an axis of length 1 has only frequency 0.
///
/// # Shapes
/// → `[h·w, waves]`
fn waves<B: Backend>(h: usize, w: usize, device: &B::Device) -> Tensor<B, 2> {
    let frequencies = |n: usize| if n == 1 { 0..1 } else { 0..2 };
    let pairs = frequencies(h).flat_map(|u| frequencies(w).map(move |v| (u, v)));
    let pairs: Vec<(usize, usize)> = pairs.collect();
    // Whole turns are dropped before they can cost precision.
    let turn = |i: usize, n: usize| (i % n) as f64 / n as f64;
    let mut values = Vec::with_capacity(h * w * 2 * pairs.len());
    for (i, j) in (0..h).flat_map(|i| (0..w).map(move |j| (i, j))) {
        for (u, v) in &pairs {
            let (sin, cos) = (TAU * (turn(u * i, h) + turn(v * j, w))).sin_cos();
            values.extend([cos as f32, sin as f32]);
        }
    }
    let data = TensorData::new(values, [h * w, 2 * pairs.len()]);
    Tensor::from_data(data, (device, DType::F32))
}

#[cfg(test)]
mod tests {
    use burn::{backend::Flex, tensor::Int};

    use super::*;

    /// The definition: transform, shift, mask a square around the centre, and back.
    fn by_transform(x: &[f64], h: usize, w: usize, scale: f64) -> Vec<f64> {
        let angle = |u: usize, v: usize, i: usize, j: usize| {
            TAU * ((u * i) as f64 / h as f64 + (v * j) as f64 / w as f64)
        };
        let all = || (0..h).flat_map(|a| (0..w).map(move |b| (a, b)));
        let in_mask = |k: usize, n: usize| {
            let shifted = (k + n / 2) % n;
            shifted == n / 2 || shifted + 1 == n / 2
        };
        let mut y = vec![0.0; h * w];
        for (u, v) in all() {
            let (mut re, mut im) = (0.0, 0.0);
            for (i, j) in all() {
                let (sin, cos) = angle(u, v, i, j).sin_cos();
                re += x[i * w + j] * cos;
                im -= x[i * w + j] * sin;
            }
            let masked = in_mask(u, h) && in_mask(v, w);
            let gain = if masked { scale } else { 1.0 } / (h * w) as f64;
            for (i, j) in all() {
                let (sin, cos) = angle(u, v, i, j).sin_cos();
                y[i * w + j] += gain * (re * cos - im * sin);
            }
        }
        y
    }

    #[test]
    fn equals_the_transform() {
        let device = Default::default();
        for (h, w) in (1..7).flat_map(|h| (1..8).map(move |w| (h, w))) {
            let x: Vec<f64> = (0..h * w)
                .map(|i| f64::from((i * i * 7919 % 101) as u8) / 50.0 - 1.0)
                .collect();
            let values: Vec<f32> = x.iter().map(|x| *x as f32).collect();
            // A second image and channel, so that they must not mix.
            let one = Tensor::<Flex, 4>::from_data(TensorData::new(values, [1, h, w, 1]), &device);
            let images = Tensor::cat(vec![one.clone(), one.clone() * 2.0], 0);
            let images = Tensor::cat(vec![images.clone(), images * -3.0], 3);
            for scale in [0.2, 1.0, -1.5] {
                let expected = by_transform(&x, h, w, scale);
                let found = scale_low_frequencies(images.clone(), scale);
                for (n, c, factor) in [(0, 0, 1.0), (0, 1, -3.0), (1, 0, 2.0), (1, 1, -6.0)] {
                    let found = found.clone().slice([n..n + 1, 0..h, 0..w, c..c + 1]);
                    let found = found.into_data().to_vec::<f32>().expect("f32");
                    for (found, expected) in found.iter().zip(&expected) {
                        let off = (f64::from(*found) - expected * factor).abs();
                        assert!(
                            off < 1e-5,
                            "{h}x{w}, {scale}: {found} not {expected}·{factor}"
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn half_precision_is_computed_in_f32() {
        let device = Default::default();
        let x = Tensor::<Flex, 1, Int>::arange(0..900, &device).float();
        let x = x.sin().reshape([1, 30, 30, 1]).cast(DType::F16);
        let exact = scale_low_frequencies(x.clone().cast(DType::F32), 0.2).cast(DType::F16);
        let half = scale_low_frequencies(x, 0.2);
        assert_eq!(half.dtype(), DType::F16);
        assert_eq!(half.into_data(), exact.into_data());
    }

    #[test]
    fn scales_half_the_channels() {
        let device = Default::default();
        for c in 1..6 {
            let x = Tensor::<Flex, 4>::ones([2, 2, 3, c], &device);
            let freeu = FreeU {
                backbone: 1.5,
                skip: 1.0,
            };
            let [x, skip] = freeu.apply(x.clone(), x);
            for channel in 0..c {
                let expected = if channel < c / 2 { 1.5 } else { 1.0 };
                let found = x.clone().narrow(3, channel, 1).into_data();
                assert_eq!(found.to_vec::<f32>().expect("f32"), vec![expected; 12]);
            }
            assert_eq!(skip.dims(), [2, 2, 3, c]);
        }
    }
}
