mod warpgroup;

use burn::tensor::Shape;
use burn_cubecl::{CubeRuntime, cubecl, tensor::CubeTensor};
use cubecl::{
    cmma::MmaDefinition,
    ir::MatrixIdent,
    prelude::{
        barrier::{Barrier, copy_async_checked},
        *,
    },
};

use self::warpgroup::Warpgroups;
use super::{
    cuda,
    matrix_units::{LANES, PLANES, ROWS, UNITS, WIDTH, half, load, zeros},
    tensors::{addresses, empty, in_lines},
};

/// Keys that are in shared memory at a time.
const KEYS: usize = 64;
/// Runs of keys and values in shared memory, of which one is worked on while the others arrive.
const STAGES: usize = 2;
/// Channels of a head, at most: shared memory and registers hold them all.
const MOST_CHANNELS: usize = 128;

/// Whether the kernel is made for heads of so many channels.
pub(super) fn takes(channels: usize) -> bool {
    channels.is_multiple_of(16) && channels <= MOST_CHANNELS
}

/// Attention of every query to all keys without a matrix of scores (Dao, FlashAttention-2, 2023): scores of 64 keys at a time
/// lie in the registers of the matrix units, in f32; running maximum and sum rescale what has been added up so far. With
/// `warpgroups` by the kernel for devices that have them, where it takes the sizes.
///
/// # Shapes
/// `q [b, n, heads·d]`, `k` and `v` `[b, m, heads·d]` in half precision → `[b, n, heads·d]`
pub(super) fn attention<R: CubeRuntime>(
    q: CubeTensor<R>,
    k: CubeTensor<R>,
    v: CubeTensor<R>,
    heads: usize,
    warpgroups: bool,
) -> CubeTensor<R> {
    let (q, q_strides) = in_lines(q, WIDTH);
    let (k, k_strides) = in_lines(k, WIDTH);
    let (v, v_strides) = in_lines(v, WIDTH);
    let (b, n, c) = (q.meta.shape()[0], q.meta.shape()[1], q.meta.shape()[2]);
    let m = k.meta.shape()[1];
    let d = c / heads;
    // Twice the queries for the same keys, if the registers hold them and there are enough.
    let tiles = match d <= 64 && n > 2 * ROWS * PLANES {
        true => 2,
        false => 1,
    };
    let y = empty(&q, Shape::new([b, n, c]), q.dtype);
    let client = q.client.clone();
    // Powers of two cost less than those of e.
    let scale = std::f32::consts::LOG2_E / (d as f32).sqrt();
    if warpgroups && d == warpgroup::CHANNELS && n >= warpgroup::QUERIES {
        let kernel = Warpgroups::new(m, q.dtype);
        let blocks = n.div_ceil(warpgroup::QUERIES) as u32;
        let cubes = CubeCount::Static(blocks, heads as u32, b as u32);
        let numbers = [
            n,
            m,
            q_strides[0],
            q_strides[1],
            k_strides[0],
            k_strides[1],
            v_strides[0],
            v_strides[1],
            heads,
            scale.to_bits() as usize,
        ];
        let tensors = [q, k, v, y.clone()];
        // SAFETY: rows beyond the last query or key are neither read nor written.
        unsafe { cuda::launch(kernel, cubes, tensors, numbers, &client) };
        return y;
    }
    let cubes = CubeCount::Static(
        n.div_ceil(ROWS * PLANES * tiles) as u32,
        heads as u32,
        b as u32,
    );
    // SAFETY: rows beyond the last query or key are neither read nor written; the channels of a head are whole vectors.
    unsafe {
        attend::launch_unchecked(
            &client,
            cubes,
            CubeDim::new_2d(LANES as u32, PLANES as u32),
            addresses(&[&q, &k, &v]),
            WIDTH,
            q.clone().into_tensor_arg(),
            k.into_tensor_arg(),
            v.into_tensor_arg(),
            y.clone().into_tensor_arg(),
            n,
            m,
            q_strides[0],
            q_strides[1],
            k_strides[0],
            k_strides[1],
            v_strides[0],
            v_strides[1],
            scale,
            heads,
            d,
            tiles,
            !m.is_multiple_of(KEYS),
            q.dtype.into(),
        );
    }
    y
}

