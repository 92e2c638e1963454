use std::{collections::BTreeMap, sync::Arc};

use burn::{
    module::{Module, ModuleMapper, Param},
    tensor::{DType, Shape, Tensor, TensorData, backend::Backend},
};
use safetensors::Dtype;

use crate::{
    CheckpointError, LoadReport, TensorEntry, Weights,
    dtype::{convert, float_size},
    module_paths::Path,
};

/// How the tensors of a file find their parameters.
#[derive(Clone, Copy)]
pub struct LoadOptions<'a> {
    /// Dtype of the loaded parameters.
    pub dtype: DType,
    /// From a key in the file to a key of the module; `None` leaves the tensor out. Applied after the general rules:
    /// a leading `module.` or `model.diffusion_model.` is cut, `*.position_ids` is left out.
    pub rename: &'a dyn Fn(&str) -> Option<String>,
    /// Read a parameter when it is first used instead of now, and again in every clone of the module that was made before:
    /// who uses clones of layers holds one layer at a time.
    pub lazy: bool,
    /// In f32, leave the weights of linear layers and convolutions in the half precision of their file, where the backend
    /// takes them (`i2vgen_kernels::takes_half_weights`): half of the memory, the same results.
    pub keep_half: bool,
}

impl Default for LoadOptions<'_> {
    fn default() -> Self {
        Self {
            dtype: DType::F32,
            rename: &|key| Some(key.to_owned()),
            lazy: false,
            keep_half: false,
        }
    }
}

/// Fills every parameter of `module` from `weights`, one tensor after the other, without initialising it first.
///
/// Weights of rank 4 and 5 (convolutions) keep their logical shape `[out, in, ..]` but lie in memory with the input
/// channels last, as the kernels want them. A stored shape may have additional trailing ones (`Conv1d` and 1×1
/// convolution weights of what is now a linear layer).
///
/// # Errors
/// If any parameter is missing or has another shape, if any tensor is left over, or if a tensor is not a float.
pub fn load_module<B: Backend, M: Module<B>>(
    module: M,
    weights: &Weights,
    options: &LoadOptions<'_>,
) -> Result<M, CheckpointError> {
    if !matches!(options.dtype, DType::F32 | DType::F16 | DType::BF16) {
        return Err(CheckpointError::TargetDtype(format!("{:?}", options.dtype)));
    }
    let mut loader = Loader {
        weights,
        dtype: options.dtype,
        lazy: options.lazy,
        keep_half: options.keep_half && options.dtype == DType::F32,
        in_layer: false,
        waiting: BTreeMap::new(),
        path: Path::default(),
        report: LoadReport {
            source: weights.source().to_owned(),
            ..Default::default()
        },
        error: None,
    };
    for (name, entry) in &weights.tensors {
        let Some(key) = general_rules(name).and_then(options.rename) else {
            continue;
        };
        if loader.waiting.insert(key, (name, entry)).is_some() {
            loader.report.unexpected.push(format!("{name} (twice)"));
        }
    }
    let module = module.map(&mut loader);
    if let Some(error) = loader.error {
        return Err(error);
    }
    loader
        .report
        .unexpected
        .extend(loader.waiting.values().map(|(name, _)| (*name).clone()));
    if loader.report.is_complete() {
        Ok(module)
    } else {
        Err(CheckpointError::Mismatch(Box::new(loader.report)))
    }
}

fn general_rules(name: &str) -> Option<&str> {
    let name = name.strip_prefix("module.").unwrap_or(name);
    let name = name.strip_prefix("model.diffusion_model.").unwrap_or(name);
    (!name.ends_with(".position_ids")).then_some(name)
}

struct Loader<'a> {
    weights: &'a Weights,
    dtype: DType,
    lazy: bool,
    keep_half: bool,
    /// Whether the current parameter is one of a layer that takes its weight in half precision.
    in_layer: bool,
    waiting: BTreeMap<String, (&'a String, &'a TensorEntry)>,
    path: Path,
    report: LoadReport,
    error: Option<CheckpointError>,
}

impl<B: Backend> ModuleMapper<B> for Loader<'_> {
    fn enter_module(&mut self, name: &str, container: &str) {
        self.path.enter(name);
        let layers = ["Struct:Linear", "Struct:Conv2d", "Struct:FrameConv"];
        self.in_layer = layers.contains(&container);
    }

    fn exit_module(&mut self, _: &str, _: &str) {
        self.path.exit();
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<B, D>>) -> Param<Tensor<B, D>> {
        let key = self.path.key();
        let Some((name, entry)) = self.waiting.remove(&key) else {
            self.report.missing.push(key);
            return param;
        };
        let expected = param.lazy_shape().to_vec();
        if !fits(&entry.shape, &expected) {
            self.report
                .wrong_shape
                .push((key, expected, entry.shape.clone()));
            return param;
        }
        let (path, blob) = &self.weights.files[entry.file];
        if float_size(entry.dtype).is_none() {
            self.error.get_or_insert_with(|| CheckpointError::Dtype {
                path: path.clone(),
                tensor: name.clone(),
                dtype: format!("{:?}", entry.dtype),
            });
            return param;
        }
        let shape: [usize; D] = std::array::from_fn(|i| expected[i]);
        let (blob, range) = (Arc::clone(blob), entry.start..entry.end);
        let from = entry.dtype;
        let dtype = match from {
            Dtype::F16 if self.keep_half && self.in_layer && D > 1 => DType::F16,
            Dtype::BF16 if self.keep_half && self.in_layer && D > 1 => DType::BF16,
            _ => self.dtype,
        };
        let read = move |device: &B::Device| {
            let tensor = lay_out(&blob[range.clone()], from, shape, dtype, device);
            blob.forget(range.clone());
            tensor
        };
        let device = param.lazy_device();
        self.report.loaded += 1;
        if self.lazy {
            let init = move |device: &B::Device, _: bool| read(device);
            return Param::uninitialized(param.id, init, device, false, Shape::from(shape));
        }
        Param::initialized(param.id, read(&device))
    }
}

/// A parameter from little-endian floats in row-major order, lying in memory as [`load_module`] lays it.
///
/// `bytes` must hold `shape`'s values in `from`; `dtype` is one of F32, F16, BF16.
pub fn lay_out<B: Backend, const D: usize>(
    bytes: &[u8],
    from: Dtype,
    shape: [usize; D],
    dtype: DType,
    device: &B::Device,
) -> Tensor<B, D> {
    let taps = if D >= 4 {
        shape[2..].iter().product()
    } else {
        1
    };
    let bytes = convert(bytes, from, dtype, shape[0], taps);
    if taps > 1 {
        // Physically [out, taps.., in], logically [out, in, taps..].
        let mut dims = shape.to_vec();
        let input = dims.remove(1);
        dims.push(input);
        let mut axes: Vec<isize> = (1..D as isize - 1).collect();
        axes.insert(0, D as isize - 1);
        axes.insert(0, 0);
        let axes: [isize; D] = std::array::from_fn(|i| axes[i]);
        let data = TensorData::from_bytes(bytes, Shape::from(dims), dtype);
        Tensor::<B, D>::from_data(data, (device, dtype)).permute(axes)
    } else {
        let data = TensorData::from_bytes(bytes, Shape::from(shape), dtype);
        Tensor::from_data(data, (device, dtype))
    }
}

/// Equal, or equal after cutting trailing ones of the stored shape.
fn fits(stored: &[usize], expected: &[usize]) -> bool {
    stored.len() >= expected.len()
        && stored[..expected.len()] == *expected
        && stored[expected.len()..].iter().all(|n| *n == 1)
}
