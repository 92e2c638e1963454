//! Burn's own weight format, streamed (burn-store 0.21 `burnpack`: a 10-byte header, CBOR metadata, and tensors aligned
//! to 256 bytes). Written here because burn-store needs all of burn, and all tensors at once.

use std::collections::BTreeMap;

use safetensors::Dtype;
use serde::Serialize;

/// "BURN", version 1.
pub(crate) const MAGIC: u32 = 0x4255_524E;
const VERSION: u16 = 1;

/// Where a tensor may start.
pub(crate) const ALIGNMENT: u64 = 256;

#[derive(Serialize)]
struct Metadata {
    tensors: BTreeMap<String, Descriptor>,
}

#[derive(Serialize)]
struct Descriptor {
    dtype: &'static str,
    shape: Vec<u64>,
    data_offsets: (u64, u64),
}

/// The file up to the first tensor. `tensors`: name, format, shape and bytes, in the order of their data.
pub(crate) fn header<'a>(
    tensors: impl Iterator<Item = (&'a str, Dtype, &'a [usize], u64)>,
) -> std::io::Result<Vec<u8>> {
    let mut at: u64 = 0;
    let mut descriptor = |(name, dtype, shape, bytes): (&str, Dtype, &[usize], u64)| {
        let start = at.next_multiple_of(ALIGNMENT);
        at = start + bytes;
        let dtype = match dtype {
            Dtype::F16 => "F16",
            Dtype::BF16 => "BF16",
            Dtype::F64 => "F64",
            _ => "F32",
        };
        let shape = shape.iter().map(|n| *n as u64).collect();
        let data_offsets = (start, at);
        (
            name.to_owned(),
            Descriptor {
                dtype,
                shape,
                data_offsets,
            },
        )
    };
    let metadata = Metadata {
        tensors: tensors.map(&mut descriptor).collect(),
    };
    let mut cbor = Vec::new();
    ciborium::into_writer(&metadata, &mut cbor).map_err(std::io::Error::other)?;
    let length = u32::try_from(cbor.len()).map_err(std::io::Error::other)?;
    let mut out = MAGIC.to_le_bytes().to_vec();
    out.extend(VERSION.to_le_bytes());
    out.extend(length.to_le_bytes());
    out.extend(cbor);
    out.resize(out.len().next_multiple_of(ALIGNMENT as usize), 0);
    Ok(out)
}
