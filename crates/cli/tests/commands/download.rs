//! Models by name, from a server on this machine that imitates the Hub.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use i2vgen_tests::hub_server::{COMMIT, Fault, ID, Server, files, isolate, nobody};
use tempfile::TempDir;

use crate::{
    bad, bytes,
    common::{MODEL, names, temporary},
    json, ok, picture, text,
};

pub(crate) const UNET: &str = "unet/diffusion_pytorch_model.safetensors";

/// The demo model.
pub(crate) fn model() -> BTreeMap<String, Vec<u8>> {
    files(Path::new(MODEL))
}

/// A server, and a folder with a picture and an empty cache.
pub(crate) struct Place {
    pub(crate) server: Server,
    folder: TempDir,
}

impl Place {
    pub(crate) fn new() -> Self {
        Self::with(model())
    }

    fn with(files: BTreeMap<String, Vec<u8>>) -> Self {
        let folder = temporary();
        picture(folder.path());
        Self {
            server: Server::new(files),
            folder,
        }
    }

    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }

    fn home(&self) -> PathBuf {
        self.path().join("home")
    }

    /// The model's part of the cache.
    pub(crate) fn repo(&self) -> PathBuf {
        self.home().join("hub/models--owner--model")
    }

    pub(crate) fn snapshot(&self) -> PathBuf {
        self.repo().join("snapshots").join(COMMIT)
    }

    /// The program in this place; `variables` come last.
    pub(crate) fn command(&self, arguments: &[&str], variables: &[(&str, &str)]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_i2vgen"));
        isolate(&mut command, &self.server.endpoint(), &self.home())
            .args(arguments)
            .current_dir(self.path())
            .env("XDG_CONFIG_HOME", self.path().join("no-config"))
            .envs(variables.iter().copied());
        command
    }

    pub(crate) fn run(&self, arguments: &[&str], variables: &[(&str, &str)]) -> Output {
        let output = self.command(arguments, variables).output();
        output.expect("the program starts")
    }

    /// Pulls, and checks that exactly these files have come.
    fn pull(&self, more: &[&str], expected: &[String]) -> Output {
        let output = self.run(&[&["pull", ID], more].concat(), &[]);
        ok(&output);
        let printed = String::from_utf8(output.stdout.clone()).expect("UTF-8");
        assert_eq!(printed, format!("{}\n", self.snapshot().display()));
        let found = files(&self.snapshot());
        assert_eq!(found.keys().collect::<Vec<_>>(), Vec::from_iter(expected));
        let state = self.server.state();
        for (name, content) in found {
            assert!(content == state.files[&name], "{name}");
        }
        drop(state);
        assert!(self.incomplete().is_empty());
        output
    }

    /// Parts of files in the cache.
    pub(crate) fn incomplete(&self) -> Vec<String> {
        let blobs = self.repo().join("blobs");
        let mut found = match blobs.exists() {
            true => names(&blobs),
            false => Vec::new(),
        };
        found.retain(|name| name.ends_with(".incomplete"));
        found
    }
}

/// A run at `size`², with 2 steps.
fn generate<'a>(model: &'a str, size: &'a str, frames: &'a str, output: &'a str) -> Vec<&'a str> {
    let mut all = vec!["generate", "--quiet", "--model", model];
    all.extend(["--height", size, "--width", size, "--num-frames", frames]);
    all.extend([
        "--image",
        "image.png",
        "--prompt",
        "a red circle moves left",
    ]);
    all.extend(["--num-inference-steps", "2", "--seed", "1"]);
    all.extend(["--output", output]);
    all
}

/// The smallest run by name.
pub(crate) fn quick(output: &str) -> Vec<&str> {
    generate(ID, "32", "2", output)
}

#[test]
fn pull_tells_prints_the_folder_and_does_nothing_the_second_time() {
    let place = Place::new();
    let all: Vec<String> = model().into_keys().collect();
    let said = text(&place.pull(&[], &all));
    let lines: Vec<_> = said.lines().collect();
    // The index came before: it says what is needed.
    let count = all.len() - 1;
    assert!(lines[0].starts_with(&format!("{count} files to download, ")));
    assert_eq!(lines.len(), 1 + count, "{said}");
    for name in all.iter().filter(|n| n.contains('/')) {
        assert!(
            said.contains(&format!("/{count} {name}, ")),
            "{name}: {said}"
        );
    }
    place.server.requests();
    assert_eq!(text(&place.pull(&[], &all)), "");
    assert_eq!(place.server.requests().len(), 1, "only the listing");

    let place = Place::new();
    assert_eq!(text(&place.pull(&["--quiet"], &all)), "");
}

