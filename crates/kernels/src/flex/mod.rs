//! Hand-written kernels for burn's CPU backend.
//!
//! A `try_*` function takes a generic tensor, and if its backend is `Flex` and its dtype f32 runs the kernel; otherwise
//! it hands the tensor back and the caller composes burn operations. `in_f32` does the same for half precision. The kernels see plain slices. They split work in
//! parts of fixed size, so results do not depend on the number of threads.

pub(crate) mod activation;
#[cfg_attr(not(target_arch = "x86_64"), path = "no_amx.rs")]
mod amx;
mod attention;
mod conv;
mod gemm;
mod half;
mod linear;
mod math;
mod norm;
mod resize;
mod winograd;

pub(crate) use self::half::{in_f32, widen};
pub(crate) use activation::{try_add, try_geglu, try_unary};
pub(crate) use attention::{try_attention, try_frame_attention};
pub(crate) use conv::{try_conv2d, try_frame_conv, try_upsample_conv2d};
pub(crate) use linear::try_linear;
pub(crate) use norm::{try_group_norm, try_layer_norm};
pub(crate) use resize::try_nearest_resize;

use std::any::{Any, TypeId};

use burn::tensor::{
    Bytes, DType, Shape, Tensor, TensorPrimitive,
    backend::{Backend, BackendTypes},
};
use burn_flex::{Flex, FlexTensor, Layout};

fn is_flex<B: Backend>() -> bool {
    TypeId::of::<B>() == TypeId::of::<Flex>()
}

pub(crate) fn takes_half_weights<B: Backend>() -> bool {
    is_flex::<B>() && amx::available()
}

/// Whether the kernels may run on this tensor.
fn eligible<B: Backend, const D: usize>(x: &Tensor<B, D>) -> bool {
    is_flex::<B>() && x.dtype() == DType::F32
}

/// The Flex tensor inside a generic one, contiguous. Only call it on an [`eligible`] tensor.
fn unwrap<B: Backend, const D: usize>(x: Tensor<B, D>) -> FlexTensor {
    primitive(x).to_contiguous()
}

/// The Flex tensor inside a generic one, as it lies.
fn primitive<B: Backend, const D: usize>(x: Tensor<B, D>) -> FlexTensor {
    let mut slot = Some(x.into_primitive().tensor());
    let any: &mut dyn Any = &mut slot;
    let flex = any
        .downcast_mut::<Option<FlexTensor>>()
        .and_then(Option::take);
    flex.expect("the backend's type was checked")
}

/// Back to a generic tensor; `B` is `Flex`.
fn wrap<B: Backend, const D: usize>(x: FlexTensor) -> Tensor<B, D> {
    let mut slot = Some(x);
    let any: &mut dyn Any = &mut slot;
    let primitive = any
        .downcast_mut::<Option<<B as BackendTypes>::FloatTensorPrimitive>>()
        .and_then(Option::take);
    Tensor::from_primitive(TensorPrimitive::Float(
        primitive.expect("the backend's type was checked"),
    ))
}

/// A new contiguous tensor around `data`.
fn from_vec<B: Backend, const D: usize>(data: Vec<f32>, dims: [usize; D]) -> Tensor<B, D> {
    let layout = Layout::contiguous(Shape::from(dims));
    wrap(FlexTensor::new(Bytes::from_elems(data), layout, DType::F32))
}

/// The values of a contiguous f32 tensor.
fn values(x: &FlexTensor) -> &[f32] {
    x.storage::<f32>()
}

/// `len` zeros. From 4 MiB on, Linux is asked for large pages: a 512th of the page faults, and products miss the address
/// cache less often.
fn zeros<T: bytemuck::Pod>(len: usize) -> Vec<T> {
    let zeros = vec![T::zeroed(); len];
    #[cfg(target_os = "linux")]
    if std::mem::size_of_val(&*zeros) >= 4 << 20 {
        const PAGE: usize = 4096;
        let range = zeros.as_ptr_range();
        let first = range.start.addr().next_multiple_of(PAGE);
        let size = (range.end.addr() - first) / PAGE * PAGE;
        // SAFETY: advice about whole pages of our own memory; it does not change what is in them. That it may be refused
        // does no harm.
        unsafe {
            libc::madvise(
                range.start.with_addr(first).cast_mut().cast(),
                size,
                libc::MADV_HUGEPAGE,
            )
        };
    }
    zeros
}

/// Every part of work that one thread takes at once has about this many elements.
const GRAIN: usize = 1 << 14;
