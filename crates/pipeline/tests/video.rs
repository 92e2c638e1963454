//! Every container: what is written comes back, with its metadata; broken files are refused; a failure leaves nothing behind.

use std::{error::Error, fs, path::Path};

use i2vgen_pipeline::{
    FrameProblem, GifDither, GifPalette, PipelineError, SaveOptions, Video, check_frames,
    first_frame_similarity, motion_energy, read_metadata,
};
use image::{Rgb, RgbImage};

type Result = std::result::Result<(), Box<dyn Error>>;

/// Everything that XML, JSON, Latin-1 and short blocks could trip over, longer than a GIF's sub-block.
fn text() -> String {
    format!(
        r#"{{"prompt": "a <b> & \"c\" 图 é 🐟", "seed": 8888, "pad": "{}"}}"#,
        "x".repeat(600)
    )
}

/// 8-bit values of `[videos, frames, height, width, 3]` from a formula.
fn video(shape: [usize; 4], fps: f64, value: impl Fn([usize; 5]) -> usize) -> Video {
    let [videos, frames, height, width] = shape;
    let mut values = Vec::new();
    for v in 0..videos {
        for f in 0..frames {
            for y in 0..height {
                for x in 0..width {
                    values.extend((0..3).map(|c| (value([v, f, y, x, c]) % 256) as f32 / 255.0));
                }
            }
        }
    }
    Video::new(values, shape, fps).unwrap()
}

/// More colours than a palette holds.
fn colourful(shape: [usize; 4], fps: f64) -> Video {
    video(shape, fps, |[v, f, y, x, c]| {
        v * 50 + f * 9 + (x * (c + 7)) + y * (11 - 3 * c) + x * y
    })
}

/// 6 colours.
fn plain(shape: [usize; 4], fps: f64) -> Video {
    video(shape, fps, |[v, f, y, x, c]| {
        ((v + f + y / 3 + x / 4 + c) % 6) * 40
    })
}

fn in_8_bits(video: &Video) -> Vec<RgbImage> {
    let [videos, frames, ..] = video.shape();
    let all = (0..videos).flat_map(|v| (0..frames).map(move |f| (v, f)));
    all.map(|(v, f)| video.frame(v, f)).collect()
}

