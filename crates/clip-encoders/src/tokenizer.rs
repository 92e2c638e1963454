use std::path::Path;

use burn::tensor::{Int, Tensor, TensorData, backend::Backend};
use i2vgen_checkpoint::{Folder, write_atomically};
use serde_json::{Value, json};
use tokenizers::Tokenizer;

use crate::CLIPError;

const BOS: &str = "<|startoftext|>";
const EOS: &str = "<|endoftext|>";
/// Positions of every published CLIP text tower.
const DEFAULT_LENGTH: usize = 77;
/// What is kept when a pipeline is saved.
const FILES: [&str; 5] = [
    "tokenizer.json",
    "vocab.json",
    "merges.txt",
    "tokenizer_config.json",
    "special_tokens_map.json",
];

/// CLIP's lower-cased byte-level BPE (transformers `CLIPTokenizerFast`).
#[derive(Clone, Debug)]
pub struct CLIPTokenizer {
    tokenizer: Tokenizer,
    bos: u32,
    eos: u32,
    /// Id that fills a sequence up.
    pub pad_token_id: u32,
    /// Length of every sequence.
    pub model_max_length: usize,
    files: Vec<(&'static str, Vec<u8>)>,
}

/// A prompt as the text encoder reads it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Encoding {
    /// Start, text, end and padding: always the tokenizer's full length.
    pub ids: Vec<u32>,
    /// Tokens of the text that did not fit.
    pub cut: usize,
}

impl Encoding {
    /// # Shapes
    /// → `[1, n]`
    pub fn to_tensor<B: Backend>(&self, device: &B::Device) -> Tensor<B, 2, Int> {
        let ids: Vec<i32> = self.ids.iter().map(|id| *id as i32).collect();
        let data = TensorData::new(ids, [1, self.ids.len()]);
        Tensor::from_data(data, device)
    }
}

impl CLIPTokenizer {
    /// Reads a `tokenizer` folder.
    ///
    /// # Errors
    /// If it has neither `tokenizer.json` nor `vocab.json` and `merges.txt`, or if they are no CLIP tokenizer.
    pub fn from_pretrained(path: impl AsRef<Path>) -> Result<Self, CLIPError> {
        Self::from_folder(&Folder::open(path)?)
    }

    /// As [`Self::from_pretrained`], for a folder that is already open.
    ///
    /// # Errors
    /// As [`Self::from_pretrained`].
    pub fn from_folder(folder: &Folder) -> Result<Self, CLIPError> {
        let fail = |file: &str, problem: String| CLIPError::Tokenizer {
            path: folder.display(file),
            problem,
        };
        let mut files = Vec::new();
        for name in FILES {
            if folder.contains(name) {
                files.push((name, folder.read(name)?.to_vec()));
            }
        }
        let definition = if folder.contains("tokenizer.json") {
            folder.read("tokenizer.json")?.to_vec()
        } else {
            let vocab: Value = folder.read_json("vocab.json")?;
            let merges = folder.read("merges.txt")?;
            let merges = std::str::from_utf8(&merges)
                .map_err(|e| fail("merges.txt", format!("is not UTF-8 ({e})")))?;
            definition(vocab, merges).to_string().into_bytes()
        };
        let mut tokenizer =
            Tokenizer::from_bytes(&definition).map_err(|e| fail("", e.to_string()))?;
        tokenizer
            .with_truncation(None)
            .map_err(|e| fail("", e.to_string()))?
            .with_padding(None);
        let id = |token: &str| {
            tokenizer
                .token_to_id(token)
                .ok_or_else(|| fail("", format!("has no token '{token}'")))
        };
        let config: Value = if folder.contains("tokenizer_config.json") {
            folder.read_json("tokenizer_config.json")?
        } else {
            Value::Null
        };
        let map: Value = if folder.contains("special_tokens_map.json") {
            folder.read_json("special_tokens_map.json")?
        } else {
            Value::Null
        };
        let pad = [&config["pad_token"], &map["pad_token"]]
            .into_iter()
            .find_map(|token| token.as_str().or_else(|| token["content"].as_str()))
            .unwrap_or(EOS);
        // Older configs write an absurdly large number for "no limit".
        let length = config["model_max_length"]
            .as_u64()
            .filter(|n| (3..=4096).contains(n))
            .map_or(DEFAULT_LENGTH, |n| n as usize);
        Ok(Self {
            bos: id(BOS)?,
            eos: id(EOS)?,
            pad_token_id: id(pad)?,
            model_max_length: length,
            tokenizer,
            files,
        })
    }

    /// A text as token ids of the full length, cut or filled up.
    ///
    /// # Errors
    /// If the vocabulary cannot spell the text.
    pub fn encode(&self, text: &str) -> Result<Encoding, CLIPError> {
        let text = self
            .tokenizer
            .encode(text, false)
            .map_err(|e| CLIPError::Tokenizer {
                path: String::new(),
                problem: e.to_string(),
            })?;
        let text = text.get_ids();
        let kept = text.len().min(self.model_max_length - 2);
        let mut ids = Vec::with_capacity(self.model_max_length);
        ids.push(self.bos);
        ids.extend_from_slice(&text[..kept]);
        ids.push(self.eos);
        ids.resize(self.model_max_length, self.pad_token_id);
        Ok(Encoding {
            ids,
            cut: text.len() - kept,
        })
    }

    /// Writes the files it was read from to an existing folder.
    ///
    /// # Errors
    /// If they cannot be written.
    pub fn save_pretrained(&self, path: impl AsRef<Path>) -> Result<(), CLIPError> {
        for (name, bytes) in &self.files {
            write_atomically(&path.as_ref().join(name), |file| {
                std::io::Write::write_all(file, bytes)
            })?;
        }
        Ok(())
    }
}

/// What `tokenizer.json` would hold, from the two older files.
fn definition(vocab: Value, merges: &str) -> Value {
    let special = |token: &str| {
        json!({"id": vocab[token], "content": token, "single_word": false, "lstrip": false, "rstrip": false,
               "normalized": false, "special": true})
    };
    let added: Vec<Value> = [BOS, EOS]
        .into_iter()
        .filter(|token| vocab[*token].is_u64())
        .map(special)
        .collect();
    let merges: Vec<&str> = merges
        .lines()
        .filter(|line| !line.starts_with("#version") && !line.trim().is_empty())
        .collect();
    let word = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+";
    json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": added,
        "normalizer": {"type": "Sequence", "normalizers": [
            {"type": "NFC"},
            {"type": "Replace", "pattern": {"Regex": r"\s+"}, "content": " "},
            {"type": "Lowercase"}]},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
            {"type": "Split", "pattern": {"Regex": word}, "behavior": "Removed", "invert": true},
            {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true}]},
        "post_processor": null, "decoder": null,
        "model": {"type": "BPE", "dropout": null, "unk_token": EOS, "continuing_subword_prefix": "",
                  "end_of_word_suffix": "</w>", "fuse_unk": false, "vocab": vocab, "merges": merges}
    })
}
