//! Every wrong input: exit 2, one line that says what to do, nothing written. And odd input that must work.

mod common;

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use image::{DynamicImage, GrayImage, ImageBuffer, Luma, Rgb, RgbImage, Rgba, RgbaImage};
use safetensors::{Dtype, tensor::TensorView};

use crate::common::{
    FIXTURES, MODEL, accepted, arguments, broken_model, i2vgen, names, refused, temporary,
};

#[test]
fn numbers_out_of_range() {
    let folder = temporary();
    for (name, value) in [
        ("--height", "33"),
        ("--width", "30"),
        ("--height", "0"),
        ("--num-frames", "0"),
        ("--num-inference-steps", "0"),
        ("--num-videos-per-prompt", "0"),
        ("--decode-chunk-size", "0"),
        ("--guidance-scale", "nan"),
        ("--guidance-scale", "inf"),
        ("--eta", "-1"),
        ("--target-fps", "0"),
        ("--clip-skip", "99"),
    ] {
        refused(folder.path(), &[(name, value)], name);
    }
    refused(folder.path(), &[("--num-inference-steps", "1001")], "1001");
    refused(folder.path(), &[("--device", "tpu")], "--device");
    refused(folder.path(), &[("--scheduler", "magic")], "--scheduler");
    refused(folder.path(), &[("--dtype", "int8")], "--dtype");
}

#[test]
fn broken_models() {
    let folder = temporary();
    let path = folder.path();
    refused(path, &[("--model", "/nowhere/at/all")], "does not exist");
    let unet = "unet/diffusion_pytorch_model.safetensors";
    let vae = "vae/diffusion_pytorch_model.safetensors";
    type Case = (&'static str, fn(Vec<u8>) -> Option<Vec<u8>>, &'static str);
    let cases: [Case; 9] = [
        ("model_index.json", |_| None, "model_index.json"),
        (unet, |_| None, "unet"),
        (unet, |b| Some(b[..b.len() / 2].to_vec()), "unet"),
        (unet, |b| Some(b[..4].to_vec()), "unet"),
        (vae, |_| Some(b"<html>not found</html>".to_vec()), "vae"),
        ("vae/config.json", |_| Some(b"{".to_vec()), "config.json"),
        (
            "scheduler/scheduler_config.json",
            |b| {
                Some(
                    String::from_utf8(b)
                        .unwrap()
                        .replace("DDIMScheduler", "FooScheduler")
                        .into(),
                )
            },
            "FooScheduler",
        ),
        (
            "model_index.json",
            |b| {
                Some(
                    String::from_utf8(b)
                        .unwrap()
                        .replace("I2VGenXLPipeline", "FooPipeline")
                        .into(),
                )
            },
            "FooPipeline",
        ),
        (
            "tokenizer/tokenizer.json",
            |_| Some(b"{}".to_vec()),
            "tokenizer",
        ),
    ];
    for (file, change, says) in cases {
        let model = broken_model(path, file, change);
        refused(path, &[("--model", &model)], says);
    }
    // A whole component is gone.
    let model = broken_model(path, "unet/config.json", Some);
    std::fs::remove_dir_all(Path::new(&model).join("vae")).expect("removed");
    refused(path, &[("--model", &model)], "vae");
}

#[test]
fn weights_of_another_shape() {
    let folder = temporary();
    let model = broken_model(folder.path(), "vae/config.json", |b| {
        let text = String::from_utf8(b).expect("UTF-8");
        let mut json: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        json["latent_channels"] = 8.into();
        Some(json.to_string().into())
    });
    let output = i2vgen(&arguments(folder.path(), &[("--model", &model)]));
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{text}");
    assert!(text.contains("quant_conv"), "{text}");
}

#[test]
fn bad_pictures() {
    let folder = temporary();
    let path = folder.path();
    let file = |name: &str, bytes: &[u8]| {
        let file = path.join(name);
        std::fs::write(&file, bytes).expect("written");
        file.display().to_string()
    };
    refused(path, &[("--image", "/nowhere.png")], "does not exist");
    refused(
        path,
        &[("--image", &path.display().to_string())],
        "is a folder",
    );
    refused(path, &[("--image", &file("empty.png", b""))], "empty");
    refused(
        path,
        &[("--image", &file("text.png", b"hello, world"))],
        "not an image",
    );
    let jpeg = std::fs::read(Path::new(FIXTURES).join("exif_rotated.jpg")).expect("fixture");
    let half = file("half.jpg", &jpeg[..jpeg.len() * 2 / 3]);
    refused(path, &[("--image", &half)], "truncated");
    let png = std::fs::read(path.join("image.png")).expect("made by the first case");
    let half = file("half.png", &png[..png.len() / 2]);
    refused(path, &[("--image", &half)], "damaged");
}

