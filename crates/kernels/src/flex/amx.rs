//! Products on the matrix unit of recent Intel processors (AMX), which multiplies bf16 and sums in f32.
//!
//! An f32 has 24 significant bits, a bf16 eight: every f32 is split exactly in three bf16 (`high + middle + low`), an f16 in
//! two, and of the nine products of two such sums the six that are not below f32's own rounding are taken. What is left are
//! the roundings of the f32 sums, six times as many; six tile products still take less than half the time of one in AVX-512.
//!
//! The left matrix is never built: a closure fills in a part of a row, so a convolution gathers its patches straight into
//! the packed tiles.

mod pack;

use std::{
    arch::{asm, x86_64::*},
    sync::OnceLock,
};

use rayon::prelude::*;

pub(super) use pack::Value;
use pack::{pack_columns, pack_rows};

/// Rows and columns of the block of the result that stays in the tile registers: 2 × 2 tiles of 16.
const PANEL: usize = 32;
/// Depth of one tile product.
const STEP: usize = 32;
/// bf16 numbers of one part of one step of a packed panel: two tiles of 16 × 32.
const PART: usize = 2 * 16 * STEP;
/// Parts of steps that are packed at once: a panel of them takes 120 KiB.
const PARTS: usize = 60;
/// Rows of the result that one task computes; its packed rows take 960 KiB of the second-level cache.
const ROWS: usize = 256;
/// Columns that are packed at once for all tasks, in at most 7.5 MiB.
const COLUMNS: usize = 2048;
/// Up to so many rows fit, packed, in the second-level cache together with a panel of columns.
const FEW_ROWS: usize = 320;

/// Whether the processor has the unit and the system lets this process use it. `I2VGEN_AMX=0` turns it off.
pub(super) fn available() -> bool {
    static AVAILABLE: OnceLock<bool> = OnceLock::new();
    *AVAILABLE.get_or_init(|| {
        let wanted = std::env::var_os("I2VGEN_AMX").is_none_or(|value| value != "0");
        wanted && supported() && permitted()
    })
}

fn supported() -> bool {
    const BF16_AND_TILE: u32 = 1 << 22 | 1 << 24;
    // Both checks read cpuid only.
    let edx = __cpuid_count(7, 0).edx;
    is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512bf16")
        && edx & BF16_AND_TILE == BF16_AND_TILE
}

/// Linux enlarges the register state of a process only when asked (`arch_prctl(ARCH_REQ_XCOMP_PERM, XTILEDATA)`).
#[cfg(target_os = "linux")]
fn permitted() -> bool {
    let result: isize;
    // SAFETY: the system call takes two numbers and touches no memory of ours.
    unsafe {
        asm!("syscall", inlateout("rax") 158_isize => result, in("rdi") 0x1023, in("rsi") 18,
            lateout("rcx") _, lateout("r11") _, options(nostack));
    }
    result == 0
}

#[cfg(not(target_os = "linux"))]
fn permitted() -> bool {
    false
}

/// `y += rows · weightᵀ` for `m` rows of length `k` and a weight `[n, k]`; `rows(i, start, part)` fills `part` with row
/// `i` from column `start` on.
///
/// Only call it when [`available`]; rows of bf16 go with a weight of bf16.
pub(super) fn product<X: Value, W: Value>(
    [m, k, n]: [usize; 3],
    y: &mut [f32],
    rows: &(dyn Fn(usize, usize, &mut [X]) + Sync),
    weight: &[W],
) {
    assert!(available() && y.len() == m * n && weight.len() == n * k && W::PARTS <= X::PARTS);
    if m * k * n == 0 {
        return;
    }
    let steps = k.div_ceil(STEP);
    let steps = steps.div_ceil(steps.div_ceil(PARTS / X::PARTS));
    if m <= FEW_ROWS {
        return few_rows([m, k, n], steps, y, rows, weight);
    }
    // Few blocks: the tasks of a block of rows share out its columns.
    let blocks = m.div_ceil(ROWS.min(m.div_ceil(2).next_multiple_of(PANEL)));
    let height = m.div_ceil(blocks).next_multiple_of(PANEL);
    let blocks = m.div_ceil(height);
    let output = Output(y.as_mut_ptr());
    let output = &output;
    let mut packed = super::zeros(n.min(COLUMNS).div_ceil(PANEL) * steps * W::PARTS * PART);
    for column in (0..n).step_by(COLUMNS) {
        let panels = COLUMNS.min(n - column).div_ceil(PANEL);
        let shares = rayon::current_num_threads().div_ceil(blocks).min(panels);
        let share = panels.div_ceil(shares);
        for start in (0..k).step_by(steps * STEP) {
            let depth = (k - start).min(steps * STEP);
            let panel = |parts: usize| depth.div_ceil(STEP) * parts * PART;
            let (panel_left, panel) = (panel(X::PARTS), panel(W::PARTS));
            let low = packed[..panels * panel]
                .par_chunks_mut(panel)
                .enumerate()
                .map(|(i, packed)| {
                    let first = column + i * PANEL;
                    let columns = &weight[first * k..n.min(first + PANEL) * k];
                    // SAFETY: `available` has found the instructions.
                    unsafe { pack_columns(packed, columns, k, start, depth) }
                })
                .reduce(|| false, |a, b| a | b);
            let packed = &packed[..panels * panel];
            (0..blocks * shares).into_par_iter().for_each(|task| {
                let top = task / shares * height;
                let count = height.min(m - top);
                let fill = |i: usize, part: &mut [X]| rows(top + i, start, part);
                // SAFETY: as above.
                let left = unsafe { pack_rows(count, depth, &fill) };
                let _tiles = Tiles::new();
                let first = task % shares * share;
                for i in first..panels.min(first + share) {
                    let right = &packed[i * panel..(i + 1) * panel];
                    let column = column + i * PANEL;
                    for (j, left) in left.chunks_exact(panel_left).enumerate() {
                        let row = top + j * PANEL;
                        // SAFETY: the block lies within `y`, no other task has it (blocks of rows and shares of columns
                        // are disjoint), and this thread's tiles are configured.
                        unsafe {
                            let corner = output.0.add(row * n + column);
                            let rest = [m - row, n - column];
                            multiply_edge::<X, W>(left, right, low, corner, n, rest);
                        }
                    }
                }
            });
        }
    }
}

