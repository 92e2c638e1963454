use burn::tensor::{DType, Shape};
use burn_cubecl::{CubeRuntime, cubecl, kernel::into_contiguous, tensor::CubeTensor};
use cubecl::prelude::*;

use super::tensors::{UNITS, addresses, cubes, empty, in_rows, width};

/// Rows that a unit works on before it is worth another cube.
const ROWS: usize = 16;
/// Parts that one image is cut into, at most.
const MOST_CHUNKS: usize = 512;

/// Three launches: the moments of each channel in chunks of rows; those of each group; the normalised values. Channels are
/// read as many at once as the device does well, whatever the size of a group.
pub(super) fn group_norm<R: CubeRuntime>(
    x: CubeTensor<R>,
    weight: CubeTensor<R>,
    bias: CubeTensor<R>,
    groups: usize,
    eps: f64,
    silu: bool,
) -> CubeTensor<R> {
    let (x, pitch) = in_rows(x);
    let (weight, bias) = (into_contiguous(weight), into_contiguous(bias));
    let shape = x.meta.shape().clone();
    let (n, s, c) = (shape[0], shape[1], shape[2]);
    let lanes = width(&[&x, &weight], &[c, pitch]);
    let (vectors, pitch) = (c / lanes, pitch / lanes);

    // Rows side by side in a cube, or parts of one row.
    let tiles = vectors.div_ceil(UNITS);
    let columns = vectors.div_ceil(tiles);
    let rows = UNITS / columns;
    let chunks = (s / (rows * ROWS)).clamp(1, MOST_CHUNKS);
    let chunk = s.div_ceil(chunks);
    let chunks = s.div_ceil(chunk);

    let client = x.client.clone();
    let parts = empty(&x, Shape::new([n, chunks, c, 2]), DType::F32);
    let statistics = empty(&x, Shape::new([n, groups, 2]), DType::F32);
    let y = empty(&x, shape, x.dtype);
    let addresses = addresses(&[&x]);
    let cube_dim = CubeDim::new_1d((columns * rows) as u32);
    let count = |cubes_of_an_image: usize| {
        CubeCount::Static(cubes_of_an_image as u32, tiles as u32, n as u32)
    };
    // SAFETY: indices stay below the shapes: rows below `s`, columns below `vectors`, groups below `n · groups`.
    unsafe {
        channel_moments::launch_unchecked(
            &client,
            count(chunks),
            cube_dim,
            addresses,
            lanes,
            x.clone().into_tensor_arg(),
            parts.clone().into_tensor_arg(),
            s,
            pitch,
            chunk,
            vectors,
            columns,
            rows,
            x.dtype.into(),
        );
        merge_parts::launch_unchecked(
            &client,
            cubes(&client, n * groups),
            CubeDim::new_1d(UNITS as u32),
            parts.into_tensor_arg(),
            statistics.clone().into_tensor_arg(),
            n * groups,
            chunks,
            s,
            chunk,
            eps as f32,
            groups,
            c / groups,
        );
        normalise::launch_unchecked(
            &client,
            count(s.div_ceil(rows * ROWS)),
            cube_dim,
            addresses,
            lanes,
            x.clone().into_tensor_arg(),
            statistics.into_tensor_arg(),
            weight.clone().into_tensor_arg(),
            bias.into_tensor_arg(),
            y.clone().into_tensor_arg(),
            s,
            pitch,
            vectors,
            columns,
            rows,
            groups,
            c / groups,
            silu,
            [x.dtype.into(), weight.dtype.into()],
        );
    }
    y
}

/// Mean and squared deviations of every channel in `chunk` rows of one image.
///
/// Cubes are `[image, tile of channels, chunk]`, a cube's units `[row, vector of channels]`.
#[cube(launch_unchecked, address_type = "dynamic")]
fn channel_moments<T: Float, N: Size>(
    x: &Tensor<Vector<T, N>>,
    parts: &mut Tensor<f32>,
    s: usize,
    pitch: usize,
    chunk: usize,
    #[comptime] vectors: usize,
    #[comptime] columns: usize,
    #[comptime] rows: usize,
    #[define(T)] _dtype: StorageType,
) {
    let unit = UNIT_POS as usize;
    let image = CUBE_POS_Z as usize;
    let tile = CUBE_POS_Y as usize * columns;
    let at = tile + unit % columns;
    let first = CUBE_POS_X as usize * chunk;
    let end = min(first + chunk, s);

    // Sums of distances from the first value: nothing cancels, as it is one of them.
    let mut origin = Vector::<f32, N>::new(0.0);
    let mut sum = Vector::<f32, N>::new(0.0);
    let mut squares = Vector::<f32, N>::new(0.0);
    let mut count = f32::new(0.0);
    let mut row = first + unit / columns;
    if at < vectors && row < end {
        origin = Vector::<f32, N>::cast_from(x[(image * s + row) * pitch + at]);
        while row < end {
            let off = Vector::<f32, N>::cast_from(x[(image * s + row) * pitch + at]) - origin;
            sum += off;
            squares += off * off;
            count += 1.0;
            row += rows;
        }
    }
    let share = Vector::<f32, N>::new(f32::new(1.0) / max(count, f32::new(1.0)));
    let mean = origin + sum * share;
    let squares = max(squares - sum * sum * share, Vector::<f32, N>::new(0.0));

    // Then of all rows together, a channel in each unit.
    let lanes = mean.size();
    let channels = comptime!(columns * lanes);
    let mut means = SharedMemory::<f32>::new(comptime!(rows * channels));
    let mut deviations = SharedMemory::<f32>::new(comptime!(rows * channels));
    #[unroll]
    for i in 0..lanes {
        means[unit * lanes + i] = mean[i];
        deviations[unit * lanes + i] = squares[i];
    }
    sync_cube();
    let mut channel = unit;
    while channel < channels {
        let whole = tile * lanes + channel;
        if whole < comptime!(vectors * lanes) {
            let mut mean = f32::new(0.0);
            for slot in 0..rows {
                let count = f32::cast_from((end - first + comptime!(rows - 1) - slot) / rows);
                mean += count * means[slot * channels + channel];
            }
            mean /= f32::cast_from(end - first);
            let mut squares = f32::new(0.0);
            for slot in 0..rows {
                let count = f32::cast_from((end - first + comptime!(rows - 1) - slot) / rows);
                let off = means[slot * channels + channel] - mean;
                squares += deviations[slot * channels + channel] + count * off * off;
            }
            let part = image * CUBE_COUNT_X as usize + CUBE_POS_X as usize;
            let at = (part * comptime!(vectors * lanes) + whole) * 2;
            parts[at] = mean;
            parts[at + 1] = squares;
        }
        channel += comptime!(columns * rows);
    }
}

