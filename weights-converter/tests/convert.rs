//! Whole conversions: what appears, what is refused, what a killed run leaves (`goldens/originals`, `goldens/folders`).

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use half::{bf16, f16};
use i2vgen_weights_converter::{
    Component, Conversion, ConvertError, Options, Plan, Source, Trio, read_config,
};
use safetensors::{Dtype, SafeTensors};
use serde_json::{Value, json};

fn goldens() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens")
}

fn trio_files() -> Trio {
    let file = |name| Some(goldens().join("originals").join(name));
    Trio {
        unet: file("unet.pth"),
        vae: file("vae.ckpt"),
        clip: file("clip.bin"),
    }
}

fn trio() -> Conversion {
    let configs = goldens().join("originals/configs");
    Conversion::trio(&trio_files(), Some(&configs), None).unwrap()
}

fn write(conversion: Conversion, output: &Path, options: &Options) -> Result<Value, ConvertError> {
    conversion.write(output, options, &mut |_| {})
}

/// All files of a folder: relative path and content.
fn files(root: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut open = vec![root.to_owned()];
    while let Some(dir) = open.pop() {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                open.push(path);
            } else {
                found.insert(
                    path.strip_prefix(root).unwrap().to_owned(),
                    fs::read(path).unwrap(),
                );
            }
        }
    }
    found
}

type Tensors = BTreeMap<String, (Dtype, Vec<usize>, Vec<u8>)>;

/// All tensors of a component folder, whatever its shards.
fn tensors(folder: &Path) -> Tensors {
    let mut found = Tensors::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|e| e == "safetensors") {
            let bytes = fs::read(path).unwrap();
            for (name, t) in SafeTensors::deserialize(&bytes).unwrap().tensors() {
                let value = (t.dtype(), t.shape().to_vec(), t.data().to_vec());
                assert!(found.insert(name, value).is_none());
            }
        }
    }
    found
}

fn floats((dtype, _, bytes): &(Dtype, Vec<usize>, Vec<u8>)) -> Vec<f32> {
    let pairs = || bytes.as_chunks::<2>().0.iter();
    match dtype {
        Dtype::F32 => bytes
            .as_chunks::<4>()
            .0
            .iter()
            .map(|b| f32::from_le_bytes(*b))
            .collect(),
        Dtype::F16 => pairs().map(|b| f16::from_le_bytes(*b).to_f32()).collect(),
        Dtype::BF16 => pairs().map(|b| bf16::from_le_bytes(*b).to_f32()).collect(),
        other => panic!("{other:?}"),
    }
}

const PARTS: [&str; 4] = ["unet", "vae", "text_encoder", "image_encoder"];

#[test]
fn the_trio_becomes_a_whole_folder_twice_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let (a, b) = (dir.path().join("a"), dir.path().join("b"));
    let manifest = write(trio(), &a, &Options::default()).unwrap();
    write(trio(), &b, &Options::default()).unwrap();
    let found = files(&a);
    assert_eq!(found, files(&b));
    let names: Vec<&str> = found.keys().map(|p| p.to_str().unwrap()).collect();
    for name in [
        "i2vgen.json",
        "model_index.json",
        "scheduler/scheduler_config.json",
        "feature_extractor/preprocessor_config.json",
        "tokenizer/vocab.json",
        "tokenizer/merges.txt",
        "unet/config.json",
        "unet/diffusion_pytorch_model.safetensors",
        "vae/diffusion_pytorch_model.safetensors",
        "text_encoder/model.safetensors",
        "image_encoder/model.safetensors",
    ] {
        assert!(names.contains(&name), "{name} in {names:?}");
    }
    assert!(!names.contains(&".incomplete"));
    let json: Value = serde_json::from_slice(&found[Path::new("i2vgen.json")]).unwrap();
    assert_eq!(json, manifest);
    assert_eq!(json["sources"].as_array().unwrap().len(), 3);
    assert_eq!(json["sources"][0]["sha256"].as_str().unwrap().len(), 64);
    let count: usize = PARTS.iter().map(|part| tensors(&a.join(part)).len()).sum();
    assert_eq!(json["tensors"], count);
    let report = i2vgen_weights_converter::inspect(&a, true).unwrap();
    assert!(report.is_sound(), "{report}");
    assert_eq!(report.components.len(), 4);
    assert_eq!(report.convert, None);
}

