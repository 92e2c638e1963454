//! Weighted prompts against transformers and torch (`tests/goldens/clip/weighting/generate.py`), and what always holds.

mod common;

use burn::tensor::{Distribution, Tensor, TensorData};
use common::{Goldens, repository};
use i2vgen_clip_encoders::{CLIPError, CLIPTextModel, CLIPTokenizer, apply_weights};
use i2vgen_tests::TestBackend;
use serde_json::Value;

fn tokenizer() -> CLIPTokenizer {
    let folder = repository("crates/demo-model/model/tokenizer");
    CLIPTokenizer::from_pretrained(folder).expect("loads")
}

fn values(x: Tensor<TestBackend, 3>) -> Vec<f32> {
    x.into_data().to_vec().expect("f32")
}

#[test]
fn ids_weights_and_embeddings_as_in_torch() {
    let path = repository("tests/goldens/clip/weighting/cases.json");
    let cases: Value = serde_json::from_slice(&std::fs::read(path).expect("there")).expect("valid");
    let goldens = Goldens::read("weighting/hidden.safetensors");
    let folder = repository("crates/demo-model/model/text_encoder");
    let device = Default::default();
    let encoder = CLIPTextModel::<TestBackend>::from_pretrained(folder, &device).expect("loads");
    let tokenizer = tokenizer();
    let cases = cases.as_array().expect("a list");
    assert_eq!(cases.len(), goldens.names().len());
    for (number, case) in cases.iter().enumerate() {
        let prompt = case["prompt"].as_str().expect("a prompt");
        let found = tokenizer.encode_weighted(prompt).expect("encodes");
        let ids: Vec<u32> = serde_json::from_value(case["ids"].clone()).expect("ids");
        assert_eq!(found.encoding.ids, ids, "{prompt}");
        let weights: Vec<f32> = serde_json::from_value(case["weights"].clone()).expect("weights");
        for (i, (a, b)) in found.weights.iter().zip(&weights).enumerate() {
            assert!((a - b).abs() < 1e-6, "{prompt}: token {i} has {a}, not {b}");
        }
        let plain = tokenizer
            .encode(case["text"].as_str().expect("text"))
            .expect("encodes");
        assert_eq!(found.encoding, plain, "{prompt}");
        let hidden = encoder
            .forward(found.encoding.to_tensor(&device), Some(1))
            .expect("runs");
        let weighted = apply_weights(hidden, &found.weights).expect("fits");
        goldens.close(&number.to_string(), weighted);
    }
}

/// A small generator of random prompts.
struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1);
        (self.0 >> 33) % n
    }

    /// Appends words and groups to a prompt, its plain text and the weights of its words.
    fn group(&mut self, depth: u64, weight: f64, out: &mut (String, String, Vec<f64>)) {
        for _ in 0..=self.below(3) {
            let (open, close, factor) = match self.below(6) {
                0 if depth < 3 => ("(", ")", 1.1),
                1 if depth < 3 => ("[", "]", 1.0 / 1.1),
                2 if depth < 3 => ("(", ":1.25)", 1.25),
                3 if depth < 3 => ("(", ":.5)", 0.5),
                choice => {
                    let words = [
                        "circle",
                        "Star",
                        "unforeseeable",
                        "naïve",
                        "don't",
                        "日本",
                        "🎈",
                        ":)",
                    ];
                    let word = words[self.below(8) as usize];
                    let escaped = word.replace(')', "\\)");
                    let space = if choice == 4 { "  " } else { " " };
                    out.0.push_str(&format!("{escaped}{space}"));
                    out.1.push_str(&format!("{word}{space}"));
                    out.2.push(weight);
                    continue;
                }
            };
            out.0.push_str(open);
            self.group(depth + 1, weight * factor, out);
            out.0.push_str(close);
        }
    }
}