fn entries(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap();
    let mut names: Vec<String> = entries
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn lossless_files_come_back_exactly() -> Result {
    let folder = tempfile::tempdir()?;
    let sent = colourful([1, 5, 9, 14], 8.0);
    for (name, keeps_rate) in [
        ("a.png", true),
        ("a.webp", true),
        ("a.safetensors", true),
        ("a.npy", false),
        ("frames", false),
    ] {
        let path = folder.path().join(name);
        assert_eq!(sent.save(&path)?, std::slice::from_ref(&path));
        let back = Video::open(&path)?;
        assert_eq!(back.shape(), sent.shape(), "{name}");
        assert_eq!(in_8_bits(&back), in_8_bits(&sent), "{name}");
        assert_eq!(back.values(), sent.values(), "{name}");
        assert_eq!(back.fps, if keeps_rate { 8.0 } else { 16.0 }, "{name}");
    }
    Ok(())
}

#[test]
fn arrays_keep_all_bits_and_all_videos() -> Result {
    let folder = tempfile::tempdir()?;
    let values = (0..2 * 3 * 2 * 4 * 3)
        .map(|i| (i as f32 * 0.7312).sin() * 1.5)
        .collect();
    let sent = Video::new(values, [2, 3, 2, 4], 12.5)?;
    for name in ["a.safetensors", "a.npy"] {
        let path = folder.path().join(name);
        assert_eq!(sent.save(&path)?.len(), 1);
        let back = Video::open(&path)?;
        assert_eq!((back.shape(), back.values()), (sent.shape(), sent.values()));
    }
    Ok(())
}

#[test]
fn npy_is_numpy_format_1() -> Result {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("a.npy");
    Video::new(vec![0.25; 6], [1, 1, 1, 2], 8.0)?.save(&path)?;
    let bytes = fs::read(&path)?;
    // What numpy.save writes for numpy.full((1, 1, 1, 2, 3), 0.25, "f4").
    let mut expected = b"\x93NUMPY\x01\x00v\x00".to_vec();
    let header = "{'descr': '<f4', 'fortran_order': False, 'shape': (1, 1, 1, 2, 3), }";
    expected.extend(format!("{header:<117}\n").bytes());
    expected.extend([0u8, 0, 0x80, 0x3e].repeat(6));
    assert_eq!(bytes, expected);
    Ok(())
}

#[test]
fn rates_survive() -> Result {
    let folder = tempfile::tempdir()?;
    for fps in [1.0, 7.5, 8.0, 16.0, 24.0, 29.97, 60.0] {
        let sent = plain([1, 6, 4, 4], fps);
        for (name, tolerance) in [("a.png", 1e-5), ("a.webp", 0.02), ("a.gif", 0.2)] {
            let path = folder.path().join(name);
            sent.save(&path)?;
            let back = Video::open(&path)?.fps;
            // A GIF frame lasts a fiftieth of a second at least.
            let expected = if name == "a.gif" { fps.min(50.0) } else { fps };
            let error = (back / expected - 1.0).abs();
            assert!(error < tolerance, "{name}: {fps} became {back}");
        }
    }
    Ok(())
}

#[test]
fn a_gif_of_few_colours_is_exact() -> Result {
    let folder = tempfile::tempdir()?;
    let sent = plain([1, 4, 12, 10], 8.0);
    for gif_palette in [GifPalette::Global, GifPalette::PerFrame] {
        for gif_dither in [GifDither::None, GifDither::FloydSteinberg] {
            let path = folder.path().join("a.gif");
            let options = SaveOptions {
                gif_palette,
                gif_dither,
                ..Default::default()
            };
            sent.save_with(&path, &options)?;
            let back = Video::open(&path)?;
            assert_eq!(in_8_bits(&back), in_8_bits(&sent), "{options:?}");
            assert_eq!(back.fps, 8.0);

            let mut decoder = gif::Decoder::new(fs::File::open(&path)?)?;
            assert_eq!(decoder.repeat(), gif::Repeat::Infinite);
            let global = gif_palette == GifPalette::Global;
            // Without one, the writer leaves two unused colours.
            let colours = decoder.global_palette().map_or(0, |p| p.len() / 3);
            assert_eq!(colours, if global { 8 } else { 2 });
            let frame = decoder.next_frame_info()?.ok_or("no frame")?;
            assert_eq!(frame.palette.is_some(), !global);
        }
    }
    Ok(())
}

/// Dithering must keep local means, which the nearest colour does not.
#[test]
fn dithering_keeps_means() -> Result {
    let folder = tempfile::tempdir()?;
    // The first frame brings the extreme colours between which the second one's lie.
    let sent = video([1, 2, 64, 64], 8.0, |[_, f, y, x, c]| {
        let value = [2 * x, 2 * y, x + y][c];
        if f == 0 { 2 * value } else { 64 + value }
    });
    let error = |gif_dither| -> std::result::Result<f64, Box<dyn Error>> {
        let path = folder.path().join("a.gif");
        sent.save_with(
            &path,
            &SaveOptions {
                gif_dither,
                ..Default::default()
            },
        )?;
        let back = Video::open(&path)?;
        // Means of 8x8 blocks.
        let blocks = |video: &Video| -> Vec<f64> {
            let frame = video.frame(0, 1);
            let mut sums = vec![0.0; 8 * 8 * 3];
            for (x, y, pixel) in frame.enumerate_pixels() {
                for c in 0..3 {
                    sums[((y / 8 * 8 + x / 8) * 3) as usize + c] += f64::from(pixel[c]) / 64.0;
                }
            }
            sums
        };
        let (a, b) = (blocks(&sent), blocks(&back));
        Ok(a.iter().zip(&b).map(|(a, b)| (a - b).abs()).sum::<f64>() / a.len() as f64)
    };
    let (with, without) = (error(GifDither::FloydSteinberg)?, error(GifDither::None)?);
    assert!(with < 0.6 * without, "with {with}, without {without}");
    Ok(())
}

#[test]
fn metadata_comes_back() -> Result {
    let folder = tempfile::tempdir()?;
    let sent = plain([1, 3, 4, 6], 8.0);
    let options = SaveOptions {
        metadata: Some(text()),
        ..Default::default()
    };
    for name in ["a.gif", "a.png", "a.webp", "a.safetensors", "frames"] {
        let path = folder.path().join(name);
        sent.save_with(&path, &options)?;
        assert_eq!(read_metadata(&path)?, Some(text()), "{name}");
        assert_eq!(in_8_bits(&Video::open(&path)?), in_8_bits(&sent), "{name}");
    }
    let npy = folder.path().join("a.npy");
    sent.save_with(&npy, &options)?;
    assert_eq!(read_metadata(&npy)?, None);
    for name in ["b.gif", "b.png", "b.webp", "b.safetensors", "more"] {
        let path = folder.path().join(name);
        sent.save(&path)?;
        assert_eq!(read_metadata(&path)?, None, "{name}");
    }
    Ok(())
}

#[test]
fn options_out_of_range_are_refused() -> Result {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("a.gif");
    let sent = plain([1, 1, 2, 2], 8.0);
    let refuse =
        |video: &Video, options: SaveOptions, name: &str| match video.save_with(&path, &options) {
            Err(PipelineError::Option { name: n, .. }) => assert_eq!(n, name),
            other => panic!("{other:?}"),
        };
    refuse(
        &sent,
        SaveOptions {
            quality: 101,
            ..Default::default()
        },
        "quality",
    );
    let metadata = Some("a\0b".into());
    refuse(
        &sent,
        SaveOptions {
            metadata,
            ..Default::default()
        },
        "metadata",
    );
    for fps in [0.0, -1.0, f64::NAN, f64::INFINITY] {
        let mut video = sent.clone();
        video.fps = fps;
        refuse(&video, SaveOptions::default(), "fps");
    }
    assert!(entries(folder.path()).is_empty());
    Ok(())
}

#[test]
fn every_truncation_is_an_error() -> Result {
    let folder = tempfile::tempdir()?;
    let sent = plain([1, 3, 5, 6], 8.0);
    let options = SaveOptions {
        metadata: Some("{\"a\": 1}".into()),
        ..Default::default()
    };
    for name in ["a.gif", "a.png", "a.webp", "a.npy", "a.safetensors"] {
        let path = folder.path().join(name);
        sent.save_with(&path, &options)?;
        let bytes = fs::read(&path)?;
        for length in 0..bytes.len() {
            fs::write(&path, &bytes[..length])?;
            let error = match Video::open(&path) {
                Err(PipelineError::Video { problem, .. }) => problem,
                other => panic!("{name}: {length} of {} bytes: {other:?}", bytes.len()),
            };
            assert!(error.contains("; "), "{name}: says nothing to do: {error}");
            let _ = read_metadata(&path);
        }
    }
    Ok(())
}

/// One byte changed: an error or other pixels, but no panic and no gigabytes.
#[test]
fn damaged_files_do_not_panic() -> Result {
    let folder = tempfile::tempdir()?;
    let sent = plain([1, 2, 5, 6], 8.0);
    for name in ["a.gif", "a.png", "a.webp", "a.npy", "a.safetensors"] {
        let path = folder.path().join(name);
        sent.save(&path)?;
        let bytes = fs::read(&path)?;
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= [0x01, 0x80, 0xff][at % 3];
            fs::write(&path, &damaged)?;
            let _ = Video::open(&path);
            let _ = read_metadata(&path);
        }
    }
    Ok(())
}

