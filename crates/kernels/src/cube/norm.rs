use burn::tensor::{DType, Shape};
use burn_cubecl::{CubeRuntime, cubecl, kernel::into_contiguous, tensor::CubeTensor};
use cubecl::prelude::*;

use super::{UNITS, addresses, cubes, empty, in_rows, moments, units, width};

/// Rows that a unit sums before it is worth another cube.
const ROWS: usize = 16;
/// Parts that one image is cut into, at most.
const MOST_CHUNKS: usize = 256;
/// Units that merge the parts of a group.
const MERGERS: usize = 64;
/// Units for one row of a layer normalisation.
const ROW_UNITS: usize = 32;

/// Two or three launches: partial statistics of chunks of rows, over all channels at once, so that memory is read in order;
/// their sum, if there is more than one chunk; the normalised values.
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
    let lanes = width(&[&x, &weight], &[c / groups, pitch]);
    // From here on in vectors of `lanes` channels.
    let (channels, pitch, of_group) = (c / lanes, pitch / lanes, c / groups / lanes);

    // Whole groups side by side in a cube, and several rows if there is room.
    let beside = (1..=groups).rev();
    let beside = beside
        .filter(|k| groups.is_multiple_of(*k))
        .find(|k| k * of_group <= UNITS);
    let beside = beside.unwrap_or(1);
    let columns = (beside * of_group).min(UNITS);
    let rows = UNITS / columns;
    let chunks = (s / (rows * ROWS)).clamp(1, MOST_CHUNKS);
    let chunk = s.div_ceil(chunks);
    let chunks = s.div_ceil(chunk);

    let client = x.client.clone();
    let parts = empty(&x, Shape::new([n, groups, chunks, 2]), DType::F32);
    let addresses = addresses(&[&x]);
    let cube_dim = CubeDim::new_1d((columns * rows) as u32);
    let tiles = groups / beside;
    // SAFETY: indices stay below the shapes by construction: rows below `s`, columns below `channels`.
    unsafe {
        chunk_moments::launch_unchecked(
            &client,
            CubeCount::Static(chunks as u32, tiles as u32, n as u32),
            cube_dim,
            addresses,
            lanes,
            x.clone().into_tensor_arg(),
            parts.clone().into_tensor_arg(),
            s,
            pitch,
            chunk,
            eps as f32,
            of_group,
            beside,
            columns,
            rows,
            chunks == 1,
            x.dtype.into(),
        );
    }
    let statistics = match chunks {
        1 => parts,
        _ => {
            let statistics = empty(&x, Shape::new([n, groups, 2]), DType::F32);
            // SAFETY: as above; cubes beyond the last group end at once.
            unsafe {
                merge_chunks::launch_unchecked(
                    &client,
                    cubes(&client, n * groups),
                    CubeDim::new_1d(MERGERS as u32),
                    parts.into_tensor_arg(),
                    statistics.clone().into_tensor_arg(),
                    n * groups,
                    chunks,
                    s,
                    chunk,
                    eps as f32,
                    c / groups,
                );
            }
            statistics
        }
    };
    let y = empty(&x, shape, x.dtype);
    let count = n * s * channels;
    let (cube_count, cube_dim) = units(&client, count);
    // SAFETY: as above; units beyond the last value end at once.
    unsafe {
        normalise::launch_unchecked(
            &client,
            cube_count,
            cube_dim,
            addresses,
            lanes,
            x.clone().into_tensor_arg(),
            statistics.into_tensor_arg(),
            weight.clone().into_tensor_arg(),
            bias.into_tensor_arg(),
            y.clone().into_tensor_arg(),
            count,
            s,
            pitch,
            channels,
            of_group,
            groups,
            silu,
            [x.dtype.into(), weight.dtype.into()],
        );
    }
    y
}

