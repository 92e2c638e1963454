//! What needs another process: the environment, being killed, and two that want the same. The other process is this test
//! program again, running only [`child`].

use std::{
    env, fs,
    process::{Command, Output, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

use i2vgen_hub::HubOptions;
use i2vgen_tests::hub_server::{Fault, ID, isolate, sha256};

use crate::{Place, UNET, content, model, plain_files};

const ROLE: &str = "I2VGEN_HUB_TEST_CHILD";

/// Pulls as the environment says. Does nothing when it runs among the other tests.
#[test]
fn child() {
    if env::var_os(ROLE).is_some() {
        match i2vgen_hub::pull(ID, &HubOptions::default(), &mut |_| {}) {
            Ok(folder) => println!("\nfolder={}", folder.display()),
            Err(error) => println!("\nerror={error}"),
        }
    }
}

fn command(place: &Place) -> Command {
    let mut command = Command::new(env::current_exe().unwrap());
    command.args([
        "--exact",
        "processes::child",
        "--nocapture",
        "--test-threads=1",
    ]);
    isolate(&mut command, &place.server.endpoint(), place.cache.path())
        .env(ROLE, "1")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

fn said(output: &Output, key: &str) -> Option<String> {
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.lines()
        .find_map(|l| Some(l.strip_prefix(key)?.strip_prefix('=')?.to_owned()))
}

#[test]
fn the_environment_is_followed() {
    let place = Place::new();
    place.server.state().secret = Some("t0ken".into());
    let denied = command(&place).output().unwrap();
    assert!(said(&denied, "error").unwrap().contains("401"));
    fs::write(place.cache.path().join("token"), "t0ken\n").unwrap();
    let done = command(&place).output().unwrap();
    let folder = said(&done, "folder").unwrap();
    assert!(folder.starts_with(place.cache.path().join("hub").to_str().unwrap()));
    assert_eq!(crate::tree(folder.as_ref()), plain_files());
    place.server.requests();
    let offline = command(&place).env("HF_HUB_OFFLINE", "1").output().unwrap();
    assert_eq!(said(&offline, "folder"), Some(folder));
    let elsewhere = place.cache.path().join("elsewhere");
    let offline = command(&place)
        .env("HF_HUB_OFFLINE", "1")
        .env("HF_HUB_CACHE", &elsewhere)
        .output()
        .unwrap();
    let error = said(&offline, "error").unwrap();
    assert!(error.contains(elsewhere.to_str().unwrap()), "{error}");
    assert!(place.server.requests().is_empty());
    let wrong = command(&place)
        .env("HF_HUB_CACHE", &elsewhere)
        .env("HF_TOKEN", "other")
        .output()
        .unwrap();
    assert!(said(&wrong, "error").unwrap().contains("401"));
    let sent = &place.server.requests()[0];
    assert_eq!(sent.token.as_deref(), Some("Bearer other"));
}

#[test]
fn a_killed_process_leaves_only_a_part() {
    let mut files = model();
    files.insert(UNET.into(), content(UNET, 400_000));
    let place = Place::with(files);
    let hash = sha256(&content(UNET, 400_000));
    place.server.fail(UNET, &[Fault::Stall(300_000)]);
    let blobs = place.cache.path().join("hub/models--owner--model/blobs");
    let part = blobs.join(format!("{hash}.incomplete"));
    let mut child = command(&place).spawn().unwrap();
    let start = Instant::now();
    while fs::metadata(&part).map_or(0, |m| m.len()) < 300_000 {
        assert!(
            start.elapsed() < Duration::from_secs(20),
            "the download does not begin"
        );
        sleep(Duration::from_millis(5));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(fs::metadata(&part).unwrap().len(), 300_000);
    assert!(!blobs.join(&hash).exists());
    assert!(!blobs.join("../refs/main").exists());
    place.server.requests();
    let options = HubOptions {
        cache_dir: Some(place.cache.path().join("hub")),
        ..place.options()
    };
    // Its lock is gone, and only the rest is fetched.
    let folder = place.pull_with(options).unwrap();
    assert_eq!(
        place.server.ranges(UNET),
        [Some("bytes=300000-".to_owned())]
    );
    assert_eq!(fs::read(folder.join(UNET)).unwrap(), content(UNET, 400_000));
    assert!(!part.exists());
}

#[test]
fn two_processes_share_the_work() {
    let place = Place::new();
    let children = [0, 1, 2].map(|_| command(&place).spawn().unwrap());
    let folders = children.map(|c| said(&c.wait_with_output().unwrap(), "folder"));
    let folder = folders[0].clone().unwrap();
    assert!(
        folders.iter().all(|f| f.as_ref() == Some(&folder)),
        "{folders:?}"
    );
    assert_eq!(crate::tree(folder.as_ref()), plain_files());
    for (name, content) in model() {
        if plain_files().contains(&name) {
            assert_eq!(fs::read(format!("{folder}/{name}")).unwrap(), content);
        }
    }
    // Each large file came once.
    let requests = place.server.requests();
    let large = plain_files()
        .iter()
        .filter(|f| f.ends_with(".safetensors"))
        .count();
    assert_eq!(requests.iter().filter(|r| r.storage).count(), large);
}

/// Python's huggingface_hub finds our files, and we find Python's. Needs `I2VGEN_PYTHON`, a Python that has it.
#[test]
#[ignore = "set I2VGEN_PYTHON to a Python with huggingface_hub"]
fn python_and_we_use_the_same_cache() {
    let python = env::var("I2VGEN_PYTHON").expect("I2VGEN_PYTHON is not set");
    let run = |place: &Place, script: &str| {
        let output = Command::new(&python)
            .args(["-c", script, ID])
            .env("HF_ENDPOINT", place.server.endpoint())
            .env("HF_HOME", place.cache.path())
            .env("HF_HUB_DISABLE_XET", "1")
            .output()
            .unwrap();
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{errors}");
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    };
    let ours = Place::new();
    let options = |place: &Place| HubOptions {
        cache_dir: Some(place.cache.path().join("hub")),
        ..place.options()
    };
    let folder = ours.pull_with(options(&ours)).unwrap();
    ours.server.requests();
    let found = run(
        &ours,
        "import sys, huggingface_hub as h\n\
         for name in ['unet/config.json', 'unet/diffusion_pytorch_model.safetensors']:\n\
         \x20   h.hf_hub_download(sys.argv[1], name, local_files_only=True)\n\
         info = h.scan_cache_dir()\n\
         assert not info.warnings and [r.repo_id for r in info.repos] == [sys.argv[1]], info\n\
         assert {x for r in info.repos for v in r.revisions for x in v.refs} == {'main'}\n\
         print(h.snapshot_download(sys.argv[1], local_files_only=True))",
    );
    assert_eq!(found, folder.to_str().unwrap());
    assert!(ours.server.requests().is_empty());
    // Online, Python takes what is here and fetches only a file that we left out.
    run(
        &ours,
        "import sys, huggingface_hub as h\n\
         h.hf_hub_download(sys.argv[1], 'unet/diffusion_pytorch_model.safetensors')\n\
         h.hf_hub_download(sys.argv[1], 'models/open_clip_pytorch_model.bin')",
    );
    assert_eq!(
        ours.server.requests().iter().filter(|r| r.storage).count(),
        1
    );

    let theirs = Place::new();
    let script = "import sys, huggingface_hub as h\n\
         names = ['model_index.json', '*/*.json', 'tokenizer/*', '*/*model.safetensors']\n\
         print(h.snapshot_download(sys.argv[1], allow_patterns=names))";
    let folder = run(&theirs, script);
    theirs.server.requests();
    let offline = HubOptions {
        offline: true,
        ..options(&theirs)
    };
    assert_eq!(theirs.pull_with(offline).unwrap().to_str().unwrap(), folder);
    theirs.pull_with(options(&theirs)).unwrap();
    assert_eq!(theirs.server.requests().len(), 1, "only the listing");
    assert_eq!(crate::tree(folder.as_ref()), plain_files());
}
