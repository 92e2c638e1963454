//! Every hand-written kernel against the composed form, which `Autodiff<Flex>` gets because it is not `Flex`, or against its
//! formula in f64.

use burn::{
    backend::{Autodiff, Flex},
    tensor::{DType, Tensor, TensorData, backend::Backend},
};
use i2vgen_kernels::*;
use i2vgen_tests::TestBackend;

type Composed = Autodiff<Flex>;

/// The same pseudo-random numbers on every backend, with outliers that upset careless statistics.
fn data<B: Backend, const D: usize>(dims: [usize; D], seed: u32) -> Tensor<B, D> {
    let mut state = seed.wrapping_mul(2_654_435_761).wrapping_add(12345);
    let values: Vec<f32> = (0..dims.iter().product::<usize>())
        .map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / (1 << 24) as f32 * 4.0 - 2.0
        })
        .collect();
    Tensor::from_data(TensorData::new(values, dims), &Default::default())
}

fn assert_close<const D: usize>(ours: Tensor<TestBackend, D>, oracle: Tensor<Composed, D>) {
    assert_within(3e-6, ours, oracle);
}

/// `tolerance` is relative to the largest number.
fn assert_within<const D: usize>(
    tolerance: f32,
    ours: Tensor<TestBackend, D>,
    oracle: Tensor<Composed, D>,
) {
    assert_eq!(ours.dims(), oracle.dims());
    let ours: Vec<f32> = ours.into_data().to_vec().unwrap();
    let oracle: Vec<f32> = oracle.into_data().to_vec().unwrap();
    let scale = oracle.iter().fold(1e-3_f32, |m, x| m.max(x.abs()));
    for (i, (a, b)) in ours.iter().zip(&oracle).enumerate() {
        assert!(
            (a - b).abs() <= tolerance * scale,
            "element {i}: {a} instead of {b} (scale {scale})"
        );
    }
}

/// Runs the same expression on both backends and compares.
macro_rules! check {
    ($d:literal, $body:expr) => {{
        fn run<B: Backend>() -> Tensor<B, $d> {
            let body: fn() -> Tensor<B, $d> = $body;
            body()
        }
        assert_close(run::<TestBackend>(), run::<Composed>());
    }};
}

#[test]
fn activations() {
    check!(3, || silu(data([3, 50, 70], 1) * 8.0));
    check!(3, || gelu(data([3, 50, 70], 2) * 4.0));
    check!(3, || geglu(data([2, 300, 132], 3) * 3.0));
    check!(3, || add(data([2, 300, 132], 3), data([2, 300, 132], 4)));
    // An operand that is used again keeps its numbers.
    let [x, y] = [1, 2].map(|seed| data::<Flex, 1>([40_000], seed));
    let expected = (x.clone() + y.clone()).into_data();
    let before = [x.clone().into_data(), y.clone().into_data()];
    for (a, b) in [
        (x.clone(), y.clone()),
        (x.clone() * 1.0, y.clone()),
        (x.clone(), y.clone() * 1.0),
    ] {
        assert_eq!(add(a, b).into_data(), expected);
    }
    assert_eq!([x.into_data(), y.into_data()], before);
}

#[test]
fn norms() {
    for silu in [false, true] {
        let run = |silu| {
            (
                group_norm::<TestBackend>(
                    data([3, 999, 24], 1) + 3.0,
                    data([24], 2),
                    data([24], 3),
                    8,
                    1e-5,
                    silu,
                ),
                group_norm::<Composed>(
                    data([3, 999, 24], 1) + 3.0,
                    data([24], 2),
                    data([24], 3),
                    8,
                    1e-5,
                    silu,
                ),
            )
        };
        let (ours, oracle) = run(silu);
        assert_close(ours, oracle);
    }
    // Away from zero, in several parts of unequal length.
    check!(3, || group_norm(
        data([2, 1100, 320], 1) + 3.0,
        data([320], 2),
        data([320], 3),
        32,
        1e-5,
        false
    ));
    check!(2, || layer_norm(
        data([777, 40], 4),
        data([40], 5),
        data([40], 6),
        1e-5
    ));
}

