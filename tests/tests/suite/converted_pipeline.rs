//! The authors' files, converted, give the latents that diffusers computes from the converted folder
//! (`goldens/converted/generate.py`).

use std::{ops::ControlFlow, path::Path};

use burn::tensor::DType;
use i2vgen_checkpoint::Folder;
use i2vgen_pipeline::{Compat, GenerateOptions, I2VGenXLPipeline, ImageLatents, decode_image};
use i2vgen_tests::{TestBackend, distance};
use i2vgen_weights_converter::{Conversion, Options, Trio};
use safetensors::SafeTensors;

const LATENTS: &[u8] = include_bytes!("../../goldens/converted/latents.safetensors");
const IMAGE: &[u8] = include_bytes!("../../goldens/pipeline/input.png");

fn latents(fold: bool, compat: Compat) -> Vec<f32> {
    let originals =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../weights-converter/tests/goldens/originals");
    let file = |name| Some(originals.join(name));
    let trio = Trio {
        unet: file("unet.pth"),
        vae: file("vae.ckpt"),
        clip: file("clip.bin"),
    };
    let dir = tempfile::tempdir().expect("a folder");
    let output = dir.path().join("model");
    let options = Options {
        fold_concat_gain: fold,
        ..Options::default()
    };
    let conversion =
        Conversion::trio(&trio, Some(&originals.join("configs")), None).expect("opens");
    conversion
        .write(&output, &options, &mut |_| {})
        .expect("converts");
    let device = Default::default();
    let folder = Folder::open(&output).expect("opens");
    let pipeline = I2VGenXLPipeline::<TestBackend>::from_folder(folder, None, DType::F32, &device)
        .expect("opens");
    let options = GenerateOptions {
        height: 32,
        width: 40,
        target_fps: 8.0,
        num_frames: 3,
        num_inference_steps: 4,
        guidance_scale: 2.5,
        seed: Some(7),
        image_latents: ImageLatents::Mode,
        compat,
        ..Default::default()
    };
    let image = decode_image(IMAGE, "input.png").expect("decodes");
    let result = pipeline.run(&image, "a cat", &options, |_| ControlFlow::Continue(()));
    result.expect("runs").latents.values
}

#[test]
fn a_converted_folder_gives_what_diffusers_gives() {
    let file = SafeTensors::deserialize(LATENTS).expect("tensors");
    let golden = |name: &str| -> Vec<f32> {
        let tensor = file.tensor(name).expect(name);
        tensor
            .data()
            .as_chunks::<4>()
            .0
            .iter()
            .map(|b| f32::from_le_bytes(*b))
            .collect()
    };
    let (keep, fold) = (golden("keep"), golden("fold"));
    assert!(distance(&keep, &fold) > 1e-2, "the gain must matter");
    for (name, folded, want) in [("keep", false, keep), ("fold", true, fold)] {
        let max = distance(&latents(folded, Compat::Diffusers), &want);
        println!("{name}: latents max-abs {max:.2e}");
        assert!(max <= 1e-3, "{name}: {max:e}");
    }
}

#[test]
fn the_gain_is_not_applied_twice() {
    // The authors' pipeline doubles the features; weights that do it already are left alone.
    assert_eq!(latents(true, Compat::VGen), latents(true, Compat::VGen));
    let (kept, folded) = (latents(false, Compat::VGen), latents(true, Compat::VGen));
    let max = distance(&kept, &folded);
    assert!(max <= 1e-3, "{max:e}");
}
