//! Tensors outside of any backend: what goes into a run and comes out of it, and their files.

use std::path::Path;

use burn::tensor::{DType, Tensor, TensorData, backend::Backend};
use half::{bf16, f16};
use safetensors::{Dtype, SafeTensors};

use crate::PipelineError;

/// f32 values on the host in row-major order.
#[derive(Clone, Debug, PartialEq)]
pub struct HostTensor<const D: usize> {
    /// All of them.
    pub values: Vec<f32>,
    /// Sizes of the axes.
    pub shape: [usize; D],
}

/// `[videos, channels, frames, height, width]`, in the VAE's scale of sizes.
pub type Latents = HostTensor<5>;

/// Text embeddings, `[prompts, tokens, width]`.
pub type Embeds = HostTensor<3>;

impl<const D: usize> HostTensor<D> {
    /// Reads one tensor of a safetensors file; half precision is widened. `option` is what errors name.
    ///
    /// # Errors
    /// If there is no such tensor of rank `D` with finite floating-point values.
    pub fn read_named(
        path: impl AsRef<Path>,
        name: &str,
        option: &'static str,
    ) -> Result<Self, PipelineError> {
        let path = path.as_ref();
        let fail = |problem: String| PipelineError::Option {
            name: option,
            problem: format!("'{}' {problem}", path.display()),
        };
        if path.is_dir() {
            return Err(fail("is a folder; give a .safetensors file".into()));
        }
        let bytes = std::fs::read(path).map_err(|e| fail(format!("cannot be read: {e}")))?;
        let file = SafeTensors::deserialize(&bytes)
            .map_err(|e| fail(format!("is not a valid safetensors file ({e})")))?;
        let tensor = file
            .tensor(name)
            .map_err(|_| fail(format!("has no tensor named '{name}'")))?;
        let shape: [usize; D] = tensor.shape().try_into().map_err(|_| {
            fail(format!(
                "has {name} of shape {:?}; it must have {D} axes",
                tensor.shape()
            ))
        })?;
        let pairs = || tensor.data().as_chunks::<2>().0.iter();
        let values: Vec<f32> = match tensor.dtype() {
            Dtype::F32 => {
                let (chunks, _) = tensor.data().as_chunks::<4>();
                chunks.iter().map(|b| f32::from_le_bytes(*b)).collect()
            }
            Dtype::F16 => pairs().map(|b| f16::from_le_bytes(*b).to_f32()).collect(),
            Dtype::BF16 => pairs().map(|b| bf16::from_le_bytes(*b).to_f32()).collect(),
            other => {
                return Err(fail(format!(
                    "has {name} in {other:?}; it must be F32, F16 or BF16"
                )));
            }
        };
        let tensor = Self { values, shape };
        tensor.check(option).map_err(|_| {
            fail(format!(
                "has a value in {name} that is not finite; make it again"
            ))
        })?;
        Ok(tensor)
    }

    /// From any backend and float dtype.
    pub fn from_tensor<B: Backend>(tensor: Tensor<B, D>) -> Self {
        let shape = tensor.dims();
        let data = tensor.cast(DType::F32).into_data();
        let values = data
            .to_vec()
            .expect("the tensor was cast to f32 on the line before");
        Self { values, shape }
    }

    /// To a device, in a float dtype.
    pub fn to_tensor<B: Backend>(&self, dtype: DType, device: &B::Device) -> Tensor<B, D> {
        let data = TensorData::new(self.values.clone(), self.shape);
        Tensor::<B, D>::from_data(data, (device, DType::F32)).cast(dtype)
    }

    /// Refuses values that are not finite and counts that are not the shape's.
    pub(crate) fn check(&self, name: &'static str) -> Result<(), PipelineError> {
        let fail = |problem: String| Err(PipelineError::Option { name, problem });
        let shape = self.shape;
        if self.values.len() != shape.iter().product::<usize>() {
            return fail(format!(
                "{} values are not of shape {shape:?}",
                self.values.len()
            ));
        }
        if self.values.iter().any(|v| !v.is_finite()) {
            return fail("hold a value that is not finite".into());
        }
        Ok(())
    }
}

impl Latents {
    /// Reads tensor `latents` of a safetensors file.
    ///
    /// # Errors
    /// If there is no such tensor of rank 5.
    pub fn read(path: impl AsRef<Path>) -> Result<Self, PipelineError> {
        Self::read_named(path, "latents", "latents")
    }
}
