//! Small models and LoRA files made here, against `W + strength · scale · up · down` computed naively in f64.

use std::{collections::BTreeMap, path::Path};

use half::f16;
use i2vgen_weights_converter::{
    Component, Conversion, ConvertError, Lora, Options, Plan, Source, read_config,
};
use safetensors::{Dtype, SafeTensors, tensor::TensorView};

use crate::goldens;

/// Deterministic values below 1, other ones for every name.
fn values(name: &str, count: usize) -> Vec<f32> {
    let mut state = name
        .bytes()
        .fold(1_u32, |h, b| (h ^ u32::from(b)).wrapping_mul(16_777_619));
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 16) as f32 / 65_536.0 - 0.5
    };
    (0..count).map(|_| next()).collect()
}

/// Tensors to write: name, shape, values.
type List = Vec<(String, Vec<usize>, Vec<f32>)>;

fn save(path: &Path, list: &List, metadata: Option<&str>) {
    let bytes: Vec<Vec<u8>> = list
        .iter()
        .map(|(_, _, v)| v.iter().flat_map(|v| v.to_le_bytes()).collect())
        .collect();
    let views = list.iter().zip(&bytes).map(|((name, shape, _), bytes)| {
        let view = TensorView::new(Dtype::F32, shape.clone(), bytes).unwrap();
        (name.as_str(), view)
    });
    let metadata =
        metadata.map(|text| [("lora_adapter_metadata".to_owned(), text.to_owned())].into());
    safetensors::serialize_to_file(views, metadata, path).unwrap();
}

/// A component of the goldens' tiny size with values of its own.
struct Base {
    component: Component,
    dir: tempfile::TempDir,
    shapes: BTreeMap<String, Vec<usize>>,
}

impl Base {
    fn new(component: Component) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let layout = component.layout(&Self::config(component)).unwrap();
        let tensor = |(name, shape): &(String, Vec<usize>)| {
            let mut data = values(name, shape.iter().product());
            // A sign that adding zero would lose.
            data[0] = -0.0;
            (name.clone(), shape.clone(), data)
        };
        let list: List = layout.iter().map(tensor).collect();
        save(&dir.path().join("base.safetensors"), &list, None);
        Self {
            component,
            dir,
            shapes: layout.into_iter().collect(),
        }
    }

    fn config(component: Component) -> serde_json::Value {
        read_config(component, Some(&goldens().join("originals/configs"))).unwrap()
    }

    fn conversion(&self) -> Conversion {
        let source = Source::open(&self.dir.path().join("base.safetensors")).unwrap();
        let config = Self::config(self.component);
        Conversion::component(Plan::new(self.component, &[source], &config).unwrap())
    }

    /// A LoRA file of these tensors.
    fn lora(
        &self,
        list: &List,
        metadata: Option<&str>,
        strength: f32,
    ) -> Result<Lora, ConvertError> {
        let path = self.dir.path().join("lora.safetensors");
        save(&path, list, metadata);
        Lora::open(&path, strength)
    }

    /// The bytes of the weight file.
    fn write(&self, conversion: Conversion, options: &Options) -> Vec<u8> {
        let out = self.dir.path().join("out");
        let options = Options {
            force: true,
            ..options.clone()
        };
        conversion.write(&out, &options, &mut |_| {}).unwrap();
        std::fs::read(out.join(format!("{}.safetensors", self.component.stem()))).unwrap()
    }

    /// Converts with the LoRA and compares: the named weights have `factor · up · down` added, all others are untouched.
    fn check(&self, lora: &Lora, pairs: &[Pair], factors: &[f64]) {
        let mut conversion = self.conversion();
        assert!(conversion.merge(lora, false).unwrap().is_empty());
        let bytes = self.write(conversion, &Options::default());
        let file = SafeTensors::deserialize(&bytes).unwrap();
        let mut left = pairs.len();
        for (name, tensor) in file.tensors() {
            let base = values(&name, self.shapes[&name].iter().product());
            let data = tensor.data().as_chunks::<4>().0.iter();
            let found = data.map(|b| f64::from(f32::from_le_bytes(*b)));
            let pair = pairs
                .iter()
                .position(|p| format!("{}.weight", p.module) == name);
            let delta = pair.map_or(vec![0.0; base.len()], |p| pairs[p].product());
            left -= usize::from(pair.is_some());
            let factor = pair.map_or(0.0, |p| factors[p % factors.len()]);
            for (i, (found, delta)) in found.zip(&delta).enumerate() {
                let want = if i == 0 { -0.0 } else { f64::from(base[i]) };
                let fits = match pair {
                    Some(_) => (found - want - factor * delta).abs() <= 2e-6,
                    None => found.to_bits() == want.to_bits(),
                };
                assert!(
                    fits,
                    "{name}[{i}]: {found}, not {want} + {factor} * {delta}"
                );
            }
        }
        assert_eq!(left, 0, "every weight is in the file");
    }
}