#[test]
fn an_old_folder_gives_the_same_tensors() {
    let dir = tempfile::tempdir().unwrap();
    let (base, old, new) = (
        dir.path().join("base"),
        dir.path().join("old"),
        dir.path().join("new"),
    );
    write(trio(), &base, &Options::default()).unwrap();
    for (path, bytes) in files(&goldens().join("folders/old")) {
        fs::create_dir_all(old.join(&path).parent().unwrap()).unwrap();
        fs::write(old.join(path), bytes).unwrap();
    }
    // The UNet: a variant, and the config of diffusers 0.26.
    fs::create_dir(old.join("unet")).unwrap();
    let weights = base.join("unet/diffusion_pytorch_model.safetensors");
    fs::copy(
        weights,
        old.join("unet/diffusion_pytorch_model.fp16.safetensors"),
    )
    .unwrap();
    let config = fs::read(base.join("unet/config.json")).unwrap();
    let config: Value = serde_json::from_slice(&config).unwrap();
    let mut before = config.clone();
    before["num_attention_heads"] = before["attention_head_dim"].take();
    fs::write(old.join("unet/config.json"), before.to_string()).unwrap();

    let conversion = Conversion::folder(&old, None, None).unwrap();
    write(conversion, &new, &Options::default()).unwrap();
    for part in PARTS {
        assert_eq!(
            tensors(&new.join(part)),
            tensors(&base.join(part)),
            "{part}"
        );
    }
    let after: Value =
        serde_json::from_slice(&fs::read(new.join("unet/config.json")).unwrap()).unwrap();
    assert_eq!(after["attention_head_dim"], config["attention_head_dim"]);
    for same in [
        "model_index.json",
        "tokenizer/vocab.json",
        "scheduler/scheduler_config.json",
    ] {
        assert_eq!(
            fs::read(new.join(same)).unwrap(),
            fs::read(base.join(same)).unwrap(),
            "{same}"
        );
    }
    // One component's folder alone.
    let one = dir.path().join("one");
    write(
        Conversion::folder(&old.join("vae"), None, None).unwrap(),
        &one,
        &Options::default(),
    )
    .unwrap();
    assert_eq!(tensors(&one), tensors(&base.join("vae")));
    // Some components only; the others may be missing.
    let some = dir.path().join("some");
    fs::remove_dir_all(old.join("unet")).unwrap();
    let only = [Component::Vae, Component::TextEncoder];
    write(
        Conversion::folder(&old, None, Some(&only)).unwrap(),
        &some,
        &Options::default(),
    )
    .unwrap();
    assert!(some.join("vae").exists() && !some.join("unet").exists());
    let error = Conversion::folder(&old, None, None)
        .unwrap_err()
        .to_string();
    assert!(error.contains("'unet' is missing"), "{error}");
}

#[test]
fn damaged_folders_are_told() {
    let dir = tempfile::tempdir().unwrap();
    let old = dir.path().join("text_encoder");
    fs::create_dir(&old).unwrap();
    let source = goldens().join("folders/old/text_encoder");
    let error = |what: &str| {
        let error = Conversion::folder(&old, None, None)
            .expect_err(what)
            .to_string();
        assert!(
            error.contains(what) && error.lines().count() == 1,
            "{what}: {error}"
        );
    };
    error("neither model_index.json nor config.json");
    fs::copy(source.join("config.json"), old.join("config.json")).unwrap();
    error("no weights in it");
    let index = "pytorch_model.bin.index.json";
    fs::copy(source.join(index), old.join(index)).unwrap();
    error("is missing; download it again");
    for shard in [
        "pytorch_model-00001-of-00002.bin",
        "pytorch_model-00002-of-00002.bin",
    ] {
        fs::copy(source.join(shard), old.join(shard)).unwrap();
    }
    Conversion::folder(&old, None, None).unwrap();
    let text = fs::read_to_string(old.join(index)).unwrap();
    fs::write(
        old.join(index),
        text.replacen("\"pytorch_model-00001", "\"../pytorch_model-00001", 1),
    )
    .unwrap();
    error("outside the folder");
    let more = text.replacen(
        "\"weight_map\": {",
        "\"weight_map\": {\"lost\": \"pytorch_model-00001-of-00002.bin\",",
        1,
    );
    fs::write(old.join(index), more).unwrap();
    error("no shard holds 'lost'");
    fs::write(old.join(index), "{").unwrap();
    error("not JSON");
    fs::remove_file(old.join(index)).unwrap();
    for variant in ["fp16", "bf16"] {
        fs::write(old.join(format!("model.{variant}.safetensors")), "x").unwrap();
    }
    error("several variants (bf16, fp16)");
    fs::write(
        old.join("config.json"),
        "{\"_class_name\": \"FluxTransformer2DModel\"}",
    )
    .unwrap();
    error("does not describe a component");
    fs::write(old.join(".incomplete"), "").unwrap();
    error("interrupted");
}

