//! A tensor as a part of a storage: strided, overlapping others, or repeating itself.

use std::{io, sync::Arc};

use safetensors::Dtype;

use super::{archive::Storage, pickle::Tensor};

/// As in `pytorch-reader`.
const MAX_TENSOR: usize = 10 << 30;

#[derive(Clone, Debug)]
pub(crate) struct View {
    storage: Arc<Storage>,
    /// Bytes of one number.
    element: usize,
    /// Bytes of the storage up to the last that is used.
    extent: usize,
    tensor: Tensor,
}

impl View {
    /// A tensor that lies in its storage.
    pub(crate) fn new(storage: Arc<Storage>, tensor: Tensor) -> Result<Self, &'static str> {
        let element = tensor.dtype.bitsize() / 8;
        let extent = tensor.extent().and_then(|n| n.checked_mul(element));
        let extent = extent.filter(|n| *n <= storage.size());
        let mut sizes = tensor.shape.iter();
        let size = sizes.try_fold(element, |n, d| n.checked_mul(*d));
        if size.is_none_or(|n| n > MAX_TENSOR) {
            return Err("is too large");
        }
        Ok(Self {
            storage,
            element,
            extent: extent.ok_or("reaches beyond its storage")?,
            tensor,
        })
    }

    pub(crate) fn dtype(&self) -> Dtype {
        self.tensor.dtype
    }

    pub(crate) fn shape(&self) -> &[usize] {
        &self.tensor.shape
    }

    pub(crate) fn storage(&self) -> &Arc<Storage> {
        &self.storage
    }

    /// Whether a reader of this tensor comes from the first to the last byte of the storage.
    pub(crate) fn is_whole(&self) -> bool {
        self.tensor.offset == 0 && self.extent == self.storage.size()
    }

    /// The values, contiguous in row-major order.
    pub(crate) fn read(&self) -> io::Result<Vec<u8>> {
        let storage = self.storage.start(self.extent)?;
        if storage.len() < self.extent {
            let kind = io::ErrorKind::UnexpectedEof;
            return Err(io::Error::new(kind, "its storage ends too early"));
        }
        let (shape, stride) = (&self.tensor.shape, &self.tensor.stride);
        let count: usize = shape.iter().product();
        let mut out = Vec::with_capacity(count * self.element);
        if count > 0 {
            // The innermost axes that lie in one piece are copied at once.
            let mut run = 1;
            let mut outer = shape.len();
            while outer > 0 && (stride[outer - 1] == run || shape[outer - 1] == 1) {
                outer -= 1;
                run *= shape[outer];
            }
            let mut index = vec![0; outer];
            for _ in 0..count / run {
                let at: usize = index.iter().zip(stride).map(|(i, s)| i * s).sum();
                let at = (self.tensor.offset + at) * self.element;
                out.extend_from_slice(&storage[at..at + run * self.element]);
                for axis in (0..outer).rev() {
                    index[axis] += 1;
                    if index[axis] < shape[axis] {
                        break;
                    }
                    index[axis] = 0;
                }
            }
        }
        if self.tensor.dtype == Dtype::BOOL {
            out.iter_mut().for_each(|byte| *byte = (*byte != 0).into());
        }
        self.storage.forget();
        Ok(out)
    }
}
