//! Rates of the CPU kernels in shapes of the real model: `cargo xtask bench cpu [FILTER] [f32|bf16|f16]`.
//!
//! Prints the fewest processor milliseconds of some runs (all threads together: other programs disturb that least), the
//! rate that they make for one processor, and its ratio to that of a large matrix product of the `gemm` crate. A rate counts
//! the operations of the direct algorithm. Run it a second time with `I2VGEN_AMX=0` to see what is without a matrix unit.

use std::time::Instant;

use burn::{
    backend::Flex,
    tensor::{DType, Distribution, Tensor},
};
use i2vgen_kernels::*;

type T<const D: usize> = Tensor<Flex, D>;

fn random<const D: usize>(dims: [usize; D]) -> T<D> {
    let dtype = match std::env::args().nth(2).as_deref() {
        Some("bf16") => DType::BF16,
        Some("f16") => DType::F16,
        _ => DType::F32,
    };
    T::random(dims, Distribution::Uniform(-1.0, 1.0), &Default::default()).cast(dtype)
}

/// Processor seconds of this process, all threads together.
fn processor_seconds() -> f64 {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: the call writes one timespec.
    unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &mut time) };
    time.tv_sec as f64 + time.tv_nsec as f64 * 1e-9
}

/// The fewest processor seconds of some runs.
fn best(mut run: impl FnMut()) -> f64 {
    let mut best = f64::INFINITY;
    let limit = std::env::var("BENCH_SECONDS").map_or(1.0, |s| s.parse().unwrap_or(1.0));
    let begin = Instant::now();
    for i in 0.. {
        if i >= 3 && begin.elapsed().as_secs_f64() > limit {
            break;
        }
        let start = processor_seconds();
        run();
        best = best.min(processor_seconds() - start);
    }
    best
}