#[test]
fn odd_pictures_work() {
    let folder = temporary();
    let path = folder.path();
    let pictures: Vec<(&str, DynamicImage)> = vec![
        ("one.png", RgbImage::from_pixel(1, 1, Rgb([1, 2, 3])).into()),
        (
            "long.png",
            RgbImage::from_pixel(30000, 1, Rgb([9, 2, 3])).into(),
        ),
        ("grey.png", GrayImage::from_pixel(40, 30, Luma([77])).into()),
        (
            "alpha.png",
            RgbaImage::from_pixel(40, 30, Rgba([9, 8, 7, 6])).into(),
        ),
        (
            "sixteen.png",
            ImageBuffer::<Rgb<u16>, _>::from_pixel(40, 30, Rgb([65535, 257, 0])).into(),
        ),
    ];
    for (name, picture) in pictures {
        let file = path.join(name);
        picture.save(&file).expect("saved");
        accepted(path, &[("--image", &file.display().to_string())]);
    }
    for fixture in ["cmyk.jpg", "exif_rotated.jpg"] {
        let file = Path::new(FIXTURES).join(fixture);
        accepted(path, &[("--image", &file.display().to_string())]);
    }
}

#[test]
fn conversions_are_sensible() {
    let open =
        |name: &str| i2vgen_pipeline::open_image(&Path::new(FIXTURES).join(name)).expect(name);
    let cmyk = open("cmyk.jpg");
    let [r, g, b] = cmyk.get_pixel(3, 3).0;
    assert!(r > 190 && g < 70 && b < 80, "{:?}", [r, g, b]);
    // Stored as 24×16 and to be turned by a quarter clockwise: the left half becomes the top.
    let turned = open("exif_rotated.jpg");
    assert_eq!((turned.width(), turned.height()), (16, 24));
    assert!(turned.get_pixel(8, 3)[0] > 150, "red on top");
    assert!(turned.get_pixel(8, 20)[2] > 150, "blue below");
}

#[test]
fn prompts() {
    let folder = temporary();
    let path = folder.path();
    accepted(path, &[("--prompt", "")]);
    let long = "word ".repeat(10_000);
    let mut list = arguments(path, &[("--prompt", &long)]);
    list.retain(|a| a != "--quiet");
    let output = i2vgen(&list);
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}");
    assert!(text.contains("too long"), "{text}");
}

#[cfg(unix)]
#[test]
fn a_prompt_that_is_not_utf8() {
    use std::{ffi::OsString, os::unix::ffi::OsStringExt};
    let folder = temporary();
    let mut list: Vec<OsString> = arguments(folder.path(), &[])
        .into_iter()
        .map(Into::into)
        .collect();
    let prompt = list.iter().position(|a| a == "--prompt").expect("there");
    list[prompt + 1] = OsString::from_vec(vec![b'a', 0xff, 0xfe]);
    let output = i2vgen(&list);
    assert_eq!(output.status.code(), Some(2));
    assert!(!folder.path().join("out.gif").exists());
}

fn latents_file(path: &Path, name: &str, shape: &[usize]) -> String {
    let bytes = vec![0u8; shape.iter().product::<usize>() * 4];
    let view = TensorView::new(Dtype::F32, shape.to_vec(), &bytes).expect("a view");
    let file: PathBuf = path.join(format!("{}.safetensors", shape.len()));
    safetensors::serialize_to_file([(name, view)], None, &file).expect("written");
    file.display().to_string()
}

