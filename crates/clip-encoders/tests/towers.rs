//! Both towers against transformers (`tests/goldens/clip/generate.py`), and what their folders may look like.

mod common;

use std::path::{Path, PathBuf};

use burn::tensor::{DType, Int, Tensor, TensorData};
use common::{Goldens, repository};
use i2vgen_checkpoint::{CheckpointError, Folder};
use i2vgen_clip_encoders::{
    CLIPError, CLIPTextConfig, CLIPTextModel, CLIPVisionModelWithProjection,
};
use i2vgen_tests::TestBackend;
use safetensors::{SafeTensors, tensor::TensorView};

type Text = CLIPTextModel<TestBackend>;
type Vision = CLIPVisionModelWithProjection<TestBackend>;

/// The folder of a model of the goldens.
fn folder(kind: &str, model: &str) -> PathBuf {
    match (kind, model) {
        ("text", "demo") => repository("crates/demo-model/model/text_encoder"),
        ("vision", "demo") => repository("crates/demo-model/model/image_encoder"),
        _ => repository("tests/goldens/clip").join(format!("{kind}_{model}")),
    }
}

fn ids(values: Vec<i64>, shape: [usize; 2]) -> Tensor<TestBackend, 2, Int> {
    Tensor::from_data(TensorData::new(values, shape), &Default::default())
}

fn values<const D: usize>(x: Tensor<TestBackend, D>) -> Vec<f32> {
    x.into_data().to_vec().expect("f32")
}

#[test]
fn text_at_every_clip_skip() {
    let goldens = Goldens::read("text.safetensors");
    for model in ["demo", "quick_gelu", "gelu_new"] {
        let folder = Folder::open(folder("text", model)).expect("there");
        let name = format!("{model}.ids");
        let shape: [usize; 2] = goldens.shape(&name).try_into().expect("rank 2");
        let input = ids(goldens.i64(&name), shape);
        let load = |skip| Text::from_folder(&folder, None, DType::F32, skip, &Default::default());
        let whole = load(0).expect("loads");
        let layers = whole.config.num_hidden_layers;
        let run = |model: &Text, skip| model.forward(input.clone(), skip);
        goldens.close(&format!("{model}.none"), run(&whole, None).expect("runs"));
        for skip in 0..=layers {
            let found = run(&whole, Some(skip)).expect("runs");
            goldens.close(&format!("{model}.{skip}"), found.clone());
            let part = load(skip).expect("loads");
            assert_eq!(part.config.num_hidden_layers, layers - skip);
            let same = run(&part, Some(skip)).expect("runs");
            assert_eq!(values(same), values(found));
            // A layer that was not loaded cannot be asked for, nor one that never was.
            if skip > 0 {
                let error = run(&part, Some(skip - 1)).expect_err("not loaded");
                assert!(matches!(error, CLIPError::ClipSkip { .. }), "{error}");
                assert!(part.save_pretrained("/nowhere", DType::F32).is_err());
            }
        }
        for error in [
            load(layers + 1).err(),
            run(&whole, Some(layers + 1)).err(),
            run(&whole, Some(usize::MAX)).err(),
        ] {
            let error = error.expect("too many");
            assert!(matches!(error, CLIPError::ClipSkip { .. }), "{error}");
        }
    }
}

#[test]
fn vision_embeddings() {
    let goldens = Goldens::read("vision.safetensors");
    for model in ["demo", "quick_gelu"] {
        let tower = Vision::from_pretrained(folder("vision", model), &Default::default());
        let tower = tower.expect("loads");
        let pixels = goldens.tensor(&format!("{model}.pixels"));
        let found = tower.forward(pixels.clone()).expect("runs");
        goldens.close(&format!("{model}.embeds"), found.clone());
        // A batch is its rows.
        let second = tower.forward(pixels.narrow(0, 1, 1)).expect("runs");
        let difference = (found.narrow(0, 1, 1) - second).abs().max().into_scalar();
        assert!(difference < 1e-5, "{difference}");
    }
}