/// Mean and squared deviations (`last`: the mean and 1/deviation) of `beside` groups in `chunk` rows of one image.
///
/// Cubes are `[image, tile of groups, chunk]`, a cube's units `[row, group, channel]`.
#[cube(launch_unchecked, address_type = "dynamic")]
fn chunk_moments<T: Float, N: Size>(
    x: &Tensor<Vector<T, N>>,
    parts: &mut Tensor<f32>,
    s: usize,
    pitch: usize,
    chunk: usize,
    eps: f32,
    #[comptime] of_group: usize,
    #[comptime] beside: usize,
    #[comptime] columns: usize,
    #[comptime] rows: usize,
    #[comptime] last: bool,
    #[define(T)] _dtype: StorageType,
) {
    let wide = comptime!(beside * of_group);
    let units = comptime!(columns * rows);
    let steps = comptime!(wide.div_ceil(columns));
    // Slots of one group: all rows of its channels.
    let len = comptime!(if wide > columns {
        units
    } else {
        of_group * rows
    });

    let unit = UNIT_POS as usize;
    let column = unit % columns;
    let image = CUBE_POS_Z as usize;
    let first = CUBE_POS_X as usize * chunk;
    let end = min(first + chunk, s);
    let corner = image * s * pitch + CUBE_POS_Y as usize * wide;

    let mut count = f32::new(0.0);
    let mut mean = Vector::<f32, N>::new(0.0);
    let mut squares = Vector::<f32, N>::new(0.0);
    let mut row = first + unit / columns;
    while row < end {
        #[unroll]
        for step in 0..steps {
            let at = column + step * columns;
            if at < wide {
                let value = Vector::<f32, N>::cast_from(x[corner + row * pitch + at]);
                count += 1.0;
                let delta = value - mean;
                mean += delta * Vector::<f32, N>::new(f32::new(1.0) / count);
                squares += delta * (value - mean);
            }
        }
        row += rows;
    }

    let mut shared = SharedMemory::<f32>::new(comptime!(3 * units));
    let mut group = 0;
    let mut position = unit;
    if comptime!(wide <= columns) {
        group = column / of_group;
        position = unit / columns * of_group + column % of_group;
    }
    let slot = group * len;
    moments::store::<N>(&mut shared, slot + position, count, mean, squares, units);
    moments::merge_all(&mut shared, slot, position, len, units);
    if position == 0 {
        let groups = CUBE_COUNT_Y as usize * beside;
        let group = image * groups + CUBE_POS_Y as usize * beside + group;
        let at = (group * CUBE_COUNT_X as usize + CUBE_POS_X as usize) * 2;
        parts[at] = shared[units + slot];
        if last {
            parts[at + 1] = moments::reciprocal_deviation(&shared, slot, eps, units);
        } else {
            parts[at + 1] = shared[2 * units + slot];
        }
    }
}

/// The mean and 1/deviation of each group from its chunks.
#[cube(launch_unchecked)]
fn merge_chunks(
    parts: &Tensor<f32>,
    statistics: &mut Tensor<f32>,
    groups: usize,
    chunks: usize,
    s: usize,
    chunk: usize,
    eps: f32,
    #[comptime] channels: usize,
) {
    let group = CUBE_POS;
    if group >= groups {
        terminate!();
    }
    let unit = UNIT_POS as usize;
    let mut count = f32::new(0.0);
    let mut mean = f32::new(0.0);
    let mut squares = f32::new(0.0);
    let mut part = unit;
    while part < chunks {
        let rows = min(chunk, s - part * chunk);
        let added = f32::cast_from(rows * channels);
        let total = count + added;
        let delta = parts[(group * chunks + part) * 2] - mean;
        let share = added / total;
        squares += parts[(group * chunks + part) * 2 + 1] + delta * delta * count * share;
        mean += delta * share;
        count = total;
        part += MERGERS;
    }
    let mut shared = SharedMemory::<f32>::new(comptime!(3 * MERGERS));
    shared[unit] = count;
    shared[MERGERS + unit] = mean;
    shared[2 * MERGERS + unit] = squares;
    moments::merge_all(&mut shared, 0, unit, MERGERS, MERGERS);
    if unit == 0 {
        statistics[group * 2] = shared[MERGERS];
        statistics[group * 2 + 1] = moments::reciprocal_deviation(&shared, 0, eps, MERGERS);
    }
}