#[test]
fn number_formats_shards_and_gain() {
    let dir = tempfile::tempdir().unwrap();
    let out = |name: &str| dir.path().join(name);
    let unet = || {
        let trio = Trio {
            unet: trio_files().unet,
            ..Trio::default()
        };
        let configs = goldens().join("originals/configs");
        Conversion::trio(&trio, Some(&configs), Some(&[Component::Unet])).unwrap()
    };
    let keep = Options::default();
    write(unet(), &out("keep"), &keep).unwrap();
    let base = tensors(&out("keep/unet"));
    for (name, dtype) in [
        ("f32", Dtype::F32),
        ("f16", Dtype::F16),
        ("bf16", Dtype::BF16),
    ] {
        let options = Options {
            dtype: Some(dtype),
            shard_size: Some(300_000),
            ..keep.clone()
        };
        write(unet(), &out(name), &options).unwrap();
        let found = tensors(&out(name).join("unet"));
        assert!(found.keys().eq(base.keys()));
        for (key, tensor) in &found {
            assert_eq!(tensor.0, dtype);
            let round = |v: f32| match dtype {
                Dtype::F16 => f16::from_f32(v).to_f32(),
                Dtype::BF16 => bf16::from_f32(v).to_f32(),
                _ => v,
            };
            let want: Vec<f32> = floats(&base[key]).into_iter().map(round).collect();
            assert_eq!(floats(tensor), want, "{key}");
        }
        let index = out(name).join("unet/diffusion_pytorch_model.safetensors.index.json");
        let index: Value = serde_json::from_slice(&fs::read(index).unwrap()).unwrap();
        let bytes: usize = found.values().map(|t| t.2.len()).sum();
        assert_eq!(index["metadata"]["total_size"], bytes);
        assert_eq!(index["weight_map"].as_object().unwrap().len(), found.len());
        for file in index["weight_map"].as_object().unwrap().values() {
            let path = out(name).join("unet").join(file.as_str().unwrap());
            assert!(fs::metadata(path).unwrap().len() < 400_000);
        }
    }
    let fold = Options {
        fold_concat_gain: true,
        ..keep
    };
    let manifest = write(unet(), &out("fold"), &fold).unwrap();
    assert_eq!(manifest["concat_gain"], "fold");
    for (key, tensor) in tensors(&out("fold/unet")) {
        let (found, mut want) = (floats(&tensor), floats(&base[&key]));
        if key == "conv_in.weight" {
            let (inputs, plane) = (tensor.1[1], tensor.1[2] * tensor.1[3]);
            for (i, value) in want.iter_mut().enumerate() {
                *value *= if i / plane % inputs >= inputs / 2 {
                    2.0
                } else {
                    1.0
                };
            }
        }
        assert_eq!(found, want, "{key}");
    }
}

