//! Replaces the parameters of a module that a LoRA changes.

use burn::{
    module::{Module, ModuleMapper, Param},
    tensor::{DType, Tensor, backend::Backend, bf16, f16},
};
use i2vgen_checkpoint::{ModulePath, lay_out};
use i2vgen_weights_converter::Delta;
use safetensors::Dtype;

use super::Deltas;
use crate::PipelineError;

/// Adds to the parameters named in `deltas`, in f32 and on the host, in the converter's order: a merged module equals the one
/// loaded from a converted folder to the bit. Everything else is passed on as it is. `dtype` is what the module computes in.
pub(super) fn merge<B: Backend, M: Module<B>>(
    module: M,
    dtype: DType,
    deltas: Deltas,
) -> Result<M, PipelineError> {
    if deltas.is_empty() {
        return Ok(module);
    }
    let mut merger = Merger {
        dtype,
        deltas,
        path: ModulePath::default(),
        error: None,
    };
    let module = module.map(&mut merger);
    merger.error.map_or(Ok(module), Err)
}

struct Merger {
    dtype: DType,
    deltas: Deltas,
    path: ModulePath,
    error: Option<PipelineError>,
}

impl<B: Backend> ModuleMapper<B> for Merger {
    fn enter_module(&mut self, name: &str, _: &str) {
        self.path.enter(name);
    }

    fn exit_module(&mut self, _: &str, _: &str) {
        self.path.exit();
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<B, D>>) -> Param<Tensor<B, D>> {
        let key = self.path.key();
        let Some(deltas) = self.deltas.remove(&key) else {
            return param;
        };
        if self.error.is_some() {
            return param;
        }
        match add(param.val(), self.dtype, &deltas, &key) {
            Ok(tensor) => Param::initialized(param.id, tensor),
            Err(error) => {
                self.error = Some(error);
                param
            }
        }
    }
}

fn add<B: Backend, const D: usize>(
    base: Tensor<B, D>,
    dtype: DType,
    deltas: &[Delta],
    key: &str,
) -> Result<Tensor<B, D>, PipelineError> {
    let (shape, device) = (base.dims(), base.device());
    let fail = |problem: String| PipelineError::Option {
        name: "loras",
        problem,
    };
    let largest = match dtype {
        DType::F32 => f32::MAX,
        DType::F16 => f16::MAX.to_f32(),
        DType::BF16 => bf16::MAX.to_f32(),
        other => {
            return Err(fail(format!(
                "cannot be added to '{key}' in {other:?}; load the model as f32, f16 or bf16"
            )));
        }
    };
    let mut data = base.into_data().convert::<f32>();
    let values = data
        .as_mut_slice::<f32>()
        .map_err(|e| fail(format!("cannot be added to '{key}': {e:?}")))?;
    for delta in deltas {
        delta.add_to(values)?;
    }
    // NaN is beyond the range, too.
    if !values.iter().all(|value| value.abs() <= largest) {
        return Err(fail(format!(
            "'{key}' goes beyond the range of {dtype:?}; lower the strengths, use a wider dtype, or download the file again"
        )));
    }
    let bytes = data.as_bytes();
    Ok(lay_out(bytes, Dtype::F32, shape, dtype, &device))
}
