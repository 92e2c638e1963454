//! Reading files that may be bad, and archives made by hand.

#![allow(dead_code, reason = "every test binary uses a part of it")]

use std::{
    collections::BTreeMap,
    fs,
    io::{Cursor, Write},
    path::{Path, PathBuf},
};

use i2vgen_weights_converter::Source;
use safetensors::{Dtype, SafeTensors};
use zip::{CompressionMethod, ZipArchive, ZipWriter, write::SimpleFileOptions};

/// Number format, shape and bytes of every tensor.
pub(crate) type Values = BTreeMap<String, (Dtype, Vec<usize>, Vec<u8>)>;

/// One of `goldens/files`.
pub(crate) fn golden(name: &str) -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    root.join("tests/goldens/files").join(name)
}

/// Opens a file and reads every tensor, which must have the length that its shape asks for.
pub(crate) fn read(path: &Path) -> Result<Values, String> {
    let source = Source::open(path).map_err(|e| e.to_string())?;
    let mut values = Values::new();
    for (name, tensor) in source.tensors {
        let bytes = tensor.read().map_err(|e| format!("{name}: {e}"))?;
        let size = tensor.shape.iter().product::<usize>() * tensor.dtype.bitsize() / 8;
        assert_eq!(bytes.len(), size, "{name}");
        values.insert(name, (tensor.dtype, tensor.shape.clone(), bytes));
    }
    Ok(values)
}

/// What torch read from one of `goldens/files`.
pub(crate) fn expected(name: &str) -> Values {
    let bytes = fs::read(golden("expected.safetensors")).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let own = |(key, tensor): (&str, safetensors::tensor::TensorView<'_>)| {
        let key = key.strip_prefix(name)?.strip_prefix('/')?.to_owned();
        let data = tensor.data().to_vec();
        Some((key, (tensor.dtype(), tensor.shape().to_vec(), data)))
    };
    let values: Values = tensors.iter().filter_map(own).collect();
    assert!(!values.is_empty(), "{name} is not in expected.safetensors");
    values
}

/// A place for files, in memory where there is such a place.
pub(crate) struct Trial(tempfile::TempDir);

impl Trial {
    pub(crate) fn new() -> Self {
        let memory = Path::new("/dev/shm");
        let place = match memory.is_dir() {
            true => memory.to_owned(),
            false => std::env::temp_dir(),
        };
        Self(tempfile::tempdir_in(place).unwrap())
    }

    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }

    /// The content of a file, as a checkpoint.
    pub(crate) fn read(&self, bytes: &[u8]) -> Result<Values, String> {
        let path = self.path().join("file.bin");
        fs::write(&path, bytes).unwrap();
        read(&path)
    }

    /// What is said about a file that must not be accepted: one line that has all of `words`.
    #[track_caller]
    pub(crate) fn refuses(&self, bytes: &[u8], words: &[&str]) {
        let error = self.read(bytes).expect_err(&words.join(" "));
        for word in words {
            assert!(error.contains(word), "no '{word}' in: {error}");
        }
        assert_eq!(error.lines().count(), 1, "{error}");
    }
}

/// Entries of an archive, in order.
pub(crate) type Entries = Vec<(String, Vec<u8>)>;

/// Takes an archive apart.
pub(crate) fn entries(archive: &[u8]) -> Entries {
    let mut archive = ZipArchive::new(Cursor::new(archive)).unwrap();
    let mut entries = Vec::new();
    for i in 0..archive.len() {
        let mut entry = archive.by_index(i).unwrap();
        let mut bytes = Vec::new();
        std::io::Read::read_to_end(&mut entry, &mut bytes).unwrap();
        entries.push((entry.name().unwrap().into_owned(), bytes));
    }
    entries
}

/// Changes the first byte of an entry's content and nothing else.
pub(crate) fn flipped(archive: &[u8], entry: &str) -> Vec<u8> {
    let mut read = ZipArchive::new(Cursor::new(archive)).unwrap();
    let start = read.by_name(entry).unwrap().data_start().unwrap();
    let mut bytes = archive.to_vec();
    bytes[usize::try_from(start).unwrap()] ^= 1;
    bytes
}

/// Puts an archive together.
pub(crate) fn archive(entries: &Entries, deflated: bool) -> Vec<u8> {
    let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
    let options = SimpleFileOptions::default().compression_method(match deflated {
        true => CompressionMethod::Deflated,
        false => CompressionMethod::Stored,
    });
    for (name, bytes) in entries {
        zip.start_file(name.as_str(), options).unwrap();
        zip.write_all(bytes).unwrap();
    }
    zip.finish().unwrap().into_inner()
}

/// An archive with this pickle and one storage of 24 bytes, 0 to 23.
pub(crate) fn with_pickle(pickle: &[u8], deflated: bool) -> Vec<u8> {
    let entries = vec![
        ("x/data.pkl".to_owned(), pickle.to_vec()),
        ("x/byteorder".to_owned(), b"little".to_vec()),
        ("x/data/0".to_owned(), (0..24).collect()),
    ];
    archive(&entries, deflated)
}

/// Pickle code that makes a tensor of 32-bit floats in storage 0.
pub(crate) fn tensor(offset: u8, shape: &[u8], stride: &[u8]) -> Vec<u8> {
    let tuple = |numbers: &[u8]| {
        let mut code = b"(".to_vec();
        code.extend(numbers.iter().flat_map(|n| [b'K', *n]));
        code.push(b't');
        code
    };
    let text = |text: &str| [&[b'X', text.len() as u8, 0, 0, 0], text.as_bytes()].concat();
    [
        b"ctorch._utils\n_rebuild_tensor_v2\n((".to_vec(),
        text("storage"),
        b"ctorch\nFloatStorage\n".to_vec(),
        text("0"),
        text("cpu"),
        b"K\x06tQ".to_vec(),
        vec![b'K', offset],
        tuple(shape),
        tuple(stride),
        b"\x89ccollections\nOrderedDict\n)RtR".to_vec(),
    ]
    .concat()
}

/// Pickle code of a dictionary, with the end of the pickle.
pub(crate) fn dictionary(items: &[(&str, &[u8])]) -> Vec<u8> {
    let mut code = b"\x80\x02}(".to_vec();
    for (key, value) in items {
        code.extend([b'X', key.len() as u8, 0, 0, 0]);
        code.extend(key.as_bytes());
        code.extend(*value);
    }
    code.extend(b"u.");
    code
}
