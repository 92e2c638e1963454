//! MP4 with H.264: `openh264` codes the pictures, `mp4-atom` knows the boxes (ISO/IEC 14496-12 and -15).

use std::io::Write;

use mp4_atom::{
    Atom, Avc1, Avcc, Codec, Colr, Decode, DecodeAtom, Dinf, Dref, DrefEntry, Encode, FourCC, Ftyp,
    Hdlr, Header, Ilst, IlstData, IlstDataValue, KeyEntry, Keys, Mdat, Mdhd, Mdia, Meta, Minf,
    Moov, Mvhd, Stbl, Stco, Stsc, StscEntry, Stsd, Stss, Stsz, StszSamples, Stts, SttsEntry, Tkhd,
    Trak, Udta, Url, Visual, Vmhd,
};
use openh264::{
    OpenH264API,
    decoder::{DecodedYUV, Decoder},
    encoder::{Encoder, EncoderConfig, FrameRate, FrameType, QpRange, RateControlMode, VuiConfig},
    formats::{YUVBuffer, YUVSource},
};

use super::{Advice, AnyError, SaveOptions, Video, frames::Frames, yuv};

/// NAL unit types (ITU-T H.264, table 7-1).
const SPS: u8 = 7;
const PPS: u8 = 8;

pub(super) fn write(
    video: &Video,
    index: usize,
    options: &SaveOptions,
    out: &mut dyn Write,
) -> Result<(), AnyError> {
    let [_, _, height, width] = video.shape();
    if width % 2 == 1 || height % 2 == 1 {
        return Err(format!(
            "H.264 needs an even width and height, not {width}x{height}; make them even or write .webp, .png or .gif"
        )
        .into());
    }
    if width < 16 || height < 16 {
        return Err(format!(
            "the H.264 encoder needs at least 16x16 pixels, not {width}x{height}; write .webp, .png or .gif"
        )
        .into());
    }
    let stream = encode(video, index, options.quality)?;
    let ftyp = Ftyp {
        major_brand: b"isom".into(),
        minor_version: 512,
        compatible_brands: [b"isom", b"iso2", b"avc1", b"mp41"]
            .map(FourCC::from)
            .into(),
    };
    // Offsets are of fixed length: a first attempt says how long everything before the data is.
    let head = |offset: u32| -> Result<Vec<u8>, AnyError> {
        let mut head = Vec::new();
        ftyp.encode(&mut head)?;
        moov(video, &stream, options, offset)?.encode(&mut head)?;
        Ok(head)
    };
    let start = head(0)?.len() + 8;
    out.write_all(&head(u32::try_from(start)?)?)?;
    let mut data = Vec::new();
    let mdat = Mdat {
        data: stream.samples.concat(),
    };
    mdat.encode(&mut data)?;
    out.write_all(&data)?;
    Ok(())
}

/// A coded video.
#[derive(Default)]
struct Stream {
    /// Sequence and picture parameter set.
    sets: [Vec<u8>; 2],
    /// One per frame, of NAL units behind their lengths.
    samples: Vec<Vec<u8>>,
    /// Numbers from 1 of the frames that need no others.
    key_frames: Vec<u32>,
}

fn encode(video: &Video, index: usize, quality: u8) -> Result<Stream, AnyError> {
    let [_, frames, height, width] = video.shape();
    // The same quantiser everywhere: a video of seconds needs no rate control. 12 is the encoder's finest.
    let qp = 51 - (39 * u32::from(quality.min(100)) / 100) as u8;
    let config = EncoderConfig::new()
        .rate_control_mode(RateControlMode::Bufferbased)
        .qp(QpRange::new(qp, qp))
        .skip_frames(false)
        .max_frame_rate(FrameRate::from_hz(video.fps.clamp(1.0, 60.0) as f32))
        .adaptive_quantization(false)
        .background_detection(false)
        .vui(VuiConfig::bt709())
        .num_threads(1);
    let mut encoder = Encoder::with_api_config(OpenH264API::from_source(), config)?;
    let mut stream = Stream::default();
    for i in 0..frames {
        let planes = yuv::from_rgb(video.frame_values(index, i), [height, width]);
        let coded = encoder.encode(&YUVBuffer::from_vec(planes, width, height))?;
        if coded.frame_type() == FrameType::IDR {
            stream.key_frames.push(u32::try_from(i + 1)?);
        }
        let layers = (0..coded.num_layers()).filter_map(|l| coded.layer(l));
        let mut sample = Vec::new();
        for layer in layers {
            for unit in (0..layer.nal_count()).filter_map(|n| layer.nal_unit(n)) {
                // A start code of zeros and a one precedes it.
                let code = unit.iter().take_while(|byte| **byte == 0).count() + 1;
                let unit = unit.get(code..).unwrap_or_default();
                match unit.first().map_or(0, |byte| byte & 31) {
                    SPS => stream.sets[0] = unit.into(),
                    PPS => stream.sets[1] = unit.into(),
                    _ => {
                        sample.extend(u32::try_from(unit.len())?.to_be_bytes());
                        sample.extend(unit);
                    }
                }
            }
        }
        if sample.is_empty() {
            return Err(format!("the encoder has dropped frame {i}").into());
        }
        stream.samples.push(sample);
    }
    Ok(stream)
}