/// The same for few rows, where most of the time goes to reading and packing the weight: every task packs a panel of it and
/// uses it at once, while it is in its cache, and fetches the next one meanwhile.
fn few_rows<X: Value, W: Value>(
    [m, k, n]: [usize; 3],
    steps: usize,
    y: &mut [f32],
    rows: &(dyn Fn(usize, usize, &mut [X]) + Sync),
    weight: &[W],
) {
    let output = Output(y.as_mut_ptr());
    let output = &output;
    let blocks = m.div_ceil(PANEL);
    let panels = n.div_ceil(PANEL);
    // Some panels a task, so that configuring the tiles does not count, but enough tasks for all threads.
    let share = panels.div_ceil(8 * rayon::current_num_threads()).min(16);
    for start in (0..k).step_by(steps * STEP) {
        let depth = (k - start).min(steps * STEP);
        let left: Vec<Vec<u16>> = (0..blocks)
            .into_par_iter()
            .map(|block| {
                let top = block * PANEL;
                let fill = |i: usize, part: &mut [X]| rows(top + i, start, part);
                // SAFETY: `available` has found the instructions.
                unsafe { pack_rows(PANEL.min(m - top), depth, &fill) }
            })
            .collect();
        (0..panels.div_ceil(share))
            .into_par_iter()
            .for_each(|task| {
                let mut right = vec![0; depth.div_ceil(STEP) * W::PARTS * PART];
                let _tiles = Tiles::new();
                for column in (task * share..panels.min((task + 1) * share)).map(|i| i * PANEL) {
                    let columns = &weight[column * k..n.min(column + PANEL) * k];
                    // SAFETY: as above.
                    let low = unsafe { pack_columns(&mut right, columns, k, start, depth) };
                    for (j, left) in left.iter().enumerate() {
                        let next = column + PANEL + j * PANEL / blocks
                            ..column + PANEL + (j + 1) * PANEL / blocks;
                        for line in next.take_while(|line| *line < n) {
                            prefetch(&weight[line * k + start..][..depth]);
                        }
                        let row = j * PANEL;
                        // SAFETY: the block lies within `y`, no other task has these columns, and this thread's tiles are
                        // configured.
                        unsafe {
                            let corner = output.0.add(row * n + column);
                            let rest = [m - row, n - column];
                            multiply_edge::<X, W>(left, &right, low, corner, n, rest);
                        }
                    }
                }
            });
    }
}

/// Asks for the values to be brought to the second-level cache.
fn prefetch<W>(values: &[W]) {
    for line in values.chunks(64 / size_of::<W>()) {
        // SAFETY: a hint about our own memory.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(line.as_ptr().cast()) };
    }
}

/// The result, of which every task writes its own part.
struct Output(*mut f32);

// SAFETY: the tasks write disjoint parts.
unsafe impl Sync for Output {}

/// This thread's eight tiles, all of 16 rows of 64 bytes, until dropped.
struct Tiles;

impl Tiles {
    fn new() -> Self {
        #[repr(C, align(64))]
        struct Config([u8; 64]);
        let mut config = Config([0; 64]);
        config.0[0] = 1;
        for tile in 0..8 {
            config.0[16 + 2 * tile] = 64;
            config.0[48 + tile] = 16;
        }
        // SAFETY: only reached when the unit is available; the configuration is valid.
        unsafe { asm!("ldtilecfg [{}]", in(reg) &config, options(nostack, readonly)) };
        Self
    }
}

