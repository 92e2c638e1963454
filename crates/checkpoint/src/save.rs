use std::{borrow::Cow, collections::HashMap, io::Write, path::Path as FilePath};

use burn::{
    module::{Module, ModuleVisitor, Param},
    tensor::{DType, Tensor, backend::Backend},
};
use safetensors::{Dtype, View};
use serde::Serialize;
use tempfile::NamedTempFile;

use crate::{CheckpointError, module_paths::Path};

/// Writes all parameters of a module to one safetensors file, atomically.
///
/// Tensors are converted to `dtype` (F32, F16 or BF16) one after the other while they are written.
///
/// # Errors
/// If the dtype is not a float of these or the file cannot be written; then nothing is left behind.
pub fn save_module<B: Backend, M: Module<B>>(
    module: &M,
    path: &FilePath,
    dtype: DType,
) -> Result<(), CheckpointError> {
    let target = match dtype {
        DType::F32 => Dtype::F32,
        DType::F16 => Dtype::F16,
        DType::BF16 => Dtype::BF16,
        other => return Err(CheckpointError::TargetDtype(format!("{other:?}"))),
    };
    let mut views = Views {
        path: Path::default(),
        dtype,
        target,
        list: Vec::new(),
    };
    module.visit(&mut views);
    // What PyTorch's loaders look for.
    let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    write_atomically(path, |file| {
        safetensors::serialize_to_file(views.list, Some(metadata), file.path())
            .map_err(std::io::Error::other)
    })
}

struct Views {
    path: Path,
    dtype: DType,
    target: Dtype,
    list: Vec<(String, Lazy)>,
}

impl<B: Backend> ModuleVisitor<B> for Views {
    fn enter_module(&mut self, name: &str, _: &str) {
        self.path.enter(name);
    }

    fn exit_module(&mut self, _: &str, _: &str) {
        self.path.exit();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<B, D>>) {
        let (tensor, dtype) = (param.val(), self.dtype);
        let shape = tensor.dims().to_vec();
        let read = move || {
            tensor
                .clone()
                .into_data()
                .convert_dtype(dtype)
                .bytes
                .to_vec()
        };
        let lazy = Lazy {
            dtype: self.target,
            shape,
            read: Box::new(read),
        };
        self.list.push((self.path.key(), lazy));
    }
}

/// A tensor that is read from its device only when it is written.
struct Lazy {
    dtype: Dtype,
    shape: Vec<usize>,
    read: Box<dyn Fn() -> Vec<u8>>,
}

impl View for Lazy {
    fn dtype(&self) -> Dtype {
        self.dtype
    }

    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        Cow::Owned((self.read)())
    }

    fn data_len(&self) -> usize {
        let size = if self.dtype == Dtype::F32 { 4 } else { 2 };
        self.shape.iter().product::<usize>() * size
    }
}

/// Calls `write` with a temporary file beside `path` and renames it when that succeeds.
///
/// # Errors
/// If writing fails; then `path` is as it was.
pub fn write_atomically(
    path: &FilePath,
    write: impl FnOnce(&mut NamedTempFile) -> std::io::Result<()>,
) -> Result<(), CheckpointError> {
    let io = |source| CheckpointError::Io {
        path: path.display().to_string(),
        source,
    };
    let parent = path.parent().filter(|p| !p.as_os_str().is_empty());
    let mut file = NamedTempFile::new_in(parent.unwrap_or(FilePath::new("."))).map_err(io)?;
    write(&mut file).map_err(io)?;
    // Temporary files are made for their owner only.
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let permissions = std::fs::Permissions::from_mode(0o644);
        file.as_file().set_permissions(permissions).map_err(io)?;
    }
    file.as_file().sync_all().map_err(io)?;
    file.persist(path).map_err(|e| io(e.error))?;
    Ok(())
}

/// Writes pretty JSON, atomically.
///
/// # Errors
/// If the file cannot be written.
pub fn write_json(path: &FilePath, value: &impl Serialize) -> Result<(), CheckpointError> {
    let text = serde_json::to_string_pretty(value).map_err(|e| CheckpointError::Json {
        path: path.display().to_string(),
        reason: e.to_string(),
    })?;
    write_atomically(path, |file| writeln!(file, "{text}"))
}
