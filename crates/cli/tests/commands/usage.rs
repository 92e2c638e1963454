//! Help, completions, and command lines that cannot be read.

use crate::{bad, common::temporary, ok, program, run};

#[test]
fn command_lines_that_cannot_be_read() {
    let folder = temporary();
    let path = folder.path();
    bad(&run(path, &["--hight", "3"]), "'--height'");
    bad(&run(path, &["--height", "tall"]), "--height");
    bad(&run(path, &["--height"]), "--height");
    bad(
        &run(path, &["--compat", "none"]),
        "possible values: corrected, diffusers, vgen",
    );
    bad(&run(path, &["--freeu", "1,2,3"]), "four numbers");
    bad(&run(path, &["--lora", "a.safetensors:inf"]), "--lora");
    bad(
        &run(path, &["--lora", "a.safetensors:strong"]),
        "is not a strength",
    );
    bad(&run(path, &["--lora", ":1"]), "--lora");
    bad(
        &run(
            path,
            &[
                "--threads",
                "0",
                "--image",
                "image.png",
                "--prompt",
                "a",
                "--output",
                "a.gif",
            ],
        ),
        "--threads",
    );
    bad(&program(path, &["paint"]), "paint");
    bad(&program(path, &["inspect"]), "<PATH>");
    bad(&program(path, &["completions", "cmd"]), "bash");
}

#[test]
fn help_has_an_example_for_every_command() {
    let folder = temporary();
    for command in [
        "demo",
        "generate",
        "batch",
        "pull",
        "inspect",
        "completions",
    ] {
        let output = program(folder.path(), &[command, "--help"]);
        ok(&output);
        let help = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(help.contains(&format!("\n  i2vgen {command} ")), "{help}");
    }
}

#[test]
fn completions() {
    let folder = temporary();
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let output = program(folder.path(), &["completions", shell]);
        ok(&output);
        let script = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(script.contains("continue-from"), "{shell}");
    }
}