/// One layer of a LoRA of rank 2.
struct Pair {
    module: String,
    down: (Vec<usize>, Vec<f32>),
    up: (Vec<usize>, Vec<f32>),
}

const RANK: usize = 2;

impl Pair {
    /// `form`: the ones to append to the shapes, as in a LoRA of a 1-tap convolution.
    fn new(base: &Base, module: &str, form: usize) -> Self {
        let shape = &base.shapes[&format!("{module}.weight")];
        let ones = vec![1; form];
        let down = [&[RANK], &shape[1..], &ones].concat();
        let taps = vec![1; (shape.len() - 2).max(form)];
        let up = [&[shape[0], RANK], taps.as_slice()].concat();
        let make = |name: &str, shape: Vec<usize>| {
            let count = shape.iter().product();
            (shape, values(&format!("{module}{name}"), count))
        };
        Self {
            module: module.to_owned(),
            down: make("down", down),
            up: make("up", up),
        }
    }

    /// `up · down` over the rank.
    fn product(&self) -> Vec<f64> {
        let columns = self.down.1.len() / RANK;
        let mut out = Vec::new();
        for up in self.up.1.chunks(RANK) {
            for column in 0..columns {
                let term = |r| f64::from(up[r]) * f64::from(self.down.1[r * columns + column]);
                out.push((0..RANK).map(term).sum());
            }
        }
        out
    }

    /// Both matrices under these names.
    fn named(&self, down: &str, up: &str) -> List {
        let one = |name: &str, (shape, data): &(Vec<usize>, Vec<f32>)| {
            (name.to_owned(), shape.clone(), data.clone())
        };
        vec![one(down, &self.down), one(up, &self.up)]
    }

    /// PEFT's names after a prefix.
    fn peft(&self, prefix: &str) -> List {
        let name = format!("{prefix}{}", self.module);
        self.named(
            &format!("{name}.lora_A.weight"),
            &format!("{name}.lora_B.weight"),
        )
    }
}

/// Several layers, renamed by `names`.
fn all(pairs: &[Pair], names: impl Fn(&Pair) -> List) -> List {
    pairs.iter().flat_map(names).collect()
}

/// One layer of every kind: linear, convolutions over space and over time, a linear one that another program stored as a
/// convolution, and one of two sizes.
fn every_kind(base: &Base) -> Vec<Pair> {
    [
        ("mid_block.attentions.0.transformer_blocks.0.attn1.to_q", 0),
        ("down_blocks.0.resnets.0.conv1", 2),
        ("down_blocks.0.temp_convs.0.conv1.2", 3),
        ("down_blocks.0.attentions.0.proj_in", 2),
        ("down_blocks.0.downsamplers.0.conv", 2),
        ("image_latents_temporal_encoder.attn1.to_k", 0),
        ("conv_in", 2),
    ]
    .map(|(module, taps)| Pair::new(base, module, taps))
    .into()
}

#[test]
fn every_kind_of_layer() {
    let base = Base::new(Component::Unet);
    let pairs = every_kind(&base);
    for prefix in ["", "unet.", "base_model.model."] {
        for strength in [1.0, -0.5, 3.0] {
            let list = all(&pairs, |p| p.peft(prefix));
            let lora = base.lora(&list, None, strength).unwrap();
            base.check(&lora, &pairs, &[f64::from(strength)]);
        }
    }
}

