use burn_cubecl::{CubeRuntime, cubecl, tensor::CubeTensor};
use cubecl::{
    cmma::MmaDefinition,
    ir::MatrixIdent,
    prelude::{
        barrier::{Barrier, copy_async_checked},
        *,
    },
};

use super::{
    activation::gelu,
    addresses, convolved, empty, in_rows,
    matrix_units::{LANES, PLANES, UNITS, WIDTH, half, load, zeros},
};

/// Output positions of a cube.
const ROWS: usize = 128;
/// Positions of a plane's products.
const TILES: usize = ROWS / 2 / 16;
/// Input channels that are in shared memory at a time.
const DEPTH: usize = 32;
/// Vectors of a row in shared memory, and one more: eight rows lie in different banks.
const PITCH: usize = DEPTH / WIDTH + 1;
/// Parts of the operands in shared memory, of which one is multiplied while the others arrive.
const STAGES: usize = 4;

/// Whether the kernel is made for so many channels.
pub(super) fn takes(input: usize, output: usize) -> bool {
    input.is_multiple_of(WIDTH) && output.is_multiple_of(2)
}

/// Convolution, and with a kernel of 1×1 the matrix product, as one product with the patches of the image, of which none is
/// written to memory: each cube fetches the rows of `x` under its positions tap by tap. The sums are in f32, and what follows
/// on them, too, before they are rounded: the bias; with `geglu` the first half of the channels times the GELU of the second;
/// the residual.
///
/// # Shapes
/// `x [n, h, w, in]`, `weight [out, kh, kw, in]` in half precision, `bias [r, out]` with `r` a divisor of `n`,
/// `residual [n, h', w', out]` → `[n, h', w', out]`, or half as many channels with `geglu`
pub(super) fn conv2d<R: CubeRuntime>(
    x: CubeTensor<R>,
    weight: CubeTensor<R>,
    bias: Option<CubeTensor<R>>,
    stride: usize,
    padding: [usize; 2],
    geglu: bool,
    residual: Option<CubeTensor<R>>,
) -> CubeTensor<R> {
    let (x, x_pitch) = in_vectors(x);
    let (weight, weight_pitch) = in_vectors(weight);
    let bias = bias.map(burn_cubecl::kernel::into_contiguous);
    let residual = residual.map(burn_cubecl::kernel::into_contiguous);
    let shape = x.meta.shape().clone();
    let (n, h, w, c) = (shape[0], shape[1], shape[2], shape[3]);
    let (channels, kernel) = (
        weight.meta.shape()[0],
        [weight.meta.shape()[1], weight.meta.shape()[2]],
    );
    let parts = if geglu { 2 } else { 1 };
    let out = channels / parts;
    let shape = convolved(&shape, kernel, out, stride, padding);
    let (oh, ow) = (shape[1], shape[2]);
    let rows = n * oh * ow;
    let y = empty(&x, shape, x.dtype);
    // The widest that fits without rest: all of the UNet are multiples of 160.
    let blocks = match channels {
        _ if channels.is_multiple_of(160) => 10,
        _ if (channels - 1) % ROWS < ROWS / 2 => 4,
        _ => 8,
    };
    let columns = blocks * 16 / parts;
    let across = out.div_ceil(columns);
    let client = x.client.clone();
    let (bias_rows, has_bias) = match &bias {
        Some(bias) => (rows / bias.meta.shape()[0], true),
        None => (1, false),
    };
    let has_residual = residual.is_some();
    // Something that is not read.
    let bias = bias.unwrap_or_else(|| x.clone());
    let residual = residual.unwrap_or_else(|| x.clone());
    // SAFETY: what lies outside of the image, the channels or the result is neither read nor written.
    unsafe {
        convolve::launch_unchecked(
            &client,
            CubeCount::Static((rows.div_ceil(ROWS) * across) as u32, 1, 1),
            CubeDim::new_2d(LANES as u32, PLANES as u32),
            addresses(&[&x, &weight, &y, &residual]),
            WIDTH,
            x.clone().into_tensor_arg(),
            weight.into_tensor_arg(),
            bias.clone().into_tensor_arg(),
            residual.into_tensor_arg(),
            y.clone().into_tensor_arg(),
            rows,
            h,
            w,
            oh * ow,
            ow,
            x_pitch,
            weight_pitch,
            bias_rows,
            across,
            c / WIDTH,
            out,
            !c.is_multiple_of(DEPTH),
            !out.is_multiple_of(columns),
            kernel[0],
            kernel[1],
            stride,
            padding[0],
            padding[1],
            blocks,
            has_bias,
            has_residual,
            geglu,
            [x.dtype.into(), bias.dtype.into()],
        );
    }
    y
}