#[test]
fn linears() {
    check!(3, || linear(
        data([2, 300, 70], 1),
        data([33, 70], 2),
        Some(data([33], 3))
    ));
    check!(2, || linear(data([1, 5], 1), data([7, 5], 2), None));
    for [m, k, n] in [
        [256, 320, 2560],
        [64, 1280, 320],
        [77, 1024, 1024],
        [33, 513, 97],
    ] {
        assert_close::<2>(
            linear(data([m, k], 1), data([n, k], 2), Some(data([n], 3))),
            linear(data([m, k], 1), data([n, k], 2), Some(data([n], 3))),
        );
    }
}

#[test]
fn convolutions() {
    let p = Padding::same;
    check!(4, || conv2d(
        data([3, 9, 7, 5], 1),
        data([6, 5, 3, 3], 2),
        Some(data([1, 6], 3)),
        1,
        Padding::same(1)
    ));
    check!(4, || conv2d(
        data([4, 9, 7, 5], 1),
        data([6, 5, 3, 3], 2),
        Some(data([2, 6], 3)),
        2,
        Padding::same(1)
    ));
    check!(4, || conv2d(
        data([2, 8, 8, 5], 1),
        data([6, 5, 1, 1], 2),
        Some(data([1, 6], 3)),
        1,
        Padding::same(0)
    ));
    check!(4, || conv2d(
        data([2, 16, 24, 3], 1),
        data([6, 3, 8, 8], 2),
        None,
        8,
        Padding::same(0)
    ));
    let one_sided = Padding {
        bottom: 1,
        right: 1,
        ..p(0)
    };
    assert_close::<4>(
        conv2d(
            data([1, 8, 9, 4], 1),
            data([6, 4, 3, 3], 2),
            None,
            2,
            one_sided,
        ),
        conv2d(
            data([1, 8, 9, 4], 1),
            data([6, 4, 3, 3], 2),
            None,
            2,
            one_sided,
        ),
    );
    // Larger than one band of patches.
    check!(4, || conv2d(
        data([1, 120, 100, 32], 1),
        data([8, 32, 3, 3], 2),
        None,
        1,
        Padding::same(1)
    ));
}

/// Shapes and channels of the real model: Winograd's method, the matrix unit and narrow outputs.
#[test]
fn convolutions_of_the_real_model() {
    for (dims @ [_, _, _, c], out, rows) in [
        // Whole tiles, and images that tiles do not fill.
        ([2, 16, 16, 320], 320, 2),
        ([1, 9, 14, 640], 320, 1),
        ([4, 8, 8, 1280], 128, 2),
        ([16, 4, 4, 512], 1280, 1),
        ([1, 33, 31, 128], 256, 1),
        // To and from few channels.
        ([2, 17, 12, 4], 320, 1),
        ([2, 17, 12, 8], 320, 2),
        ([3, 17, 12, 320], 4, 1),
        ([1, 40, 40, 128], 3, 1),
        ([2, 8, 9, 512], 8, 2),
    ] {
        let weight = [out, c, 3, 3];
        let [ours, oracle] = [true, false].map(|ours| {
            fn run<B: Backend>(dims: [usize; 4], weight: [usize; 4], bias: [usize; 2]) -> Vec<f32> {
                let bias = Some(data::<B, 2>(bias, 3));
                let y = conv2d(data(dims, 1), data(weight, 2), bias, 1, Padding::same(1));
                y.into_data().to_vec().unwrap()
            }
            match ours {
                true => run::<Flex>(dims, weight, [rows, out]),
                false => run::<Composed>(dims, weight, [rows, out]),
            }
        });
        let scale = oracle.iter().fold(0_f32, |m, x| m.max(x.abs()));
        let off = ours
            .iter()
            .zip(&oracle)
            .fold(0_f32, |m, (a, b)| m.max((a - b).abs()))
            / scale;
        println!("{dims:?} to {out}: {off:e}");
        // Winograd's method rounds values that are larger than the result; everything else is as exact as f32 sums.
        let tolerance = if c.min(out) >= 32 { 1e-5 } else { 3e-6 };
        assert!(
            ours.len() == oracle.len() && off <= tolerance,
            "{dims:?} to {out}: {off:e}"
        );
    }
    for (dims @ [_, _, _, c], out, stride, padding) in [
        ([2, 16, 18, 320], 320, 2, Padding::same(1)),
        (
            [1, 17, 16, 128],
            128,
            2,
            Padding {
                bottom: 1,
                right: 1,
                ..Padding::same(0)
            },
        ),
        ([1, 28, 28, 3], 1280, 14, Padding::same(0)),
    ] {
        let kernel = if stride == 14 { 14 } else { 3 };
        let weight = [out, c, kernel, kernel];
        assert_close::<4>(
            conv2d(data(dims, 1), data(weight, 2), None, stride, padding),
            conv2d(data(dims, 1), data(weight, 2), None, stride, padding),
        );
    }
}

