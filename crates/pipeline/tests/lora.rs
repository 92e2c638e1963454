//! LoRA at run time, against conversions with the same files and against PEFT's side branches
//! (`weights-converter/tests/goldens/lora/generate.py`, `tests/goldens/lora_runtime/generate.py`).

use std::{
    fs,
    path::{Path, PathBuf},
    sync::OnceLock,
};

use burn::{
    backend::Flex,
    module::{Module, ModuleVisitor, Param},
    tensor::{DType, Int, Tensor, TensorData, TensorPrimitive},
};
use i2vgen_checkpoint::{Folder, ModulePath};
use i2vgen_clip_encoders::CLIPTextModel;
use i2vgen_pipeline::{Lora, Loras};
use i2vgen_unet3d::I2VGenXLUNet;
use i2vgen_weights_converter::{Component, Conversion, Options, Trio};
use safetensors::{Dtype, SafeTensors, tensor::TensorView};
use tempfile::TempDir;

type Unet = I2VGenXLUNet<Flex>;
type Text = CLIPTextModel<Flex>;

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn converter_goldens() -> PathBuf {
    repository().join("weights-converter/tests/goldens")
}

/// A file of every layout. The last has attention layers only, the one before UNet layers only.
const LAYOUTS: [&str; 8] = [
    "diffusers.safetensors",
    "kohya.safetensors",
    "kohya.pt",
    "peft_unet/adapter_model.safetensors",
    "peft_text/adapter_model.safetensors",
    "peft_rslora/adapter_model.safetensors",
    "kohya_original.safetensors",
    "diffusers_old.safetensors",
];

fn layout(name: &str) -> PathBuf {
    converter_goldens().join("lora").join(name)
}

fn runtime_golden(name: &str) -> PathBuf {
    repository().join("tests/goldens/lora_runtime").join(name)
}

/// UNet and text encoder of the small original model in f32, with these files merged by the converter.
fn convert(loras: &[Lora]) -> TempDir {
    let original = converter_goldens().join("originals");
    let files = Trio {
        unet: Some(original.join("unet.pth")),
        vae: None,
        clip: Some(original.join("clip.bin")),
    };
    let only = [Component::Unet, Component::TextEncoder];
    let mut conversion =
        Conversion::trio(&files, Some(&original.join("configs")), Some(&only)).expect("plans");
    for lora in loras {
        conversion.merge(lora, false).expect("fits");
    }
    let parent = tempfile::tempdir().expect("a folder");
    let options = Options {
        dtype: Some(Dtype::F32),
        ..Default::default()
    };
    conversion
        .write(&parent.path().join("model"), &options, &mut |_| {})
        .expect("converts");
    parent
}

fn load(model: &TempDir, dtype: DType, skip: usize) -> (Unet, Text) {
    let part = |name| Folder::open(model.path().join("model").join(name)).expect(name);
    let device = Default::default();
    let unet = Unet::from_folder(&part("unet"), None, dtype, &device).expect("loads");
    let text = Text::from_folder(&part("text_encoder"), None, dtype, skip, &device);
    (unet, text.expect("loads"))
}

/// The unchanged model, loaded once.
fn base() -> &'static (Unet, Text) {
    static BASE: OnceLock<(Unet, Text)> = OnceLock::new();
    BASE.get_or_init(|| load(&convert(&[]), DType::F32, 0))
}

fn open(path: PathBuf, strength: f32) -> Lora {
    Lora::open(&path, strength).expect("opens")
}

fn merge(loras: &Loras) -> (Unet, Text) {
    let (unet, text) = base().clone();
    let (unet, unknown) = loras.merge_unet(unet).expect("fits");
    assert!(unknown.is_empty(), "{unknown:?}");
    let (text, unknown) = loras.merge_text_encoder(text).expect("fits");
    assert!(unknown.is_empty(), "{unknown:?}");
    (unet, text)
}

/// A parameter as it lies in memory.
#[derive(Debug, PartialEq)]
struct Stored {
    key: String,
    dtype: DType,
    shape: Vec<usize>,
    strides: Vec<isize>,
    /// In logical order.
    bytes: Vec<u8>,
    address: usize,
}