#[test]
fn without_brackets_the_ids_are_the_same() {
    let tokenizer = tokenizer();
    let mut random = Random(8888);
    let mut checked = 0;
    for _ in 0..300 {
        let mut out = Default::default();
        random.group(0, 1.0, &mut out);
        let (prompt, plain, weights) = out;
        let found = tokenizer.encode_weighted(&prompt).expect("encodes");
        assert_eq!(
            found.encoding,
            tokenizer.encode(&plain).expect("encodes"),
            "{prompt}"
        );
        assert_eq!(found.weights.len(), found.encoding.ids.len());
        if found.encoding.cut > 0 {
            continue;
        }
        checked += 1;
        // Every token of every word has its word's weight.
        let mut tokens = found.weights[1..].iter();
        for (word, weight) in plain.split_whitespace().zip(weights) {
            let ids = tokenizer.encode(word).expect("encodes").ids;
            let end = ids[76];
            let count = ids.iter().skip(1).take_while(|id| **id != end).count();
            for found in tokens.by_ref().take(count) {
                let off = (f64::from(*found) - weight).abs();
                assert!(off < 1e-6, "{prompt}: {word} has {found}, not {weight}");
            }
        }
    }
    assert!(checked > 200, "only {checked} prompts fitted");
}

#[test]
fn weights_of_one_change_no_bit() {
    let hidden = Tensor::<TestBackend, 3>::random(
        [2, 5, 8],
        Distribution::Normal(0.0, 3.0),
        &Default::default(),
    );
    let same = apply_weights(hidden.clone(), &[1.0; 5]).expect("fits");
    assert_eq!(values(same), values(hidden));
    let found = tokenizer()
        .encode_weighted("[(a plain)] (text:1)")
        .expect("encodes");
    assert!(found.weights.iter().all(|w| *w == 1.0));
}

#[test]
fn each_row_keeps_its_own_mean() {
    let device = Default::default();
    let data: Vec<f32> = (0..24).map(|i| (i * i % 7) as f32 - 1.5).collect();
    let hidden = Tensor::<TestBackend, 3>::from_data(TensorData::new(data, [2, 3, 4]), &device);
    let weights = [1.0, 2.0, 0.5];
    let both = apply_weights(hidden.clone(), &weights).expect("fits");
    let means = |x: Tensor<TestBackend, 3>| values(x.mean_dim(2).mean_dim(1));
    for (a, b) in means(both.clone()).iter().zip(means(hidden.clone())) {
        assert!((a - b).abs() < 1e-6, "{a} {b}");
    }
    for row in 0..2 {
        let one = apply_weights(hidden.clone().narrow(0, row, 1), &weights).expect("fits");
        assert_eq!(values(one), values(both.clone().narrow(0, row, 1)));
    }
    // All weights zero: nothing to restore, and no NaN.
    let none = apply_weights(hidden, &[0.0; 3]).expect("fits");
    assert!(values(none).iter().all(|v| *v == 0.0));
}

#[test]
fn bad_input_is_an_error() {
    let tokenizer = tokenizer();
    for prompt in ["(", ")", "a (b:11)", "[a)", "(a:1e400)"] {
        let error = tokenizer.encode_weighted(prompt).expect_err(prompt);
        assert!(matches!(error, CLIPError::Weighting { .. }), "{error}");
    }
    let empty = tokenizer.encode_weighted("()").expect("nothing");
    assert_eq!(empty.encoding, tokenizer.encode("").expect("encodes"));
    let long = tokenizer
        .encode_weighted(&"(a:2) ".repeat(10_000))
        .expect("cut");
    assert_eq!(long.encoding.cut, 10_000 - 75);
    assert_eq!((long.weights[75], long.weights[76]), (2.0, 1.0));

    let hidden = Tensor::<TestBackend, 3>::ones([1, 3, 2], &Default::default());
    let error = apply_weights(hidden.clone(), &[1.0; 4]).expect_err("too many");
    assert!(matches!(
        error,
        CLIPError::WeightCount {
            weights: 4,
            tokens: 3
        }
    ));
    for bad in [f32::NAN, f32::INFINITY] {
        assert!(apply_weights(hidden.clone(), &[1.0, bad, 1.0]).is_err());
    }
}