#[test]
fn errors_name_the_file_and_the_fix() -> Result {
    let folder = tempfile::tempdir()?;
    let at = |name: &str| folder.path().join(name);
    let error = |name: &str| Video::open(at(name)).unwrap_err().to_string();

    assert!(error("none.gif").contains("none.gif' does not exist; check the path"));
    fs::write(at("empty.webp"), b"")?;
    assert!(error("empty.webp").contains("is empty (zero bytes)"));
    fs::write(at("text.png"), b"no picture at all")?;
    assert!(error("text.png").contains("is broken or incomplete"));
    fs::write(at("video.avi"), b"RIFF")?;
    assert!(error("video.avi").contains("ending that is not supported"));
    fs::write(at("video"), b"RIFF")?;
    assert!(error("video").contains("has no ending"));

    fs::create_dir(at("folder"))?;
    assert!(error("folder").contains("holds no frames"));
    RgbImage::new(4, 2).save(at("folder/1.png"))?;
    RgbImage::new(2, 4).save(at("folder/2.png"))?;
    assert!(error("folder").contains("mixes frame sizes (4x2 and 2x4)"));
    fs::write(at("folder/2.png"), b"oops")?;
    assert!(error("folder").contains("broken '2.png'"));

    // A canvas of 65535x65535 in a file of a few bytes.
    plain([1, 1, 2, 2], 8.0).save(at("bomb.gif"))?;
    let mut bytes = fs::read(at("bomb.gif"))?;
    bytes[6..10].fill(0xff);
    fs::write(at("bomb.gif"), bytes)?;
    assert!(error("bomb.gif").contains("is too large (65535x65535)"));

    let mut array = fs::read({
        plain([1, 1, 2, 2], 8.0).save(at("a.npy"))?;
        at("a.npy")
    })?;
    array[22] = b'8';
    fs::write(at("a.npy"), array)?;
    assert!(
        error("a.npy").contains("save an array of dtype float32"),
        "{}",
        error("a.npy")
    );
    Ok(())
}

