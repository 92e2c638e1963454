//! The operands' way to shared memory.

use burn_cubecl::cubecl;
use cubecl::prelude::{barrier::copy_async_checked, *};

use super::{
    super::matrix_units::WIDTH,
    form::{DEEP, Form, PITCH, X_LOADS},
};

/// What a unit fetches: in each row the same vector, of the next part of the operands.
#[derive(CubeType)]
pub(super) struct Reader {
    /// Where the first tap of a row of `x` lies (possibly before the tensor), and its place in the image; far outside if there
    /// is no such row.
    corners: Array<usize>,
    tops: Array<i32>,
    lefts: Array<i32>,
    /// Where a row of the weight begins.
    weights: Array<usize>,
    /// The tap and the first channel of the next part, and how far it lies from the first of `x` and of the weight.
    tap_y: RuntimeCell<i32>,
    tap_x: RuntimeCell<i32>,
    channel: RuntimeCell<usize>,
    of_x: RuntimeCell<usize>,
    of_weight: RuntimeCell<usize>,
    /// Parts that are not yet asked for.
    left: RuntimeCell<usize>,
    #[cube(comptime)]
    form: Form,
}

/// Sizes of the operands; pitches and channels in vectors.
#[derive(CubeType)]
pub(super) struct Sizes {
    pub(super) rows: usize,
    pub(super) h: usize,
    pub(super) w: usize,
    pub(super) area: usize,
    pub(super) ow: usize,
    pub(super) x_pitch: usize,
    pub(super) weight_pitch: usize,
    pub(super) channels: usize,
    pub(super) out: usize,
}

#[cube]
impl Reader {
    pub(super) fn new(
        sizes: &Sizes,
        first_row: usize,
        first_column: usize,
        turns: usize,
        #[comptime] form: Form,
    ) -> Reader {
        let part = UNIT_POS as usize % DEEP;
        let line = UNIT_POS as usize / DEEP;
        let taps = comptime!(form.kernel[0] * form.kernel[1]);
        let mut corners = Array::<usize>::new(X_LOADS);
        let mut tops = Array::<i32>::new(X_LOADS);
        let mut lefts = Array::<i32>::new(X_LOADS);
        #[unroll]
        for i in 0..X_LOADS {
            let row = first_row + line + i * comptime!(form.rows_at_once());
            let mut top = i32::new(0);
            if comptime!(form.plain()) {
                corners[i] = row * sizes.x_pitch + part;
                lefts[i] = i32::new(0);
            } else {
                let place = row % sizes.area;
                top = i32::cast_from(place / sizes.ow * comptime!(form.stride))
                    - i32::new(comptime!(form.padding[0] as i64));
                let left = i32::cast_from(place % sizes.ow * comptime!(form.stride))
                    - i32::new(comptime!(form.padding[1] as i64));
                lefts[i] = left;
                let image = row / sizes.area * sizes.h * sizes.w;
                let corner = image + usize::cast_from(top * i32::cast_from(sizes.w) + left);
                corners[i] = corner * sizes.x_pitch + part;
            }
            tops[i] = select(row < sizes.rows, top, i32::new(-1_000_000));
        }
        let mut weights = Array::<usize>::new(comptime!(form.weight_loads()));
        #[unroll]
        for i in 0..comptime!(form.weight_loads()) {
            let place = line + i * comptime!(form.rows_at_once());
            let mut column = first_column + place;
            let mut row = column;
            if comptime!(form.gated) {
                column = first_column + place / 16 * 8 + place % 8;
                row = column + place / 8 % 2 * sizes.out;
            }
            // What a row beyond the last gives is not written.
            let inside = place < comptime!(form.columns()) && column < sizes.out;
            let row = select(inside, row, 0usize.runtime());
            weights[i] = row * taps * sizes.weight_pitch + part;
        }
        Reader {
            corners,
            tops,
            lefts,
            weights,
            tap_y: RuntimeCell::new(i32::new(0)),
            tap_x: RuntimeCell::new(i32::new(0)),
            channel: RuntimeCell::new(0usize.runtime()),
            of_x: RuntimeCell::new(0usize.runtime()),
            of_weight: RuntimeCell::new(0usize.runtime()),
            left: RuntimeCell::new(turns),
            form,
        }
    }

