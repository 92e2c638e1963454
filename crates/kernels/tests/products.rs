//! Convolutions, linear layers and attention in half precision against f32 of the same numbers, in every form that a GPU's kernels for them
//! have: strides, taps, gates, what is added, sizes that no block fits, and enough positions for the highest blocks.

use burn::{
    backend::Flex,
    tensor::{DType, Tensor, backend::Backend},
};
use i2vgen_kernels::*;
use i2vgen_tests::{TestBackend, computes_in, distance, noise};

/// Numbers of a seed, rounded to `dtype`.
fn data<B: Backend, const D: usize>(dims: [usize; D], seed: u64, dtype: DType) -> Tensor<B, D> {
    noise(dims, seed).cast(dtype)
}

/// Runs an expression, which is given a macro that makes its inputs, in half precision and in f32, and compares.
macro_rules! check {
    ($data:ident, $body:expr) => {
        for dtype in [DType::F16, DType::BF16] {
            if !computes_in(dtype) {
                continue;
            }
            let half: Vec<f32> = {
                macro_rules! $data {
                    ($dims:expr, $seed:expr) => {
                        data::<TestBackend, _>($dims, $seed, dtype)
                    };
                }
                $body.cast(DType::F32).into_data().to_vec().unwrap()
            };
            let wide: Vec<f32> = {
                macro_rules! $data {
                    ($dims:expr, $seed:expr) => {
                        data::<Flex, _>($dims, $seed, dtype).cast(DType::F32)
                    };
                }
                $body.into_data().to_vec().unwrap()
            };
            let scale = wide.iter().fold(0_f32, |most, x| most.max(x.abs()));
            // GEGLU rounds most often where nothing is fused: both halves, what is added to each, their GELU and their product.
            // A missing tap is off by 30 times as much.
            let ulp = if dtype == DType::F16 { 1. / 1024. } else { 1. / 128. };
            let tolerance = 6. * scale * ulp / 2.;
            let off = distance(&half, &wide);
            assert!(
                off <= tolerance,
                "{}, {dtype:?}: off by {off}, {tolerance} allowed",
                stringify!($body)
            );
        }
    };
}

#[test]
fn convolutions_in_half_precision() {
    let same = Padding::same(1);
    check!(
        of,
        conv2d(
            of!([2, 9, 11, 32], 1),
            of!([160, 32, 3, 3], 2),
            Some(of!([2, 160], 3)),
            1,
            same
        )
    );
    check!(
        of,
        conv2d(of!([3, 9, 8, 48], 1), of!([96, 48, 3, 3], 2), None, 2, same)
    );
    check!(
        of,
        conv2d(
            of!([1, 8, 8, 8], 1),
            of!([4, 8, 3, 3], 2),
            Some(of!([1, 4], 3)),
            1,
            same
        )
    );
    check!(
        of,
        conv2d(
            of!([2, 7, 6, 72], 1),
            of!([24, 72, 1, 1], 2),
            None,
            2,
            Padding::same(0)
        )
    );
    check!(
        of,
        conv2d_add(
            of!([4, 5, 7, 24], 1),
            of!([144, 24, 3, 3], 2),
            Some(of!([2, 144], 3)),
            1,
            same,
            of!([4, 5, 7, 144], 4)
        )
    );
    check!(
        of,
        conv2d_add(
            of!([1, 6, 6, 8], 1),
            of!([16, 8, 3, 3], 2),
            None,
            1,
            same,
            of!([1, 6, 6, 16], 4)
        )
    );
    check!(
        of,
        frame_conv_add(
            of!([2, 5, 30, 40], 1),
            of!([64, 40, 3, 1, 1], 2),
            of!([64], 3),
            of!([2, 5, 30, 64], 4)
        )
    );
}

/// Long sums at enough positions for the highest blocks, and short ones at enough for more blocks than there are multiprocessors.
#[test]
fn large_convolutions_in_half_precision() {
    let same = Padding::same(1);
    check!(
        of,
        conv2d(
            of!([4, 60, 75, 40], 1),
            of!([160, 40, 3, 3], 2),
            None,
            1,
            same
        )
    );
    check!(
        of,
        conv2d(
            of!([2, 130, 131, 232], 1),
            of!([160, 232, 3, 3], 2),
            Some(of!([2, 160], 3)),
            1,
            same
        )
    );
    check!(
        of,
        conv2d_add(
            of!([4, 184, 185, 232], 1),
            of!([24, 232, 3, 3], 2),
            None,
            2,
            same,
            of!([4, 92, 93, 24], 4)
        )
    );
}

#[test]
fn linear_layers_in_half_precision() {
    for rows in [150, 11_000] {
        check!(of, linear(of!([rows, 8], 1), of!([160, 8], 2), None));
        check!(
            of,
            linear(of!([rows, 104], 1), of!([40, 104], 2), Some(of!([40], 3)))
        );
        check!(
            of,
            linear_add(
                of!([rows, 32], 1),
                of!([100, 32], 2),
                None,
                of!([rows, 100], 4)
            )
        );
        check!(
            of,
            linear_geglu(
                of!([2, rows / 2, 40], 1),
                of!([320, 40], 2),
                Some(of!([320], 3))
            )
        );
        check!(
            of,
            linear_geglu(of!([1, rows, 16], 1), of!([48, 16], 2), None)
        );
    }
}

/// Heads of 64 channels and of other widths; keys of which no run is full; scores of which only the highest counts.
#[test]
fn attention_in_half_precision() {
    for (queries, keys) in [(300, 200), (130, 145), (128, 64), (100, 30)] {
        check!(
            of,
            attention(
                of!([2, queries, 128], 1),
                of!([2, keys, 128], 2),
                of!([2, keys, 128], 3),
                2,
                Mask::None
            )
        );
    }
    check!(
        of,
        attention(
            of!([1, 200, 192], 1).narrow(2, 64, 64),
            of!([1, 100, 192], 2).narrow(2, 128, 64),
            of!([1, 100, 192], 3).narrow(2, 0, 64),
            1,
            Mask::None
        )
    );
    check!(
        of,
        attention(
            of!([1, 200, 64], 1) * 32_768.0,
            of!([1, 300, 64], 2) * 32_768.0,
            of!([1, 300, 64], 3),
            1,
            Mask::None
        )
    );
    check!(
        of,
        attention(
            of!([1, 140, 96], 1),
            of!([1, 140, 96], 2),
            of!([1, 140, 96], 3),
            2,
            Mask::None
        )
    );
}
