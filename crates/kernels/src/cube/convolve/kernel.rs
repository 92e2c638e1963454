use burn_cubecl::cubecl;
use cubecl::{
    cmma::MmaDefinition,
    ir::MatrixIdent,
    prelude::{
        barrier::{Barrier, copy_async_checked},
        *,
    },
};

use super::super::{
    activation::gelu,
    matrix_units::{LANES, WIDTH, half, load, zeros},
};

/// Output positions of a plane; of a cube are half as many times that as it has planes.
const PLANE_ROWS: usize = 64;
/// Positions of a plane's products.
const TILES: usize = PLANE_ROWS / 16;
/// Input channels that are in shared memory at a time.
const DEPTH: usize = 32;
/// Vectors of them.
const DEEP: usize = DEPTH / WIDTH;
/// Vectors of a row in shared memory, and one more: eight rows lie in different banks.
const PITCH: usize = DEEP + 1;
/// Parts of the operands in shared memory, of which one is multiplied while the others arrive.
const STAGES: usize = 4;
/// Rows of `x` of which each unit fetches a vector.
const X_LOADS: usize = PLANE_ROWS / 2 * DEEP / LANES;

/// What the kernel is compiled for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Form {
    pub(super) kernel: [usize; 2],
    pub(super) stride: usize,
    pub(super) padding: [usize; 2],
    /// Whether half of the channels are a gate.
    pub(super) gated: bool,
    pub(super) planes: usize,
    /// Products of a plane side by side, each of 8 columns.
    pub(super) blocks: usize,
}

impl Form {
    /// Positions of a cube.
    pub(super) fn rows(&self) -> usize {
        self.planes / 2 * PLANE_ROWS
    }

    /// Rows of the weight of a cube.
    fn columns(&self) -> usize {
        self.blocks * 16
    }

    /// Output channels of a cube.
    pub(super) fn results(&self) -> usize {
        if self.gated {
            self.columns() / 2
        } else {
            self.columns()
        }
    }

    /// Bytes.
    pub(super) fn shared_memory(&self) -> usize {
        let barriers = STAGES * 8;
        STAGES * self.stage_size() * WIDTH * 2 + barriers
    }

    /// Vectors of a part of the operands: rows of `x`, then of the weight, as many as all units fetch at once.
    fn stage_size(&self) -> usize {
        let rows = self.columns().next_multiple_of(self.rows_at_once());
        (self.rows() + rows) * PITCH
    }

    /// Rows of which the units fetch a part at once.
    fn rows_at_once(&self) -> usize {
        self.planes * LANES / DEEP
    }

    /// Rows of the weight of which each unit fetches a vector.
    fn weight_loads(&self) -> usize {
        self.columns().div_ceil(self.rows_at_once())
    }

    /// Parts of a sum over so many channels.
    pub(super) fn turns(&self, channels: usize) -> usize {
        channels.div_ceil(DEPTH) * self.kernel[0] * self.kernel[1]
    }

    /// Whether the patches are the rows of `x`.
    fn plain(&self) -> bool {
        self.kernel == [1; 2] && self.stride == 1 && self.padding == [0; 2]
    }
}