#[test]
fn frames_of_a_folder_are_in_order_of_their_numbers() -> Result {
    let folder = tempfile::tempdir()?;
    for (name, grey) in [
        ("f_10000.png", 4),
        ("f_9999.png", 3),
        ("f_0010.png", 2),
        ("f_0009.png", 1),
    ] {
        RgbImage::from_pixel(2, 2, Rgb([grey; 3])).save(folder.path().join(name))?;
    }
    fs::write(folder.path().join("notes.txt"), "no frame")?;
    let frames = in_8_bits(&Video::open(folder.path())?);
    assert_eq!(
        frames.iter().map(|f| f[(0, 0)][0]).collect::<Vec<_>>(),
        [1, 2, 3, 4]
    );
    Ok(())
}

#[test]
fn several_videos_are_several_files() -> Result {
    let sent = plain([2, 3, 4, 6], 8.0);
    for (name, expected) in [
        ("a.webp", ["a-0.webp", "a-1.webp"]),
        ("a.png", ["a-0.png", "a-1.png"]),
        ("a.gif", ["a-0.gif", "a-1.gif"]),
        ("a", ["a-0", "a-1"]),
    ] {
        let folder = tempfile::tempdir()?;
        let written = sent.save(folder.path().join(name))?;
        assert_eq!(entries(folder.path()), expected);
        for (v, path) in written.iter().enumerate() {
            let frames: Vec<_> = (0..3).map(|f| sent.frame(v, f)).collect();
            assert_eq!(in_8_bits(&Video::open(path)?), frames);
        }
    }
    Ok(())
}

/// GIF and WebP have a largest size, which shows only while writing.
#[test]
fn a_failure_leaves_everything_as_it_was() -> Result {
    let folder = tempfile::tempdir()?;
    let wide = Video::new(vec![0.5; 2 * 65536 * 3], [2, 1, 1, 65536], 8.0)?;
    fs::write(folder.path().join("a-0.gif"), "precious")?;
    for name in ["a.gif", "b.webp"] {
        let error = wide.save(folder.path().join(name)).unwrap_err().to_string();
        assert!(error.contains("could not be written"), "{error}");
    }
    assert_eq!(entries(folder.path()), ["a-0.gif"]);
    assert_eq!(fs::read(folder.path().join("a-0.gif"))?, b"precious");
    Ok(())
}

/// A place that takes no byte, as a full disk.
#[cfg(target_os = "linux")]
#[test]
fn a_place_that_cannot_be_written_is_refused() -> Result {
    let sent = plain([1, 1, 2, 2], 8.0);
    for path in [
        "/proc/a.gif",
        "/proc/a.npy",
        "/proc/frames",
        "/nowhere/a.webp",
    ] {
        let error = sent.save(path).unwrap_err().to_string();
        assert!(
            error.contains("choose an existing, writable place"),
            "{error}"
        );
    }
    Ok(())
}