/// Cubes are `[block of queries, head, batch]`, a cube's units `[plane, lane]`; every plane has `16 · tiles` queries.
#[cube(launch_unchecked, address_type = "dynamic", fast_math = FastMath::all())]
fn attend<T: Float, N: Size>(
    q: &Tensor<Vector<T, N>>,
    k: &Tensor<Vector<T, N>>,
    v: &Tensor<Vector<T, N>>,
    y: &mut Tensor<Vector<T, Const<2>>>,
    query_count: usize,
    key_count: usize,
    q_batch: usize,
    q_row: usize,
    k_batch: usize,
    k_row: usize,
    v_batch: usize,
    v_row: usize,
    scale: f32,
    heads: usize,
    #[comptime] d: usize,
    #[comptime] tiles: usize,
    #[comptime] ragged: bool,
    #[define(T)] _dtype: StorageType,
) {
    // Vectors of a head, products along its channels, results of 8 columns among keys and channels.
    let wide = comptime!(d / WIDTH);
    let steps = comptime!(d / 16);
    let key_blocks = comptime!(KEYS / 8);
    let channel_blocks = comptime!(d / 8);
    // An odd number of vectors: eight rows lie in different banks.
    let pitch = comptime!(d / WIDTH + 1);
    let loads = comptime!(KEYS * wide / UNITS);

    let lane = UNIT_POS_X as usize;
    let unit = UNIT_POS as usize;
    let head = CUBE_POS_Y as usize * wide;
    let batch = CUBE_POS_Z as usize;
    let first = CUBE_POS_X as usize * comptime!(ROWS * PLANES * tiles);
    let plane_row = UNIT_POS_Y as usize * comptime!(ROWS * tiles);

    // Stages of keys and values; in the last one, before it is needed, the queries.
    let mut shared = SharedMemory::<Vector<T, N>>::new(comptime!(STAGES * 2 * KEYS * pitch));
    let first_query = comptime!((STAGES - 1) * 2 * KEYS);
    let mut full = Sequence::<Shared<Barrier>>::new();
    #[unroll]
    for _ in 0..STAGES {
        full.push(Barrier::shared(CUBE_DIM, unit == 0));
    }
    let product = MmaDefinition::<T, T, f32>::new(16usize, 8usize, 16usize);

    #[unroll]
    for i in 0..comptime!(tiles * loads) {
        let at = unit + i * UNITS;
        let row = at / wide;
        let mut value = Vector::<T, N>::new(T::new(0.0));
        if first + row < query_count {
            value = q[batch * q_batch + (first + row) * q_row + head + at % wide];
        }
        shared[(first_query + row) * pitch + at % wide] = value;
    }
    sync_cube();
    let mut queries = Sequence::<Array<Vector<T, Const<2>>>>::new();
    #[unroll]
    for tile in 0..tiles {
        #[unroll]
        for step in 0..steps {
            let row = first_query + plane_row + tile * ROWS + lane % 16;
            let at = row * pitch + step * 2 + lane / 16;
            queries.push(load::<T, N>(&product, &shared, at, MatrixIdent::A, false));
        }
    }

    let mut maxima = Array::<f32>::new(comptime!(2 * tiles));
    let mut sums = Array::<f32>::new(comptime!(2 * tiles));
    #[unroll]
    for i in 0..comptime!(2 * tiles) {
        maxima[i] = f32::new(-1e30);
        sums[i] = f32::new(0.0);
    }
    let mut outputs = Sequence::<Array<Vector<f32, Const<2>>>>::new();
    #[unroll]
    for _ in 0..comptime!(tiles * channel_blocks) {
        outputs.push(zeros());
    }

    let turns = key_count.div_ceil(KEYS);
    // All stages but one are on their way while one is worked on.
    let ahead = comptime!(STAGES - 1);
    for round in 0..(turns + ahead).div_ceil(STAGES) {
        #[unroll]
        for stage in 0..STAGES {
            let asked = round * STAGES + stage;
            let works = asked >= ahead && asked < turns + ahead;
            // What arrives here was asked for `ahead` turns ago, and nobody reads any longer what is overwritten next.
            if works {
                full.index(comptime!((stage + 1) % STAGES))
                    .arrive_and_wait();
            }
            if asked < turns {
                let start = asked * KEYS;
                let keys = comptime!(stage * 2 * KEYS);
                let corner = batch * k_batch + head;
                fetch(
                    k,
                    &mut shared,
                    keys,
                    corner,
                    k_row,
                    start,
                    key_count,
                    wide,
                    pitch,
                    ragged,
                );
                let corner = batch * v_batch + head;
                let values = comptime!(keys + KEYS);
                fetch(
                    v,
                    &mut shared,
                    values,
                    corner,
                    v_row,
                    start,
                    key_count,
                    wide,
                    pitch,
                    ragged,
                );
                full.index(stage).commit_copy_async();
            }
            if works {
                let turn = asked - ahead;
                let keys = comptime!((stage + 1) % STAGES * 2 * KEYS);
                let values = comptime!(keys + KEYS);

                let mut scores = Sequence::<Array<Vector<f32, Const<2>>>>::new();
                #[unroll]
                for _ in 0..comptime!(tiles * key_blocks) {
                    scores.push(zeros());
                }
                // Operands are loaded one product ahead, so that no product waits for its own.
                let pairs = comptime!(key_blocks / 2);
                let mut loaded = Sequence::<Array<Vector<T, Const<2>>>>::new();
                #[unroll]
                for i in 0..comptime!(steps * pairs + 1) {
                    if comptime!(i < steps * pairs) {
                        let row = keys + comptime!(i % pairs * 16) + lane % 8 + lane / 16 * 8;
                        let at = row * pitch + comptime!(i / pairs * 2) + lane / 8 % 2;
                        loaded.push(load::<T, N>(&product, &shared, at, MatrixIdent::B, false));
                    }
                    if comptime!(i > 0) {
                        let step = comptime!((i - 1) / pairs);
                        let pair = comptime!((i - 1) % pairs);
                        let left = half::<T>(loaded.index(comptime!(i - 1)), 0usize);
                        let right = half::<T>(loaded.index(comptime!(i - 1)), 2usize);
                        #[unroll]
                        for tile in 0..tiles {
                            let query = queries.index(comptime!(tile * steps + step));
                            let at = comptime!(tile * key_blocks + 2 * pair);
                            product.execute_inplace(query, &left, scores.index_mut(at));
                            let at = comptime!(tile * key_blocks + 2 * pair + 1);
                            product.execute_inplace(query, &right, scores.index_mut(at));
                        }
                    }
                }
                if ragged {
                    #[unroll]
                    for block in 0..key_blocks {
                        let key = turn * KEYS + block * 8 + lane % 4 * 2;
                        #[unroll]
                        for tile in 0..tiles {
                            let score = scores.index_mut(comptime!(tile * key_blocks + block));
                            #[unroll]
                            for row in 0..2usize {
                                let mut value = score[row];
                                if key >= key_count {
                                    value[0] = f32::new(-1e30);
                                }
                                if key + 1 >= key_count {
                                    value[1] = f32::new(-1e30);
                                }
                                score[row] = value;
                            }
                        }
                    }
                }

                let mut weights = Sequence::<Array<Vector<T, Const<2>>>>::new();
                #[unroll]
                for tile in 0..tiles {
                    #[unroll]
                    for row in 0..2usize {
                        let i = comptime!(tile * 2 + row);
                        let mut top = maxima[i];
                        #[unroll]
                        for block in 0..key_blocks {
                            let score = scores.index(comptime!(tile * key_blocks + block))[row];
                            top = max(top, max(score[0], score[1]));
                        }
                        // The four lanes that share a row.
                        top = max(top, plane_shuffle_xor(top, 1));
                        top = max(top, plane_shuffle_xor(top, 2));
                        let fade = f32::new(2.0).powf((maxima[i] - top) * scale);
                        maxima[i] = top;
                        let mut sum = sums[i] * fade;
                        let highest = Vector::<f32, Const<2>>::new(top);
                        #[unroll]
                        for block in 0..key_blocks {
                            let score = scores.index_mut(comptime!(tile * key_blocks + block));
                            // The difference first: the highest score has to give exactly 1 even where it is beyond 10⁸.
                            let below = score[row] - highest;
                            let below = below * Vector::<f32, Const<2>>::new(scale);
                            let weight = Vector::<f32, Const<2>>::new(2.0).powf(below);
                            sum += weight[0] + weight[1];
                            score[row] = weight;
                        }
                        sums[i] = sum;
                        #[unroll]
                        for block in 0..channel_blocks {
                            let output =
                                outputs.index_mut(comptime!(tile * channel_blocks + block));
                            output[row] = output[row] * Vector::<f32, Const<2>>::new(fade);
                        }
                    }
                    #[unroll]
                    for step in 0..comptime!(KEYS / 16) {
                        let left = scores.index(comptime!(tile * key_blocks + 2 * step));
                        let right = scores.index(comptime!(tile * key_blocks + 2 * step + 1));
                        let mut weight = Array::<Vector<T, Const<2>>>::new(4usize);
                        weight[0] = Vector::<T, Const<2>>::cast_from(left[0]);
                        weight[1] = Vector::<T, Const<2>>::cast_from(left[1]);
                        weight[2] = Vector::<T, Const<2>>::cast_from(right[0]);
                        weight[3] = Vector::<T, Const<2>>::cast_from(right[1]);
                        weights.push(weight);
                    }
                }

                let turns_of_values = comptime!(KEYS / 16);
                let mut loaded = Sequence::<Array<Vector<T, Const<2>>>>::new();
                #[unroll]
                for i in 0..comptime!(turns_of_values * steps + 1) {
                    if comptime!(i < turns_of_values * steps) {
                        let row = values + comptime!(i / steps * 16) + lane % 16;
                        let at = row * pitch + comptime!(i % steps * 2) + lane / 16;
                        loaded.push(load::<T, N>(&product, &shared, at, MatrixIdent::B, true));
                    }
                    if comptime!(i > 0) {
                        let step = comptime!((i - 1) / steps);
                        let pair = comptime!((i - 1) % steps);
                        let left = half::<T>(loaded.index(comptime!(i - 1)), 0usize);
                        let right = half::<T>(loaded.index(comptime!(i - 1)), 2usize);
                        #[unroll]
                        for tile in 0..tiles {
                            let weight = weights.index(comptime!(tile * turns_of_values + step));
                            let at = comptime!(tile * channel_blocks + 2 * pair);
                            product.execute_inplace(weight, &left, outputs.index_mut(at));
                            let at = comptime!(tile * channel_blocks + 2 * pair + 1);
                            product.execute_inplace(weight, &right, outputs.index_mut(at));
                        }
                    }
                }
            }
        }
    }

    #[unroll]
    for tile in 0..tiles {
        #[unroll]
        for row in 0..2usize {
            let i = comptime!(tile * 2 + row);
            let mut sum = sums[i];
            sum += plane_shuffle_xor(sum, 1);
            sum += plane_shuffle_xor(sum, 2);
            let share = Vector::<f32, Const<2>>::new(f32::new(1.0) / sum);
            let query = first + plane_row + tile * ROWS + row * 8 + lane / 4;
            if query < query_count {
                let line = (batch * query_count + query) * heads * comptime!(d / 2)
                    + CUBE_POS_Y as usize * comptime!(d / 2);
                #[unroll]
                for block in 0..channel_blocks {
                    let output = outputs.index(comptime!(tile * channel_blocks + block));
                    y[line + block * 4 + lane % 4] =
                        Vector::<T, Const<2>>::cast_from(output[row] * share);
                }
            }
        }
    }
}

/// This unit's part of `KEYS` rows from `start` on, zeros beyond the last, on its way to shared memory.
#[cube]
fn fetch<T: Float, N: Size>(
    x: &Tensor<Vector<T, N>>,
    shared: &mut SharedMemory<Vector<T, N>>,
    #[comptime] into: usize,
    corner: usize,
    stride: usize,
    start: usize,
    rows: usize,
    #[comptime] wide: usize,
    #[comptime] pitch: usize,
    #[comptime] ragged: bool,
) {
    #[unroll]
    for i in 0..comptime!(KEYS * wide / UNITS) {
        let at = UNIT_POS as usize + i * UNITS;
        let row = start + at / wide;
        let mut from = corner + row * stride + at % wide;
        let mut length = 1usize.runtime();
        if ragged {
            length = usize::cast_from(row < rows);
            from *= length;
        }
        let slot = (into + at / wide) * pitch + at % wide;
        copy_async_checked(
            &x.slice(from, from + length),
            &mut shared.slice_mut(slot, slot + 1),
            WIDTH as u32,
        );
    }
}
