use burn::tensor::DType;
use burn_cubecl::{CubeRuntime, cubecl, tensor::CubeTensor};
use cubecl::{ir::features::Plane, prelude::*};

use super::tensors::{addresses, empty, in_lines, units};

/// How many values each unit takes: as many as a device reads at once, if the units that share a head of `channels` are then
/// in one plane and can exchange values.
pub(super) fn lanes<R: CubeRuntime>(
    client: &ComputeClient<R>,
    dtype: DType,
    channels: usize,
) -> Option<usize> {
    let properties = client.properties();
    let mut sizes = client.io_optimized_vector_sizes(dtype.size());
    let lanes = sizes.find(|size| channels.is_multiple_of(*size))?;
    let beside = channels / lanes;
    let fits = beside.is_power_of_two() && beside <= properties.hardware.plane_size_min as usize;
    let talks = properties.features.plane.contains(Plane::Ops);
    (fits && talks).then_some(lanes)
}

/// Attention between the frames at each position, where the values lie: nothing is brought into another order. One launch;
/// for each query `d / lanes` units side by side, each with its channels, the frames' scores one after the other with running
/// maximum and sum.
///
/// # Shapes
/// `q`, `k`, `v` `[b, f, s, heads·d]` → the same
pub(super) fn frame_attention<R: CubeRuntime>(
    q: CubeTensor<R>,
    k: CubeTensor<R>,
    v: CubeTensor<R>,
    heads: usize,
    lanes: usize,
) -> CubeTensor<R> {
    let (q, q_strides) = in_lines(q, lanes);
    let (k, k_strides) = in_lines(k, lanes);
    let (v, v_strides) = in_lines(v, lanes);
    let shape = q.meta.shape().clone();
    let (f, s, c) = (shape[1], shape[2], shape[3]);
    let count = shape.num_elements() / lanes;
    let y = empty(&q, shape, q.dtype);
    let client = q.client.clone();
    let (cube_count, cube_dim) = units(&client, count);
    // SAFETY: every unit reads and writes at valid positions; those beyond the last only take part in the exchange.
    unsafe {
        attend::launch_unchecked(
            &client,
            cube_count,
            cube_dim,
            addresses(&[&q, &k, &v]),
            lanes,
            q.clone().into_tensor_arg(),
            k.into_tensor_arg(),
            v.into_tensor_arg(),
            y.clone().into_tensor_arg(),
            count,
            f,
            s,
            q_strides[0],
            q_strides[1],
            q_strides[2],
            k_strides[0],
            k_strides[1],
            k_strides[2],
            v_strides[0],
            v_strides[1],
            v_strides[2],
            1.0 / ((c / heads) as f32).sqrt(),
            heads,
            c / heads / lanes,
            q.dtype.into(),
        );
    }
    y
}

/// Units are `[batch, place, head, frame, channels]`: those next to each other share keys and values.
#[cube(launch_unchecked, address_type = "dynamic")]
fn attend<T: Float, N: Size>(
    q: &Tensor<Vector<T, N>>,
    k: &Tensor<Vector<T, N>>,
    v: &Tensor<Vector<T, N>>,
    y: &mut Tensor<Vector<T, N>>,
    count: usize,
    f: usize,
    s: usize,
    q_batch: usize,
    q_frame: usize,
    q_place: usize,
    k_batch: usize,
    k_frame: usize,
    k_place: usize,
    v_batch: usize,
    v_frame: usize,
    v_place: usize,
    scale: f32,
    #[comptime] heads: usize,
    #[comptime] beside: usize,
    #[define(T)] _dtype: StorageType,
) {
    let position = min(ABSOLUTE_POS, count - 1);
    let part = position % beside;
    let rest = position / beside;
    let frame = rest % f;
    let rest = rest / f;
    let channel = rest % heads * beside + part;
    let rest = rest / heads;
    let place = rest % s;
    let batch = rest / s;

    let query = q[batch * q_batch + frame * q_frame + place * q_place + channel];
    let query = Vector::<f32, N>::cast_from(query) * Vector::<f32, N>::new(scale);
    let key = batch * k_batch + place * k_place + channel;
    let value = batch * v_batch + place * v_place + channel;
    let mut top = f32::new(-1e30);
    let mut sum = f32::new(0.0);
    let mut output = Vector::<f32, N>::new(0.0);
    for other in 0..f {
        let products = query * Vector::<f32, N>::cast_from(k[key + other * k_frame]);
        let lanes = products.size();
        let mut score = f32::new(0.0);
        #[unroll]
        for lane in 0..lanes {
            score += products[lane];
        }
        #[unroll]
        for bit in 0..comptime!(beside.ilog2()) {
            score += plane_shuffle_xor(score, comptime!(1u32 << bit));
        }
        let higher = max(top, score);
        let fade = (top - higher).exp();
        let weight = (score - higher).exp();
        sum = sum * fade + weight;
        let seen = Vector::<f32, N>::cast_from(v[value + other * v_frame]);
        output = output * Vector::<f32, N>::new(fade) + seen * Vector::<f32, N>::new(weight);
        top = higher;
    }
    if ABSOLUTE_POS < count {
        let row = ((batch * f + frame) * s + place) * comptime!(heads * beside);
        y[row + channel] = Vector::<T, N>::cast_from(output / Vector::<f32, N>::new(sum));
    }
}
