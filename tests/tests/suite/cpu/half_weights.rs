//! A model whose weights come in half precision, computed in f32: what stays narrow in memory changes nothing.

use std::{ops::ControlFlow, path::Path};

use burn::{
    backend::Flex,
    module::{Module, ModuleVisitor, Param},
    tensor::{DType, Tensor, backend::Backend},
};
use i2vgen_checkpoint::Folder;
use i2vgen_kernels::takes_half_weights;
use i2vgen_pipeline::{GenerateOptions, I2VGenXLPipeline, OutputType, decode_image};
use i2vgen_unet3d::I2VGenXLUNet;

const PICTURE: &[u8] = include_bytes!("../../../../crates/demo-model/examples/red_circle_256.png");

/// The toy model with weights that f16 holds, in files of `dtype`.
fn saved(dtype: DType) -> tempfile::TempDir {
    let device = Default::default();
    let save = |folder: Folder, dtype: DType| {
        let target = tempfile::tempdir().expect("a folder");
        let pipeline = I2VGenXLPipeline::<Flex>::from_folder(folder, None, DType::F32, &device);
        let pipeline = pipeline.expect("opens");
        pipeline
            .save_pretrained(target.path(), dtype)
            .expect("saved");
        target
    };
    let half = save(i2vgen_demo_model::folder(), DType::F16);
    match dtype {
        DType::F16 => half,
        _ => save(Folder::open(half.path()).expect("there"), dtype),
    }
}

fn latents(model: &Path, options: &GenerateOptions) -> Vec<f32> {
    let folder = Folder::open(model).expect("there");
    let pipeline =
        I2VGenXLPipeline::<Flex>::from_folder(folder, None, DType::F32, &Default::default());
    let image = decode_image(PICTURE, "picture").expect("a picture");
    let result = pipeline
        .expect("opens")
        .run(&image, "a red circle moves right", options, |_| {
            ControlFlow::Continue(())
        });
    result.expect("runs").latents.values
}

#[test]
fn the_same_to_the_bit() {
    let (half, full) = (saved(DType::F16), saved(DType::F32));
    for stream_unet in [false, true] {
        let options = GenerateOptions {
            height: 64,
            width: 64,
            num_frames: 4,
            num_inference_steps: 2,
            guidance_scale: 2.5,
            seed: Some(3),
            output_type: OutputType::Latent,
            stream_unet,
            ..GenerateOptions::default()
        };
        let (half, full) = (
            latents(half.path(), &options),
            latents(full.path(), &options),
        );
        assert!(half.iter().any(|x| *x != 0.0));
        assert_eq!(half, full, "stream_unet: {stream_unet}");
    }
}

/// Counts values by the dtype they are kept in.
#[derive(Default)]
struct Kept {
    half: usize,
    full: usize,
}

impl<B: Backend> ModuleVisitor<B> for Kept {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<B, D>>) {
        let value = param.val();
        let count = value.shape().num_elements();
        match value.dtype() {
            DType::F16 => self.half += count,
            _ => self.full += count,
        }
    }
}

#[test]
fn most_stay_narrow_where_there_is_a_matrix_unit() {
    let (half, device) = (saved(DType::F16), Default::default());
    let folder = Folder::open(half.path().join("unet")).expect("there");
    let unet =
        I2VGenXLUNet::<Flex>::from_folder(&folder, None, DType::F32, &device).expect("loads");
    assert_eq!(unet.dtype(), DType::F32);
    let mut kept = Kept::default();
    unet.visit(&mut kept);
    let Kept { half, full } = kept;
    if takes_half_weights::<Flex>() {
        assert!(half > 20 * full, "{half} narrow, {full} wide");
    } else {
        assert_eq!(half, 0);
    }
}