fn stored<M: Module<Flex>>(module: &M) -> Vec<Stored> {
    struct List(ModulePath, Vec<Stored>);
    impl ModuleVisitor<Flex> for List {
        fn enter_module(&mut self, name: &str, _: &str) {
            self.0.enter(name);
        }
        fn exit_module(&mut self, _: &str, _: &str) {
            self.0.exit();
        }
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<Flex, D>>) {
            let tensor = param.val();
            let TensorPrimitive::Float(primitive) = tensor.clone().into_primitive() else {
                panic!("a float");
            };
            self.1.push(Stored {
                key: self.0.key(),
                dtype: tensor.dtype(),
                shape: tensor.dims().to_vec(),
                strides: primitive.layout().strides().to_vec(),
                bytes: tensor.into_data().as_bytes().to_vec(),
                address: primitive.bytes().as_ptr() as usize,
            });
        }
    }
    let mut list = List(ModulePath::default(), Vec::new());
    module.visit(&mut list);
    list.1
}

/// Compares everything but the address; what equals the base must be shared with it. Returns how many parameters differ
/// from it.
fn same(found: &[Stored], expected: &[Stored], base: &[Stored]) -> usize {
    assert_eq!(found.len(), expected.len());
    let mut changed = 0;
    for ((found, expected), base) in found.iter().zip(expected).zip(base) {
        let key = &found.key;
        let place = |s: &Stored| (s.key.clone(), s.dtype, s.shape.clone(), s.strides.clone());
        assert_eq!(place(found), place(expected));
        assert!(found.bytes == expected.bytes, "{key} has other values");
        let shared = found.address == base.address;
        assert_eq!(shared, found.bytes == base.bytes, "{key} shared: {shared}");
        changed += usize::from(!shared);
    }
    changed
}

/// Merges at run time and while converting; the results must be the same bytes in the same places. Returns how many
/// parameters of UNet and text encoder are changed.
fn as_converted(loras: Vec<Lora>) -> [usize; 2] {
    let (unet, text) = load(&convert(&loras), DType::F32, 0);
    let merged = merge(&Loras::from(loras));
    [
        same(&stored(&merged.0), &stored(&unet), &stored(&base().0)),
        same(&stored(&merged.1), &stored(&text), &stored(&base().1)),
    ]
}

#[test]
fn every_layout_gives_what_a_conversion_gives() {
    let changed = LAYOUTS.map(|name| as_converted(vec![open(layout(name), 0.8)]));
    assert_eq!(
        changed,
        [
            [10, 6],
            [10, 6],
            [10, 6],
            [10, 0],
            [0, 6],
            [0, 6],
            [10, 0],
            [5, 0]
        ]
    );
}

#[test]
fn several_files_give_what_a_conversion_gives() {
    let loras = vec![
        open(layout("kohya.safetensors"), 0.75),
        open(layout("peft_rslora/adapter_model.safetensors"), -0.5),
        open(runtime_golden("ink_peft.safetensors"), 1.25),
    ];
    // Two of the UNet's layers and two of the text encoder's are in several files.
    assert_eq!(as_converted(loras), [15, 8]);
}

#[test]
fn strength_zero_is_the_base() {
    let all = |strength| -> Vec<Lora> {
        let open = |name: &&str| open(layout(name), strength);
        LAYOUTS.iter().map(open).collect()
    };
    let mut scaled = Loras::from(all(1.0));
    scaled.lora_scale = 0.0;
    for loras in [Loras::from(all(0.0)), scaled, Loras::default()] {
        let (unet, text) = merge(&loras);
        // Including where they lie: nothing is copied.
        assert!(stored(&unet) == stored(&base().0));
        assert!(stored(&text) == stored(&base().1));
    }
}

#[test]
fn changed_and_removed_without_reloading() {
    let untouched = (stored(&base().0), stored(&base().1));
    let (kohya, peft) = ("kohya.safetensors", "peft_unet/adapter_model.safetensors");
    let values = |loras: &Loras| -> Vec<Vec<u8>> {
        let (unet, _) = merge(loras);
        stored(&unet).into_iter().map(|s| s.bytes).collect()
    };
    let mut loras = Loras::from(vec![open(layout(kohya), 1.0), open(layout(peft), 0.25)]);
    let both = values(&loras);
    loras.files[1].set_strength(-0.25);
    let changed = values(&loras);
    assert_ne!(both, changed);
    loras.files[1].set_strength(0.25);
    assert!(values(&loras) == both);
    loras.files.pop();
    let one = values(&loras);
    assert!(one != both && one != changed);
    assert!(one == values(&Loras::from(vec![open(layout(kohya), 1.0)])));
    // Half the scale is half of each strength.
    loras.lora_scale = 0.5;
    assert!(values(&loras) == values(&Loras::from(vec![open(layout(kohya), 0.5)])));
    loras.files.clear();
    assert!(values(&loras) == values(&Loras::default()));
    assert!(untouched == (stored(&base().0), stored(&base().1)));
}

