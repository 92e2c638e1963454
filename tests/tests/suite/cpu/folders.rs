//! Model folders in all their forms: sharded, with a variant, saved back, incomplete.

use std::{collections::BTreeMap, path::Path};

use burn::{
    backend::Flex,
    tensor::{DType, Tensor, TensorData},
};
use i2vgen_checkpoint::CheckpointError;
use i2vgen_pipeline::{GenerateOptions, I2VGenXLPipeline, decode_image};
use i2vgen_vae::{AutoencoderKL, VaeError};
use safetensors::{SafeTensors, tensor::TensorView};

type B = Flex;
const VAE: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../crates/demo-model/model/vae"
);
const WEIGHTS: &str = "diffusion_pytorch_model.safetensors";

fn decoded(path: &Path) -> Vec<f32> {
    let vae = AutoencoderKL::<B>::from_pretrained(path, &Default::default()).expect("loads");
    let z: Vec<f32> = (0..4 * 25).map(|i| (i as f32 * 0.37).sin()).collect();
    let z = Tensor::from_data(TensorData::new(z, [1, 4, 5, 5]), &Default::default());
    vae.decode(z)
        .expect("decodes")
        .into_data()
        .to_vec()
        .expect("f32")
}

/// A folder with the config only.
fn started() -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    let config = Path::new(VAE).join("config.json");
    std::fs::copy(config, folder.path().join("config.json")).expect("copied");
    folder
}

fn write(path: &Path, tensors: &[(String, TensorView<'_>)]) {
    let tensors = tensors.iter().map(|(name, view)| (name, view));
    safetensors::serialize_to_file(tensors, None, path).expect("written");
}

#[test]
fn sharded_and_variant() {
    let bytes = std::fs::read(Path::new(VAE).join(WEIGHTS)).expect("there");
    let tensors = SafeTensors::deserialize(&bytes).expect("valid").tensors();
    let expected = decoded(Path::new(VAE));

    let folder = started();
    let (first, second) = tensors.split_at(tensors.len() / 2);
    let mut map = BTreeMap::new();
    for (i, part) in [first, second].into_iter().enumerate() {
        let name = format!("diffusion_pytorch_model-0000{}-of-00002.safetensors", i + 1);
        write(&folder.path().join(&name), part);
        map.extend(part.iter().map(|(key, _)| (key.clone(), name.clone())));
    }
    let index = serde_json::json!({"metadata": {}, "weight_map": map});
    let file = folder.path().join(format!("{WEIGHTS}.index.json"));
    std::fs::write(file, index.to_string()).expect("written");
    assert_eq!(decoded(folder.path()), expected, "sharded");

    let folder = started();
    let variant = "diffusion_pytorch_model.fp16.safetensors";
    write(&folder.path().join(variant), &tensors);
    assert_eq!(decoded(folder.path()), expected, "variant");
}

#[test]
fn every_misfit_is_named() {
    let bytes = std::fs::read(Path::new(VAE).join(WEIGHTS)).expect("there");
    let mut tensors = SafeTensors::deserialize(&bytes).expect("valid").tensors();
    let folder = started();
    let at = |tensors: &[(String, TensorView<'_>)], name: &str| {
        tensors.iter().position(|(n, _)| n == name).expect("there")
    };
    // One renamed (missing and unexpected), one replaced by another of a different shape.
    let renamed = at(&tensors, "decoder.conv_out.bias");
    tensors[renamed].0 = "decoder.conv_out.offset".into();
    let other = tensors[at(&tensors, "decoder.conv_in.bias")].1.clone();
    let reshaped = at(&tensors, "encoder.conv_out.bias");
    tensors[reshaped].1 = other;
    write(&folder.path().join(WEIGHTS), &tensors);
    let error = AutoencoderKL::<B>::from_pretrained(folder.path(), &Default::default());
    let Err(VaeError::Checkpoint(CheckpointError::Mismatch(report))) = error else {
        panic!("{error:?}");
    };
    assert_eq!(report.missing, ["decoder.conv_out.bias"]);
    assert_eq!(report.unexpected, ["decoder.conv_out.offset"]);
    assert_eq!(report.wrong_shape.len(), 1);
    assert_eq!(report.wrong_shape[0].0, "encoder.conv_out.bias");
}

#[test]
fn saved_and_opened_again() {
    let device = Default::default();
    let image = decode_image(i2vgen_demo_model::IMAGE, "embedded").expect("decodes");
    let options = GenerateOptions {
        height: 32,
        width: 32,
        num_frames: 2,
        num_inference_steps: 2,
        guidance_scale: 2.5,
        seed: Some(3),
        ..Default::default()
    };
    let folder = i2vgen_demo_model::folder();
    let original =
        I2VGenXLPipeline::<B>::from_folder(folder, None, DType::F32, &device).expect("opens");
    // Kept where I2VGEN_KEEP_SAVED says, to be opened by diffusers.
    let temporary = tempfile::tempdir().expect("a folder");
    let target = std::env::var_os("I2VGEN_KEEP_SAVED")
        .map_or_else(|| temporary.path().join("model"), Into::into);
    original
        .save_pretrained(&target, DType::F16)
        .expect("saves");
    let again = I2VGenXLPipeline::<B>::from_pretrained(&target, &device).expect("opens");
    let make = |p: &I2VGenXLPipeline<B>| p.generate(&image, "a red circle moves left", &options);
    let (first, second) = (make(&original).expect("runs"), make(&again).expect("runs"));
    // The demo's weights are f16 already, so nothing may be lost.
    assert_eq!(first, second);
    // A model is never overwritten.
    assert!(original.save_pretrained(&target, DType::F16).is_err());
}

#[test]
fn an_interrupted_conversion_is_refused() {
    let dir = tempfile::tempdir().expect("a folder");
    std::fs::write(dir.path().join(i2vgen_weights_converter::INCOMPLETE), "").expect("written");
    let error = i2vgen_checkpoint::Folder::open(dir.path()).expect_err("incomplete");
    assert!(error.to_string().contains("convert again"), "{error}");
}
