//! CLIP's tokenizer on the `tokenizers` crate (reference `clip.md` §4).

use std::{path::Path, sync::Arc};

use burn::tensor::{Int, Tensor, TensorData, backend::Backend};
use i2vgen_checkpoint::{Folder, write_atomically};
use serde_json::{Value, json};
use tokenizers::{AddedToken, Tokenizer};

use crate::{CLIPError, WeightedEncoding, weighting};

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

/// CLIP's lower-cased byte-level BPE. It cleans text as transformers' `CLIPTokenizerFast` does (NFC, one space for a run of
/// them, lower case), whichever files the folder has.
#[derive(Clone, Debug)]
pub struct CLIPTokenizer {
    /// Shared, because a vocabulary takes long to copy.
    tokenizer: Arc<Tokenizer>,
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
        let optional = |name: &str| -> Result<Value, CLIPError> {
            if folder.contains(name) {
                Ok(folder.read_json(name)?)
            } else {
                Ok(Value::Null)
            }
        };
        let config = optional("tokenizer_config.json")?;
        let special = special_tokens(&config, &optional("special_tokens_map.json")?);
        let id = |token: &str| {
            tokenizer
                .token_to_id(token)
                .ok_or_else(|| fail("", format!("has no token '{token}'")))
        };
        let pad = special.pad.as_ref().map_or(EOS, |pad| &pad.content);
        let (bos, eos, pad_token_id) = (id(BOS)?, id(EOS)?, id(pad)?);
        // Those that are not in the vocabulary would get ids that the text encoder does not have.
        let mut known = special.all;
        known.retain(|token| tokenizer.token_to_id(&token.content).is_some());
        tokenizer.add_special_tokens(&known);
        // Older configs write an absurdly large number for "no limit".
        let length = config["model_max_length"]
            .as_u64()
            .filter(|n| (3..=4096).contains(n))
            .map_or(DEFAULT_LENGTH, |n| n as usize);
        Ok(Self {
            bos,
            eos,
            pad_token_id,
            model_max_length: length,
            tokenizer: Arc::new(tokenizer),
            files,
        })
    }

    /// A text as token ids of the full length, cut or filled up.
    ///
    /// # Errors
    /// If the vocabulary cannot spell the text.
    pub fn encode(&self, text: &str) -> Result<Encoding, CLIPError> {
        Ok(self.complete(self.tokens(text)?.get_ids()))
    }

    /// As [`Self::encode`], for a text with weights such as `a (red:1.3) circle`: brackets are taken out before the text is
    /// tokenized, so the ids are those of the plain text. A token has the weight of its first character. The notation is
    /// AUTOMATIC1111's: `(x)` is 1.1, `(x:1.3)` 1.3, `[x]` 1/1.1, nested ones multiply, and `\(` is a bracket.
    ///
    /// # Errors
    /// As [`Self::encode`], and if brackets do not pair or a weight is not from 0 to 10.
    pub fn encode_weighted(&self, text: &str) -> Result<WeightedEncoding, CLIPError> {
        let segments = weighting::parse(text)?;
        let plain: String = segments.iter().map(|s| s.text.as_str()).collect();
        let tokens = self.tokens(&plain)?;
        let encoding = self.complete(tokens.get_ids());
        let starts = tokens.get_offsets().iter().map(|(start, _)| *start);
        let mut weights = weighting::token_weights(&segments, starts);
        weights.truncate(weights.len() - encoding.cut);
        weights.insert(0, 1.0);
        weights.resize(encoding.ids.len(), 1.0);
        Ok(WeightedEncoding { encoding, weights })
    }

    /// The tokens of a text alone, with their places in it in bytes.
    fn tokens(&self, text: &str) -> Result<tokenizers::Encoding, CLIPError> {
        self.tokenizer
            .encode(text, false)
            .map_err(|e| CLIPError::Tokenizer {
                path: String::new(),
                problem: e.to_string(),
            })
    }

    /// Start, as much of the text as fits, end and padding.
    fn complete(&self, text: &[u32]) -> Encoding {
        let kept = text.len().min(self.model_max_length - 2);
        let mut ids = Vec::with_capacity(self.model_max_length);
        ids.push(self.bos);
        ids.extend_from_slice(&text[..kept]);
        ids.push(self.eos);
        ids.resize(self.model_max_length, self.pad_token_id);
        Encoding {
            ids,
            cut: text.len() - kept,
        }
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

struct SpecialTokens {
    pad: Option<AddedToken>,
    /// What is recognised inside a prompt as one token.
    all: Vec<AddedToken>,
}

/// As transformers reads them: a config that lists its `added_tokens_decoder` is complete, an older one is overruled by
/// the map.
fn special_tokens(config: &Value, map: &Value) -> SpecialTokens {
    let listed = config["added_tokens_decoder"].as_object();
    let sources = match listed {
        Some(_) => [config, &Value::Null],
        None => [map, config],
    };
    let find = |name: &str| sources.iter().find_map(|source| added_token(&source[name]));
    let pad = find("pad_token");
    let plain = |token: &str| AddedToken::from(token, true).normalized(true);
    let mut all: Vec<AddedToken> = listed
        .iter()
        .flat_map(|tokens| tokens.values())
        .filter(|token| token["special"].as_bool() == Some(true))
        .filter_map(added_token)
        .collect();
    all.push(find("bos_token").unwrap_or_else(|| plain(BOS)));
    all.push(find("eos_token").unwrap_or_else(|| plain(EOS)));
    all.extend(pad.clone());
    SpecialTokens { pad, all }
}

/// A token written as a string or with its flags.
fn added_token(value: &Value) -> Option<AddedToken> {
    let content = value.as_str().or_else(|| value["content"].as_str())?;
    let flag = |name: &str, default: bool| value[name].as_bool().unwrap_or(default);
    Some(
        AddedToken::from(content, true)
            .normalized(flag("normalized", true))
            .lstrip(flag("lstrip", false))
            .rstrip(flag("rstrip", false))
            .single_word(flag("single_word", false)),
    )
}

/// What `tokenizer.json` would hold, from the two older files.
fn definition(vocab: Value, merges: &str) -> Value {
    let merges: Vec<&str> = merges
        .lines()
        .filter(|line| !line.starts_with("#version") && !line.trim().is_empty())
        .collect();
    let word = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+";
    json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [],
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