/// Weights that double the image's features themselves stay known as such, and are not doubled again.
#[test]
fn a_folded_gain_is_remembered() {
    let dir = tempfile::tempdir().unwrap();
    let out = |name: &str| dir.path().join(name);
    let (keep, fold) = (
        Options::default(),
        Options {
            fold_concat_gain: true,
            ..Options::default()
        },
    );
    write(trio(), &out("folded"), &fold).unwrap();
    let unet = out("folded/unet");
    let file = unet.join("diffusion_pytorch_model.safetensors");
    let folder = |path: &Path| Conversion::folder(path, None, None).unwrap();
    let single = || {
        let config = read_config(Component::Unet, Some(&out("folded"))).unwrap();
        let source = Source::open(&file).unwrap();
        Conversion::component(Plan::new(Component::Unet, &[source], &config).unwrap())
    };
    let sources: [&dyn Fn() -> Conversion; 3] =
        [&|| folder(&out("folded")), &|| folder(&unet), &single];
    for (i, source) in sources.iter().enumerate() {
        let output = out(&i.to_string());
        let error = write(source(), &output, &fold).unwrap_err().to_string();
        assert!(error.contains("folded in already"), "{error}");
        let manifest = write(source(), &output, &keep).unwrap();
        assert_eq!(manifest["concat_gain"], "fold");
        let found = tensors(if i == 0 { &unet } else { &output });
        assert_eq!(found, tensors(&unet));
    }
    // Nothing to fold.
    let vae = || folder(&out("folded/vae"));
    let error = write(vae(), &out("vae"), &fold).unwrap_err().to_string();
    assert!(error.contains("needs the UNet"), "{error}");
    assert_eq!(
        write(vae(), &out("vae"), &keep).unwrap()["concat_gain"],
        "keep"
    );
    let other = Conversion::folder(&out("folded/vae"), None, Some(&[Component::Unet]));
    let error = other.unwrap_err().to_string();
    assert!(error.contains("--only leaves out"), "{error}");
}

#[test]
fn values_beyond_f16_are_told() {
    let dir = tempfile::tempdir().unwrap();
    let (wide, out) = (dir.path().join("wide"), dir.path().join("out"));
    let text = || {
        let trio = Trio {
            clip: trio_files().clip,
            ..Trio::default()
        };
        let configs = goldens().join("originals/configs");
        Conversion::trio(&trio, Some(&configs), Some(&[Component::TextEncoder])).unwrap()
    };
    let f32s = Options {
        dtype: Some(Dtype::F32),
        ..Options::default()
    };
    write(text(), &wide, &f32s).unwrap();
    let file = wide.join("text_encoder/model.safetensors");
    let mut bytes = fs::read(&file).unwrap();
    let end = bytes.len();
    bytes[end - 4..].copy_from_slice(&70000.0_f32.to_le_bytes());
    fs::write(&file, bytes).unwrap();
    let open = || Conversion::folder(&wide.join("text_encoder"), None, None).unwrap();
    let half = Options {
        dtype: Some(Dtype::F16),
        ..Options::default()
    };
    let error = write(open(), &out, &half).unwrap_err().to_string();
    assert!(error.contains("beyond the range of f16"), "{error}");
    assert_eq!(
        fs::read_dir(dir.path()).unwrap().count(),
        1,
        "nothing may be left"
    );
    write(open(), &dir.path().join("deep/er/out"), &half).unwrap_err();
    assert!(!dir.path().join("deep").exists(), "nothing may be left");
    let brain = Options {
        dtype: Some(Dtype::BF16),
        ..Options::default()
    };
    write(open(), &out, &brain).unwrap();
    // Infinities that were there before are kept.
    let mut bytes = fs::read(&file).unwrap();
    bytes[end - 4..].copy_from_slice(&f32::INFINITY.to_le_bytes());
    fs::write(&file, bytes).unwrap();
    write(open(), &dir.path().join("infinite"), &half).unwrap();
    let report = i2vgen_weights_converter::inspect(&dir.path().join("infinite"), true).unwrap();
    assert!(!report.is_sound());
    assert_eq!(report.components[0].non_finite.as_ref().unwrap().len(), 1);
}

