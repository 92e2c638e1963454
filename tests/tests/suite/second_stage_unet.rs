//! `UNet3DConditionModel` against diffusers (`goldens/unet3d`), and its MS-Vid2Vid-XL variant against an independent
//! implementation (`goldens/vid2vid`).

use std::path::PathBuf;

use burn::tensor::{Tensor, TensorData};
use i2vgen_tests::{SLACK, TestBackend, repository};
use i2vgen_unet3d::{UNet3DConditionModel, UNetError};
use safetensors::SafeTensors;
use serde_json::Value;

type UNet = UNet3DConditionModel<TestBackend>;

struct Goldens {
    folder: PathBuf,
    bytes: Vec<u8>,
    cases: Value,
}

impl Goldens {
    fn read(name: &str) -> Self {
        let folder = repository("tests/goldens").join(name);
        let read = |file: &str| std::fs::read(folder.join(file)).expect(file);
        Self {
            bytes: read("cases.safetensors"),
            cases: serde_json::from_slice(&read("cases.json")).expect("json"),
            folder,
        }
    }

    fn unet(&self, model: &str) -> UNet {
        UNet::from_pretrained(self.folder.join(model), &Default::default()).expect(model)
    }

    fn tensor<const D: usize>(&self, name: &str) -> Tensor<TestBackend, D> {
        let file = SafeTensors::deserialize(&self.bytes).expect("golden");
        let tensor = file.tensor(name).expect(name);
        let (words, _) = tensor.data().as_chunks::<4>();
        let values: Vec<f32> = words.iter().map(|b| f32::from_le_bytes(*b)).collect();
        Tensor::from_data(TensorData::new(values, tensor.shape()), &Default::default())
    }

    /// Runs a case and says how far off it is, relative to the largest expected value.
    fn error(&self, unet: &UNet, case: &str) -> f32 {
        let text = self.tensor::<3>(&format!("{case}.encoder_hidden_states"));
        let text = unet.prepare(text).expect("prepares");
        let t = self.cases[case]["timestep"].as_f64().expect("a number");
        let y = unet.forward(self.tensor(&format!("{case}.sample")), t, &text);
        let expected = self.tensor::<5>(&format!("{case}.output"));
        let scale = expected.clone().abs().max().into_scalar();
        let y = y.expect("runs");
        assert_eq!(y.dims(), expected.dims());
        let error = (y - expected).abs().max().into_scalar() / scale;
        println!("{case}: {error:.1e} of {scale:.2}");
        error
    }

    fn names(&self) -> impl Iterator<Item = &String> {
        self.cases.as_object().expect("cases").keys()
    }
}

#[test]
fn as_diffusers() {
    let goldens = Goldens::read("unet3d");
    let mut count = 0;
    for case in goldens.names() {
        let entry = &goldens.cases[case];
        let mut unet = goldens.unet(entry["model"].as_str().expect("a model"));
        if let Some(factors) = entry["freeu"].as_array() {
            let [s1, s2, b1, b2] = std::array::from_fn(|i| factors[i].as_f64().expect("a number"));
            unet.enable_freeu(s1, s2, b1, b2).expect("finite");
        }
        let error = goldens.error(&unet, case);
        assert!(error <= 2e-5 * SLACK, "{case}: {error}");
        count += 1;
    }
    assert!(count >= 10);
}

#[test]
fn ms_vid2vid() {
    let goldens = Goldens::read("vid2vid");
    let unet = goldens.unet("model");
    let mut count = 0;
    for case in goldens.names() {
        let error = goldens.error(&unet, case);
        assert!(error <= 1e-5 * SLACK, "{case}: {error}");
        count += 1;
    }
    assert!(count >= 4);

    // Without the two spatial changes it is another function.
    let mut config = unet.config.clone();
    assert_eq!(config.upsample_crop_rows, 1);
    config.upsample_crop_rows = 0;
    assert!(config.check().is_err());

    // A height between: the nearest legal one is named.
    let text = goldens.tensor::<3>("small.encoder_hidden_states");
    let text = unet.prepare(text.narrow(0, 0, 1)).expect("prepares");
    let latents = Tensor::zeros([1, 4, 1, 11, 8], &Default::default());
    match unet.forward(latents, 599.0, &text) {
        Err(error @ UNetError::Shape { .. }) => {
            assert!(error.to_string().contains("frames, 10, w"), "{error}");
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn saved_and_streamed_ones_are_the_same() {
    let goldens = Goldens::read("vid2vid");
    let unet = goldens.unet("model");
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path();
    unet.save_pretrained(path, burn::tensor::DType::F32)
        .expect("saves");
    let config = std::fs::read_to_string(path.join("config.json")).expect("written");
    assert!(config.contains("UNet3DConditionModel"), "{config}");
    let saved = i2vgen_checkpoint::Folder::open(path).expect("opens");
    let dtype = burn::tensor::DType::F32;
    let streamed = UNet::from_folder_streamed(&saved, None, dtype, &Default::default());
    let streamed = streamed.expect("loads");
    let error = goldens.error(&streamed, "small");
    assert_eq!(error, goldens.error(&unet, "small"));
}