/// The doubled image and its convolution in one, where Winograd's method pays and where it does not.
#[test]
fn upsampling_convolutions() {
    for (dims @ [n, h, w, c], out) in [
        ([2, 16, 16, 64], 64),
        ([1, 9, 14, 64], 32),
        ([1, 33, 31, 32], 48),
        ([16, 4, 4, 96], 64),
        ([5, 1, 7, 32], 32),
        ([1, 2, 2, 32], 32),
        ([2, 5, 3, 4], 6),
    ] {
        let (weight, bias) = ([out, c, 3, 3], [out]);
        let ours = upsample_conv2d(data(dims, 1), data(weight, 2), Some(data(bias, 3)));
        let (x, weight) = (data::<Flex, 4>(dims, 1), data::<Flex, 4>(weight, 2));
        let (x, weight, bias) = (values(x), values(weight), values(data::<Flex, 1>(bias, 3)));
        let mut exact = Vec::new();
        for i in 0..n * 2 * h * 2 * w * out {
            let (image, line, column, k) = (
                i / (out * 4 * w * h),
                i / (out * 2 * w) % (2 * h),
                i / out % (2 * w),
                i % out,
            );
            let mut sum = f64::from(bias[k]);
            for (a, b) in (0..9).map(|tap| (tap / 3, tap % 3)) {
                let (line, column) = (line + a, column + b);
                if (1..=2 * h).contains(&line) && (1..=2 * w).contains(&column) {
                    let pixel = (image * h + (line - 1) / 2) * w + (column - 1) / 2;
                    let product = |m: usize| {
                        f64::from(x[pixel * c + m]) * f64::from(weight[(k * c + m) * 9 + 3 * a + b])
                    };
                    sum += (0..c).map(product).sum::<f64>();
                }
            }
            exact.push(sum);
        }
        // Elsewhere it is the plain convolution, which adds up nine long products in one sum.
        let tolerance = match cfg!(any(feature = "wgpu", feature = "cuda")) {
            true => 1e-5,
            false => 1e-6,
        };
        assert_exact::<4>(tolerance, ours, &exact);
    }
    // Without a bias, and with another kernel.
    check!(4, || upsample_conv2d(
        data([2, 16, 16, 32], 1),
        data([32, 32, 3, 3], 2),
        None
    ));
    check!(4, || upsample_conv2d(
        data([2, 6, 5, 32], 1),
        data([40, 32, 1, 1], 2),
        Some(data([40], 3))
    ));
}

