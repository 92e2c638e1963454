//! `torch.save` files. The first byte says how deep the rest goes in.
//!
//! 0: the whole file. 1: `data.pkl` of a sound archive with two storages. 2: the main pickle of a legacy stream and what follows.
//! 3: three pieces, the archive's `data.pkl`, `byteorder` and name of the storage, each after its length.
#![no_main]

use std::io::{Cursor, Write};

use libfuzzer_sys::{Corpus, fuzz_target};
use zip::{CompressionMethod, ZipWriter, write::SimpleFileOptions};

/// Magic number, protocol version and system info, as `torch.save` of 1.5 writes them.
const LEGACY: &[u8] = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.\x80\x02M\xe9\x03.\x80\x02}q\x00(X\x10\x00\x00\x00protocol_versionq\x01M\xe9\x03X\x0d\x00\x00\x00little_endianq\x02\x88X\x0a\x00\x00\x00type_sizesq\x03}q\x04(X\x05\x00\x00\x00shortq\x05K\x02X\x03\x00\x00\x00intq\x06K\x04X\x04\x00\x00\x00longq\x07K\x04uu.";

fn archive(entries: &[(&str, &[u8])]) -> Option<Vec<u8>> {
    let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
    let stored = SimpleFileOptions::default().compression_method(CompressionMethod::Stored);
    for (name, bytes) in entries {
        zip.start_file(*name, stored).ok()?;
        zip.write_all(bytes).ok()?;
    }
    Some(zip.finish().ok()?.into_inner())
}

fuzz_target!(|data: &[u8]| -> Corpus {
    let Some((mode, rest)) = data.split_first() else {
        return Corpus::Reject;
    };
    let storage: Vec<u8> = (0..=255).collect();
    let bytes = match mode {
        0 => rest.to_vec(),
        1 => {
            let entries: [(&str, &[u8]); 3] = [
                ("x/data.pkl", rest),
                ("x/data/0", &storage),
                ("x/data/1", &storage[..64]),
            ];
            let Some(bytes) = archive(&entries) else {
                return Corpus::Reject;
            };
            bytes
        }
        2 => [LEGACY, rest].concat(),
        3 => {
            let mut rest = rest;
            let mut piece = || {
                let (length, tail) = rest.split_first_chunk::<2>()?;
                let length = usize::from(u16::from_le_bytes(*length)).min(tail.len());
                let (head, tail) = tail.split_at(length);
                rest = tail;
                Some(head)
            };
            let (Some(pickle), Some(order), Some(name)) = (piece(), piece(), piece()) else {
                return Corpus::Reject;
            };
            let Ok(name) = std::str::from_utf8(name) else {
                return Corpus::Reject;
            };
            let entries = [
                ("x/data.pkl", pickle),
                ("x/byteorder", order),
                (name, storage.as_slice()),
            ];
            let Some(bytes) = archive(&entries) else {
                return Corpus::Reject;
            };
            bytes
        }
        _ => return Corpus::Reject,
    };
    i2vgen_fuzz::read(&i2vgen_fuzz::file("model.pth", &bytes));
    Corpus::Keep
});