    /// Asks for one of this unit's vectors of the next part; beyond the last part, for zeros.
    pub(super) fn ask<T: Float, N: Size>(
        &self,
        sizes: &Sizes,
        x: &Tensor<Vector<T, N>>,
        weight: &Tensor<Vector<T, N>>,
        shared: &mut SharedMemory<Vector<T, N>>,
        #[comptime] stage: usize,
        #[comptime] which: usize,
    ) {
        let form = comptime!(self.form);
        let part = UNIT_POS as usize % DEEP;
        let line = UNIT_POS as usize / DEEP;
        let mut inside = self.left.read() > 0 && self.channel.read() + part < sizes.channels;
        if comptime!(which < X_LOADS) {
            if comptime!(form.plain()) {
                inside = inside && self.tops[which] >= 0;
            } else {
                let above = self.tops[which] + self.tap_y.read();
                let beside = self.lefts[which] + self.tap_x.read();
                inside = inside && above >= 0 && above < i32::cast_from(sizes.h);
                inside = inside && beside >= 0 && beside < i32::cast_from(sizes.w);
            }
            let row = comptime!(which * form.rows_at_once());
            let at = (line + row) * PITCH + part + comptime!(stage * form.stage_size());
            copy(
                x,
                self.corners[which] + self.of_x.read(),
                inside,
                shared,
                at,
            );
        } else {
            let i = comptime!(which - X_LOADS);
            let row = comptime!(form.rows() + i * form.rows_at_once());
            let at = (line + row) * PITCH + part + comptime!(stage * form.stage_size());
            copy(
                weight,
                self.weights[i] + self.of_weight.read(),
                inside,
                shared,
                at,
            );
        }
    }

    /// Goes on to the next part.
    pub(super) fn advance(&self, sizes: &Sizes) {
        let form = comptime!(self.form);
        let mut left = self.left.read();
        left = select(left > 0, left - 1, 0usize.runtime());
        self.left.store(left);
        let mut channel = self.channel.read() + DEEP;
        if comptime!(!form.plain()) {
            let ends = channel >= sizes.channels;
            channel = select(ends, 0usize.runtime(), channel);
            let mut tap_x = self.tap_x.read() + i32::cast_from(ends);
            let row_ends = tap_x == i32::new(comptime!(form.kernel[1] as i64));
            tap_x = select(row_ends, i32::new(0), tap_x);
            let tap_y = self.tap_y.read() + i32::cast_from(row_ends);
            self.tap_x.store(tap_x);
            self.tap_y.store(tap_y);
            let x = usize::cast_from(tap_y * i32::cast_from(sizes.w) + tap_x);
            self.of_x.store(x * sizes.x_pitch + channel);
            let tap = usize::cast_from(tap_y * i32::new(comptime!(form.kernel[1] as i64)) + tap_x);
            self.of_weight.store(tap * sizes.weight_pitch + channel);
        } else {
            self.of_x.store(channel);
            self.of_weight.store(channel);
        }
        self.channel.store(channel);
    }
}

/// One vector on its way to shared memory; zeros unless it is `inside`.
#[cube]
fn copy<T: Float, N: Size>(
    from: &Tensor<Vector<T, N>>,
    place: usize,
    inside: bool,
    shared: &mut SharedMemory<Vector<T, N>>,
    at: usize,
) {
    let place = select(inside, place, 0usize.runtime());
    let length = usize::cast_from(inside);
    copy_async_checked(
        &from.slice(place, place + length),
        &mut shared.slice_mut(at, at + 1),
        WIDTH as u32,
    );
}