fn moov(
    video: &Video,
    stream: &Stream,
    options: &SaveOptions,
    offset: u32,
) -> Result<Moov, AnyError> {
    let [_, frames, height, width] = video.shape();
    let (width, height) = (u16::try_from(width)?, u16::try_from(height)?);
    let frames = u32::try_from(frames)?;
    // Thousands of units per second, of which a frame lasts a thousand: exact for rates of three decimals.
    let timescale = (video.fps * 1000.0).round().clamp(1.0, 4e9) as u32;
    let duration = u64::from(frames) * 1000;
    let sizes = stream.samples.iter().map(|sample| sample.len() as u32);
    let codec = Codec::Avc1(Avc1 {
        visual: Visual {
            data_reference_index: 1,
            width,
            height,
            ..Default::default()
        },
        avcc: Avcc::new(&stream.sets[0], &stream.sets[1])?,
        colr: Some(Colr::new(1, 1, 1, false)?),
        ..Default::default()
    });
    let stbl = Stbl {
        stsd: Stsd {
            codecs: vec![codec],
        },
        stts: Stts {
            entries: vec![SttsEntry {
                sample_count: frames,
                sample_delta: 1000,
            }],
        },
        stss: Some(Stss {
            entries: stream.key_frames.clone(),
        }),
        // All in one chunk.
        stsc: Stsc {
            entries: vec![StscEntry {
                first_chunk: 1,
                samples_per_chunk: frames,
                sample_description_index: 1,
            }],
        },
        stsz: Stsz {
            samples: StszSamples::Different {
                sizes: sizes.collect(),
            },
        },
        stco: Some(Stco {
            entries: vec![offset],
        }),
        ..Default::default()
    };
    let here = DrefEntry::Url(Url::default());
    let trak = Trak {
        tkhd: Tkhd {
            track_id: 1,
            duration,
            enabled: true,
            in_movie: true,
            width: width.into(),
            height: height.into(),
            ..Default::default()
        },
        mdia: Mdia {
            mdhd: Mdhd {
                timescale,
                duration,
                language: "und".into(),
                ..Default::default()
            },
            hdlr: Hdlr {
                handler: b"vide".into(),
                name: "VideoHandler".into(),
            },
            minf: Minf {
                vmhd: Some(Vmhd::default()),
                dinf: Dinf {
                    dref: Dref {
                        entries: vec![here],
                    },
                },
                stbl,
                ..Default::default()
            },
        },
        ..Default::default()
    };
    Ok(Moov {
        mvhd: Mvhd {
            timescale,
            duration,
            rate: 1.into(),
            volume: 1.into(),
            next_track_id: 2,
            ..Default::default()
        },
        trak: vec![trak],
        udta: options.metadata.as_deref().map(user_data),
        ..Default::default()
    })
}

/// What a comment is called.
const KEY: &str = "comment";

/// A comment as QuickTime's metadata, which ffmpeg reads and writes here, too.
fn user_data(text: &str) -> Udta {
    let keys = Keys {
        entries: vec![KeyEntry {
            key_namespace: b"mdta".into(),
            key_value: KEY.into(),
        }],
    };
    let value = IlstData {
        country_indicator: 0,
        language_indicator: 0,
        value: IlstDataValue::Utf8(text.into()),
    };
    let list = Ilst {
        mdta: vec![(1, value)],
        ..Default::default()
    };
    Udta {
        meta: Some(Meta {
            hdlr: Hdlr {
                handler: b"mdta".into(),
                name: String::new(),
            },
            items: vec![keys.into(), list.into()],
        }),
        ..Default::default()
    }
}

pub(super) fn comment(bytes: &[u8]) -> Result<Option<String>, AnyError> {
    let moov = find_moov(bytes)?;
    let find = || {
        let meta = moov.udta.as_ref()?.meta.as_ref()?;
        let keys = &meta.get::<Keys>()?.entries;
        let number = 1 + keys.iter().position(|key| key.key_value == KEY)? as u32;
        let values = &meta.get::<Ilst>()?.mdta;
        match &values.iter().find(|(n, _)| *n == number)?.1.value {
            IlstDataValue::Utf8(text) => Some(text.clone()),
            _ => None,
        }
    };
    Ok(find())
}

fn find_moov(bytes: &[u8]) -> Result<Moov, AnyError> {
    let mut rest = bytes;
    while !rest.is_empty() {
        let header = Header::decode(&mut rest)?;
        let size = header.size.unwrap_or(rest.len());
        if size > rest.len() {
            return Err("ends too early".into());
        }
        let (mut body, next) = rest.split_at(size);
        if header.kind == Moov::KIND {
            return Ok(Moov::decode_atom(&header, &mut body)?);
        }
        rest = next;
    }
    Err("no moov box".into())
}