#[test]
fn half_precision_stays() {
    let model = convert(&[]);
    let loras = Loras::from(vec![open(layout("kohya.safetensors"), 1.0)]);
    let wide = stored(&merge(&loras).0);
    for (dtype, step) in [(DType::F16, 1.0 / 1024.0), (DType::BF16, 1.0 / 128.0)] {
        let (unet, _) = load(&model, dtype, 0);
        let before = stored(&unet);
        let after = stored(&loras.merge_unet(unet).expect("fits").0);
        let mut changed = 0;
        for ((before, after), wide) in before.iter().zip(&after).zip(&wide) {
            assert_eq!(
                (after.dtype, &after.strides),
                (dtype, &wide.strides),
                "{}",
                after.key
            );
            if before.address == after.address {
                continue;
            }
            changed += 1;
            let read = |s: &Stored| -> Vec<f32> {
                let bytes = burn::tensor::Bytes::from_bytes_vec(s.bytes.clone());
                let data = TensorData::from_bytes(bytes, s.shape.clone(), s.dtype);
                data.convert::<f32>().to_vec().expect("f32")
            };
            let base = read(before);
            for ((half, wide), base) in read(after).iter().zip(read(wide)).zip(base) {
                // The weight was rounded once when it was loaded, and the sum once more.
                let room = step * (wide.abs() + base.abs()) + 1e-6;
                assert!((half - wide).abs() <= room, "{}: {half} {wide}", after.key);
            }
        }
        assert_eq!(changed, 10);
    }
}

/// Recorded tensors.
struct Goldens(Vec<u8>);

impl Goldens {
    fn read(path: PathBuf) -> Self {
        Self(fs::read(path).expect("goldens"))
    }

    fn data<T>(&self, name: &str, number: impl Fn(&[u8]) -> T) -> (Vec<T>, Vec<usize>) {
        let file = SafeTensors::deserialize(&self.0).expect("goldens");
        let tensor = file.tensor(name).expect(name);
        let values = tensor.data().chunks_exact(size_of::<T>()).map(number);
        (values.collect(), tensor.shape().to_vec())
    }

    fn tensor<const D: usize>(&self, name: &str) -> Tensor<Flex, D> {
        let number = |b: &[u8]| f32::from_le_bytes(b.try_into().expect("4 bytes"));
        let (values, shape) = self.data(name, number);
        Tensor::from_data(TensorData::new(values, shape), &Default::default())
    }

    fn ids(&self, name: &str) -> Tensor<Flex, 2, Int> {
        let number = |b: &[u8]| i64::from_le_bytes(b.try_into().expect("8 bytes"));
        let (values, shape) = self.data(name, number);
        Tensor::from_data(TensorData::new(values, shape), &Default::default())
    }

    fn scalar(&self, name: &str) -> f64 {
        f64::from(self.tensor::<1>(name).into_scalar())
    }

    /// How far from the recorded tensor, relative to its largest value.
    fn off<const D: usize>(&self, name: &str, found: Tensor<Flex, D>) -> (String, f32) {
        let expected = self.tensor::<D>(name);
        let largest = expected.clone().abs().max().into_scalar();
        let worst = (found - expected).abs().max().into_scalar();
        println!("{name}: max-abs {worst:.2e}, largest value {largest:.3}");
        (name.to_owned(), worst / largest)
    }
}

