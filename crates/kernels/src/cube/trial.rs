//! Whether kernels that go around CubeCL's compiler may be used on a device: once they have given the right numbers there.

use std::sync::{Mutex, PoisonError};

use burn::tensor::{DType, Tensor, TensorData, backend::Backend};

use super::{
    convolve::Convolution,
    device, float,
    kernel::{Kernel, run},
    products::is_half,
};

/// The devices that were tried, and how it ended.
static TRIED: Mutex<Vec<(String, bool)>> = Mutex::new(Vec::new());

/// Whether a device's convolutions and attention in half precision are multiplied by groups of warps, as an H100 can. The first
/// call for a device and a `dtype` compares one of each with what is right; `I2VGEN_WARPGROUPS` in the environment decides
/// without that: 0 for no, 1 for yes.
pub fn uses_warpgroups<B: Backend>(device: &B::Device, dtype: DType) -> bool {
    if !is_half(dtype) || !device::has_warpgroups::<B>(device) {
        return false;
    }
    match std::env::var("I2VGEN_WARPGROUPS").as_deref() {
        Ok("0") => return false,
        Ok("1") => return true,
        _ => {}
    }
    let key = format!("{device:?} {dtype:?}");
    let mut tried = TRIED.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((_, right)) = tried.iter().find(|(known, _)| *known == key) {
        return *right;
    }
    let right = convolves::<B>(device, dtype) && attends::<B>(device, dtype);
    if !right {
        log::warn!(
            "{device:?} does not multiply by groups of warps as it should: slower kernels are used"
        );
    }
    tried.push((key, right));
    right
}

/// Tries a convolution with values of which the sums are exact in `dtype`, of sizes that are no multiples of a block's.
fn convolves<B: Backend>(device: &B::Device, dtype: DType) -> bool {
    const SIDE: usize = 12;
    const INPUT: usize = 72;
    const OUTPUT: usize = 160;
    let x = signs(SIDE * SIDE * INPUT, 1);
    let weight = signs(OUTPUT * 9 * INPUT, 2);
    let mut expected = Vec::with_capacity(SIDE * SIDE * OUTPUT);
    for place in 0..SIDE * SIDE {
        let (row, column) = (place / SIDE, place % SIDE);
        for out in 0..OUTPUT {
            let mut sum = 0.0;
            for tap in 0..9 {
                let (y, x_of_tap) = (row + tap / 3, column + tap % 3);
                if (1..=SIDE).contains(&y) && (1..=SIDE).contains(&x_of_tap) {
                    let from = &x[((y - 1) * SIDE + x_of_tap - 1) * INPUT..][..INPUT];
                    let by = &weight[(out * 9 + tap) * INPUT..][..INPUT];
                    sum += from.iter().zip(by).map(|(a, b)| a * b).sum::<f32>();
                }
            }
            expected.push(sum);
        }
    }
    let inputs = [
        on_device::<B, _>(x, [1, SIDE, SIDE, INPUT], dtype, device),
        on_device::<B, _>(weight, [OUTPUT, 3, 3, INPUT], dtype, device),
    ];
    let kernel = Kernel::Conv2d {
        convolution: Convolution {
            stride: 1,
            padding: [1; 2],
            geglu: false,
            warpgroups: true,
        },
        bias: false,
    };
    let found = values(run::<B, 4>(kernel, inputs));
    found.is_some_and(|found| found == expected)
}

/// Tries attention of 130 queries to 145 keys.
fn attends<B: Backend>(device: &B::Device, dtype: DType) -> bool {
    const QUERIES: usize = 130;
    const KEYS: usize = 145;
    const CHANNELS: usize = 64;
    let q = signs(QUERIES * CHANNELS, 1);
    let k = signs(KEYS * CHANNELS, 2);
    let v = signs(KEYS * CHANNELS, 3);
    let mut expected = Vec::with_capacity(QUERIES * CHANNELS);
    for query in q.chunks(CHANNELS) {
        let score = |key: &[f32]| query.iter().zip(key).map(|(a, b)| a * b).sum::<f32>();
        let weights: Vec<f32> = k
            .chunks(CHANNELS)
            .map(|key| (score(key) / 8.0).exp())
            .collect();
        let sum: f32 = weights.iter().sum();
        for channel in 0..CHANNELS {
            let of_channel = v.iter().skip(channel).step_by(CHANNELS);
            expected.push(
                weights
                    .iter()
                    .zip(of_channel)
                    .map(|(a, b)| a * b)
                    .sum::<f32>()
                    / sum,
            );
        }
    }
    let inputs = [
        on_device::<B, _>(q, [1, QUERIES, CHANNELS], dtype, device),
        on_device::<B, _>(k, [1, KEYS, CHANNELS], dtype, device),
        on_device::<B, _>(v, [1, KEYS, CHANNELS], dtype, device),
    ];
    let kernel = Kernel::Attention {
        heads: 1,
        warpgroups: true,
    };
    let tolerance = if dtype == DType::BF16 { 2e-2 } else { 2e-3 };
    let found = values(run::<B, 3>(kernel, inputs));
    found.is_some_and(|found| {
        let mut pairs = found.iter().zip(&expected);
        pairs.all(|(found, expected)| (found - expected).abs() < tolerance)
    })
}

/// -1, 0 or 1.
fn signs(count: usize, seed: u32) -> Vec<f32> {
    let mut state = seed;
    let next = |_| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 16) as f32 % 3.0 - 1.0
    };
    (0..count).map(next).collect()
}

fn on_device<B: Backend, const D: usize>(
    values: Vec<f32>,
    dims: [usize; D],
    dtype: DType,
    device: &B::Device,
) -> B::FloatTensorPrimitive {
    let data = TensorData::new(values, dims);
    let x = Tensor::<B, D>::from_data(data, (device, DType::F32));
    float(x.cast(dtype))
}

/// Unless the device cannot give them.
fn values<B: Backend, const D: usize>(x: Tensor<B, D>) -> Option<Vec<f32>> {
    let data = x.cast(DType::F32).try_into_data().ok()?;
    data.to_vec().ok()
}
