//! Where settings come from, and which of them counts.

use std::process::Command;

use crate::{
    bad,
    common::{MODEL, names, temporary},
    json, ok, picture, program, run,
};

const RUN: [&str; 8] = [
    "--image",
    "image.png",
    "--prompt",
    "a",
    "--seed",
    "1",
    "--output",
    "a.gif",
];

#[test]
fn the_command_line_counts_more_than_the_config_file() {
    let folder = temporary();
    let path = folder.path();
    picture(path);
    let config = format!(
        "model = '{MODEL}'\nheight = 32\nwidth = 64\nnum_frames = 2\nnum_inference_steps = 1\nnegative_prompt = 'b'\ncache_interval = 3\n"
    );
    std::fs::write(path.join("c.toml"), config).expect("written");
    let more = ["generate", "--quiet", "--config", "c.toml", "--width", "32"];
    ok(&program(path, &[&more[..], &RUN].concat()));
    let sidecar = json(&path.join("a.gif.json"));
    assert_eq!(sidecar["height"], 32);
    assert_eq!(sidecar["width"], 32);
    assert_eq!(sidecar["num_inference_steps"], 1);
    assert_eq!(sidecar["guidance_scale"], 9.0);
    assert_eq!(sidecar["negative_prompt"], "b");
    assert_eq!(sidecar["arguments"]["cache_interval"], 3);
}

#[test]
fn the_users_config_file_is_found() {
    let folder = temporary();
    let path = folder.path();
    picture(path);
    let text = format!(
        "model = '{MODEL}'\nheight = 32\nwidth = 32\nnum_frames = 1\nnum_inference_steps = 1\n"
    );
    for (variable, place) in [("XDG_CONFIG_HOME", "x"), ("HOME", "h/.config")] {
        let config = path.join(place).join("i2vgen");
        std::fs::create_dir_all(&config).expect("made");
        std::fs::write(config.join("config.toml"), &text).expect("written");
        let output = Command::new(env!("CARGO_BIN_EXE_i2vgen"))
            .args(["generate", "--quiet"])
            .args(RUN)
            .current_dir(path)
            .env_remove("XDG_CONFIG_HOME")
            .env(
                variable,
                path.join(place.split('/').next().expect("a folder")),
            )
            .output()
            .expect("starts");
        ok(&output);
        assert_eq!(json(&path.join("a.gif.json"))["num_frames"], 1);
    }
}

#[test]
fn bad_config_files() {
    let folder = temporary();
    let path = folder.path();
    picture(path);
    let before = names(path);
    for (config, says) in [
        ("height = 32\nwidth = = 3\n", "line 2"),
        ("height = 32\nheigth = 64\n", "unknown field `heigth`"),
        ("height = 'tall'\n", "--config"),
        ("height = -1\n", "--config"),
        ("freeu = [1.0, 2.0]\n", "--config"),
        ("compat = 'none'\n", "--config"),
        ("image = [[1]]\n", "a list of values"),
        ("guidance_scale = nan\n", "--guidance-scale"),
        ("threads = 0\n", "--threads"),
        ("cache_interval = 0\n", "--cache-interval"),
    ] {
        std::fs::write(path.join("c.toml"), config).expect("written");
        let more = [&["--config", "c.toml"], &RUN[..]].concat();
        bad(&run(path, &more), says);
        std::fs::remove_file(path.join("c.toml")).expect("removed");
        assert_eq!(names(path), before, "{config}");
    }
    bad(
        &run(path, &[&["--config", "none.toml"], &RUN[..]].concat()),
        "does not exist",
    );
    bad(
        &run(path, &[&["--config", "."], &RUN[..]].concat()),
        "is a folder",
    );
}

#[test]
fn what_is_missing_is_named() {
    let folder = temporary();
    let path = folder.path();
    picture(path);
    for (index, flag) in ["--image", "--prompt", "--output"].into_iter().enumerate() {
        let mut arguments = RUN.to_vec();
        let place = [0, 2, 6][index];
        arguments.drain(place..place + 2);
        bad(&run(path, &arguments), flag);
    }
    bad(
        &program(path, &[&["generate"], &RUN[..]].concat()),
        "--model",
    );
}

#[test]
fn switches_of_the_config_file_can_be_switched_off() {
    let folder = temporary();
    let path = folder.path();
    std::fs::write(path.join("c.toml"), "split_guidance = true\nthreads = 1\n").expect("written");
    for (flag, expected) in [
        ("--split-guidance=false", false),
        ("--keep-resident=true", true),
    ] {
        let more = ["--config", "c.toml", "--num-inference-steps", "1", flag];
        ok(&run(path, &[&more[..], &RUN].concat()));
        let arguments = json(&path.join("a.gif.json"))["arguments"].clone();
        assert_eq!(arguments["split_guidance"], expected);
        assert_eq!(arguments["keep_resident"] == true, expected);
        assert_eq!(arguments["threads"], 1);
    }
}