#[test]
fn an_alpha_beside_the_matrices() {
    let base = Base::new(Component::Unet);
    let pairs = every_kind(&base);
    // The first layer has its own, the others have none: those count as trained.
    let list = all(&pairs, |p| {
        let flat = format!("lora_unet_{}", p.module.replace('.', "_"));
        let mut list = p.named(
            &format!("{flat}.lora_down.weight"),
            &format!("{flat}.lora_up.weight"),
        );
        if p.module == pairs[0].module {
            list.push((format!("{flat}.alpha"), vec![], vec![0.5]));
        }
        list
    });
    let lora = base.lora(&list, None, 2.0).unwrap();
    let mut factors = vec![2.0; pairs.len()];
    factors[0] = 2.0 * 0.5 / RANK as f64;
    base.check(&lora, &pairs, &factors);
}

#[test]
fn settings_in_the_header() {
    let base = Base::new(Component::TextEncoder);
    let layer = |name: &str| format!("text_model.encoder.layers.0.{name}");
    let pairs = ["self_attn.q_proj", "mlp.fc1", "mlp.fc2"];
    let pairs = pairs.map(|name| Pair::new(&base, &layer(name), 0));
    let rank = RANK as f64;
    for (settings, factors) in [
        (r#"{"lora_alpha": 3}"#, [3.0 / rank; 3]),
        (
            r#"{"lora_alpha": 3, "use_rslora": true}"#,
            [3.0 / rank.sqrt(); 3],
        ),
        (r#"{"use_rslora": true}"#, [rank.sqrt(); 3]),
        (
            r#"{"lora_alpha": 3, "alpha_pattern": {"fc1": 8, "self_attn.q_proj": 1, "c2": 9}}"#,
            [1.0 / rank, 8.0 / rank, 3.0 / rank],
        ),
    ] {
        let lora = base.lora(&all(&pairs, |p| p.peft("")), Some(settings), 1.0);
        base.check(&lora.unwrap(), &pairs, &factors);
        // The same under the name that a pipeline gives to the part.
        let scoped = settings
            .replace("\"lora_alpha", "\"text_encoder.lora_alpha")
            .replace("\"use_rslora", "\"text_encoder.use_rslora")
            .replace("\"alpha_pattern", "\"text_encoder.alpha_pattern");
        let list = all(&pairs, |p| p.peft("text_encoder."));
        let lora = base.lora(&list, Some(&scoped), 1.0);
        base.check(&lora.unwrap(), &pairs, &factors);
    }
    for (bad, what) in [("{", "not JSON"), (r#"{"use_dora": true}"#, "DoRA")] {
        let error = base.lora(&all(&pairs, |p| p.peft("")), Some(bad), 1.0);
        let error = error.expect_err(what).to_string();
        assert!(error.contains(what), "{error}");
    }
}

/// The sum is made in f32 and rounded once; the same files give the same bytes.
#[test]
fn the_sum_is_rounded_once() {
    let base = Base::new(Component::TextEncoder);
    let pair = Pair::new(&base, "text_model.encoder.layers.0.mlp.fc1", 0);
    let lora = base.lora(&pair.peft(""), None, 0.7).unwrap();
    let write = |dtype| {
        let mut conversion = base.conversion();
        conversion.merge(&lora, false).unwrap();
        let options = Options {
            dtype: Some(dtype),
            ..Options::default()
        };
        base.write(conversion, &options)
    };
    let (wide, half) = (write(Dtype::F32), write(Dtype::F16));
    assert_eq!(half, write(Dtype::F16));
    let (wide, half) = (
        SafeTensors::deserialize(&wide).unwrap(),
        SafeTensors::deserialize(&half).unwrap(),
    );
    for (name, tensor) in wide.tensors() {
        let values = tensor.data().as_chunks::<4>().0.iter();
        let rounded = values.map(|b| f16::from_f32(f32::from_le_bytes(*b)).to_le_bytes());
        let rounded: Vec<u8> = rounded.flatten().collect();
        assert!(half.tensor(&name).unwrap().data() == rounded, "{name}");
    }
}