#[test]
fn frame_convolutions() {
    for (dims @ [_, _, _, c], out) in [
        ([2, 1, 64, 1280], 1280),
        ([1, 2, 100, 640], 640),
        ([1, 16, 33, 320], 320),
        ([2, 4, 16, 512], 128),
        ([2, 7, 70, 64], 320),
    ] {
        assert_within::<4>(
            5e-6,
            frame_conv(data(dims, 1), data([out, c, 3, 1, 1], 2), data([out], 3)),
            frame_conv(data(dims, 1), data([out, c, 3, 1, 1], 2), data([out], 3)),
        );
    }
    for frames in [1, 2, 5] {
        assert_close::<4>(
            frame_conv(
                data([2, frames, 12, 6], 1),
                data([7, 6, 3, 1, 1], 2),
                data([7], 3),
            ),
            frame_conv(
                data([2, frames, 12, 6], 1),
                data([7, 6, 3, 1, 1], 2),
                data([7], 3),
            ),
        );
    }
}

#[test]
fn attentions() {
    check!(3, || attention(
        data([2, 70, 24], 1),
        data([2, 33, 24], 2),
        data([2, 33, 24], 3),
        3,
        Mask::None
    ));
    check!(3, || attention(
        data([6, 20, 24], 1),
        data([2, 33, 24], 2),
        data([2, 33, 24], 3),
        3,
        Mask::None
    ));
    check!(3, || attention(
        data([2, 77, 32], 1),
        data([2, 77, 32], 2),
        data([2, 77, 32], 3),
        2,
        Mask::Causal
    ));
    check!(3, || attention(
        data([1, 900, 16], 1),
        data([1, 900, 16], 2),
        data([1, 900, 16], 3),
        1,
        Mask::None
    ));
    check!(4, || frame_attention(
        data([2, 5, 37, 40], 1),
        data([2, 5, 37, 40], 2),
        data([2, 5, 37, 40], 3),
        2
    ));
    check!(4, || frame_attention(
        data([1, 1, 3, 8], 1),
        data([1, 1, 3, 8], 2),
        data([1, 1, 3, 8], 3),
        1
    ));
}

#[test]
fn resizes() {
    check!(4, || nearest_resize(data([2, 5, 7, 3], 1), 9, 14));
    check!(4, || nearest_resize(data([2, 5, 7, 3], 1), 3, 20));
}

/// One thread and two give the same bits.
#[test]
fn threads_do_not_change_the_bits() {
    let run = || {
        let x = data::<TestBackend, 4>([4, 32, 32, 64], 1);
        let x = conv2d(
            x,
            data([96, 64, 3, 3], 2),
            Some(data([1, 96], 3)),
            1,
            Padding::same(1),
        );
        let x = upsample_conv2d(
            x.narrow(1, 3, 16).narrow(2, 3, 16),
            data([96, 96, 3, 3], 9),
            None,
        );
        let x = group_norm(
            x.reshape([4, 1024, 96]),
            data([96], 4),
            data([96], 5),
            32,
            1e-5,
            true,
        );
        let q = linear(x.clone(), data([96, 96], 6), None);
        let x = attention(q.clone(), x.clone(), x, 3, Mask::None);
        linear(x, data([700, 96], 7), Some(data([700], 8))).into_data()
    };
    let pool = |n| {
        rayon::ThreadPoolBuilder::new()
            .num_threads(n)
            .build()
            .unwrap()
    };
    let [one, two, four] = [1, 2, 4].map(|n| pool(n).install(run));
    assert!(one.as_slice::<f32>().unwrap() == two.as_slice::<f32>().unwrap());
    assert!(one.as_slice::<f32>().unwrap() == four.as_slice::<f32>().unwrap());
}