/// Rows of whole vectors, and the distance of two, counted in vectors.
fn in_vectors<R: CubeRuntime>(x: CubeTensor<R>) -> (CubeTensor<R>, usize) {
    let (x, pitch) = in_rows(x);
    if pitch.is_multiple_of(WIDTH) {
        return (x, pitch / WIDTH);
    }
    let x = burn_cubecl::kernel::into_contiguous(x);
    let c = x.meta.shape()[x.meta.shape().num_dims() - 1];
    (x, c / WIDTH)
}

/// Cubes are `[block of positions, block of output channels]`, the latter next to each other, as they read the same part of
/// `x`. A plane has 64 positions and `8 · blocks` columns. Its planes lie two by two. With `gated` every other eight columns
/// are those of the gate, so that a unit has both factors of its results.
#[cube(launch_unchecked, address_type = "dynamic")]
fn convolve<T: Float, P: Float, N: Size>(
    x: &Tensor<Vector<T, N>>,
    weight: &Tensor<Vector<T, N>>,
    bias: &Tensor<P>,
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
    across: usize,
    vectors: usize,
    out: usize,
    #[comptime] ragged: bool,
    #[comptime] partial: bool,
    #[comptime] kh: usize,
    #[comptime] kw: usize,
    #[comptime] stride: usize,
    #[comptime] top: usize,
    #[comptime] left: usize,
    #[comptime] blocks: usize,
    #[comptime] has_bias: bool,
    #[comptime] has_residual: bool,
    #[comptime] gated: bool,
    #[define(T, P)] _dtypes: [StorageType; 2],
) {
    let deep = comptime!(DEPTH / WIDTH);
    let columns = comptime!(blocks * 16);
    let x_loads = comptime!(ROWS * deep / UNITS);
    let weight_loads = comptime!(columns * deep / UNITS);
    let plain = comptime!(kh * kw == 1 && stride == 1 && top + left == 0);
    let taps = comptime!(kh * kw);
    let turns = vectors.div_ceil(deep) * taps;

    let lane = UNIT_POS_X as usize;
    let plane = UNIT_POS_Y as usize;
    let unit = UNIT_POS as usize;
    let first_row = CUBE_POS_X as usize / across * ROWS;
    let first_column =
        CUBE_POS_X as usize % across * comptime!(if gated { columns / 2 } else { columns });
    let (plane_row, plane_column) = (
        plane / 2 * comptime!(ROWS / 2),
        plane % 2 * comptime!(columns / 2),
    );

    // A stage: rows of x, rows of the weight.
    let stage_size = comptime!((ROWS + columns) * PITCH);
    let mut shared = SharedMemory::<Vector<T, N>>::new(comptime!(STAGES * stage_size));
    let product = MmaDefinition::<T, T, f32>::new(16usize, 8usize, 16usize);

    // This unit fetches these rows, and in each the same vector.
    let part = unit % deep;
    let line = unit / deep;
    let mut corners = Array::<usize>::new(x_loads);
    let mut tops = Array::<i32>::new(x_loads);
    let mut lefts = Array::<i32>::new(x_loads);
    #[unroll]
    for i in 0..x_loads {
        let row = first_row + line + i * comptime!(UNITS / deep);
        if plain {
            corners[i] = row * x_pitch;
            tops[i] = i32::cast_from(row);
            lefts[i] = i32::new(0);
        } else {
            let image = row / area;
            let place = row % area;
            corners[i] = image * h * w;
            lefts[i] = i32::cast_from(place % ow * stride) - i32::new(comptime!(left as i64));
            // Far outside where there is no such row.
            let above = i32::cast_from(place / ow * stride) - i32::new(comptime!(top as i64));
            tops[i] = select(row < rows, above, i32::new(-1_000_000));
        }
    }

    let mut sums = Sequence::<Array<Vector<f32, Const<2>>>>::new();
    #[unroll]
    for _ in 0..comptime!(TILES * blocks) {
        sums.push(zeros());
    }
    let mut full = Sequence::<Shared<Barrier>>::new();
    #[unroll]
    for _ in 0..STAGES {
        full.push(Barrier::shared(CUBE_DIM, unit == 0));
    }
    let (height, width) = (i32::cast_from(h), i32::cast_from(w));

    // Where the next part of each row lies: tap and channel.
    let mut tap_y = i32::new(0);
    let mut tap_x = i32::new(0);
    let mut tap = 0usize.runtime();
    let mut channel = 0usize.runtime();
    // All stages but one are on their way while one is multiplied.
    let ahead = comptime!(STAGES - 1);
    for round in 0..(turns + ahead).div_ceil(STAGES) {
        #[unroll]
        for stage in 0..STAGES {
            let turn = round * STAGES + stage;
            // What arrives here was asked for `ahead` turns ago, and nobody reads any longer what is overwritten next.
            if turn >= ahead && turn < turns + ahead {
                full.index(comptime!((stage + 1) % STAGES))
                    .arrive_and_wait();
            }
            if turn < turns {
                let stage_x = comptime!(stage * stage_size);
                let stage_weight = comptime!(stage_x + ROWS * PITCH);
                #[unroll]
                for i in 0..x_loads {
                    let mut inside = (tops[i] as usize) < rows;
                    let mut row = corners[i];
                    if !plain {
                        let (above, beside) = (tops[i] + tap_y, lefts[i] + tap_x);
                        inside = above >= 0 && above < height && beside >= 0 && beside < width;
                        row = (row + usize::cast_from(above * width + beside)) * x_pitch;
                    }
                    if ragged {
                        inside = inside && channel + part < vectors;
                    }
                    let at = stage_x + (line + i * comptime!(UNITS / deep)) * PITCH + part;
                    let from = select(inside, row + channel + part, 0usize.runtime());
                    let length = usize::cast_from(inside);
                    copy_async_checked(
                        &x.slice(from, from + length),
                        &mut shared.slice_mut(at, at + 1),
                        WIDTH as u32,
                    );
                }
                #[unroll]
                for i in 0..weight_loads {
                    let place = line + i * comptime!(UNITS / deep);
                    let mut column = first_column + place;
                    let mut of_weight = column;
                    if gated {
                        column = first_column + place / 16 * 8 + place % 8;
                        of_weight = column + place / 8 % 2 * out;
                    }
                    let mut inside = true.runtime();
                    if partial {
                        inside = column < out;
                    }
                    if ragged {
                        inside = inside && channel + part < vectors;
                    }
                    let row = (of_weight * taps + tap) * weight_pitch;
                    let at = stage_weight + (line + i * comptime!(UNITS / deep)) * PITCH + part;
                    let from = select(inside, row + channel + part, 0usize.runtime());
                    let length = usize::cast_from(inside);
                    copy_async_checked(
                        &weight.slice(from, from + length),
                        &mut shared.slice_mut(at, at + 1),
                        WIDTH as u32,
                    );
                }
                full.index(stage).commit_copy_async();
                channel += deep;
                if channel >= vectors {
                    channel = 0usize.runtime();
                    tap += 1;
                    tap_x += 1;
                    if tap_x == i32::new(comptime!(kw as i64)) {
                        tap_x = i32::new(0);
                        tap_y += 1;
                    }
                }
            }
            if turn >= ahead && turn < turns + ahead {
                let stage_x = comptime!((stage + 1) % STAGES * stage_size);
                let stage_weight = comptime!(stage_x + ROWS * PITCH);
                // Operands are loaded one product ahead, so that no product waits for its own.
                let pairs = comptime!(blocks / 2);
                let products = comptime!(DEPTH / 16 * pairs);
                let mut places = Sequence::<Array<Vector<T, Const<2>>>>::new();
                let mut weights = Sequence::<Array<Vector<T, Const<2>>>>::new();
                #[unroll]
                for tile in 0..TILES {
                    let at = stage_x + (plane_row + tile * 16 + lane % 16) * PITCH + lane / 16;
                    places.push(load::<T, N>(&product, &shared, at, MatrixIdent::A, false));
                }
                let row = plane_column + lane % 8 + lane / 16 * 8;
                let at = stage_weight + row * PITCH + lane / 8 % 2;
                weights.push(load::<T, N>(&product, &shared, at, MatrixIdent::B, false));
                #[unroll]
                for i in 0..products {
                    if comptime!(i + 1 < products) {
                        let step = comptime!((i + 1) / pairs);
                        let pair = comptime!((i + 1) % pairs);
                        let at = stage_weight
                            + (row + comptime!(pair * 16)) * PITCH
                            + comptime!(step * 2)
                            + lane / 8 % 2;
                        weights.push(load::<T, N>(&product, &shared, at, MatrixIdent::B, false));
                    }
                    if comptime!(i % pairs == 0 && i / pairs + 1 < DEPTH / 16) {
                        let step = comptime!(i / pairs + 1);
                        #[unroll]
                        for tile in 0..TILES {
                            let at = stage_x
                                + (plane_row + tile * 16 + lane % 16) * PITCH
                                + comptime!(step * 2)
                                + lane / 16;
                            places.push(load::<T, N>(&product, &shared, at, MatrixIdent::A, false));
                        }
                    }
                    let pair = comptime!(i % pairs);
                    let one = half::<T>(weights.index(i), 0usize);
                    let other = half::<T>(weights.index(i), 2usize);
                    #[unroll]
                    for tile in 0..TILES {
                        let place = places.index(comptime!(i / pairs * TILES + tile));
                        let at = comptime!(tile * blocks + 2 * pair);
                        product.execute_inplace(place, &one, sums.index_mut(at));
                        let at = comptime!(tile * blocks + 2 * pair + 1);
                        product.execute_inplace(place, &other, sums.index_mut(at));
                    }
                }
            }
        }
    }

    let results = comptime!(if gated { blocks / 2 } else { blocks });
    #[unroll]
    for tile in 0..TILES {
        #[unroll]
        for half in 0..2usize {
            let row = first_row + plane_row + tile * 16 + half * 8 + lane / 4;
            if row < rows {
                let mut of_bias = 0usize.runtime();
                if has_bias {
                    of_bias = row / bias_rows * out;
                }
                #[unroll]
                for block in 0..results {
                    let column = first_column
                        + plane % 2 * comptime!(results * 8)
                        + comptime!(block * 8)
                        + lane % 4 * 2;
                    let mut inside = true.runtime();
                    if partial {
                        inside = column < out;
                    }
                    if inside {
                        let at = comptime!(tile * blocks + if gated { 2 * block } else { block });
                        let mut sum = sums.index(at)[half];
                        if has_bias {
                            sum += two(bias, of_bias + column);
                        }
                        if gated {
                            let mut gate = sums.index(comptime!(at + 1))[half];
                            if has_bias {
                                gate += two(bias, out + column);
                            }
                            sum *= gelu(gate);
                        }
                        let at = (row * out + column) / 2;
                        if has_residual {
                            sum += Vector::<f32, Const<2>>::cast_from(residual[at]);
                        }
                        y[at] = Vector::<T, Const<2>>::cast_from(sum);
                    }
                }
            }
        }
    }
}

/// Two values of the bias.
#[cube]
fn two<P: Float>(bias: &Tensor<P>, at: usize) -> Vector<f32, Const<2>> {
    let mut both = Vector::<f32, Const<2>>::empty();
    both[0] = f32::cast_from(bias[at]);
    both[1] = f32::cast_from(bias[at + 1]);
    both
}