/// Expected values: scikit-image 0.26.0, `structural_similarity(a, b, gaussian_weights=True, sigma=1.5,
/// use_sample_covariance=False, data_range=1.0)` of the same patterns' luma.
#[test]
fn similarity_is_that_of_scikit_image() {
    let a = |y: usize, x: usize, c: usize| [x * 7 + y * 3, x * x + 5 * y, x * y][c] % 256;
    let b = |y: usize, x: usize, c: usize| {
        [x * 7 + y * 3 + 9, x * x + 5 * y + x % 3 * 20, x * y + y][c] % 256
    };
    for ([height, width], expected) in [
        ([24, 16], 0.8212762510417144),
        ([16, 32], 0.7012918575855405),
    ] {
        let sent = video([1, 2, height, width], 8.0, |[_, f, y, x, c]| {
            a(y, x, c) * (1 - f)
        });
        let reference = RgbImage::from_fn(width as u32, height as u32, |x, y| {
            Rgb([0, 1, 2].map(|c| b(y as usize, x as usize, c) as u8))
        });
        let found = first_frame_similarity(&sent, 0, &reference);
        assert!((found - expected).abs() < 1e-6, "{found} {expected}");
        let same = first_frame_similarity(&sent, 0, &sent.frame(0, 0));
        assert!((same - 1.0).abs() < 1e-6, "{same}");
    }
}

#[test]
fn similarity_crops_as_the_pipeline_does() {
    let wide = RgbImage::from_fn(96, 32, |x, y| {
        Rgb([
            (x * 5 % 256) as u8,
            (y * 8) as u8,
            ((x + y) * 3 % 256) as u8,
        ])
    });
    let middle = image::imageops::crop_imm(&wide, 32, 0, 32, 32).to_image();
    let values = middle
        .as_raw()
        .iter()
        .map(|v| f32::from(*v) / 255.0)
        .collect();
    let sent = Video::new(values, [1, 1, 32, 32], 8.0).unwrap();
    assert!((first_frame_similarity(&sent, 0, &wide) - 1.0).abs() < 1e-6);
    assert!(first_frame_similarity(&sent, 0, &RgbImage::new(50, 20)) < 0.5);
    // Small frames have small windows, not none.
    let tiny = plain([1, 1, 2, 3], 8.0);
    assert!((first_frame_similarity(&tiny, 0, &tiny.frame(0, 0)) - 1.0).abs() < 1e-6);
}

#[test]
fn motion_is_the_mean_difference() {
    let blinking = video(
        [2, 4, 3, 3],
        8.0,
        |[v, f, ..]| if v == 0 { f % 2 * 255 } else { 7 },
    );
    assert!((motion_energy(&blinking, 0) - 1.0).abs() < 1e-12);
    assert_eq!(motion_energy(&blinking, 1), 0.0);
    // 0, 51, 153: differences of 0.2 and 0.4.
    let rising = video([1, 3, 2, 2], 8.0, |[_, f, ..]| [0, 51, 153][f]);
    assert!((motion_energy(&rising, 0) - 0.3).abs() < 1e-6);
    assert_eq!(motion_energy(&plain([1, 1, 2, 2], 8.0), 0), 0.0);
}

#[test]
fn frames_are_checked() -> Result {
    assert_eq!(check_frames(&colourful([2, 3, 5, 5], 8.0))?, []);
    let odd = video([1, 4, 4, 4], 8.0, |[_, f, y, x, _]| {
        [x * y * 9, 30, x * 40, x * 40][f]
    });
    let found = check_frames(&odd)?;
    assert_eq!(
        found,
        [
            FrameProblem::Blank { video: 0, frame: 1 },
            FrameProblem::Repeated { video: 0, frame: 3 }
        ]
    );
    assert_eq!(found[0].to_string(), "frame 1 of video 0 is of one colour");

    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let mut values = vec![0.5; 2 * 3 * 2 * 2 * 3];
        values[(3 + 2) * 12 + 5] = bad;
        let error = check_frames(&Video::new(values, [2, 3, 2, 2], 8.0)?).unwrap_err();
        assert!(matches!(
            error,
            PipelineError::NotFinite {
                video: 1,
                frame: 2,
                ..
            }
        ));
        assert!(error.to_string().contains("(video 1, frame 2)"));
    }
    Ok(())
}