impl Drop for Tiles {
    fn drop(&mut self) {
        // SAFETY: only reached when the unit is available; nothing uses the tiles any more.
        unsafe { asm!("tilerelease", options(nostack, nomem)) };
    }
}

/// `multiply`, through a copy where the block leaves the `[rows, columns]` that are left.
///
/// # Safety
/// As [`multiply`], within what is left.
unsafe fn multiply_edge<X: Value, W: Value>(
    left: &[u16],
    right: &[u16],
    low: bool,
    y: *mut f32,
    stride: usize,
    [rows, columns]: [usize; 2],
) {
    if rows >= PANEL && columns >= PANEL {
        // SAFETY: the whole block is there.
        return unsafe { multiply::<X, W>(left, right, low, y, stride) };
    }
    let (rows, columns) = (rows.min(PANEL), columns.min(PANEL));
    let mut block = [0.0; PANEL * PANEL];
    // SAFETY: only what is left of `y` is read and written.
    unsafe {
        for i in 0..rows {
            let line = std::slice::from_raw_parts(y.add(i * stride), columns);
            block[i * PANEL..][..columns].copy_from_slice(line);
        }
        multiply::<X, W>(left, right, low, block.as_mut_ptr(), PANEL);
        for i in 0..rows {
            let line = std::slice::from_raw_parts_mut(y.add(i * stride), columns);
            line.copy_from_slice(&block[i * PANEL..][..columns]);
        }
    }
}

