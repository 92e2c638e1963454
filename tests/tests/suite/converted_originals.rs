//! The authors' own files, converted, against the authors' own classes
//! (`weights-converter/tests/goldens/originals/generate.py`).

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use burn::tensor::{DType, Int, Tensor, TensorData};
use i2vgen_checkpoint::Folder;
use i2vgen_clip_encoders::{CLIPTextModel, CLIPVisionModelWithProjection};
use i2vgen_tests::TestBackend;
use i2vgen_unet3d::I2VGenXLUNet;
use i2vgen_vae::AutoencoderKL;
use i2vgen_weights_converter::{Component, Conversion, Options, Plan, Source, Trio, read_config};
use safetensors::SafeTensors;
use sha2::{Digest, Sha256};
use tempfile::TempDir;

/// Relative to the largest expected value: room for another order of summation and nothing else.
const LIMIT: f32 = 1e-4;

fn originals() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../weights-converter/tests/goldens/originals")
}

/// Recorded inputs and outputs.
struct Goldens(Vec<u8>);

impl Goldens {
    fn read() -> Self {
        Self(fs::read(originals().join("goldens.safetensors")).expect("goldens"))
    }

    fn data<T>(&self, name: &str, number: impl Fn(&[u8]) -> T) -> (Vec<T>, Vec<usize>) {
        let file = SafeTensors::deserialize(&self.0).expect("goldens");
        let tensor = file.tensor(name).expect(name);
        let values = tensor.data().chunks_exact(size_of::<T>()).map(number);
        (values.collect(), tensor.shape().to_vec())
    }

    fn f32(&self, name: &str) -> (Vec<f32>, Vec<usize>) {
        self.data(name, |b| f32::from_le_bytes(b.try_into().expect("4 bytes")))
    }

    fn tensor<const D: usize>(&self, name: &str) -> Tensor<TestBackend, D> {
        let (values, shape) = self.f32(name);
        Tensor::from_data(TensorData::new(values, shape), &Default::default())
    }

    fn ids(&self, name: &str) -> Tensor<TestBackend, 2, Int> {
        let (values, shape) =
            self.data(name, |b| i64::from_le_bytes(b.try_into().expect("8 bytes")));
        Tensor::from_data(TensorData::new(values, shape), &Default::default())
    }

    fn scalar(&self, name: &str) -> f64 {
        f64::from(self.f32(name).0[0])
    }

    /// How far a tensor is from the recorded one, relative to the latter's largest value.
    fn off<const D: usize>(&self, name: &str, found: Tensor<TestBackend, D>) -> f32 {
        let (expected, shape) = self.f32(name);
        assert_eq!(found.dims().to_vec(), shape, "{name}");
        let found: Vec<f32> = found.into_data().to_vec().expect("f32");
        let largest = expected.iter().fold(0f32, |max, x| max.max(x.abs()));
        let off = |(a, b): (&f32, &f32)| (a - b).abs();
        let worst = found.iter().zip(&expected).map(off);
        let worst = worst.fold(
            0f32,
            |max, x| if x.is_nan() { f32::MAX } else { max.max(x) },
        );
        println!("{name}: max-abs {worst:.2e}, largest value {largest:.3}");
        worst / largest
    }

    fn close<const D: usize>(&self, name: &str, found: Tensor<TestBackend, D>) {
        let off = self.off(name, found);
        assert!(
            off <= LIMIT,
            "{name}: max-abs {off:e} of the largest value, {LIMIT:e} allowed"
        );
    }
}

/// The three files in one pipeline folder.
fn trio(options: &Options) -> TempDir {
    let file = |name| Some(originals().join(name));
    let files = Trio {
        unet: file("unet.pth"),
        vae: file("vae.ckpt"),
        clip: file("clip.bin"),
    };
    let parent = tempfile::tempdir().expect("a folder");
    Conversion::trio(&files, Some(&originals().join("configs")), None)
        .expect("plans")
        .write(&parent.path().join("model"), options, &mut |_| {})
        .expect("converts");
    parent
}

fn component(parent: &TempDir, name: &str) -> Folder {
    Folder::open(parent.path().join("model").join(name)).expect(name)
}

fn fold(fold_concat_gain: bool) -> Options {
    Options {
        fold_concat_gain,
        ..Default::default()
    }
}

fn unet_output(goldens: &Goldens, folder: &Folder, concat_gain: f64) -> Tensor<TestBackend, 5> {
    let device = Default::default();
    let unet =
        I2VGenXLUNet::<TestBackend>::from_folder(folder, None, DType::F32, &device).expect("loads");
    let conditioning = unet.prepare(
        goldens.tensor("unet.text"),
        goldens.tensor("unet.image_embeddings"),
        goldens.tensor("unet.image_latents"),
        goldens.scalar("unet.fps"),
        concat_gain,
    );
    let output = unet.forward(
        goldens.tensor("unet.latents"),
        goldens.scalar("unet.timestep"),
        &conditioning.expect("fits"),
    );
    output.expect("runs")
}