/// In half precision every kernel computes in f32 and rounds its result once, so that it is off by one rounding of its inputs
/// and one of its result.
#[test]
fn half_precision_is_f32_rounded() {
    use burn::tensor::{bf16, f16};
    for dtype in [DType::F16, DType::BF16] {
        // As wide as the values that dtype can hold: f32 that were rounded to it.
        let x3 = |dims, seed| data::<Flex, 3>(dims, seed).cast(dtype).cast(DType::F32);
        let x4 = |dims, seed| data::<Flex, 4>(dims, seed).cast(dtype).cast(DType::F32);
        let x2 = |dims, seed| data::<Flex, 2>(dims, seed).cast(dtype).cast(DType::F32);
        let x1 = |dims, seed| data::<Flex, 1>(dims, seed).cast(dtype).cast(DType::F32);
        let x5 = |dims, seed| data::<Flex, 5>(dims, seed).cast(dtype).cast(DType::F32);
        let rounded = |x: f32| match dtype {
            DType::F16 => f16::from_f32(x).to_f32(),
            _ => bf16::from_f32(x).to_f32(),
        };
        macro_rules! same {
            ($f:expr, $($x:expr),+) => {{
                let wide: Vec<f32> = $f($($x),+).into_data().to_vec().unwrap();
                let half = $f($($x.cast(dtype)),+);
                assert_eq!(half.dtype(), dtype);
                let half: Vec<f32> = half.cast(DType::F32).into_data().to_vec().unwrap();
                assert!(half.iter().any(|v| *v != 0.0));
                assert_eq!(half, wide.into_iter().map(rounded).collect::<Vec<_>>());
            }};
        }
        same!(silu, x3([3, 50, 70], 1));
        same!(gelu, x3([3, 50, 70], 2));
        same!(geglu, x3([2, 300, 132], 3));
        same!(
            |x, w, b| group_norm(x, w, b, 8, 1e-5, true),
            x3([2, 90, 64], 4),
            x1([64], 5),
            x1([64], 6)
        );
        same!(
            |x, w, b| layer_norm(x, w, b, 1e-5),
            x2([90, 64], 7),
            x1([64], 8),
            x1([64], 9)
        );
        same!(
            |x, w, b| linear(x, w, Some(b)),
            x3([2, 90, 64], 10),
            x2([33, 64], 11),
            x1([33], 12)
        );
        same!(
            |x, w| conv2d(x, w, None, 1, Padding::same(1)),
            x4([2, 9, 11, 16], 13),
            x4([24, 16, 3, 3], 14)
        );
        same!(
            |x, w| upsample_conv2d(x, w, None),
            x4([2, 8, 8, 32], 24),
            x4([32, 32, 3, 3], 25)
        );
        same!(
            frame_conv,
            x4([2, 5, 30, 16], 15),
            x5([24, 16, 3, 1, 1], 16),
            x1([24], 17)
        );
        same!(
            |q, k, v| attention(q, k, v, 2, Mask::None),
            x3([4, 70, 64], 18),
            x3([2, 77, 64], 19),
            x3([2, 77, 64], 20)
        );
        same!(
            |q, k, v| frame_attention(q, k, v, 2),
            x4([2, 8, 30, 64], 21),
            x4([2, 8, 30, 64], 22),
            x4([2, 8, 30, 64], 23)
        );
    }
}

/// The tests of this file would also pass without kernels.
#[cfg(any(feature = "wgpu", feature = "cuda"))]
#[test]
fn the_gpu_has_kernels() {
    assert!(has_gpu_kernels::<TestBackend>());
    assert!(!has_gpu_kernels::<Autodiff<TestBackend>>());
    assert!(!has_gpu_kernels::<Composed>());
}

/// A group normalisation in f64; a layer normalisation is one of `s = 1` with a single group.
fn normalised(
    x: &[f32],
    [n, s, c]: [usize; 3],
    groups: usize,
    [weight, bias]: [&[f32]; 2],
    silu: bool,
) -> Vec<f64> {
    let of_group = c / groups;
    let mut y = vec![0.0; x.len()];
    for (image, group) in (0..n).flat_map(|image| (0..groups).map(move |group| (image, group))) {
        let at = |i: usize| (image * s + i / of_group) * c + group * of_group + i % of_group;
        let values = || (0..s * of_group).map(|i| f64::from(x[at(i)]));
        let count = (s * of_group) as f64;
        let mean = values().sum::<f64>() / count;
        let variance = values().map(|v| (v - mean).powi(2)).sum::<f64>() / count;
        for (i, value) in values().enumerate() {
            let channel = at(i) % c;
            let value = (value - mean) / (variance + 1e-5).sqrt() * f64::from(weight[channel])
                + f64::from(bias[channel]);
            y[at(i)] = match silu {
                true => value / (1.0 + (-value).exp()),
                false => value,
            };
        }
    }
    y
}

