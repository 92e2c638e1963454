use crate::program;

fn run(arguments: &[&str]) -> (Option<i32>, String, String) {
    let folder = tempfile::tempdir().expect("a folder");
    let output = program(folder.path(), arguments);
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("UTF-8");
    (
        output.status.code(),
        text(output.stdout),
        text(output.stderr),
    )
}

#[test]
fn a_line_for_each_device_and_each_missing_backend() {
    let (code, listed, errors) = run(&["devices"]);
    assert_eq!((code, errors.as_str()), (Some(0), ""));
    let names: Vec<_> = listed
        .lines()
        .filter_map(|l| l.split_whitespace().next())
        .collect();
    assert_eq!(names[0], "cpu", "{listed}");
    for (backend, built) in [
        ("cuda", cfg!(feature = "cuda")),
        ("wgpu", cfg!(feature = "wgpu")),
    ] {
        let numbered = format!("{backend}:0");
        assert!(
            names.iter().any(|n| *n == backend || *n == numbered),
            "{listed}"
        );
        let hint = format!("--features {backend}");
        assert_eq!(listed.contains(&hint), !built, "{listed}");
    }
}

#[test]
fn a_device_that_is_not_there_is_one_line() {
    for device in ["cuda:999", "wgpu:999", "cpu:1", "tpu", "wgpu:x", "wgpu:"] {
        let (code, _, errors) = run(&["demo", "--device", device]);
        assert_eq!(code, Some(2), "{device}: {errors}");
        assert_eq!(errors.lines().count(), 1, "{device}: {errors}");
        assert!(
            errors.starts_with("error: --device: "),
            "{device}: {errors}"
        );
    }
}

#[test]
fn a_warm_up_checks_every_shape() {
    let small = ["--height", "32", "--width", "40", "--num-frames", "2"];
    let warmup = ["warmup", "--model", "embedded"];
    let (code, failures, told) = run(&[&warmup[..], &small[..], &["--check"]].concat());
    assert_eq!((code, failures.as_str()), (Some(0), ""), "{told}");
    let shapes = told
        .lines()
        .find(|line| line.starts_with("f32: "))
        .expect("a summary");
    let count: usize = shapes
        .split_whitespace()
        .nth(1)
        .and_then(|n| n.parse().ok())
        .expect("a count");
    assert!(count > 50, "{told}");
    let (code, _, error) = run(&[&warmup[..], &["--height", "31"]].concat());
    assert_eq!(code, Some(2));
    assert!(error.starts_with("error: --height"), "{error}");
}
