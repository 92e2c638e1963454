use burn_cubecl::{CubeRuntime, cubecl, kernel::into_contiguous, tensor::CubeTensor};
use cubecl::prelude::*;

use super::{
    moments,
    tensors::{UNITS, addresses, cubes, empty, in_rows, width},
};

/// Units for one row.
const ROW_UNITS: usize = 32;

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