#[test]
fn targets_are_guarded() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    let working = dir.path().join("out.incomplete");
    let (keep, force) = (
        Options::default(),
        Options {
            force: true,
            ..Options::default()
        },
    );
    let refused = |options: &Options, what: &str| {
        let error = write(trio(), &out, options).expect_err(what).to_string();
        assert!(
            error.contains(what) && error.lines().count() == 1,
            "{what}: {error}"
        );
    };
    // A folder that is not ours stays.
    fs::create_dir(&working).unwrap();
    fs::write(working.join("mine"), "").unwrap();
    refused(&keep, "is in the way");
    assert!(working.join("mine").exists());
    fs::remove_file(working.join("mine")).unwrap();
    // Another converter at work.
    let marker = fs::File::create(working.join(".incomplete")).unwrap();
    marker.lock().unwrap();
    refused(&keep, "another converter");
    drop(marker);
    // What a killed one left.
    fs::create_dir(working.join("unet")).unwrap();
    fs::write(working.join("unet/half"), "half").unwrap();
    write(trio(), &out, &keep).unwrap();
    assert!(!working.exists() && !out.join("unet/half").exists());
    refused(&keep, "add --force");
    fs::write(out.join("old"), "").unwrap();
    write(trio(), &out, &force).unwrap();
    assert!(!out.join("old").exists());
    // Killed between the two renames of --force: the old folder comes back, and is refused or replaced as before.
    fs::rename(&out, dir.path().join("out.incomplete.old")).unwrap();
    refused(&keep, "add --force");
    assert!(out.join("i2vgen.json").exists());
    // A source inside the target.
    let conversion = Conversion::folder(&out, None, None).unwrap();
    let error = write(conversion, &out, &force).unwrap_err().to_string();
    assert!(error.contains("would overwrite the source"), "{error}");
    assert!(
        out.join("unet/diffusion_pytorch_model.safetensors")
            .exists()
    );
    // The folder of the configs is a source as well.
    let configs = dir.path().join("configs");
    for (path, bytes) in files(&goldens().join("originals/configs")) {
        fs::create_dir_all(configs.join(&path).parent().unwrap()).unwrap();
        fs::write(configs.join(path), bytes).unwrap();
    }
    let only = Some(&[Component::Vae][..]);
    let conversion = Conversion::trio(&trio_files(), Some(&configs), only).unwrap();
    let error = write(conversion, &configs, &force).unwrap_err().to_string();
    assert!(error.contains("would overwrite the source"), "{error}");
    // A file is not replaced by a folder.
    let file = dir.path().join("file");
    fs::write(&file, "text").unwrap();
    let error = write(trio(), &file, &force).unwrap_err().to_string();
    assert!(error.contains("is a file"), "{error}");
    assert_eq!(fs::read(&file).unwrap(), b"text");
    let error = write(trio(), Path::new("/"), &force)
        .unwrap_err()
        .to_string();
    assert!(error.contains("not the name of a folder"), "{error}");
    fs::remove_file(out.join("model_index.json")).unwrap();
}

#[test]
fn the_wrong_model_is_told() {
    let error = Conversion::trio(&trio_files(), None, None)
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("of another shape") && error.lines().count() == 1,
        "{error}"
    );
    let configs = goldens().join("originals/configs");
    let swapped = Trio {
        unet: trio_files().clip,
        ..trio_files()
    };
    let error = Conversion::trio(&swapped, Some(&configs), None)
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("foreign (") && error.contains("missing ("),
        "{error}"
    );
    let without = Trio {
        vae: None,
        ..trio_files()
    };
    let error = Conversion::trio(&without, Some(&configs), None)
        .unwrap_err()
        .to_string();
    assert!(error.contains("--vae FILE"), "{error}");
    // The small model's vocabulary is not the published one.
    let dir = tempfile::tempdir().unwrap();
    for (path, bytes) in files(&configs) {
        if !path.starts_with("tokenizer") {
            fs::create_dir_all(dir.path().join(&path).parent().unwrap()).unwrap();
            fs::write(dir.path().join(path), bytes).unwrap();
        }
    }
    let error = Conversion::trio(&trio_files(), Some(dir.path()), None)
        .unwrap_err()
        .to_string();
    assert!(error.contains("add a tokenizer folder"), "{error}");
}

#[test]
fn burnpack_is_written_beside() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    let options = Options {
        burnpack: true,
        ..Options::default()
    };
    let conversion = trio();
    let bytes = conversion.bytes(&options);
    let mut told = 0;
    conversion
        .write(&out, &options, &mut |n| told += n)
        .unwrap();
    assert_eq!(told, bytes);
    for (part, stem) in [
        ("unet", "diffusion_pytorch_model"),
        ("text_encoder", "model"),
    ] {
        let file = fs::read(out.join(part).join(format!("{stem}.bpk"))).unwrap();
        assert_eq!(&file[..6], b"NRUB\x01\x00");
        let error = Source::open(&out.join(part).join(format!("{stem}.bpk")));
        let error = error.unwrap_err().to_string();
        assert!(error.contains("safetensors beside it"), "{error}");
    }
    assert_eq!(json!(told), json!(bytes));
}
