//! The kernels as operations of burn's fusion: it keeps their place in the order of operations and runs them when it gets
//! there.

use std::marker::PhantomData;

use burn::backend::ir::{CustomOpIr, HandleContainer, OperationIr, OperationOutput, TensorIr};
use burn_cubecl::{CubeBackend, CubeRuntime, fusion::FusionCubeRuntime};
use burn_fusion::{
    FusionRuntime, FusionTensor,
    stream::{Operation, OperationStreams},
};

use super::kernel::Kernel;

/// A tensor of the fused backend.
pub(super) type Fused<R> = FusionTensor<FusionCubeRuntime<R>>;

/// Appends a kernel to the operations that are to be run.
pub(super) fn register<R: CubeRuntime>(kernel: Kernel, inputs: Vec<Fused<R>>) -> Fused<R> {
    let client = inputs[0].client.clone();
    let output = TensorIr::uninit(
        client.create_empty_handle(),
        kernel.output(&inputs.iter().map(|x| &x.shape).collect::<Vec<_>>()),
        kernel.dtype(inputs[0].dtype),
    );
    let streams = OperationStreams::with_inputs(&inputs);
    let inputs: Vec<TensorIr> = inputs.into_iter().map(FusionTensor::into_ir).collect();
    let description = CustomOpIr::new("i2vgen", &inputs, &[output]);
    let operation = Run::<R> {
        kernel,
        description: description.clone(),
        runtime: PhantomData,
    };
    let outputs = client.register(streams, OperationIr::Custom(description), operation);
    outputs.output()
}

#[derive(Debug)]
struct Run<R> {
    kernel: Kernel,
    description: CustomOpIr,
    runtime: PhantomData<fn() -> R>,
}

impl<R: CubeRuntime> Operation<FusionCubeRuntime<R>> for Run<R> {
    fn execute(
        &self,
        handles: &mut HandleContainer<<FusionCubeRuntime<R> as FusionRuntime>::FusionHandle>,
    ) {
        // Float tensors are the same for every choice of the element types.
        type Backend<R> = CubeBackend<R, f32, i32, u32>;
        let inputs = self.description.inputs.iter();
        let inputs = inputs.map(|input| handles.get_float_tensor::<Backend<R>>(input));
        let result = self.kernel.launch(inputs.collect());
        let output = &self.description.outputs[0];
        handles.register_float_tensor::<Backend<R>>(&output.id, result);
    }
}