/// A copy of a model folder whose keys went through `rename`, with a buffer that old versions wrote.
fn renamed(from: &Path, rename: impl Fn(&str) -> String) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::copy(from.join("config.json"), folder.path().join("config.json")).expect("copied");
    let bytes = std::fs::read(from.join("model.safetensors")).expect("there");
    let file = SafeTensors::deserialize(&bytes).expect("valid");
    let positions = [0u8; 16];
    let buffer = TensorView::new(safetensors::Dtype::I64, vec![1, 2], &positions).expect("fits");
    let mut tensors: Vec<(String, TensorView<'_>)> = file
        .tensors()
        .into_iter()
        .map(|(name, view)| (rename(&name), view))
        .collect();
    tensors.push((rename("text_model.embeddings.position_ids"), buffer));
    let path = folder.path().join("model.safetensors");
    safetensors::serialize_to_file(tensors, None, &path).expect("written");
    folder
}

#[test]
fn keys_with_and_without_prefix() {
    let device = Default::default();
    let input = || ids(vec![1, 7, 3, 2], [2, 2]);
    let text = |path: &Path| {
        let model = Text::from_pretrained(path, &device).expect("loads");
        values(model.forward(input(), Some(1)).expect("runs"))
    };
    let from = folder("text", "quick_gelu");
    let expected = text(&from);
    let bare = renamed(&from, |key| key.replace("text_model.", ""));
    assert_eq!(text(bare.path()), expected);
    let kept = renamed(&from, str::to_owned);
    assert_eq!(text(kept.path()), expected);

    let pixels = || Goldens::read("vision.safetensors").tensor("quick_gelu.pixels");
    let vision = |path: &Path| {
        let model = Vision::from_pretrained(path, &device).expect("loads");
        values(model.forward(pixels()).expect("runs"))
    };
    let from = folder("vision", "quick_gelu");
    let bare = renamed(&from, |key| key.replace("vision_model.", ""));
    assert_eq!(vision(bare.path()), vision(&from));
}

#[test]
fn another_key_is_an_error() {
    let from = folder("text", "quick_gelu");
    let broken = renamed(&from, |key| key.replace("fc1.bias", "fc1.offset"));
    let error = Text::from_pretrained(broken.path(), &Default::default());
    let Err(CLIPError::Checkpoint(CheckpointError::Mismatch(report))) = error else {
        panic!("{error:?}");
    };
    assert_eq!((report.missing.len(), report.unexpected.len()), (3, 3));
}

#[test]
fn saved_and_opened_again() {
    let device = Default::default();
    let folder_of = |kind| folder(kind, "quick_gelu");
    let target = tempfile::tempdir().expect("a folder");
    let input = || ids(vec![1, 7, 3], [1, 3]);

    let text = Text::from_pretrained(folder_of("text"), &device).expect("loads");
    text.save_pretrained(target.path(), DType::F32)
        .expect("saves");
    let again = Text::from_pretrained(target.path(), &device).expect("loads");
    let run = |model: &Text| values(model.forward(input(), None).expect("runs"));
    assert_eq!(run(&text), run(&again));
    assert_eq!(again.config.eos_token_id, Some(59));

    let vision = Vision::from_pretrained(folder_of("vision"), &device).expect("loads");
    vision
        .save_pretrained(target.path(), DType::F32)
        .expect("saves");
    let again = Vision::from_pretrained(target.path(), &device).expect("loads");
    let pixels = || Goldens::read("vision.safetensors").tensor("quick_gelu.pixels");
    let run = |model: &Vision| values(model.forward(pixels()).expect("runs"));
    assert_eq!(run(&vision), run(&again));
}

#[test]
fn bad_inputs_are_named() {
    let device = Default::default();
    let text = Text::from_pretrained(folder("text", "quick_gelu"), &device).expect("loads");
    let message = |values: Vec<i64>| {
        let n = values.len();
        let error = text.forward(ids(values, [1, n]), None);
        error.expect_err("bad").to_string()
    };
    assert!(message(vec![0; 13]).contains("13 tokens"));
    assert!(message(vec![0, 60]).contains("token id 60"));
    assert!(message(vec![-1, 0]).contains("token id -1"));

    let vision = Vision::from_pretrained(folder("vision", "quick_gelu"), &device).expect("loads");
    let error = vision.forward(Tensor::zeros([1, 3, 30, 31], &device));
    assert!(error.expect_err("bad").to_string().contains("30, 31"));

    let build = |config: CLIPTextConfig| Text::new(config, &device).expect_err("bad").to_string();
    let relu = CLIPTextConfig {
        hidden_act: "relu".into(),
        ..Default::default()
    };
    assert!(build(relu).contains("relu"));
    let heads = CLIPTextConfig {
        num_attention_heads: 7,
        ..Default::default()
    };
    assert!(build(heads).contains("num_attention_heads 7"));
}