fn main() {
    let filter = std::env::args().nth(1).unwrap_or_default();
    let [a, b] = [(); 2].map(|()| random([2048, 2048]).cast(DType::F32));
    let peak = 2.0 * 2048f64.powi(3)
        / best(|| {
            a.clone().matmul(b.clone());
        });
    println!("plain matrix product: {:.0} GFLOP/s", peak / 1e9);
    println!("{:44}{:>10}{:>10}{:>8}", "", "CPU ms", "GFLOP/s", "ratio");
    let left_out = |name: &str| !name.contains(&filter);
    let report = |name: String, flops: usize, run: &mut dyn FnMut()| {
        let seconds = best(run);
        let rate = flops as f64 / seconds;
        let (ms, giga) = (seconds * 1e3, rate / 1e9);
        println!("{name:44}{ms:10.2}{giga:10.0}{:8.2}", rate / peak);
    };
    for [m, k, n] in [
        [8192, 320, 320],
        [8192, 320, 2560],
        [8192, 1280, 320],
        [2048, 640, 640],
        [2048, 640, 5120],
        [2048, 2560, 640],
        [512, 1280, 1280],
        [512, 1280, 10240],
        [512, 5120, 1280],
        [128, 1280, 10240],
        [77, 1024, 1024],
        [77, 1024, 4096],
        [77, 4096, 1024],
        [154, 1024, 1024],
        [154, 1024, 4096],
        [154, 4096, 1024],
        [257, 1280, 5120],
    ] {
        let name = format!("linear {m}x{k}x{n}");
        if left_out(&name) {
            continue;
        }
        let (x, w, bias) = (random([m, k]), random([n, k]), random([n]));
        report(name, 2 * m * k * n, &mut || {
            linear(x.clone(), w.clone(), Some(bias.clone()));
        });
    }
    for [n, c, out, size, stride] in [
        [8, 320, 320, 32, 1],
        [8, 960, 320, 32, 1],
        [8, 640, 640, 16, 1],
        [8, 1280, 1280, 8, 1],
        [8, 2560, 1280, 8, 1],
        [8, 1280, 1280, 4, 1],
        [8, 320, 320, 32, 2],
        [8, 8, 320, 32, 1],
        [16, 8, 320, 32, 1],
        [8, 320, 4, 32, 1],
        [1, 4, 512, 64, 1],
        [1, 512, 512, 64, 1],
        [1, 512, 512, 128, 1],
        [1, 256, 256, 256, 1],
        [1, 128, 128, 512, 1],
        [1, 128, 3, 512, 1],
    ] {
        let name = format!("conv {n}x{size}x{size} {c} to {out} stride {stride}");
        if left_out(&name) {
            continue;
        }
        let x = random([n, size, size, c]);
        // As the loader stores it.
        let w = random([out, 3, 3, c]).permute([0, 3, 1, 2]);
        let bias = random([1, out]);
        let flops = 2 * n * (size / stride).pow(2) * c * out * 9;
        report(name, flops, &mut || {
            conv2d(
                x.clone(),
                w.clone(),
                Some(bias.clone()),
                stride,
                Padding::same(1),
            );
        });
    }
    // The VAE's three upsamplers and the UNet's, with 8 frames and guidance at 256x256.
    for [n, c, size] in [
        [1, 512, 64],
        [1, 512, 128],
        [1, 256, 256],
        [16, 1280, 4],
        [16, 1280, 8],
        [16, 640, 16],
    ] {
        let name = format!("upsample {n}x{size}x{size} {c}");
        if left_out(&name) {
            continue;
        }
        let x = random([n, size, size, c]);
        let w = random([c, 3, 3, c]).permute([0, 3, 1, 2]);
        let bias = random([c]);
        let flops = 2 * n * (2 * size).pow(2) * c * c * 9;
        report(format!("{name} in two steps"), flops, &mut || {
            let x = nearest_resize(x.clone(), 2 * size, 2 * size);
            let bias = bias.clone().unsqueeze();
            conv2d(x, w.clone(), Some(bias), 1, Padding::same(1));
        });
        report(format!("{name} and conv"), flops, &mut || {
            upsample_conv2d(x.clone(), w.clone(), Some(bias.clone()));
        });
    }
    for [b, f, s, c] in [
        [2, 4, 1024, 320],
        [2, 4, 256, 640],
        [2, 4, 64, 1280],
        [2, 4, 16, 1280],
        [2, 16, 1024, 320],
    ] {
        let name = format!("frame_conv {b}x{f}x{s} {c}");
        if left_out(&name) {
            continue;
        }
        let x = random([b, f, s, c]);
        let w = random([c, 3, 1, 1, c]).permute([0, 4, 1, 2, 3]);
        let bias = random([c]);
        report(name, 2 * b * f * s * c * c * 3, &mut || {
            frame_conv(x.clone(), w.clone(), bias.clone());
        });
    }
    for [b, n, m, heads, d] in [
        [8, 1024, 1024, 5, 64],
        [8, 256, 256, 10, 64],
        [2, 4096, 145, 5, 64],
        [1, 4096, 4096, 1, 512],
        [1, 257, 257, 16, 80],
    ] {
        let name = format!("attention {b}x{n}x{m} {heads} heads of {d}");
        if left_out(&name) {
            continue;
        }
        let (q, k) = (random([b, n, heads * d]), random([b, m, heads * d]));
        report(name, 4 * b * n * m * heads * d, &mut || {
            attention(q.clone(), k.clone(), k.clone(), heads, Mask::None);
        });
    }
    for [b, f, s, heads] in [[2, 4, 1024, 5], [2, 4, 1024, 8], [2, 16, 1024, 5]] {
        let name = format!("frame_attention {b}x{f}x{s} {heads} heads of 64");
        if left_out(&name) {
            continue;
        }
        let x = random([b, f, s, heads * 64]);
        report(name, 4 * b * f * f * s * heads * 64, &mut || {
            frame_attention(x.clone(), x.clone(), x.clone(), heads);
        });
    }
    // Bound by memory: an operation is an element read or written.
    for [n, s, c] in [[8, 1024, 320], [2, 4096, 320], [1, 512 * 512, 128]] {
        let name = format!("memory: {n}x{s} {c}");
        if left_out(&name) {
            continue;
        }
        let (x, w) = (random([n, s, c]), random([c]));
        report(
            format!("{name} group_norm_silu"),
            2 * n * s * c,
            &mut || {
                group_norm(x.clone(), w.clone(), w.clone(), 32, 1e-5, true);
            },
        );
        report(format!("{name} add"), 3 * n * s * c, &mut || {
            add(x.clone(), x.clone());
        });
        let x = x.reshape([n * s, c]);
        report(format!("{name} layer_norm"), 2 * n * s * c, &mut || {
            layer_norm(x.clone(), w.clone(), w.clone(), 1e-5);
        });
        let x = x.reshape([1, n * s / 8, 8 * c]);
        report(format!("{name} geglu"), 3 * n * s * c / 2, &mut || {
            geglu(x.clone());
        });
    }
}
