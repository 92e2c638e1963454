//! Animated WebP, lossless: still pictures by the `image` crate, framed as RFC 9649 says. The parameters are the description
//! in an XMP chunk.

use std::io::{Cursor, Write};

use image::{
    ExtendedColorType, ImageDecoder,
    codecs::webp::{WebPDecoder, WebPEncoder},
};

use super::{AnyError, SaveOptions, Video, read::animation};

pub(super) fn write(
    video: &Video,
    index: usize,
    options: &SaveOptions,
    out: &mut dyn Write,
) -> Result<(), AnyError> {
    let [_, frames, height, width] = video.shape();
    let (width, height) = (u32::try_from(width)?, u32::try_from(height)?);
    let (animated, with_xmp) = (0x02, 0x04);
    let flags = animated
        | if options.metadata.is_some() {
            with_xmp
        } else {
            0
        };
    let size = [u24(width - 1), u24(height - 1)].concat();

    let mut body = b"WEBP".to_vec();
    chunk(&mut body, b"VP8X", &[&[flags, 0, 0, 0], &size])?;
    // Background colour; 0 is forever.
    chunk(&mut body, b"ANIM", &[&[0; 4], &[0; 2]])?;
    // Times in milliseconds; rounding the ends, not the lengths, keeps the total right.
    let end = |n: usize| (n as f64 * 1000.0 / video.fps).round();
    for i in 0..frames {
        let mut still = Vec::new();
        WebPEncoder::new_lossless(&mut still).encode(
            &video.frame(index, i),
            width,
            height,
            ExtendedColorType::Rgb8,
        )?;
        let time = (end(i + 1) - end(i)).clamp(1.0, 16_777_215.0) as u32;
        let header = [&[0; 6], &size[..], &u24(time)[..]].concat();
        let replace = 0x02;
        // A still file is one chunk behind 12 bytes of "RIFF", size, "WEBP".
        let picture = still.get(12..).unwrap_or_default();
        chunk(&mut body, b"ANMF", &[&header, &[replace], picture])?;
    }
    if let Some(text) = &options.metadata {
        chunk(&mut body, b"XMP ", &[xmp(text).as_bytes()])?;
    }
    out.write_all(b"RIFF")?;
    out.write_all(&u32::try_from(body.len())?.to_le_bytes())?;
    out.write_all(&body)?;
    Ok(())
}

pub(super) fn read(bytes: &[u8]) -> Result<Video, AnyError> {
    let size = bytes.get(4..8).and_then(|b| b.try_into().ok());
    let size = u64::from(size.map_or(u32::MAX, u32::from_le_bytes));
    if size + 8 > bytes.len() as u64 {
        return Err("ends too early".into());
    }
    let decoder = WebPDecoder::new(Cursor::new(bytes))?;
    match decoder.has_animation() {
        true => animation(decoder),
        false => super::png::still(decoder),
    }
}

pub(super) fn description(bytes: &[u8]) -> Result<Option<String>, AnyError> {
    let packet = WebPDecoder::new(Cursor::new(bytes))?.xmp_metadata()?;
    let packet = packet.unwrap_or_default();
    let packet = String::from_utf8_lossy(&packet);
    let text = packet
        .split_once(OPEN)
        .and_then(|(_, rest)| rest.split_once(CLOSE));
    Ok(text.map(|(text, _)| {
        let text = text.replace("&lt;", "<").replace("&gt;", ">");
        text.replace("&amp;", "&")
    }))
}

const OPEN: &str = r#"<rdf:li xml:lang="x-default">"#;
const CLOSE: &str = "</rdf:li>";

/// An XMP packet (ISO 16684-1) with the text as Dublin Core's description.
fn xmp(text: &str) -> String {
    let text = text.replace('&', "&amp;");
    let text = text.replace('<', "&lt;").replace('>', "&gt;");
    format!(
        r#"<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description rdf:about="" xmlns:dc="http://purl.org/dc/elements/1.1/"><dc:description><rdf:Alt>{OPEN}{text}{CLOSE}</rdf:Alt></dc:description></rdf:Description></rdf:RDF></x:xmpmeta>"#
    )
}

fn u24(value: u32) -> [u8; 3] {
    let [a, b, c, _] = value.to_le_bytes();
    [a, b, c]
}

/// Name, size, content, and a zero if the size is odd.
fn chunk(body: &mut Vec<u8>, name: &[u8; 4], parts: &[&[u8]]) -> Result<(), AnyError> {
    let size: usize = parts.iter().map(|part| part.len()).sum();
    body.extend(name);
    body.extend(u32::try_from(size)?.to_le_bytes());
    parts.iter().for_each(|part| body.extend(*part));
    body.extend(vec![0; size % 2]);
    Ok(())
}