#[test]
fn given_latents() {
    let folder = temporary();
    let path = folder.path();
    let wrong = latents_file(path, "latents", &[1, 4, 3, 8, 8]);
    refused(path, &[("--latents", &wrong)], "--latents");
    let flat = latents_file(path, "latents", &[4, 2, 8, 8]);
    refused(path, &[("--latents", &flat)], "--latents");
    let name = latents_file(path, "noise", &[1, 4, 2, 8, 8]);
    refused(path, &[("--latents", &name)], "no tensor named 'latents'");
    refused(path, &[("--latents", "/nowhere")], "--latents");
    let right = latents_file(path, "latents", &[1, 4, 2, 8, 8]);
    accepted(path, &[("--latents", &right)]);
}

#[test]
fn bad_outputs() {
    let folder = temporary();
    let path = folder.path();
    refused(
        path,
        &[("--output", "/nowhere/out.gif")],
        "cannot be written",
    );
    refused(path, &[("--output", "/proc/out.gif")], "cannot be written");
    refused(path, &[("--output", "out.docx")], ".docx");
    let image = path.join("image.png").display().to_string();
    refused(path, &[("--output", &image)], "also an input");
    let busy = path.join("busy");
    std::fs::create_dir(&busy).expect("made");
    std::fs::write(busy.join("file"), "x").expect("written");
    refused(
        path,
        &[("--output", &busy.display().to_string())],
        "already holds",
    );
    let gif = path.join("out.gif").display().to_string();
    refused(
        path,
        &[("--output-type", "latent"), ("--output", &gif)],
        "safetensors",
    );
}

#[test]
fn containers_hold_what_they_should() {
    let folder = temporary();
    let path = folder.path();
    for name in ["a.gif", "a.png", "a.safetensors", "frames"] {
        accepted(
            path,
            &[("--output", &path.join(name).display().to_string())],
        );
        assert!(path.join(format!("{name}.json")).exists(), "{name}");
    }
    let file = std::fs::File::open(path.join("a.gif")).expect("there");
    let mut gif = gif::DecodeOptions::new().read_info(file).expect("a GIF");
    let mut frames = 0;
    while let Some(frame) = gif.read_next_frame().expect("a frame") {
        assert_eq!((frame.width, frame.height), (32, 32));
        frames += 1;
    }
    assert_eq!(frames, 2);
    assert_eq!(
        names(&path.join("frames")),
        ["frame_0000.png", "frame_0001.png"]
    );
    let bytes = std::fs::read(path.join("a.safetensors")).expect("there");
    let file = safetensors::SafeTensors::deserialize(&bytes).expect("safetensors");
    assert_eq!(
        file.tensor("frames").expect("frames").shape(),
        [1, 2, 32, 32, 3]
    );
    // The animated PNG opens with its first frame, and that is the folder's first frame.
    let first = image::open(path.join("a.png")).expect("a PNG").into_rgb8();
    let frame = image::open(path.join("frames/frame_0000.png")).expect("a PNG");
    assert_eq!(first, frame.into_rgb8());
    assert!(!names(path).iter().any(|n| n.starts_with(".i2vgen-")));
    // Two videos, two files.
    let two = path.join("b.gif").display().to_string();
    accepted(
        path,
        &[("--num-videos-per-prompt", "2"), ("--output", &two)],
    );
    assert!(path.join("b-0.gif").exists() && path.join("b-1.gif").exists());
}

#[test]
fn the_same_bytes_twice_and_with_one_thread() {
    let folder = temporary();
    let path = folder.path();
    let run = |name: &str, threads: &str| {
        let output = path.join(name);
        let status = Command::new(env!("CARGO_BIN_EXE_i2vgen"))
            .args(arguments(
                path,
                &[("--output", &output.display().to_string())],
            ))
            .env("RAYON_NUM_THREADS", threads)
            .status()
            .expect("the program starts");
        assert!(status.success());
        std::fs::read(output).expect("written")
    };
    let first = run("1.safetensors", "2");
    assert_eq!(first, run("2.safetensors", "2"));
    assert_eq!(first, run("3.safetensors", "1"));
}

#[test]
fn inspect() {
    let output = i2vgen(&["inspect", MODEL]);
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}");
    assert!(
        text.contains("I2VGenXLUNet") && text.contains("F16"),
        "{text}"
    );
    let folder = temporary();
    let model = broken_model(
        folder.path(),
        "vae/diffusion_pytorch_model.safetensors",
        |_| None,
    );
    let output = i2vgen(&["inspect", &model]);
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stdout).contains("PROBLEM"));
}