pub(super) fn read(bytes: &[u8]) -> Result<Video, AnyError> {
    let moov = find_moov(bytes)?;
    let is_picture = |trak: &&Trak| trak.mdia.hdlr.handler == FourCC::new(b"vide");
    let Some(trak) = moov.trak.iter().find(is_picture) else {
        return Err(Advice::error(
            "holds no pictures, only sound or text; give a video",
        ));
    };
    let stbl = &trak.mdia.minf.stbl;
    let [Codec::Avc1(avc1)] = &stbl.stsd.codecs[..] else {
        return Err(Advice::error(
            "is not coded as H.264 (avc1); convert it, or give a .webp or .png",
        ));
    };
    Frames::check(avc1.visual.width.into(), avc1.visual.height.into())?;
    let samples = samples(stbl, bytes).ok_or("its index leaves the file")?;

    let mut frames = Frames::default();
    let mut decoder = Decoder::new()?;
    let avcc = &avc1.avcc;
    let mut packet = Vec::new();
    for set in avcc
        .sequence_parameter_sets
        .iter()
        .chain(&avcc.picture_parameter_sets)
    {
        start_code(&mut packet, set);
    }
    for sample in &samples {
        annex_b(sample, avcc.length_size, &mut packet).ok_or("a frame is cut off")?;
        if let Some(picture) = decoder.decode(&packet)? {
            push(&mut frames, &picture)?;
        }
        packet.clear();
    }
    for picture in decoder.flush_remaining()? {
        push(&mut frames, &picture)?;
    }
    if frames.count() != samples.len() {
        return Err(format!("{} of {} frames decoded", frames.count(), samples.len()).into());
    }
    let times = stbl.stts.entries.iter();
    let ticks = times.map(|e| u64::from(e.sample_count) * u64::from(e.sample_delta));
    let ticks = ticks.fold(0, u64::saturating_add);
    frames.video(ticks as f64 / f64::from(trak.mdia.mdhd.timescale))
}

/// Where the frames are.
fn samples<'a>(stbl: &Stbl, bytes: &'a [u8]) -> Option<Vec<&'a [u8]>> {
    let chunks: Vec<u64> = match (&stbl.stco, &stbl.co64) {
        (Some(stco), _) => stco
            .entries
            .iter()
            .map(|offset| u64::from(*offset))
            .collect(),
        (None, Some(co64)) => co64.entries.clone(),
        (None, None) => return Some(Vec::new()),
    };
    let (count, size): (usize, &dyn Fn(usize) -> u32) = match &stbl.stsz.samples {
        StszSamples::Identical { count, size } => (*count as usize, &move |_| *size),
        StszSamples::Different { sizes } => (sizes.len(), &|i| sizes[i]),
    };
    let mut samples = Vec::new();
    let mut groups = stbl.stsc.entries.iter().peekable();
    let mut per_chunk = 0;
    for (number, chunk) in (1u64..).zip(chunks) {
        while let Some(group) = groups.next_if(|g| u64::from(g.first_chunk) <= number) {
            per_chunk = group.samples_per_chunk;
        }
        let mut start = usize::try_from(chunk).ok()?;
        for _ in 0..per_chunk {
            if samples.len() == count {
                break;
            }
            let end = start.checked_add(size(samples.len()) as usize)?;
            samples.push(bytes.get(start..end)?);
            start = end;
        }
    }
    (samples.len() == count).then_some(samples)
}

fn start_code(packet: &mut Vec<u8>, unit: &[u8]) {
    packet.extend([0, 0, 0, 1]);
    packet.extend(unit);
}

/// From units behind their lengths to units behind start codes.
fn annex_b(mut sample: &[u8], length_size: u8, packet: &mut Vec<u8>) -> Option<()> {
    while !sample.is_empty() {
        let (length, rest) = sample.split_at_checked(length_size.into())?;
        let length = length.iter().fold(0, |n, byte| n << 8 | usize::from(*byte));
        let (unit, rest) = rest.split_at_checked(length)?;
        start_code(packet, unit);
        sample = rest;
    }
    Some(())
}

fn push(frames: &mut Frames, picture: &DecodedYUV<'_>) -> Result<(), AnyError> {
    let (width, height) = picture.dimensions();
    Frames::check(width as u64, height as u64)?;
    let (luma, chroma, _) = picture.strides();
    let (y, u, v) = (picture.y(), picture.u(), picture.v());
    let complete = luma >= width
        && 2 * chroma >= width
        && y.len() >= luma * height
        && u.len().min(v.len()) >= chroma * height.div_ceil(2);
    if !complete {
        return Err("the decoder gave an incomplete picture".into());
    }
    let pixels = (0..height).flat_map(|row| (0..width).map(move |column| (row, column)));
    let values = pixels.flat_map(|(row, column)| {
        let half = row / 2 * chroma + column / 2;
        yuv::to_rgb([y[row * luma + column], u[half], v[half]])
    });
    frames.push([height, width], values)
}