#[test]
fn only_what_is_needed_comes() {
    let mut served = model();
    let plain: Vec<String> = served.keys().cloned().collect();
    let fp16 = UNET.replace(".safetensors", ".fp16.safetensors");
    served.insert(fp16.clone(), served[UNET].clone());
    for name in [
        "README.md",
        "i2vgen_xl_00854500.pth",
        "unet/diffusion_pytorch_model.bin",
        "text_encoder/pytorch_model.bin",
    ] {
        served.insert(name.to_owned(), name.into());
    }
    let place = Place::with(served.clone());
    place.pull(&[], &plain);

    // The variant where there is one; a run with it uses what the pull has brought.
    let place = Place::with(served);
    let mut expected = plain;
    expected.retain(|name| name != UNET);
    expected.push(fp16);
    expected.sort();
    place.pull(&["--variant", "fp16"], &expected);
    place.server.requests();
    let variant = ["--variant", "fp16"];
    ok(&place.run(&[&quick("a.npy")[..], &variant].concat(), &[]));
    assert_eq!(place.server.requests().len(), 1, "only the listing");
    assert!(!place.snapshot().join(UNET).exists());
}

#[test]
fn a_name_gives_the_same_bytes_as_the_folder() {
    let place = Place::new();
    // Without metadata inside, which would tell where the model came from.
    ok(&place.run(&generate(ID, "64", "8", "name.npy"), &[]));
    assert!(!place.server.requests().is_empty());
    ok(&place.run(&generate(MODEL, "64", "8", "folder.npy"), &[]));
    let read = |name: &str| bytes(&place.path().join(name));
    let expected = read("folder.npy");
    assert_eq!(expected.len(), read("name.npy").len());
    assert!(expected == read("name.npy"));
    let (named, local) = (
        json(&place.path().join("name.npy.json")),
        json(&place.path().join("folder.npy.json")),
    );
    assert!(!named["model_sha256"].is_null());
    assert_eq!(named["model_sha256"], local["model_sha256"]);
    assert_eq!(named["arguments"]["model"], ID);
    assert_eq!(named["arguments"]["revision"], COMMIT);
    assert!(place.server.requests().is_empty(), "a folder asks nobody");

    // A record of it asks for the commit.
    let repeat = ["generate", "--quiet", "--from", "name.npy.json"];
    ok(&place.run(&[&repeat[..], &["--output", "again.npy"]].concat(), &[]));
    assert!(expected == read("again.npy"));
    let requests = place.server.requests();
    assert_eq!(requests.len(), 1);
    assert!(requests[0].path.contains(COMMIT), "{requests:?}");

    // A folder of that name comes first.
    for (name, content) in model() {
        let path = place.path().join(ID).join(name);
        fs::create_dir_all(path.parent().expect("a parent")).expect("made");
        fs::write(path, content).expect("written");
    }
    ok(&place.run(&generate(ID, "64", "8", "local.npy"), &[]));
    assert!(expected == read("local.npy"));
    assert!(place.server.requests().is_empty());
}

