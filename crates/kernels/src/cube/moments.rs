//! Mean and squared deviations of many values, without the cancellation of `E[x²] − E[x]²`.
//!
//! Each unit follows Welford (1962), units are merged with the formula of Chan, Golub & LeVeque (1979). A part is three
//! values: how many, their mean, the sum of their squared deviations from it. In the shared memory of `units` units they lie
//! in three runs of that length.

use burn_cubecl::cubecl;
use cubecl::prelude::*;

/// Stores what one unit has seen: `count` values in each of the `N` lanes.
#[cube]
pub(super) fn store<N: Size>(
    shared: &mut SharedMemory<f32>,
    slot: usize,
    count: f32,
    mean: Vector<f32, N>,
    squares: Vector<f32, N>,
    #[comptime] units: usize,
) {
    let lanes = mean.size();
    let mut total = f32::new(0.0);
    #[unroll]
    for i in 0..lanes {
        total += mean[i];
    }
    let lanes_f32 = f32::new(comptime!(lanes as f32));
    let centre = total / lanes_f32;
    let mut sum = f32::new(0.0);
    #[unroll]
    for i in 0..lanes {
        let off = mean[i] - centre;
        sum += squares[i] + off * off * count;
    }
    shared[slot] = count * lanes_f32;
    shared[units + slot] = centre;
    shared[2 * units + slot] = sum;
}

/// Merges the `len` slots from `first` on into the first of them. All units of the cube call it, each of those that own the
/// slots with its own `position` among them.
#[cube]
pub(super) fn merge_all(
    shared: &mut SharedMemory<f32>,
    first: usize,
    position: usize,
    #[comptime] len: usize,
    #[comptime] units: usize,
) {
    sync_cube();
    let mut left = len.runtime();
    while left > 1 {
        let half = left.div_ceil(2);
        if position + half < left {
            merge(shared, first + position, first + position + half, units);
        }
        sync_cube();
        left = half;
    }
}

/// Adds part `b` to part `a`.
#[cube]
fn merge(shared: &mut SharedMemory<f32>, a: usize, b: usize, #[comptime] units: usize) {
    let before = shared[a];
    let added = shared[b];
    let count = before + added;
    let delta = shared[units + b] - shared[units + a];
    let share = added / max(count, f32::new(1.0));
    let squares = shared[2 * units + a] + shared[2 * units + b] + delta * delta * before * share;
    shared[a] = count;
    shared[units + a] += delta * share;
    shared[2 * units + a] = squares;
}

/// `1 / √(variance + eps)` of the part in `slot`.
#[cube]
pub(super) fn reciprocal_deviation(
    shared: &SharedMemory<f32>,
    slot: usize,
    eps: f32,
    #[comptime] units: usize,
) -> f32 {
    let variance = shared[2 * units + slot] / shared[slot];
    f32::new(1.0) / (variance + eps).sqrt()
}
