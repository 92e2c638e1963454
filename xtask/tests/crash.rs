//! Whatever stops a converter: nothing half-made has the final name, and the next run completes.
#![cfg(target_os = "linux")]

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    thread,
    time::Instant,
};

fn originals() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../weights-converter/tests/goldens/originals")
}

/// The arguments that convert the small trio to `output`.
fn convert(output: &Path) -> Command {
    let at = |name: &str| originals().join(name);
    let mut command = Command::new(env!("CARGO_BIN_EXE_xtask"));
    command.args(["convert", "trio"]);
    for (option, path) in [
        ("--unet", at("unet.pth")),
        ("--vae", at("vae.ckpt")),
        ("--clip", at("clip.bin")),
        ("--configs", at("configs")),
        ("--output", output.to_owned()),
    ] {
        command.arg(option).arg(path);
    }
    command.stdout(Stdio::null()).stderr(Stdio::null());
    command
}

fn outcome(command: &mut Command) -> (Option<i32>, String) {
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let Output { status, stderr, .. } = command.output().expect("starts");
    (status.code(), String::from_utf8(stderr).expect("text"))
}

/// All files of a folder: relative path and content.
fn files(root: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut open = vec![root.to_owned()];
    while let Some(dir) = open.pop() {
        for entry in fs::read_dir(dir).expect("readable") {
            let path = entry.expect("readable").path();
            if path.is_dir() {
                open.push(path);
                continue;
            }
            let name = path.strip_prefix(root).expect("inside").to_owned();
            found.insert(name, fs::read(path).expect("readable"));
        }
    }
    found
}

#[test]
fn killed_at_twenty_moments() {
    let dir = tempfile::tempdir().expect("a folder");
    let (whole, out) = (dir.path().join("whole"), dir.path().join("out"));
    let started = Instant::now();
    assert!(convert(&whole).status().expect("starts").success());
    let (took, want) = (started.elapsed(), files(&whole));
    let working = dir.path().join("out.incomplete");
    for moment in 0..20_u32 {
        // What the killed runs before left is in the way each time.
        let mut child = convert(&out).spawn().expect("starts");
        thread::sleep(took * moment / 20);
        child.kill().expect("kills");
        child.wait().expect("waits");
        if out.exists() {
            assert_eq!(files(&out), want, "half a folder has its final name");
            fs::remove_dir_all(&out).expect("removed");
        } else if working.exists() {
            // The marker comes first, and goes when all is there.
            let left = files(&working);
            let marked = left.contains_key(Path::new(".incomplete"));
            assert!(marked || left.is_empty() || left == want, "not marked");
            if !marked {
                continue;
            }
            let (code, error) = outcome(
                Command::new(env!("CARGO_BIN_EXE_xtask"))
                    .args(["convert", "folder"])
                    .arg(&working)
                    .arg("--output")
                    .arg(dir.path().join("other"))
                    .arg("--dry-run"),
            );
            assert_eq!(code, Some(2), "a marked folder was read");
            assert!(error.contains("convert again"), "{error}");
        }
    }
    assert!(convert(&out).status().expect("starts").success());
    assert_eq!(files(&out), want);
    assert!(!working.exists());
}

#[test]
fn two_at_once() {
    let dir = tempfile::tempdir().expect("a folder");
    let out = dir.path().join("out");
    let mut running: Vec<_> = (0..4)
        .map(|_| {
            let mut command = convert(&out);
            command.stderr(Stdio::piped()).spawn().expect("starts")
        })
        .collect();
    let mut succeeded = 0;
    for child in running.drain(..) {
        let output = child.wait_with_output().expect("waits");
        let error = String::from_utf8(output.stderr).expect("text");
        match output.status.code() {
            Some(0) => succeeded += 1,
            code => {
                assert_eq!((code, error.lines().count()), (Some(2), 1), "{error}");
                let told = error.contains("another converter") || error.contains("exists;");
                assert!(told, "{error}");
            }
        }
    }
    assert_eq!(succeeded, 1);
    assert!(out.join("i2vgen.json").exists() && !out.join(".incomplete").exists());
    assert_eq!(fs::read_dir(dir.path()).expect("readable").count(), 1);
}

/// Where a user may have a mount namespace of their own, a small tmpfs; nothing to see elsewhere.
#[test]
fn a_full_disk() {
    let dir = tempfile::tempdir().expect("a folder");
    let small = "mount -t tmpfs -o size=\"$SIZE\" tmpfs \"$DISK\" || exit 99";
    let unshare = |script: &str, size: &str, more: &Command| {
        let mut command = Command::new("unshare");
        command
            .args(["--mount", "--user", "--map-root-user", "sh", "-c"])
            .arg(format!("{small}; {script}"))
            .arg("sh")
            .arg(more.get_program())
            .args(more.get_args())
            .env("SIZE", size)
            .env("DISK", dir.path());
        command.output().ok()
    };
    let out = dir.path().join("new/out");
    // Large enough for the small files, not for the UNet.
    let script = "\"$@\"; code=$?; ls -A \"$DISK\"; exit $code";
    let Some(output) = unshare(script, "1m", &convert(&out)) else {
        return;
    };
    let (code, error) = (output.status.code(), output.stderr);
    let error = String::from_utf8(error).expect("text");
    if code == Some(99) || error.starts_with("unshare:") {
        eprintln!("no mount namespaces here: {error}");
        return;
    }
    assert_eq!((code, error.lines().count()), (Some(2), 1), "{error}");
    assert!(error.contains("No space left"), "{error}");
    assert!(output.stdout.is_empty(), "something is left");
    let output = unshare(script, "64m", &convert(&out)).expect("as before");
    assert_eq!(output.status.code(), Some(0));
}