/// Linear layers and convolutions, alpha and rank-stabilised, two files at once, a negative strength, `lora_scale`.
#[test]
fn outputs_are_those_of_side_branches() {
    let inputs = Goldens::read(converter_goldens().join("originals/goldens.safetensors"));
    let outputs = Goldens::read(runtime_golden("outputs.safetensors"));
    let files = |ink, pan| {
        vec![
            open(runtime_golden("ink_peft.safetensors"), ink),
            open(runtime_golden("pan_kohya.safetensors"), pan),
        ]
    };
    let halved = Loras {
        lora_scale: 0.5,
        ..Loras::from(files(0.75, -0.5))
    };
    let cases = [
        ("base", Loras::default()),
        ("ink", Loras::from(files(1.0, 0.0))),
        ("both", Loras::from(files(0.75, -0.5))),
        ("halved", halved),
    ];
    let mut all = Vec::new();
    for (case, loras) in cases {
        let (unet, text) = merge(&loras);
        let conditioning = unet.prepare(
            inputs.tensor("unet.text"),
            inputs.tensor("unet.image_embeddings"),
            inputs.tensor("unet.image_latents"),
            inputs.scalar("unet.fps"),
            1.0,
        );
        let timestep = inputs.scalar("unet.timestep");
        let latents = inputs.tensor("unet.latents");
        let output = unet.forward(latents, timestep, &conditioning.expect("fits"));
        all.push(outputs.off(&format!("unet.{case}"), output.expect("runs")));
        let run = |text: &Text, skip| text.forward(inputs.ids("text.ids"), skip).expect("runs");
        all.push(outputs.off(&format!("text.{case}.last"), run(&text, None)));
        all.push(outputs.off(&format!("text.{case}.penultimate"), run(&text, Some(1))));
        // Loaded without its last layer, of which the files speak, too.
        let (_, short) = load(&convert(&[]), DType::F32, 1);
        let (short, unknown) = loras.merge_text_encoder(short).expect("fits");
        assert!(unknown.is_empty(), "{unknown:?}");
        all.push(outputs.off(&format!("text.{case}.penultimate"), run(&short, Some(1))));
    }
    for (name, off) in all {
        // This UNet without any LoRA is 1.04e-5 from f64 (PyTorch's own f32: 0.8e-5), so that 1e-5 would measure the UNet.
        let limit = if name.starts_with("unet") { 2e-5 } else { 1e-5 };
        assert!(off <= limit, "{name} is {off:e} of its largest value off");
    }
}

type Shapes<'a> = &'a [(&'a str, &'a [usize])];

/// A file of f32 tensors with one value everywhere.
fn write(path: &Path, tensors: Shapes<'_>, value: f32) {
    let values: Vec<u8> = (0..1 << 14).flat_map(|_| value.to_le_bytes()).collect();
    let views = tensors.iter().map(|(name, shape)| {
        let bytes = shape.iter().product::<usize>() * 4;
        let view = TensorView::new(Dtype::F32, shape.to_vec(), &values[..bytes]);
        (*name, view.expect("a tensor"))
    });
    safetensors::serialize_to_file(views, None, path).expect("writes");
}

const UNET_DOWN: &str = "unet.mid_block.attentions.0.proj_in.lora_A.weight";
const UNET_UP: &str = "unet.mid_block.attentions.0.proj_in.lora_B.weight";
const TEXT_DOWN: &str = "lora_te_text_model_encoder_layers_1_mlp_fc1.lora_down.weight";
const TEXT_UP: &str = "lora_te_text_model_encoder_layers_1_mlp_fc1.lora_up.weight";

/// What each merge says of a file: the keys that fit nowhere, or an error.
fn verdicts(loras: &Loras) -> [Result<Vec<String>, String>; 3] {
    let (unet, text) = base();
    let found = [
        loras.merge_unet(unet.clone()).map(|(_, unknown)| unknown),
        loras
            .merge_text_encoder(text.clone())
            .map(|(_, unknown)| unknown),
        loras.check::<Flex>(unet.config.clone(), text.config.clone()),
    ];
    found.map(|verdict| verdict.map_err(|e| e.to_string()))
}