/// `y += left · right` for a block of 32 × 32 with lines `stride` apart and packed panels of the same depth.
///
/// # Safety
/// The tiles are configured and the block may be read and written; where `!low`, all low parts of `right` are zero.
unsafe fn multiply<X: Value, W: Value>(
    left: &[u16],
    right: &[u16],
    low: bool,
    y: *mut f32,
    stride: usize,
) {
    let steps = left.len() / (X::PARTS * PART);
    assert!(steps > 0 && left.len() == steps * X::PARTS * PART);
    assert!(right.len() == steps * W::PARTS * PART);
    // Of every step, the parts are at 0 (high), 2048 (middle) and 4096 (low). From one pair of parts to the next only one
    // side changes: first come the products with the right side's lower parts, then with its high one.
    macro_rules! products {
        ([$($lower:literal),*], [$($high:literal),*]) => {
            asm!(
                "tileloadd tmm0, [{y} + {stride}*1]",
                "tileloadd tmm1, [{y} + {stride}*1 + 64]",
                "tileloadd tmm2, [{z} + {stride}*1]",
                "tileloadd tmm3, [{z} + {stride}*1 + 64]",
                "2:",
                $($lower,)*
                "tileloadd tmm6, [{b} + {line}*1]",
                "tdpbf16ps tmm0, tmm4, tmm6",
                "tdpbf16ps tmm2, tmm5, tmm6",
                "tileloadd tmm7, [{b} + {line}*1 + 1024]",
                "tdpbf16ps tmm1, tmm4, tmm7",
                "tdpbf16ps tmm3, tmm5, tmm7",
                $($high,)*
                "add {a}, {left}",
                "add {b}, {right}",
                "dec {steps}",
                "jnz 2b",
                "tilestored [{y} + {stride}*1], tmm0",
                "tilestored [{y} + {stride}*1 + 64], tmm1",
                "tilestored [{z} + {stride}*1], tmm2",
                "tilestored [{z} + {stride}*1 + 64], tmm3",
                y = in(reg) y,
                z = in(reg) y.wrapping_add(16 * stride),
                stride = in(reg) stride * size_of::<f32>(),
                a = inout(reg) left.as_ptr() => _,
                b = inout(reg) right.as_ptr() => _,
                line = in(reg) 64_usize,
                steps = inout(reg) steps => _,
                left = in(reg) 2 * X::PARTS * PART,
                right = in(reg) 2 * W::PARTS * PART,
                options(nostack),
            )
        };
    }
    // With the left side's middle part in the tiles: its other two.
    macro_rules! three {
        ($($lower:literal),*) => {
            products!([$($lower),*], [
                "tileloadd tmm4, [{a} + {line}*1]",
                "tdpbf16ps tmm0, tmm4, tmm6",
                "tdpbf16ps tmm1, tmm4, tmm7",
                "tileloadd tmm5, [{a} + {line}*1 + 1024]",
                "tdpbf16ps tmm2, tmm5, tmm6",
                "tdpbf16ps tmm3, tmm5, tmm7",
                "tileloadd tmm4, [{a} + {line}*1 + 4096]",
                "tdpbf16ps tmm0, tmm4, tmm6",
                "tdpbf16ps tmm1, tmm4, tmm7",
                "tileloadd tmm5, [{a} + {line}*1 + 5120]",
                "tdpbf16ps tmm2, tmm5, tmm6",
                "tdpbf16ps tmm3, tmm5, tmm7"
            ])
        };
    }
    macro_rules! three_and_middle {
        ($($low:literal),*) => {
            three!(
                "tileloadd tmm4, [{a} + {line}*1]",
                "tileloadd tmm5, [{a} + {line}*1 + 1024]",
                $($low,)*
                "tileloadd tmm6, [{b} + {line}*1 + 2048]",
                "tdpbf16ps tmm0, tmm4, tmm6",
                "tdpbf16ps tmm2, tmm5, tmm6",
                "tileloadd tmm7, [{b} + {line}*1 + 3072]",
                "tdpbf16ps tmm1, tmm4, tmm7",
                "tdpbf16ps tmm3, tmm5, tmm7",
                "tileloadd tmm4, [{a} + {line}*1 + 2048]",
                "tdpbf16ps tmm0, tmm4, tmm6",
                "tdpbf16ps tmm1, tmm4, tmm7",
                "tileloadd tmm5, [{a} + {line}*1 + 3072]",
                "tdpbf16ps tmm2, tmm5, tmm6",
                "tdpbf16ps tmm3, tmm5, tmm7"
            )
        };
    }
    // SAFETY: the caller's, and the panels are as long as the steps say.
    unsafe {
        match (X::PARTS, W::PARTS) {
            (1, 1) => products!(
                [
                    "tileloadd tmm4, [{a} + {line}*1]",
                    "tileloadd tmm5, [{a} + {line}*1 + 1024]"
                ],
                []
            ),
            (3, 2) => three_and_middle!(),
            (3, 3) if !low => three_and_middle!(),
            (3, 3) => three_and_middle!(
                "tileloadd tmm6, [{b} + {line}*1 + 4096]",
                "tdpbf16ps tmm0, tmm4, tmm6",
                "tdpbf16ps tmm2, tmm5, tmm6",
                "tileloadd tmm7, [{b} + {line}*1 + 5120]",
                "tdpbf16ps tmm1, tmm4, tmm7",
                "tdpbf16ps tmm3, tmm5, tmm7"
            ),
            (3, 1) => three!(
                "tileloadd tmm4, [{a} + {line}*1 + 2048]",
                "tileloadd tmm5, [{a} + {line}*1 + 3072]"
            ),
            (left, right) => unreachable!("{left} parts with {right}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::{bf16, f16};

    use super::Value;

    /// Against f64, in sizes beside and beyond every block size.
    fn accurate<X: Value + Into<f64>, W: Value + Into<f64>>(x: fn(f32) -> X, w: fn(f32) -> W) {
        if !super::available() {
            return;
        }
        let mut state = 1_u32;
        let mut random = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / (1 << 23) as f32 - 1.0
        };
        let sizes = [
            [1, 1, 1],
            [33, 65, 31],
            [32, 32, 32],
            [300, 700, 70],
            [400, 700, 70],
            [40, 2000, 33],
            [40, 33, 2100],
            [330, 33, 2100],
        ];
        for [m, k, n] in sizes {
            let x: Vec<X> = (0..m * k).map(|_| x(random())).collect();
            let w: Vec<W> = (0..n * k).map(|_| w(random())).collect();
            let mut y: Vec<f32> = (0..m * n).map(|_| random()).collect();
            let exact: Vec<f64> = (0..m * n)
                .map(|i| {
                    let (x, w) = (&x[i / n * k..][..k], &w[i % n * k..][..k]);
                    let products = x.iter().zip(w).map(|(x, w)| (*x).into() * (*w).into());
                    products.sum::<f64>() + f64::from(y[i])
                })
                .collect();
            let rows = |i: usize, start: usize, part: &mut [X]| {
                part.copy_from_slice(&x[i * k + start..][..part.len()]);
            };
            super::product([m, k, n], &mut y, &rows, &w);
            let off = y.iter().zip(&exact).map(|(y, e)| (f64::from(*y) - e).abs());
            let worst = off.fold(0.0, f64::max);
            println!("{m}x{k}x{n}: {worst:e}");
            assert!(worst < 1e-6 * (k as f64).sqrt(), "{m}x{k}x{n}: {worst:e}");
        }
    }

    #[test]
    fn f32_by_every_weight() {
        accurate(|x| x, |w| w);
        accurate(|x| x, |w| f16::from_f32(w).to_f32());
        accurate(|x| x, f16::from_f32);
        accurate(|x| x, bf16::from_f32);
    }

    #[test]
    fn bf16_by_bf16() {
        accurate(bf16::from_f32, bf16::from_f32);
    }
}
