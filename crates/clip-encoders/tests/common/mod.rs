//! Reading goldens and comparing with them.

#![allow(dead_code, unreachable_pub)] // Every test file uses a part of it.

use burn::tensor::{Tensor, TensorData};
use i2vgen_tests::TestBackend;
pub use i2vgen_tests::repository;
use safetensors::{Dtype, SafeTensors};

/// A file of `tests/goldens/clip`.
pub struct Goldens(Vec<u8>);

impl Goldens {
    pub fn read(name: &str) -> Self {
        let path = repository("tests/goldens/clip").join(name);
        Self(std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display())))
    }

    pub fn names(&self) -> Vec<String> {
        let names = self.file();
        names.names().into_iter().map(str::to_owned).collect()
    }

    fn file(&self) -> SafeTensors<'_> {
        SafeTensors::deserialize(&self.0).expect("valid")
    }

    pub fn shape(&self, name: &str) -> Vec<usize> {
        self.file().tensor(name).expect(name).shape().to_vec()
    }

    pub fn bytes(&self, name: &str) -> Vec<u8> {
        self.file().tensor(name).expect(name).data().to_vec()
    }

    pub fn i64(&self, name: &str) -> Vec<i64> {
        assert_eq!(self.file().tensor(name).expect(name).dtype(), Dtype::I64);
        let bytes = self.bytes(name);
        let (words, _) = bytes.as_chunks::<8>();
        words.iter().map(|b| i64::from_le_bytes(*b)).collect()
    }

    pub fn f32(&self, name: &str) -> Vec<f32> {
        assert_eq!(self.file().tensor(name).expect(name).dtype(), Dtype::F32);
        let bytes = self.bytes(name);
        let (words, _) = bytes.as_chunks::<4>();
        words.iter().map(|b| f32::from_le_bytes(*b)).collect()
    }

    pub fn tensor<const D: usize>(&self, name: &str) -> Tensor<TestBackend, D> {
        let data = TensorData::new(self.f32(name), self.shape(name));
        Tensor::from_data(data, &Default::default())
    }

    /// Fails if any value is further off than 1e-5 of the largest expected one.
    pub fn close<const D: usize>(&self, name: &str, found: Tensor<TestBackend, D>) {
        assert_eq!(found.dims().to_vec(), self.shape(name), "{name}: shape");
        let found: Vec<f32> = found.into_data().to_vec().expect("f32");
        let expected = self.f32(name);
        let scale = expected.iter().fold(0f32, |m, v| m.max(v.abs()));
        let off: Vec<f32> = found
            .iter()
            .zip(&expected)
            .map(|(a, b)| (a - b).abs())
            .collect();
        let max = off.iter().copied().fold(0f32, f32::max);
        let mean = off.iter().sum::<f32>() / off.len() as f32;
        println!("{name}: max-abs {max:.2e}, mean-abs {mean:.2e}, scale {scale:.2e}");
        // Written so that a NaN is bad.
        let bad = off.iter().position(|v| {
            let good = *v <= 1e-5 * scale;
            !good
        });
        if let Some(i) = bad {
            panic!(
                "{name}: max-abs {max:e}, mean-abs {mean:e} of scale {scale:e}; first at {i}: {} is not {}",
                found[i], expected[i]
            );
        }
    }
}
