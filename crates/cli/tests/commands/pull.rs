//! Models by name, from the cache: see the crate `i2vgen-hub` for downloads.

use std::{
    path::Path,
    process::{Command, Output},
};

use crate::{
    bad,
    common::{MODEL, temporary},
    json, ok, picture,
};

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// The demo model as a Hugging Face library would have left it in its cache.
fn cache(home: &Path) {
    let repository = home.join("hub/models--toys--circles");
    let snapshot = repository.join("snapshots").join(COMMIT);
    std::fs::create_dir_all(repository.join("refs")).expect("made");
    std::fs::write(repository.join("refs/main"), COMMIT).expect("written");
    copy(Path::new(MODEL), &snapshot);
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("made");
    for entry in std::fs::read_dir(from).expect("readable") {
        let from = entry.expect("entry").path();
        let to = to.join(from.file_name().expect("a name"));
        match from.is_dir() {
            true => copy(&from, &to),
            false => drop(std::fs::copy(&from, &to).expect("copied")),
        }
    }
}

fn offline(folder: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_i2vgen"))
        .args(arguments)
        .arg("--offline")
        .current_dir(folder)
        .env("XDG_CONFIG_HOME", folder.join("no-config"))
        .env("HF_HOME", folder.join("home"))
        .env_remove("HF_HUB_CACHE")
        .output()
        .expect("the program starts")
}

#[test]
fn a_model_in_the_cache() {
    let folder = temporary();
    let path = folder.path();
    cache(&path.join("home"));
    let output = offline(path, &["pull", "toys/circles"]);
    ok(&output);
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(printed.trim_end().ends_with(COMMIT), "{printed}");
    assert!(
        Path::new(printed.trim_end())
            .join("model_index.json")
            .exists()
    );

    picture(path);
    let generate = [
        "generate",
        "--quiet",
        "--model",
        "toys/circles",
        "--image",
        "image.png",
        "--prompt",
        "a",
        "--height",
        "32",
        "--width",
        "32",
        "--num-frames",
        "2",
        "--num-inference-steps",
        "1",
        "--output",
        "a.gif",
    ];
    ok(&offline(path, &generate));
    let arguments = json(&path.join("a.gif.json"))["arguments"].clone();
    assert_eq!(arguments["model"], "toys/circles");
    assert_eq!(arguments["revision"], COMMIT);
    let repeat = [
        "generate",
        "--quiet",
        "--from",
        "a.gif.json",
        "--output",
        "b.gif",
    ];
    ok(&offline(path, &repeat));
}

#[test]
fn no_such_model() {
    let folder = temporary();
    let path = folder.path();
    picture(path);
    bad(&offline(path, &["pull", "toys/squares"]), "toys/squares");
    bad(&offline(path, &["pull", "squares"]), "squares");
    bad(&offline(path, &["pull", "../x/y"]), "../x/y");
    let generate = [
        "generate",
        "--model",
        "toys/squares",
        "--image",
        "image.png",
        "--prompt",
        "a",
        "--output",
        "a.gif",
    ];
    bad(&offline(path, &generate), "toys/squares");
    assert!(!path.join("home").exists());
}