fn values<B: Backend, const D: usize>(x: Tensor<B, D>) -> Vec<f32> {
    x.cast(DType::F32).into_data().to_vec().unwrap()
}

fn assert_exact<const D: usize>(tolerance: f64, ours: Tensor<TestBackend, D>, exact: &[f64]) {
    let ours = values(ours);
    assert_eq!(ours.len(), exact.len());
    let scale = exact.iter().fold(1e-3, |m: f64, x| m.max(x.abs()));
    for (i, (a, b)) in ours.iter().zip(exact).enumerate() {
        let off = (f64::from(*a) - b).abs() / scale;
        assert!(off <= tolerance, "element {i}: {a} instead of {b}");
    }
}

/// Those that the test's device computes with.
fn dtypes() -> impl Iterator<Item = (DType, f64)> {
    [(DType::F32, 1e-5), (DType::F16, 2e-3), (DType::BF16, 1e-2)]
        .into_iter()
        .filter(|(dtype, _)| TestBackend::supports_dtype(&Default::default(), *dtype))
}

/// Odd sizes, one channel in a group, one group wider than a GPU's cube, many chunks; far from zero, and at the end of what
/// f16 holds, where squares overflow.
#[test]
fn norms_in_f64() {
    for (dims, groups) in [
        ([2, 1, 8], 8),
        ([1, 7, 5], 5),
        ([3, 64, 6], 2),
        ([2, 33, 700], 1),
        ([2, 50, 40], 4),
        ([1, 3001, 24], 8),
        ([2, 20_000, 6], 3),
        ([2, 70, 1280], 32),
    ] {
        let c = dims[2];
        for (dtype, tolerance) in dtypes() {
            for (offset, scale) in [(0.0, 1.0), (1000.0, 1.0), (0.0, 30_000.0)] {
                // Rounded to dtype, so that the reference has the same inputs.
                let x = (data::<TestBackend, 3>(dims, 1) * scale + offset).cast(dtype);
                let [weight, bias] = [2, 3].map(|seed| data::<TestBackend, 1>([c], seed));
                let [weight, bias] = [weight.cast(dtype), bias.cast(dtype)];
                let parameters = [weight.clone(), bias.clone()].map(values);
                let parameters = [&parameters[0][..], &parameters[1][..]];
                // Half a unit in the last place of the mean is that much of a deviation.
                let tolerance = tolerance + if offset > 0.0 { 1e-4 } else { 0.0 };
                for silu in [false, true] {
                    let exact = normalised(&values(x.clone()), dims, groups, parameters, silu);
                    let y = group_norm(x.clone(), weight.clone(), bias.clone(), groups, 1e-5, silu);
                    assert_eq!(y.dtype(), dtype);
                    assert_exact(tolerance, y, &exact);
                }
                let rows = [dims[0] * dims[1], c];
                let exact = normalised(&values(x.clone()), [rows[0], 1, c], 1, parameters, false);
                let y = layer_norm(x.reshape(rows), weight, bias, 1e-5);
                assert_eq!(y.dtype(), dtype);
                // A few values may be alike by chance, and then their mean's rounding is all that is seen.
                if c >= 24 {
                    assert_exact(tolerance, y, &exact);
                }
            }
        }
    }
}

