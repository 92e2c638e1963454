//! MP4: the picture comes back nearly, the rest exactly.
#![cfg(feature = "mp4")]

use std::{error::Error, fs};

use i2vgen_pipeline::{PipelineError, SaveOptions, Video, read_metadata};

type Result = std::result::Result<(), Box<dyn Error>>;

/// Soft colours that move, as in nature.
fn moving([videos, frames, height, width]: [usize; 4], fps: f64) -> Video {
    let mut values = Vec::new();
    for v in 0..videos {
        for f in 0..frames {
            for y in 0..height {
                for x in 0..width {
                    let (x, y) = (x as f32 + 2.0 * f as f32, y as f32 + 5.0 * v as f32);
                    let wave = |a: f32, b: f32| 0.5 + 0.4 * (x * a + y * b).sin();
                    values.extend([wave(0.05, 0.02), wave(-0.03, 0.06), wave(0.02, -0.07)]);
                }
            }
        }
    }
    Video::new(values, [videos, frames, height, width], fps).unwrap()
}

/// Decibels of all values.
fn psnr(a: &Video, b: &Video) -> f64 {
    let pairs = a.values().iter().zip(b.values());
    let sum: f64 = pairs.map(|(a, b)| f64::from(a - b).powi(2)).sum();
    -10.0 * (sum / a.values().len() as f64).log10()
}

#[test]
fn pictures_come_back_nearly() -> Result {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("a.mp4");
    // Sizes that are no multiple of a macroblock's 16 pixels are cut by the coder.
    for (shape, fps) in [
        ([1, 8, 64, 64], 8.0),
        ([1, 5, 50, 38], 7.5),
        ([1, 3, 16, 16], 29.97),
        ([1, 1, 72, 128], 16.0),
    ] {
        let sent = moving(shape, fps);
        assert_eq!(sent.save(&path)?, std::slice::from_ref(&path));
        let back = Video::open(&path)?;
        assert_eq!(back.shape(), shape);
        assert_eq!(back.fps, fps);
        let found = psnr(&sent, &back);
        assert!(found > 36.0, "{shape:?}: {found} dB");
        // No colour is lighter or darker on the whole.
        for c in 0..3 {
            let mean = |v: &Video| {
                let channel = v.values()[c..].iter().step_by(3);
                channel.map(|v| f64::from(*v)).sum::<f64>() / v.values().len() as f64 * 3.0
            };
            let difference = mean(&sent) - mean(&back);
            assert!(difference.abs() < 0.004, "channel {c}: {difference}");
        }
    }
    Ok(())
}

#[test]
fn quality_costs_bytes() -> Result {
    let folder = tempfile::tempdir()?;
    let sent = moving([1, 6, 64, 96], 8.0);
    let mut before = (0, 0.0);
    for quality in [0, 50, 100] {
        let path = folder.path().join("a.mp4");
        sent.save_with(
            &path,
            &SaveOptions {
                quality,
                ..Default::default()
            },
        )?;
        let now = (
            fs::metadata(&path)?.len(),
            psnr(&sent, &Video::open(&path)?),
        );
        assert!(
            now.0 > before.0 && now.1 > before.1,
            "{quality}: {before:?} {now:?}"
        );
        before = now;
    }
    Ok(())
}

#[test]
fn metadata_and_several_videos() -> Result {
    let folder = tempfile::tempdir()?;
    let sent = moving([2, 2, 32, 32], 8.0);
    let text = r#"{"prompt": "a <b> & \"c\" 图 é 🐟", "seed": 8888}"#;
    let options = SaveOptions {
        metadata: Some(text.into()),
        ..Default::default()
    };
    let written = sent.save_with(folder.path().join("a.mp4"), &options)?;
    assert_eq!(
        written,
        [folder.path().join("a-0.mp4"), folder.path().join("a-1.mp4")]
    );
    for path in &written {
        assert_eq!(read_metadata(path)?.as_deref(), Some(text));
        assert_eq!(Video::open(path)?.shape(), [1, 2, 32, 32]);
    }
    sent.save(folder.path().join("b.mp4"))?;
    assert_eq!(read_metadata(folder.path().join("b-0.mp4"))?, None);
    Ok(())
}

#[test]
fn odd_and_tiny_sizes_are_refused_with_a_way_out() -> Result {
    let folder = tempfile::tempdir()?;
    for shape in [[1, 2, 33, 32], [1, 2, 32, 33]] {
        let error = moving(shape, 8.0).save(folder.path().join("a.mp4"));
        let error = error.unwrap_err().to_string();
        assert!(error.contains("even width and height"), "{error}");
        assert!(error.contains("write .webp"), "{error}");
    }
    let small = moving([1, 2, 16, 8], 8.0).save(folder.path().join("a.mp4"));
    assert!(small.unwrap_err().to_string().contains("at least 16x16"));
    assert_eq!(fs::read_dir(folder.path())?.count(), 0);
    Ok(())
}

#[test]
fn broken_files_are_refused() -> Result {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("a.mp4");
    let options = SaveOptions {
        metadata: Some("{}".into()),
        ..Default::default()
    };
    moving([1, 3, 32, 32], 8.0).save_with(&path, &options)?;
    let bytes = fs::read(&path)?;
    let problem = |bytes: &[u8]| -> std::result::Result<String, Box<dyn Error>> {
        fs::write(&path, bytes)?;
        let _ = read_metadata(&path);
        match Video::open(&path) {
            Err(PipelineError::Video { problem, .. }) => Ok(problem),
            other => Err(format!("{} bytes: {other:?}", bytes.len()).into()),
        }
    };
    for length in (0..bytes.len())
        .step_by(7)
        .chain(bytes.len() - 20..bytes.len())
    {
        assert!(problem(&bytes[..length])?.contains("; "), "{length}");
    }
    // A track of sound instead.
    let replace = |from: &[u8], to: &[u8]| -> std::result::Result<Vec<u8>, Box<dyn Error>> {
        let at = bytes.windows(from.len()).position(|w| w == from);
        let at = at.ok_or("not found")?;
        Ok([&bytes[..at], to, &bytes[at + from.len()..]].concat())
    };
    assert!(problem(&replace(b"vide", b"soun")?)?.contains("holds no pictures, only sound"));
    // Another codec.
    assert!(
        problem(&replace(b"avc1\0\0\0\0", b"xxx1\0\0\0\0")?)?.contains("is not coded as H.264")
    );
    Ok(())
}

/// One byte changed: an error or other pixels, but no panic.
#[test]
fn damaged_files_do_not_panic() -> Result {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("a.mp4");
    moving([1, 3, 32, 32], 8.0).save(&path)?;
    let bytes = fs::read(&path)?;
    for at in (0..bytes.len()).step_by(3) {
        let mut damaged = bytes.clone();
        damaged[at] ^= 0xff;
        fs::write(&path, &damaged)?;
        let _ = Video::open(&path);
        let _ = read_metadata(&path);
    }
    Ok(())
}
