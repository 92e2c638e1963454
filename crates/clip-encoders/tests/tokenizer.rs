//! The tokenizer against transformers' `CLIPTokenizerFast`, on the demo's vocabulary and on the published one
//! (`tests/goldens/clip/tokenizer/generate.py`).

mod common;

use common::repository;
use i2vgen_clip_encoders::CLIPTokenizer;
use serde_json::Value;

const GOLDENS: &str = "tests/goldens/clip/tokenizer";

fn goldens() -> Value {
    let text = std::fs::read(repository(GOLDENS).join("cases.json")).expect("there");
    serde_json::from_slice(&text).expect("valid")
}

/// The ids of a case, which the file keeps without most of the padding.
fn expected(case: &Value, name: &str) -> Vec<u32> {
    let mut ids: Vec<u32> = serde_json::from_value(case[name].clone()).expect("ids");
    let last = *ids.last().expect("not empty");
    ids.resize(77, last);
    ids
}

fn check(tokenizer: &CLIPTokenizer, goldens: &Value, name: &str, label: &str) {
    let cases = goldens["cases"].as_array().expect("a list");
    assert!(cases.len() > 80);
    for case in cases {
        let text = case["text"].as_str().expect("text");
        let found = tokenizer.encode(text).expect("encodes");
        let short: String = text.chars().take(60).collect();
        assert_eq!(found.ids, expected(case, name), "{label}: {short:?}");
    }
}

/// The published vocabulary with the special tokens described as in `config`.
fn published(config: &Value) -> (tempfile::TempDir, CLIPTokenizer) {
    let folder = tempfile::tempdir().expect("a folder");
    for name in ["vocab.json", "merges.txt"] {
        let from = repository(GOLDENS).join("published").join(name);
        std::fs::copy(from, folder.path().join(name)).expect("copied");
    }
    for (name, content) in config.as_object().expect("files") {
        std::fs::write(folder.path().join(name), content.to_string()).expect("written");
    }
    let tokenizer = CLIPTokenizer::from_pretrained(folder.path()).expect("loads");
    (folder, tokenizer)
}

#[test]
fn published_vocabulary() {
    let goldens = goldens();
    for (name, pad, expected) in [
        ("bare", 49407, "bare"),
        ("flags", 49407, "bare"),
        ("exclamation", 0, "exclamation"),
        ("decoder", 0, "decoder"),
    ] {
        let (_folder, tokenizer) = published(&goldens["configs"][name]);
        assert_eq!(tokenizer.pad_token_id, pad, "{name}");
        assert_eq!(tokenizer.model_max_length, 77, "{name}");
        check(&tokenizer, &goldens, expected, name);
    }
}

#[test]
fn demo_vocabulary_from_either_form() {
    let goldens = goldens();
    let folder = repository("crates/demo-model/model/tokenizer");
    let tokenizer = CLIPTokenizer::from_pretrained(&folder).expect("loads");
    check(&tokenizer, &goldens, "demo", "tokenizer.json");

    // Without tokenizer.json; there upper-case special tokens are recognised, as in transformers.
    let copy = tempfile::tempdir().expect("a folder");
    for name in ["vocab.json", "merges.txt", "tokenizer_config.json"] {
        std::fs::copy(folder.join(name), copy.path().join(name)).expect("copied");
    }
    let older = CLIPTokenizer::from_pretrained(copy.path()).expect("loads");
    for case in goldens["cases"].as_array().expect("a list") {
        let text = case["text"].as_str().expect("text");
        if !text.contains("ENDOFTEXT") {
            let found = older.encode(text).expect("encodes");
            assert_eq!(found.ids, expected(case, "demo"), "{text:?}");
        }
    }
}

#[test]
fn what_does_not_fit_is_counted() {
    let folder = repository("crates/demo-model/model/tokenizer");
    let mut tokenizer = CLIPTokenizer::from_pretrained(folder).expect("loads");
    let one = tokenizer.encode("a").expect("encodes");
    assert_eq!((one.ids.len(), one.cut), (77, 0));
    let full = tokenizer.encode(&"a ".repeat(75)).expect("encodes");
    assert_eq!(full.cut, 0);
    let long = tokenizer.encode(&"a ".repeat(10_000)).expect("encodes");
    assert_eq!(long.cut, 10_000 - 75);
    assert_eq!(long.ids, full.ids);
    // The authors' code pads with id 0.
    tokenizer.pad_token_id = 0;
    let padded = tokenizer.encode("a").expect("encodes");
    assert_eq!(padded.ids[..3], one.ids[..3]);
    assert!(padded.ids[3..].iter().all(|id| *id == 0));
}

#[test]
fn saved_as_it_was_read() {
    let goldens = goldens();
    let (folder, tokenizer) = published(&goldens["configs"]["exclamation"]);
    let target = tempfile::tempdir().expect("a folder");
    tokenizer.save_pretrained(target.path()).expect("saves");
    let files = |folder: &tempfile::TempDir| {
        let entries = std::fs::read_dir(folder.path()).expect("a folder");
        let mut files: Vec<_> = entries
            .map(|entry| {
                let path = entry.expect("an entry").path();
                let content = std::fs::read(&path).expect("read");
                (path.file_name().map(ToOwned::to_owned), content)
            })
            .collect();
        files.sort();
        files
    };
    assert_eq!(files(&folder).len(), 4);
    assert_eq!(files(&folder), files(&target));
}

#[test]
fn bad_folders_are_named() {
    let folder = tempfile::tempdir().expect("a folder");
    let load = || CLIPTokenizer::from_pretrained(folder.path());
    let write = |name: &str, content: &str| {
        std::fs::write(folder.path().join(name), content).expect("written");
    };
    assert!(
        load()
            .expect_err("empty")
            .to_string()
            .contains("vocab.json")
    );
    write("vocab.json", r#"{"a": 0, "b</w>": 1}"#);
    write("merges.txt", "#version: 0.2\n");
    let error = load().expect_err("no special tokens").to_string();
    assert!(error.contains("<|startoftext|>"), "{error}");
    write(
        "vocab.json",
        r#"{"a": 0, "<|startoftext|>": 1, "<|endoftext|>": 2}"#,
    );
    assert!(load().is_ok());
    write("special_tokens_map.json", r#"{"pad_token": "<pad>"}"#);
    let error = load().expect_err("no such pad").to_string();
    assert!(error.contains("<pad>"), "{error}");
    write("tokenizer.json", "{");
    assert!(load().is_err());
}