#[test]
fn a_list_of_jobs_downloads_once() {
    let place = Place::new();
    let job = |output: &str| {
        format!(r#"{{"image": "image.png", "prompt": "a", "num_frames": 2, "output": "{output}"}}"#)
    };
    let list = format!("{}\n{}\n", job("a.gif"), job("b.gif"));
    fs::write(place.path().join("jobs.jsonl"), list).expect("written");
    let size = [
        "--height",
        "32",
        "--width",
        "32",
        "--num-inference-steps",
        "1",
    ];
    let batch = ["batch", "jobs.jsonl", "--quiet", "--model", ID];
    ok(&place.run(&[&batch[..], &size].concat(), &[]));
    assert!(place.path().join("a.gif").exists() && place.path().join("b.gif").exists());
    let requests = place.server.requests();
    let large = model()
        .keys()
        .filter(|n| n.ends_with(".safetensors"))
        .count();
    assert_eq!(requests.iter().filter(|r| r.storage).count(), large);
}

#[test]
fn options_are_checked_before_the_download() {
    let place = Place::new();
    for (flag, value, says) in [
        ("--image", "none.png", "none.png"),
        ("--output", "a.txt", "a.txt"),
        ("--threads", "0", "--threads"),
        ("--dtype", "int8", "--dtype"),
        ("--freeu", "1", "--freeu"),
    ] {
        let mut arguments = quick("a.gif");
        if let Some(at) = arguments.iter().position(|a| *a == flag) {
            arguments.drain(at..at + 2);
        }
        arguments.extend([flag, value]);
        bad(&place.run(&arguments, &[]), says);
    }
    assert!(place.server.requests().is_empty());
    assert_eq!(names(place.path()), ["image.png"]);
}

#[test]
fn offline_asks_nobody() {
    let place = Place::new();
    let offline = [("HF_HUB_OFFLINE", "1")];
    for arguments in [&["pull", ID][..], &quick("a.gif")] {
        bad(&place.run(arguments, &offline), "unset HF_HUB_OFFLINE");
    }
    assert_eq!(names(place.path()), ["image.png"]);
    assert!(place.server.requests().is_empty());

    ok(&place.run(&["pull", ID], &[]));
    place.server.requests();
    let output = place.run(&["pull", ID], &offline);
    ok(&output);
    assert_eq!(text(&output), "");
    ok(&place.run(&quick("a.gif"), &offline));
    assert!(place.path().join("a.gif").exists());
    assert!(place.server.requests().is_empty());

    // One file is lost.
    fs::remove_file(place.snapshot().join(UNET)).expect("removed");
    bad(
        &place.run(&quick("b.gif"), &offline),
        "weights in unet/ is missing",
    );
    assert!(!place.path().join("b.gif").exists());
    ok(&place.run(&["pull", ID], &[]));
    ok(&place.run(&["pull", ID], &offline));
}

#[test]
fn a_dead_server_does_not_matter_to_who_has_everything() {
    let place = Place::new();
    ok(&place.run(&["pull", ID], &[]));
    let dead = [("HF_ENDPOINT", &*nobody())];
    let output = place.run(&["pull", ID], &dead);
    ok(&output);
    let said = text(&output);
    assert!(
        said.trim_end().ends_with("; using what is in the cache"),
        "{said}"
    );
    assert_eq!(said.lines().count(), 1, "{said}");
    ok(&place.run(&quick("a.gif"), &dead));
}

#[test]
fn passing_trouble_is_told_and_overcome() {
    let place = Place::new();
    place.server.state().listing_faults = [503].into();
    let vae = "vae/diffusion_pytorch_model.safetensors";
    place.server.fail(UNET, &[Fault::Cut(70_000)]);
    place.server.fail(vae, &[Fault::Stall(9)]);
    let output = place.run(&["pull", ID], &[("HF_HUB_DOWNLOAD_TIMEOUT", "1")]);
    ok(&output);
    let said = text(&output);
    let again = |l: &&str| l.ends_with("trying again in 0.5 s, 4 more left");
    assert_eq!(said.lines().filter(again).count(), 3, "{said}");
    let ranges = place.server.ranges(UNET);
    assert_eq!(ranges, [None, Some("bytes=70000-".to_owned())]);
    assert!(files(&place.snapshot()) == model());
}

#[test]
fn the_token_is_sent_if_there_is_one() {
    let place = Place::new();
    ok(&place.run(&["pull", ID], &[]));
    assert!(place.server.requests().iter().all(|r| r.token.is_none()));

    let place = Place::new();
    place.server.state().secret = Some("s3cret".into());
    let quiet = ["pull", "--quiet", ID];
    bad(&place.run(&quiet, &[]), "(401)");
    for (token, says) in [("0ther", "set HF_TOKEN"), ("0ther s3cret", "HF_TOKEN")] {
        let output = place.run(&quiet, &[("HF_TOKEN", token)]);
        bad(&output, says);
        assert!(!text(&output).contains("0ther"), "{}", text(&output));
    }
    bad(&place.run(&quick("a.gif"), &[]), "(401)");
    assert!(!place.path().join("a.gif").exists() && !place.repo().exists());
    let token = ("HF_TOKEN", "s3cret");
    bad(
        &place.run(&quiet, &[token, ("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1")]),
        "(401)",
    );
    place.server.requests();
    ok(&place.run(&quick("a.gif"), &[token]));
    for request in place.server.requests() {
        let expected = (!request.storage).then_some("Bearer s3cret");
        assert_eq!(request.token.as_deref(), expected, "{request:?}");
    }
}

#[test]
fn inspect_says_how_to_get_a_model() {
    let place = Place::new();
    bad(&place.run(&["inspect", ID], &[]), "i2vgen pull owner/model");
    let output = place.run(&["pull", "--quiet", ID], &[]);
    let folder = String::from_utf8(output.stdout).expect("UTF-8");
    ok(&place.run(&["inspect", folder.trim_end()], &[]));
}
