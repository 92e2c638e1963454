//! Pulls from a server on this machine that imitates the Hub, with everything that can go wrong on the way.

mod failures;
mod processes;
mod success;

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use i2vgen_hub::{HubError, HubOptions, Progress, pull};
use i2vgen_tests::hub_server::{ID, Server};
use tempfile::TempDir;

const UNET: &str = "unet/diffusion_pytorch_model.safetensors";
const UNET_FP16: &str = "unet/diffusion_pytorch_model.fp16.safetensors";
const MODEL_INDEX: &str = r#"{
    "_class_name": "I2VGenXLPipeline", "_diffusers_version": "0.33.1", "requires_safety_checker": false,
    "feature_extractor": ["transformers", "CLIPImageProcessor"],
    "image_encoder": ["transformers", "CLIPVisionModelWithProjection"],
    "scheduler": ["diffusers", "DDIMScheduler"],
    "text_encoder": ["transformers", "CLIPTextModel"],
    "tokenizer": ["transformers", "CLIPTokenizer"],
    "unet": ["diffusers", "I2VGenXLUNet"],
    "vae": ["diffusers", "AutoencoderKL"],
    "safety_checker": [null, null]
}"#;

/// Bytes that differ from file to file and from place to place.
fn content(name: &str, length: usize) -> Vec<u8> {
    let seed = name
        .bytes()
        .fold(1u32, |h, b| h.wrapping_mul(31).wrapping_add(b.into()));
    (0..length as u32)
        .map(|i| (i.wrapping_mul(2654435761) ^ seed).rotate_left(9) as u8)
        .collect()
}

/// The layout of ali-vilab/i2vgen-xl, with small contents.
fn model() -> BTreeMap<String, Vec<u8>> {
    let mut files = BTreeMap::from([("model_index.json".to_owned(), MODEL_INDEX.into())]);
    for name in [
        ".gitattributes",
        "README.md",
        "feature_extractor/preprocessor_config.json",
        "image_encoder/config.json",
        "image_encoder/model.fp16.safetensors",
        "image_encoder/model.safetensors",
        "images/a b.png",
        "models/i2vgen_xl_00854500.pth",
        "models/open_clip_pytorch_model.bin",
        "scheduler/scheduler_config.json",
        "text_encoder/config.json",
        "text_encoder/model.fp16.safetensors",
        "text_encoder/model.safetensors",
        "text_encoder/pytorch_model.bin",
        "tokenizer/merges.txt",
        "tokenizer/special_tokens_map.json",
        "tokenizer/tokenizer_config.json",
        "tokenizer/vocab.json",
        "unet/config.json",
        UNET,
        UNET_FP16,
        "vae/config.json",
        "vae/diffusion_pytorch_model.safetensors",
    ] {
        files.insert(name.to_owned(), content(name, 1000 + name.len()));
    }
    files
}

/// Those of them that a pull without a variant needs.
fn plain_files() -> Vec<String> {
    let unneeded = |f: &String| {
        f.contains("fp16")
            || f.contains(".bin")
            || f.starts_with("models/")
            || f.starts_with("images/")
            || [".gitattributes", "README.md"].contains(&f.as_str())
    };
    model().into_keys().filter(|f| !unneeded(f)).collect()
}

/// A server, an empty cache, and how to get from one to the other.
struct Place {
    server: Server,
    cache: TempDir,
}

impl Place {
    fn new() -> Self {
        Self::with(model())
    }

    fn with(files: BTreeMap<String, Vec<u8>>) -> Self {
        Self {
            server: Server::new(files),
            cache: tempfile::tempdir().unwrap(),
        }
    }

    fn options(&self) -> HubOptions {
        HubOptions {
            revision: None,
            variant: None,
            cache_dir: Some(self.cache.path().to_owned()),
            endpoint: Some(self.server.endpoint()),
            token: None,
            offline: false,
            retries: 2,
            backoff: Duration::from_millis(5),
            timeout: Duration::from_secs(5),
        }
    }

    fn pull(&self) -> Result<PathBuf, HubError> {
        self.pull_with(self.options())
    }

    fn pull_with(&self, options: HubOptions) -> Result<PathBuf, HubError> {
        pull(ID, &options, &mut |_| {})
    }

    /// The error's text, after checking that it is one line.
    fn refused(&self, options: HubOptions) -> String {
        let text = self.pull_with(options).unwrap_err().to_string();
        assert!(!text.contains('\n') && text.contains("; "), "{text}");
        text
    }

    /// What a pull tells.
    fn events(&self, options: HubOptions) -> (Result<PathBuf, HubError>, Vec<String>) {
        let mut events = Vec::new();
        let result = pull(ID, &options, &mut |event| events.push(describe(event)));
        (result, events)
    }

    fn repo(&self) -> PathBuf {
        self.cache.path().join("models--owner--model")
    }

    /// Names in `blobs`.
    fn blobs(&self) -> Vec<String> {
        names(&self.repo().join("blobs"))
    }

    fn incomplete(&self) -> Vec<String> {
        self.blobs()
            .into_iter()
            .filter(|n| n.ends_with(".incomplete"))
            .collect()
    }

    /// Whether the folder has exactly these files, with the published contents.
    fn check(&self, folder: &Path, expected: &[String]) {
        assert_eq!(tree(folder), expected);
        let state = self.server.state();
        for name in expected {
            assert_eq!(
                fs::read(folder.join(name)).unwrap(),
                state.files[name],
                "{name}"
            );
        }
        drop(state);
        assert_eq!(self.incomplete(), [""; 0]);
    }
}

fn describe(event: Progress<'_>) -> String {
    match event {
        Progress::Start { count, bytes } => format!("start {count} {bytes}"),
        Progress::File {
            name,
            index,
            count,
            bytes,
        } => format!("file {name} {index}/{count} {bytes}"),
        Progress::Bytes(n) => format!("bytes {n}"),
        Progress::Waiting { name } => format!("waiting {name}"),
        Progress::Retry { reason, left, .. } => format!("retry {left} {reason}"),
        Progress::Offline { reason } => format!("offline {reason}"),
        _ => "other".to_owned(),
    }
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut names: Vec<_> = entries
        .map(|e| e.file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

/// Paths of all files in a folder, sorted.
fn tree(folder: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for name in names(folder) {
        let path = folder.join(&name);
        if path.is_dir() {
            found.extend(tree(&path).into_iter().map(|f| format!("{name}/{f}")));
        } else {
            found.push(name);
        }
    }
    found.sort();
    found
}
