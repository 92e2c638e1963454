//! `from_pretrained` with a name, from a server on this machine that imitates the Hub into an empty cache. Which server and
//! cache is in the environment, so each run is a process: this test program again, running only [`child`].

use std::{
    collections::BTreeMap,
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use burn::{backend::Flex, tensor::DType};
use i2vgen_checkpoint::Folder;
use i2vgen_hub::HubOptions;
use i2vgen_pipeline::{GenerateOptions, I2VGenXLPipeline, PipelineError, decode_image};
use i2vgen_tests::hub_server::{COMMIT, ID, Request, Server, files, isolate, nobody};
use tempfile::TempDir;

type B = Flex;
const MODEL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../crates/demo-model/model");
const UNET: &str = "unet/diffusion_pytorch_model";
/// Where the child writes its video.
const OUTPUT: &str = "I2VGEN_FROM_THE_HUB_OUTPUT";

fn video(
    pipeline: Result<I2VGenXLPipeline<B>, PipelineError>,
    path: &Path,
) -> Result<(), PipelineError> {
    let image = decode_image(i2vgen_demo_model::IMAGE, "embedded")?;
    let options = GenerateOptions {
        height: 32,
        width: 32,
        num_frames: 2,
        num_inference_steps: 2,
        guidance_scale: 2.5,
        seed: Some(3),
        ..Default::default()
    };
    let video = pipeline?.generate(&image, "a red circle moves left", &options)?;
    video.save(path)?;
    Ok(())
}

/// Makes a video with the model of that name. Does nothing when it runs among the other tests.
#[test]
fn child() {
    if let Some(output) = env::var_os(OUTPUT) {
        let pipeline = I2VGenXLPipeline::from_pretrained(ID, &Default::default());
        match video(pipeline, output.as_ref()) {
            Ok(()) => println!("\nresult=done"),
            Err(PipelineError::Hub(error)) => println!("\nresult=hub: {error}"),
            Err(error) => println!("\nresult={error}"),
        }
    }
}

struct Place {
    server: Server,
    folder: TempDir,
}

impl Place {
    fn new(files: BTreeMap<String, Vec<u8>>) -> Self {
        Self {
            server: Server::new(files),
            folder: tempfile::tempdir().expect("a folder"),
        }
    }

    fn cache(&self) -> PathBuf {
        self.folder.path().join("hub")
    }

    fn repo(&self) -> PathBuf {
        self.cache().join("models--owner--model")
    }

    /// What the child says, and its video.
    fn run(&self, variables: &[(&str, &str)]) -> (String, Option<Vec<u8>>) {
        let output = self.folder.path().join("out.safetensors");
        let mut command = Command::new(env::current_exe().expect("a path"));
        isolate(&mut command, &self.server.endpoint(), self.folder.path())
            .args([
                "--exact",
                "cpu::from_the_hub::child",
                "--nocapture",
                "--test-threads=1",
            ])
            .current_dir(self.folder.path())
            .env(OUTPUT, &output)
            .envs(variables.iter().copied());
        let said = command.output().expect("starts").stdout;
        let said = String::from_utf8(said).expect("UTF-8");
        let result = said.lines().find_map(|l| l.strip_prefix("result="));
        let result = result.unwrap_or_else(|| panic!("{said}")).to_owned();
        let video = fs::read(&output).ok();
        let _ = fs::remove_file(output);
        (result, video)
    }

    /// Files of the snapshot, whose contents must be the published ones.
    fn snapshot(&self) -> Vec<String> {
        let found = files(&self.repo().join("snapshots").join(COMMIT));
        let state = self.server.state();
        for (name, content) in &found {
            assert!(*content == state.files[name], "{name}");
        }
        found.into_keys().collect()
    }
}

fn model() -> BTreeMap<String, Vec<u8>> {
    files(Path::new(MODEL))
}

/// What the folder gives.
fn expected() -> Option<Vec<u8>> {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("out.safetensors");
    video(
        I2VGenXLPipeline::from_pretrained(MODEL, &Default::default()),
        &path,
    )
    .expect("runs");
    Some(fs::read(path).expect("there"))
}

fn about(requests: &[Request], what: &str) -> usize {
    requests.iter().filter(|r| r.path.contains(what)).count()
}

#[test]
fn only_what_is_needed_and_the_same_video() {
    let mut served = model();
    let needed: Vec<String> = served.keys().cloned().collect();
    let unneeded = [
        "README.md".to_owned(),
        "i2vgen_xl_00854500.pth".to_owned(),
        "text_encoder/pytorch_model.bin".to_owned(),
        format!("{UNET}.bin"),
        format!("{UNET}.fp16.safetensors"),
        "safety_checker/model.safetensors".to_owned(),
    ];
    for name in &unneeded {
        served.insert(name.clone(), b"none of these can be loaded".into());
    }
    let place = Place::new(served);
    let expected = expected();
    let (said, video) = place.run(&[]);
    assert_eq!(said, "done");
    assert!(video == expected);
    assert_eq!(place.snapshot(), needed);
    let requests = place.server.requests();
    for name in &unneeded {
        assert_eq!(about(&requests, name), 0, "{name}");
    }

    // The second time nothing comes, with a server that is there, is not there, and must not be asked.
    let dead = nobody();
    for (variables, asked) in [
        (None, 1),
        (Some(("HF_ENDPOINT", &*dead)), 0),
        (Some(("HF_HUB_OFFLINE", "1")), 0),
    ] {
        let (said, video) = place.run(variables.as_slice());
        assert_eq!(said, "done", "{variables:?}");
        assert!(video == expected);
        assert_eq!(place.server.requests().len(), asked, "{variables:?}");
    }
}

#[test]
fn a_repository_with_one_variant_only() {
    let mut served = model();
    let weights: Vec<String> = served
        .keys()
        .filter(|n| n.ends_with(".safetensors"))
        .cloned()
        .collect();
    assert_eq!(weights.len(), 4);
    for name in weights {
        let content = served.remove(&name).expect("there");
        served.insert(name.replace(".safetensors", ".fp16.safetensors"), content);
        // Safetensors of any variant come before pickles.
        served.insert(
            name.replace("/model.", "/pytorch_model.")
                .replace(".safetensors", ".bin"),
            b"pickle".into(),
        );
    }
    let needed: Vec<String> = served
        .keys()
        .filter(|n| !n.ends_with(".bin"))
        .cloned()
        .collect();
    let place = Place::new(served);
    let (said, video) = place.run(&[]);
    assert_eq!(said, "done");
    assert!(video == expected());
    assert_eq!(place.snapshot(), needed);
    assert_eq!(about(&place.server.requests(), ".bin"), 0);
}

/// As the documentation of `from_pretrained` says for variants.
#[test]
fn a_variant_is_pulled_and_opened() {
    let mut served = model();
    let variant = format!("{UNET}.fp16.safetensors");
    let plain = format!("{UNET}.safetensors");
    let content = served
        .insert(plain.clone(), b"cannot be loaded".into())
        .expect("there");
    served.insert(variant.clone(), content);
    let place = Place::new(served);
    let options = HubOptions {
        variant: Some("fp16".into()),
        cache_dir: Some(place.cache()),
        endpoint: Some(place.server.endpoint()),
        token: None,
        offline: false,
        ..HubOptions::default()
    };
    let folder = i2vgen_hub::pull(ID, &options, &mut |_| {}).expect("pulls");
    let found = place.snapshot();
    assert!(
        found.contains(&variant) && !found.contains(&plain),
        "{found:?}"
    );
    assert_eq!(about(&place.server.requests(), &plain), 0);
    let folder = Folder::open(folder).expect("opens");
    let pipeline =
        I2VGenXLPipeline::from_folder(folder, Some("fp16"), DType::F32, &Default::default());
    let path = place.folder.path().join("out.safetensors");
    video(pipeline, &path).expect("runs");
    assert!(fs::read(path).ok() == expected());
}

#[test]
fn what_cannot_be_had() {
    let place = Place::new(model());
    let (said, video) = place.run(&[("HF_HUB_OFFLINE", "1")]);
    assert!(
        said.starts_with("hub: ") && said.contains("unset HF_HUB_OFFLINE"),
        "{said}"
    );
    assert!(video.is_none() && place.server.requests().is_empty());

    place.server.state().listing_faults = [404].into();
    let (said, _) = place.run(&[]);
    assert!(
        said.starts_with("hub: ") && said.contains("check the name"),
        "{said}"
    );

    place.server.state().secret = Some("s3cret".into());
    let (said, _) = place.run(&[]);
    assert!(
        said.starts_with("hub: ") && said.contains("set HF_TOKEN"),
        "{said}"
    );
    assert!(!place.repo().exists());
    assert_eq!(place.run(&[("HF_TOKEN", "s3cret")]).0, "done");

    // Pickles only: converting them is the way on.
    let mut served = model();
    let content = served
        .remove(&format!("{UNET}.safetensors"))
        .expect("there");
    served.insert(format!("{UNET}.bin"), content);
    let place = Place::new(served);
    let (said, video) = place.run(&[]);
    assert!(
        said.contains("cargo xtask convert") && video.is_none(),
        "{said}"
    );

    // A folder of that name comes before the Hub.
    place.server.requests();
    fs::create_dir_all(place.folder.path().join(ID)).expect("made");
    let (said, _) = place.run(&[]);
    assert!(said.contains("model_index.json"), "{said}");
    assert!(place.server.requests().is_empty());
}