/// The mean and 1/deviation of each group from its channels in all chunks.
#[cube(launch_unchecked)]
fn merge_parts(
    parts: &Tensor<f32>,
    statistics: &mut Tensor<f32>,
    all_groups: usize,
    chunks: usize,
    s: usize,
    chunk: usize,
    eps: f32,
    #[comptime] groups: usize,
    #[comptime] of_group: usize,
) {
    let group = CUBE_POS;
    if group >= all_groups {
        terminate!();
    }
    let unit = UNIT_POS as usize;
    let first = group / groups * chunks;
    let column = group % groups * of_group;
    let values = f32::cast_from(s * of_group);
    let mut shared = SharedMemory::<f32>::new(UNITS);

    // The mean first, then what is off it.
    let mut mean = f32::new(0.0);
    let mut variance = f32::new(0.0);
    #[unroll]
    for pass in 0..2usize {
        let mut sum = f32::new(0.0);
        let mut part = unit;
        while part < chunks * of_group {
            let of_chunk = part / of_group;
            let rows = f32::cast_from(min(chunk, s - of_chunk * chunk));
            let at = (first + of_chunk) * comptime!(groups * of_group) + column + part % of_group;
            if comptime!(pass == 0) {
                sum += rows * parts[at * 2];
            } else {
                let off = parts[at * 2] - mean;
                sum += parts[at * 2 + 1] + rows * off * off;
            }
            part += UNITS;
        }
        sum = of_all(&mut shared, unit, sum) / values;
        if comptime!(pass == 0) {
            mean = sum;
        } else {
            variance = sum;
        }
    }
    if unit == 0 {
        statistics[group * 2] = mean;
        statistics[group * 2 + 1] = f32::new(1.0) / (variance + eps).sqrt();
    }
}

/// The sum of what all units of the cube have.
#[cube]
fn of_all(shared: &mut SharedMemory<f32>, unit: usize, value: f32) -> f32 {
    // Others may still read the sum of before.
    sync_cube();
    shared[unit] = value;
    sync_cube();
    let mut left = comptime!(UNITS / 2).runtime();
    while left > 0 {
        if unit < left {
            shared[unit] += shared[unit + left];
        }
        sync_cube();
        left /= 2;
    }
    shared[0]
}

/// A unit keeps to its channels, so that it fetches what belongs to them once.
#[cube(launch_unchecked, address_type = "dynamic")]
fn normalise<T: Float, P: Float, N: Size>(
    x: &Tensor<Vector<T, N>>,
    statistics: &Tensor<f32>,
    weight: &Tensor<Vector<P, N>>,
    bias: &Tensor<Vector<P, N>>,
    y: &mut Tensor<Vector<T, N>>,
    s: usize,
    pitch: usize,
    #[comptime] vectors: usize,
    #[comptime] columns: usize,
    #[comptime] rows: usize,
    #[comptime] groups: usize,
    #[comptime] of_group: usize,
    #[comptime] silu: bool,
    #[define(T, P)] _dtypes: [StorageType; 2],
) {
    let unit = UNIT_POS as usize;
    let image = CUBE_POS_Z as usize;
    let at = CUBE_POS_Y as usize * columns + unit % columns;
    let first = CUBE_POS_X as usize * comptime!(rows * ROWS) + unit / columns;
    let end = min(first + comptime!(rows * ROWS), s);
    if at < vectors {
        let weight = Vector::<f32, N>::cast_from(weight[at]);
        let bias = Vector::<f32, N>::cast_from(bias[at]);
        let mut mean = Vector::<f32, N>::new(0.0);
        let mut scale = Vector::<f32, N>::new(0.0);
        let lanes = weight.size();
        #[unroll]
        for i in 0..lanes {
            let group = image * groups + (at * lanes + i) / of_group;
            mean[i] = statistics[group * 2];
            scale[i] = statistics[group * 2 + 1];
        }
        let scale = scale * weight;
        let mut row = first;
        while row < end {
            let value = Vector::<f32, N>::cast_from(x[(image * s + row) * pitch + at]);
            let value = (value - mean) * scale + bias;
            let at = (image * s + row) * vectors + at;
            if silu {
                // e⁸⁰ is still finite.
                let power = min(
                    Vector::<f32, N>::new(0.0) - value,
                    Vector::<f32, N>::new(80.0),
                )
                .exp();
                y[at] = Vector::<T, N>::cast_from(value / (power + Vector::<f32, N>::new(1.0)));
            } else {
                y[at] = Vector::<T, N>::cast_from(value);
            }
            row += rows;
        }
    }
}
