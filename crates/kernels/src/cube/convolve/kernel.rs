use burn_cubecl::cubecl;
use cubecl::{
    cmma::MmaDefinition,
    ir::MatrixIdent,
    prelude::{barrier::Barrier, *},
};

use super::{
    super::{
        activation::gelu,
        matrix_units::{half, load, zeros},
    },
    form::{DEEP, DEPTH, Form, PITCH, PLANE_ROWS, STAGES, TILES, X_LOADS},
    reader::{Reader, Sizes},
};

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