#[test]
fn vgen_unet() {
    let goldens = Goldens::read();
    let name = "unet.output";
    // VGen adds the image's features twice: folded into the weights, or asked for at run time.
    let folded = trio(&fold(true));
    let output = |parent, gain| unet_output(&goldens, &component(parent, "unet"), gain);
    goldens.close(name, output(&folded, 1.0));
    let kept = trio(&fold(false));
    goldens.close(name, output(&kept, 2.0));
    let off = goldens.off(name, output(&kept, 1.0));
    assert!(off > 1e-2, "the gain makes no difference: {off:e}");
}

#[test]
fn ldm_vae_in_a_lightning_checkpoint() {
    let goldens = Goldens::read();
    let converted = trio(&fold(false));
    let folder = component(&converted, "vae");
    let vae =
        AutoencoderKL::<TestBackend>::from_folder(&folder, None, DType::F32, &Default::default())
            .expect("loads");
    let posterior = vae.encode(goldens.tensor("vae.image")).expect("encodes");
    // The recorded logarithms are far from where they are clamped.
    let moments = Tensor::cat(vec![posterior.mean, posterior.logvar], 1);
    goldens.close("vae.moments", moments);
    let image = vae.decode(goldens.tensor("vae.latents")).expect("decodes");
    goldens.close("vae.decoded", image);
}

#[test]
fn open_clip_text() {
    let goldens = Goldens::read();
    let converted = trio(&fold(false));
    let folder = component(&converted, "text_encoder");
    text(&goldens, &folder);
}

/// Stable Diffusion checkpoints hold the text tower too.
#[test]
fn open_clip_text_in_a_lightning_checkpoint() {
    let parent = tempfile::tempdir().expect("a folder");
    convert_component(
        Component::TextEncoder,
        "vae.ckpt",
        "configs",
        &parent.path().join("model"),
    );
    text(&Goldens::read(), &component(&parent, ""));
}

fn text(goldens: &Goldens, folder: &Folder) {
    let tower =
        CLIPTextModel::<TestBackend>::from_folder(folder, None, DType::F32, 0, &Default::default())
            .expect("loads");
    let run = |skip| tower.forward(goldens.ids("text.ids"), skip).expect("runs");
    goldens.close("text.penultimate", run(Some(1)));
    goldens.close("text.last", run(None));
}

#[test]
fn open_clip_vision() {
    let goldens = Goldens::read();
    let converted = trio(&fold(false));
    let tower = CLIPVisionModelWithProjection::<TestBackend>::from_folder(
        &component(&converted, "image_encoder"),
        None,
        DType::F32,
        &Default::default(),
    );
    let embedding = tower
        .expect("loads")
        .forward(goldens.tensor("image.pixels"));
    goldens.close("image.embedding", embedding.expect("runs"));
}

fn convert_component(component: Component, file: &str, configs: &str, output: &Path) {
    let config = read_config(component, Some(&originals().join(configs))).expect("a config");
    let source = Source::open(&originals().join(file)).expect("opens");
    assert!(source.components().contains(&component), "{file}");
    let plan = Plan::new(component, &[source], &config).expect("plans");
    Conversion::component(plan)
        .write(output, &Options::default(), &mut |_| {})
        .expect("converts");
}

/// Its tensors against those that `generate.py` copied into diffusers' module, which there computes what ModelScope's does.
#[test]
fn vid2vid_unet() {
    let parent = tempfile::tempdir().expect("a folder");
    let output = parent.path().join("model");
    convert_component(Component::Unet3d, "unet3d.pth", "configs_refine", &output);
    let expected = fs::read(originals().join("unet3d.json")).expect("digests");
    let expected: BTreeMap<String, (Vec<usize>, String)> =
        serde_json::from_slice(&expected).expect("digests");
    let weights = fs::read(output.join("diffusion_pytorch_model.safetensors")).expect("weights");
    let weights = SafeTensors::deserialize(&weights).expect("weights");
    assert_eq!(weights.len(), expected.len());
    for (name, (shape, digest)) in expected {
        let tensor = weights.tensor(&name).expect(&name);
        assert_eq!(tensor.dtype(), safetensors::Dtype::F16, "{name}");
        assert_eq!(tensor.shape(), shape, "{name}");
        let found = Sha256::digest(tensor.data());
        let found: String = found.iter().map(|b| format!("{b:02x}")).collect();
        assert!(found.starts_with(&digest), "{name} has other values");
    }

    // It opens as the second stage that it is.
    let unet = i2vgen_unet3d::UNet3DConditionModel::<TestBackend>::from_pretrained(
        &output,
        &Default::default(),
    );
    let unet = unet.expect("opens");
    assert_eq!(unet.config.upsample_crop_rows, 1);
    let device = Default::default();
    let width = unet.config.cross_attention_dim;
    let text = unet.prepare(Tensor::ones([1, 3, width], &device));
    let text = text.expect("prepares");
    let x = Tensor::ones([1, 4, 2, 10, 8], &device);
    let y = unet.forward(x, 599.0, &text).expect("runs");
    assert_eq!(y.dims(), [1, 4, 2, 10, 8]);
    let odd = Tensor::ones([1, 4, 2, 11, 8], &device);
    assert!(unet.forward(odd, 599.0, &text).is_err());
}
