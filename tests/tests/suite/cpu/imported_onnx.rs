//! The preview decoder that `cargo xtask import-onnx` made gives what the exporting PyTorch module gives
//! (`crates/pipeline/examples/preview_decoder/generate.py`).

use burn::{
    backend::Flex,
    tensor::{Bytes, Tensor, TensorData},
};
use safetensors::SafeTensors;

#[allow(missing_docs, unreachable_pub)]
#[path = "../../../../crates/pipeline/examples/preview_decoder/imported/preview.rs"]
mod preview;

const WEIGHTS: &[u8] =
    include_bytes!("../../../../crates/pipeline/examples/preview_decoder/imported/preview.bpk");
const GOLDEN: &[u8] =
    include_bytes!("../../../../crates/pipeline/examples/preview_decoder/golden.safetensors");

fn golden(name: &str) -> (Vec<f32>, [usize; 4]) {
    let file = SafeTensors::deserialize(GOLDEN).expect("tensors");
    let tensor = file.tensor(name).expect(name);
    let values = tensor
        .data()
        .as_chunks::<4>()
        .0
        .iter()
        .map(|b| f32::from_le_bytes(*b));
    (values.collect(), tensor.shape().try_into().expect("4 axes"))
}

#[test]
fn the_imported_module_is_the_exported_one() {
    let device = Default::default();
    let model =
        preview::Model::<Flex>::from_bytes(Bytes::from_bytes_vec(WEIGHTS.to_vec()), &device);
    let (latents, shape) = golden("latents");
    let latents = Tensor::from_data(TensorData::new(latents, shape), &device);
    let image: Tensor<Flex, 4> = model.forward(latents);
    let (want, shape) = golden("image");
    assert_eq!(image.dims(), shape);
    let found: Vec<f32> = image.into_data().into_vec().expect("f32");
    let scale = want.iter().fold(0.0_f32, |m, v| m.max(v.abs()));
    let off = found.iter().zip(&want).map(|(a, b)| (a - b).abs());
    let worst = off.fold(
        0.0,
        |max: f32, x| if x.is_nan() { f32::MAX } else { max.max(x) },
    );
    println!(
        "max-abs {worst:e} of {scale}; {:?}, {:?}",
        &found[..3],
        &want[..3]
    );
    assert!(worst <= 1e-5 * scale, "{worst:e} of {scale}");
    assert!(scale > 0.5);
}