/// What a unit fetches: in each row the same vector, of the next part of the operands.
#[derive(CubeType)]
struct Reader {
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
struct Sizes {
    rows: usize,
    h: usize,
    w: usize,
    area: usize,
    ow: usize,
    x_pitch: usize,
    weight_pitch: usize,
    channels: usize,
    out: usize,
}

#[cube]
impl Reader {
    fn new(
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
    fn ask<T: Float, N: Size>(
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
    fn advance(&self, sizes: &Sizes) {
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

/// Cubes are `[block of positions, block of output channels]`, the latter next to each other, as they read the same part of
/// `x`. A plane has 64 positions and `8 · blocks` columns; its planes lie two by two. With a gate every other eight columns
/// are those of the gate, so that a unit has both factors of its results.
///
/// Everything is asked for [`STAGES`] − 1 turns before it is multiplied, a vector at a time between the products, which keeps
/// the matrix units busy meanwhile. For the same reason operands are loaded from shared memory one product ahead, across the
/// barrier between two turns, too.
#[cube(launch_unchecked, address_type = "dynamic")]
pub(super) fn convolve<T: Float, P: Float, N: Size>(
    x: &Tensor<Vector<T, N>>,
    weight: &Tensor<Vector<T, N>>,
    bias: &Tensor<Vector<P, Const<2>>>,
    residual: &Tensor<Vector<T, Const<2>>>,
    y: &mut Tensor<Vector<T, Const<2>>>,
    rows: usize,
    h: usize,
    w: usize,
    area: usize,
    ow: usize,
    x_pitch: usize,
    weight_pitch: usize,
    bias_rows: usize,
    adds: u32,
    across: usize,
    channels: usize,
    out: usize,
    #[comptime] form: Form,
    #[define(T, P)] _dtypes: [StorageType; 2],
) {
    let sizes = Sizes {
        rows,
        h,
        w,
        area,
        ow,
        x_pitch,
        weight_pitch,
        channels,
        out,
    };
    let turns = channels.div_ceil(DEEP) * comptime!(form.kernel[0] * form.kernel[1]);
    let lane = UNIT_POS_X as usize;
    let plane = UNIT_POS_Y as usize;
    let first_row = CUBE_POS_X as usize / across * comptime!(form.rows());
    let first_column = CUBE_POS_X as usize % across * comptime!(form.results());
    let plane_row = plane / 2 * PLANE_ROWS;
    let plane_column = plane % 2 * comptime!(form.blocks * 8);

    let mut shared = SharedMemory::<Vector<T, N>>::new(comptime!(STAGES * form.stage_size()));
    let product = MmaDefinition::<T, T, f32>::new(16usize, 8usize, 16usize);
    let mut full = Sequence::<Shared<Barrier>>::new();
    #[unroll]
    for _ in 0..STAGES {
        full.push(Barrier::shared(CUBE_DIM, UNIT_POS == 0));
    }
    let mut sums = Sequence::<Array<Vector<f32, Const<2>>>>::new();
    #[unroll]
    for _ in 0..comptime!(TILES * form.blocks) {
        sums.push(zeros());
    }

    let reader = Reader::new(&sizes, first_row, first_column, turns, form);
    let loads = comptime!(X_LOADS + form.weight_loads());
    #[unroll]
    for stage in 0..comptime!(STAGES - 1) {
        #[unroll]
        for which in 0..loads {
            reader.ask(&sizes, x, weight, &mut shared, stage, which);
        }
        full.index(stage).commit_copy_async();
        reader.advance(&sizes);
    }

    // Where this unit's row of the operands lies in a stage.
    let left = (plane_row + lane % 16) * PITCH + lane / 16;
    let right = (plane_column + lane % 8 + lane / 16 * 8) * PITCH
        + lane / 8 % 2
        + comptime!(form.rows() * PITCH);
    // The operands of a turn's first products.
    full.index(0usize).arrive_and_wait();
    let mut first_places = Sequence::<Array<Vector<T, Const<2>>>>::new();
    #[unroll]
    for tile in 0..TILES {
        let at = left + comptime!(tile * 16 * PITCH);
        first_places.push(load::<T, N>(&product, &shared, at, MatrixIdent::A, false));
    }
    let mut first_weight = load::<T, N>(&product, &shared, right, MatrixIdent::B, false);

    for round in 0..turns.div_ceil(STAGES) {
        #[unroll]
        for stage in 0..STAGES {
            if round * STAGES + stage < turns {
                let start = comptime!(stage * form.stage_size());
                let next = comptime!((stage + 1) % STAGES);
                let asked = comptime!((stage + STAGES - 1) % STAGES);
                let pairs = comptime!(form.blocks / 2);
                let products = comptime!(DEPTH / 16 * pairs);
                let mut places = Sequence::<Array<Vector<T, Const<2>>>>::new();
                let mut weights = Sequence::<Array<Vector<T, Const<2>>>>::new();
                #[unroll]
                for i in 0..products {
                    if comptime!(i + 1 < products) {
                        let (step, pair) = comptime!(((i + 1) / pairs, (i + 1) % pairs));
                        let at = right + comptime!(start + pair * 16 * PITCH + step * 2);
                        weights.push(load::<T, N>(&product, &shared, at, MatrixIdent::B, false));
                    }
                    if comptime!(i % pairs == 0 && i / pairs + 1 < DEPTH / 16) {
                        #[unroll]
                        for tile in 0..TILES {
                            let at =
                                left + comptime!(start + tile * 16 * PITCH + (i / pairs + 1) * 2);
                            places.push(load::<T, N>(&product, &shared, at, MatrixIdent::A, false));
                        }
                    }
                    // Nobody reads any longer what is overwritten: all have arrived at this turn.
                    #[unroll]
                    for which in
                        comptime!(i * loads / products)..comptime!((i + 1) * loads / products)
                    {
                        reader.ask(&sizes, x, weight, &mut shared, asked, which);
                    }
                    if comptime!(i + 1 == products) {
                        full.index(asked).commit_copy_async();
                        reader.advance(&sizes);
                        full.index(next).arrive_and_wait();
                    }
                    let (step, pair) = comptime!((i / pairs, i % pairs));
                    let mut one = half::<T>(&first_weight, 0usize);
                    let mut other = half::<T>(&first_weight, 2usize);
                    if comptime!(i > 0) {
                        let weight = weights.index(comptime!(i - 1));
                        keep(weight, 0usize, &mut one, 2usize);
                        keep(weight, 2usize, &mut other, 2usize);
                    }
                    if comptime!(i + 1 == products) {
                        // Of the next turn.
                        let start = comptime!(next * form.stage_size());
                        #[unroll]
                        for tile in 0..TILES {
                            let at = left + comptime!(start + tile * 16 * PITCH);
                            let place = load::<T, N>(&product, &shared, at, MatrixIdent::A, false);
                            keep(&place, 0usize, first_places.index_mut(tile), 4usize);
                        }
                        let at = right + start;
                        let weight = load::<T, N>(&product, &shared, at, MatrixIdent::B, false);
                        keep(&weight, 0usize, &mut first_weight, 4usize);
                    }
                    #[unroll]
                    for tile in 0..TILES {
                        let at = comptime!(tile * form.blocks + 2 * pair);
                        if comptime!(step == 0) {
                            let place = first_places.index(tile);
                            product.execute_inplace(place, &one, sums.index_mut(at));
                            product.execute_inplace(
                                place,
                                &other,
                                sums.index_mut(comptime!(at + 1)),
                            );
                        } else {
                            let place = places.index(comptime!((step - 1) * TILES + tile));
                            product.execute_inplace(place, &one, sums.index_mut(at));
                            product.execute_inplace(
                                place,
                                &other,
                                sums.index_mut(comptime!(at + 1)),
                            );
                        }
                    }
                }
            }
        }
    }

    // A unit's results are two rows of each tile. What is added to them is asked for while those before are written.
    let results = comptime!(form.results() / 16);
    let column = first_column + plane % 2 * comptime!(results * 8) + lane % 4 * 2;
    let mut added = Sequence::<Array<Vector<T, Const<2>>>>::new();
    #[unroll]
    for turn in 0..comptime!(2 * TILES + 1) {
        if comptime!(turn < 2 * TILES) {
            let row = first_row + plane_row + lane / 4 + comptime!(turn * 8);
            let mut values = Array::<Vector<T, Const<2>>>::new(results);
            nothing(&mut values, results);
            if adds > 0 && row < rows {
                line(residual, row * out, column, out, &mut values, results);
            }
            added.push(values);
        }
        if comptime!(turn > 0) {
            let row = first_row + plane_row + lane / 4 + comptime!((turn - 1) * 8);
            let (tile, half) = comptime!(((turn - 1) / 2, (turn - 1) % 2));
            let added = added.index(comptime!(turn - 1));
            let mut of_sum = Array::<Vector<P, Const<2>>>::new(results);
            let mut of_gate = Array::<Vector<P, Const<2>>>::new(results);
            nothing(&mut of_sum, results);
            nothing(&mut of_gate, results);
            if bias_rows > 0 && row < rows {
                let first = row / bias_rows * out * comptime!(if form.gated { 2 } else { 1 });
                line(bias, first, column, out, &mut of_sum, results);
                if comptime!(form.gated) {
                    line(bias, first + out, column, out, &mut of_gate, results);
                }
            }
            #[unroll]
            for block in 0..results {
                let at = comptime!(tile * form.blocks + if form.gated { 2 * block } else { block });
                let mut sum = sums.index(at)[half];
                sum += Vector::<f32, Const<2>>::cast_from(of_sum[block]);
                if comptime!(form.gated) {
                    let gate = sums.index(comptime!(at + 1))[half];
                    sum *= gelu(gate + Vector::<f32, Const<2>>::cast_from(of_gate[block]));
                }
                sum += Vector::<f32, Const<2>>::cast_from(added[block]);
                if row < rows && column + block * 8 < out {
                    y[(row * out + column) / 2 + comptime!(block * 4)] =
                        Vector::<T, Const<2>>::cast_from(sum);
                }
            }
        }
    }
}

/// Zeros for the columns of a row.
#[cube]
fn nothing<T: Float>(values: &mut Array<Vector<T, Const<2>>>, #[comptime] results: usize) {
    #[unroll]
    for block in 0..results {
        values[block] = Vector::<T, Const<2>>::new(T::new(0.0));
    }
}

/// What a tensor holds for the columns of a row of results. Those beyond the last are not written: they get those of the first.
#[cube]
fn line<T: Float>(
    from: &Tensor<Vector<T, Const<2>>>,
    first: usize,
    column: usize,
    out: usize,
    values: &mut Array<Vector<T, Const<2>>>,
    #[comptime] results: usize,
) {
    #[unroll]
    for block in 0..results {
        let column = column + comptime!(block * 8);
        values[block] = from[(first + select(column < out, column, 0usize.runtime())) / 2];
    }
}

/// Overwrites an operand with as many values of `new`.
#[cube]
fn keep<T: Float>(
    new: &Array<Vector<T, Const<2>>>,
    #[comptime] from: usize,
    old: &mut Array<Vector<T, Const<2>>>,
    #[comptime] values: usize,
) {
    #[unroll]
    for i in 0..values {
        old[i] = new[comptime!(from + i)];
    }
}