/// Part of the channels, part of the rows, swapped axes; weights in f32 beside values in half precision.
#[test]
fn norms_and_geglu_of_views() {
    fn run<B: Backend>(stored: DType, computed: DType) -> Vec<Vec<f32>> {
        let x = data::<B, 3>([4, 50, 256], 1).cast(stored).cast(computed);
        let views = [
            x.clone().narrow(2, 128, 128),
            x.clone().narrow(1, 8, 37),
            x.clone().swap_dims(0, 1),
            x.clone().swap_dims(1, 2).narrow(2, 10, 12),
            x.narrow(0, 1, 2),
        ];
        let results = views.into_iter().flat_map(|x| {
            let [n, _, c] = x.dims();
            let (weight, bias) = (data::<B, 1>([c], 2), data::<B, 1>([c], 3));
            let rows = x.clone().narrow(0, n - 1, 1).squeeze_dim::<2>(0);
            [
                values(geglu(x.clone())),
                values(layer_norm(rows, weight.clone(), bias.clone(), 1e-5)),
                values(group_norm(x, weight, bias, 4, 1e-5, true)),
            ]
        });
        results.collect()
    }
    for (dtype, tolerance) in dtypes() {
        let oracle = run::<Composed>(dtype, DType::F32);
        for (ours, oracle) in run::<TestBackend>(dtype, dtype).into_iter().zip(oracle) {
            let ours = Tensor::<TestBackend, 1>::from_floats(&ours[..], &Default::default());
            let oracle: Vec<f64> = oracle.into_iter().map(f64::from).collect();
            assert_exact(tolerance, ours, &oracle);
        }
    }
}

/// The Gaussian distribution by its series, and by its continued fraction in the tail.
fn gelu_f64(x: f64) -> f64 {
    let z = x.abs();
    let density = (-z * z / 2.0).exp() / (2.0 * std::f64::consts::PI).sqrt();
    let tail = if z < 3.0 {
        let (mut term, mut sum) = (z, z);
        for n in 1..100 {
            term *= z * z / f64::from(2 * n + 1);
            sum += term;
        }
        0.5 - density * sum
    } else {
        let fraction = (1..200).rev().fold(z, |below, n| z + f64::from(n) / below);
        density / fraction
    };
    x * if x > 0.0 { 1.0 - tail } else { tail }
}

#[test]
fn geglu_in_f64() {
    for dims in [[1, 40, 2], [3, 5, 14], [2, 300, 24], [1, 77, 2560]] {
        let c = dims[2] / 2;
        for (dtype, tolerance) in dtypes() {
            let x = (data::<TestBackend, 3>(dims, 7) * 6.0).cast(dtype);
            let inputs = values(x.clone());
            let exact: Vec<f64> = (0..dims[0] * dims[1] * c)
                .map(|i| {
                    let at = i / c * 2 * c + i % c;
                    f64::from(inputs[at]) * gelu_f64(f64::from(inputs[at + c]))
                })
                .collect();
            let tolerance = if dtype == DType::F32 { 1e-6 } else { tolerance };
            assert_exact(tolerance, geglu(x), &exact);
        }
    }
}

/// In turns, of a view, and in half precision.
#[test]
fn frame_convolutions_of_views() {
    fn run<B: Backend>(stored: DType, computed: DType) -> Vec<f32> {
        let x = data::<B, 4>([70, 5, 2, 24], 1).cast(stored).cast(computed);
        let weight = data::<B, 5>([7, 24, 3, 1, 1], 2).cast(stored);
        let bias = data::<B, 1>([7], 3).cast(stored);
        let x = x.swap_dims(0, 2);
        values(frame_conv(x, weight.cast(computed), bias.cast(computed)))
    }
    let budget = memory_budget();
    for turn in [budget, 20_000] {
        // It changes no result, also of the tests beside this one.
        set_memory_budget(turn);
        for (dtype, tolerance) in dtypes() {
            let oracle = run::<Composed>(dtype, DType::F32);
            let oracle: Vec<f64> = oracle.into_iter().map(f64::from).collect();
            let ours = run::<TestBackend>(dtype, dtype);
            let ours = Tensor::<TestBackend, 1>::from_floats(&ours[..], &Default::default());
            assert_exact(tolerance, ours, &oracle);
        }
    }
    set_memory_budget(budget);
}
