//! LoRA files, merged into a small text encoder. The first byte is the strength; with an odd second byte the rest is a safetensors
//! header before 512 bytes of values, else the whole file.
#![no_main]

use std::{path::PathBuf, sync::OnceLock};

use i2vgen_weights_converter::{Component, Conversion, Lora, Options, Plan, Source};
use libfuzzer_sys::{Corpus, fuzz_target};
use safetensors::{Dtype, tensor::TensorView};
use serde_json::{Value, json};

/// A text encoder of one layer, and its config.
fn model() -> &'static (PathBuf, Value) {
    static MODEL: OnceLock<(PathBuf, Value)> = OnceLock::new();
    MODEL.get_or_init(|| {
        let config = json!({
            "hidden_size": 4, "vocab_size": 2, "max_position_embeddings": 2, "num_hidden_layers": 1, "intermediate_size": 4,
        });
        let layout = Component::TextEncoder.layout(&config).expect("a sound config");
        let zeros = [0; 1024];
        let views = layout.into_iter().map(|(key, shape)| {
            let length = 4 * shape.iter().product::<usize>();
            let view = TensorView::new(Dtype::F32, shape, &zeros[..length]);
            (key, view.expect("the length is right"))
        });
        let file = safetensors::serialize(views, None).expect("small");
        (i2vgen_fuzz::file("text.safetensors", &file), config)
    })
}

fuzz_target!(|data: &[u8]| -> Corpus {
    let [strength, mode, rest @ ..] = data else {
        return Corpus::Reject;
    };
    let bytes = if mode % 2 == 0 {
        rest.to_vec()
    } else {
        let values: Vec<u8> = (0..512).map(|n| (n % 64) as u8).collect();
        [&(rest.len() as u64).to_le_bytes(), rest, &values].concat()
    };
    let strength = f32::from(*strength) / 64.0 - 1.0;
    let Ok(lora) = Lora::open(&i2vgen_fuzz::file("lora.safetensors", &bytes), strength) else {
        return Corpus::Keep;
    };
    let (path, config) = model();
    let source = Source::open(path).expect("it was just written");
    let plan = Plan::new(Component::TextEncoder, &[source], config).expect("it fits");
    let mut conversion = Conversion::component(plan);
    if conversion.merge(&lora, true).is_ok() {
        let options = Options {
            force: true,
            ..Options::default()
        };
        let _ = conversion.write(&i2vgen_fuzz::folder().join("out"), &options, &mut |_| {});
    }
    Corpus::Keep
});