#[test]
fn what_does_not_fit_is_told_once() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("style.safetensors");
    // Tensors, and what the UNet's and the text encoder's merge say; nothing means that they are content.
    let cases: [(Shapes<'_>, &str, &str); 10] = [
        (&[(UNET_DOWN, &[4, 32]), (UNET_UP, &[32, 4])], "", ""),
        (&[(TEXT_DOWN, &[4, 32]), (TEXT_UP, &[128, 4])], "", ""),
        // Stable Diffusion 1's text encoder is 768 wide.
        (
            &[(TEXT_DOWN, &[4, 768]), (TEXT_UP, &[3072, 4])],
            "",
            "trained for another model",
        ),
        (
            &[(UNET_DOWN, &[4, 320]), (UNET_UP, &[32, 4])],
            "trained for another model",
            "",
        ),
        // A language model's.
        (
            &[
                (
                    "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight",
                    &[4, 32],
                ),
                (
                    "base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight",
                    &[32, 4],
                ),
            ],
            "none of its layers is in this model",
            "",
        ),
        // A text encoder with more layers.
        (
            &[
                (
                    "text_encoder.encoder.layers.2.mlp.fc1.lora_A.weight",
                    &[4, 32],
                ),
                (
                    "text_encoder.encoder.layers.2.mlp.fc1.lora_B.weight",
                    &[128, 4],
                ),
            ],
            "",
            "none of its layers is in this model",
        ),
        (
            &[
                (TEXT_DOWN, &[4, 32]),
                (TEXT_UP, &[128, 4]),
                (
                    "lora_te_text_model_encoder_layers_2_mlp_fc1.lora_down.weight",
                    &[4, 32],
                ),
                (
                    "lora_te_text_model_encoder_layers_2_mlp_fc1.lora_up.weight",
                    &[128, 4],
                ),
            ],
            "",
            "2 of its keys fit nowhere (lora_te_text_model_encoder_layers_2_mlp_fc1.lora_down.weight",
        ),
        (
            &[
                (UNET_DOWN, &[4, 32]),
                (UNET_UP, &[32, 4]),
                ("lora_unet_a.lora_down.weight", &[4, 32]),
                ("lora_unet_a.lora_up.weight", &[32, 4]),
            ],
            "2 of its keys fit nowhere (lora_unet_a.lora_down.weight",
            "",
        ),
        (
            &[(TEXT_DOWN, &[4, 32]), (TEXT_UP, &[128, 4]), ("noise", &[1])],
            "1 of its keys fit nowhere (noise)",
            "",
        ),
        (
            &[
                (UNET_DOWN, &[4, 32]),
                (UNET_UP, &[32, 4]),
                ("text_encoder.logit_scale", &[1]),
            ],
            "",
            "1 of its keys fit nowhere (text_encoder.logit_scale)",
        ),
    ];
    for (tensors, unet, text) in cases {
        write(&path, tensors, 0.1);
        let mut loras = Loras::from(vec![open(path.clone(), 1.0)]);
        let either = if unet.is_empty() { text } else { unet };
        for (verdict, message) in verdicts(&loras).into_iter().zip([unet, text, either]) {
            let said = verdict.map_or_else(|e| e, |unknown| unknown.join(" "));
            let fine = said.contains(message) && said.is_empty() == message.is_empty();
            assert!(fine && said.lines().count() <= 1, "{message:?}: {said:?}");
        }
        // Allowed, they are returned by exactly one of the two.
        loras.allow_unknown = true;
        if either.contains("fit nowhere") {
            let [unet, text, both] = verdicts(&loras).map(|v| v.expect("allowed"));
            assert!(!both.is_empty() && both == [unet, text].concat());
            assert!(either.contains(&both[0]), "{both:?}");
        } else {
            let refused = verdicts(&loras).iter().any(Result::is_err);
            assert_eq!(refused, !either.is_empty(), "{either}");
        }
    }
}

#[test]
fn what_no_number_can_hold_is_told() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("style.safetensors");
    let layers: Shapes<'_> = &[(UNET_DOWN, &[4, 32]), (UNET_UP, &[32, 4])];
    let message = |unet: Unet, strength: f32| {
        let mut loras = Loras::from(vec![open(path.clone(), 1.0)]);
        loras.files[0].set_strength(strength);
        let error = loras.merge_unet(unet).expect_err("too much").to_string();
        assert_eq!(error.lines().count(), 1, "{error}");
        error
    };
    write(&path, layers, 100.0);
    let (half, _) = load(&convert(&[]), DType::F16, 0);
    let loras = Loras::from(vec![open(path.clone(), 1.0)]);
    assert!(loras.merge_unet(half.clone()).is_ok());
    let error = message(half, 2.0);
    assert!(error.contains("beyond the range of F16"), "{error}");
    let error = message(base().0.clone(), f32::NAN);
    assert!(error.contains("is NaN; give a number"), "{error}");
    write(&path, layers, f32::NAN);
    let error = message(base().0.clone(), 1.0);
    assert!(error.contains("download the file again"), "{error}");
}