#[cube(launch_unchecked, address_type = "dynamic")]
fn normalise<T: Float, P: Float, N: Size>(
    x: &Tensor<Vector<T, N>>,
    statistics: &Tensor<f32>,
    weight: &Tensor<Vector<P, N>>,
    bias: &Tensor<Vector<P, N>>,
    y: &mut Tensor<Vector<T, N>>,
    count: usize,
    s: usize,
    pitch: usize,
    #[comptime] channels: usize,
    #[comptime] of_group: usize,
    #[comptime] groups: usize,
    #[comptime] silu: bool,
    #[define(T, P)] _dtypes: [StorageType; 2],
) {
    if ABSOLUTE_POS >= count {
        terminate!();
    }
    let row = ABSOLUTE_POS / channels;
    let channel = ABSOLUTE_POS % channels;
    let group = (row / s * groups + channel / of_group) * 2;
    let mean = Vector::<f32, N>::new(statistics[group]);
    let scale = Vector::<f32, N>::new(statistics[group + 1]);
    let value = Vector::<f32, N>::cast_from(x[row * pitch + channel]);
    let weight = Vector::<f32, N>::cast_from(weight[channel]);
    let bias = Vector::<f32, N>::cast_from(bias[channel]);
    let value = (value - mean) * scale * weight + bias;
    if silu {
        // e⁸⁰ is still finite.
        let power = min(
            Vector::<f32, N>::new(0.0) - value,
            Vector::<f32, N>::new(80.0),
        )
        .exp();
        y[ABSOLUTE_POS] = Vector::<T, N>::cast_from(value / (power + Vector::<f32, N>::new(1.0)));
    } else {
        y[ABSOLUTE_POS] = Vector::<T, N>::cast_from(value);
    }
}

/// One launch, several rows in each cube.
pub(super) fn layer_norm<R: CubeRuntime>(
    x: CubeTensor<R>,
    weight: CubeTensor<R>,
    bias: CubeTensor<R>,
    eps: f64,
) -> CubeTensor<R> {
    let (x, pitch) = in_rows(x);
    let (weight, bias) = (into_contiguous(weight), into_contiguous(bias));
    let shape = x.meta.shape().clone();
    let (rows, c) = (shape[0], shape[1]);
    let lanes = width(&[&x, &weight], &[c, pitch]);
    let y = empty(&x, shape, x.dtype);
    let client = x.client.clone();
    // SAFETY: indices stay below the shapes; rows beyond the last are not touched.
    unsafe {
        layer_norm_rows::launch_unchecked(
            &client,
            cubes(&client, rows.div_ceil(UNITS / ROW_UNITS)),
            CubeDim::new_1d(UNITS as u32),
            addresses(&[&x, &y]),
            lanes,
            x.clone().into_tensor_arg(),
            weight.clone().into_tensor_arg(),
            bias.into_tensor_arg(),
            y.clone().into_tensor_arg(),
            rows,
            pitch / lanes,
            eps as f32,
            c / lanes,
            [x.dtype.into(), weight.dtype.into()],
        );
    }
    y
}

#[cube(launch_unchecked, address_type = "dynamic")]
fn layer_norm_rows<T: Float, P: Float, N: Size>(
    x: &Tensor<Vector<T, N>>,
    weight: &Tensor<Vector<P, N>>,
    bias: &Tensor<Vector<P, N>>,
    y: &mut Tensor<Vector<T, N>>,
    rows: usize,
    pitch: usize,
    eps: f32,
    #[comptime] channels: usize,
    #[define(T, P)] _dtypes: [StorageType; 2],
) {
    let unit = UNIT_POS as usize;
    let position = unit % ROW_UNITS;
    let slot = unit - position;
    let row = CUBE_POS * comptime!(UNITS / ROW_UNITS) + unit / ROW_UNITS;
    let here = row < rows;

    let mut count = f32::new(0.0);
    let mut mean = Vector::<f32, N>::new(0.0);
    let mut squares = Vector::<f32, N>::new(0.0);
    if here {
        let mut at = position;
        while at < channels {
            let value = Vector::<f32, N>::cast_from(x[row * pitch + at]);
            count += 1.0;
            let delta = value - mean;
            mean += delta * Vector::<f32, N>::new(f32::new(1.0) / count);
            squares += delta * (value - mean);
            at += ROW_UNITS;
        }
    }
    let mut shared = SharedMemory::<f32>::new(comptime!(3 * UNITS));
    moments::store::<N>(&mut shared, unit, count, mean, squares, UNITS);
    moments::merge_all(&mut shared, slot, position, ROW_UNITS, UNITS);
    if here {
        let mean = Vector::<f32, N>::new(shared[UNITS + slot]);
        let scale = moments::reciprocal_deviation(&shared, slot, eps, UNITS);
        let scale = Vector::<f32, N>::new(scale);
        let mut at = position;
        while at < channels {
            let value = Vector::<f32, N>::cast_from(x[row * pitch + at]);
            let weight = Vector::<f32, N>::cast_from(weight[at]);
            let bias = Vector::<f32, N>::cast_from(bias[at]);
            y[row * channels + at] =
                Vector::<T, N>::cast_from((value - mean) * scale * weight + bias);
            at += ROW_UNITS;
        }
    }
}
