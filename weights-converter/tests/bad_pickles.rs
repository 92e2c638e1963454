//! `torch.save` files that are damaged, hostile or odd: the right values or a clear error, and nothing is ever run.

mod support;

use std::{fs, path::Path};

use support::{
    Trial, archive, dictionary, entries, expected, flipped, golden, read, tensor, with_pickle,
};

/// What torch.load of the hostile files in `goldens/files` would create.
const MARKER: &str = "/tmp/i2vgen-bad-input-was-executed";

#[test]
fn what_torch_writes_is_read_right() {
    for name in [
        "plain.pth",
        "protocol4.pth",
        "legacy.pth",
        "views.pth",
        "views_legacy.pth",
        "no_crc.pth",
        "wrapped.pth",
        "training.ckpt",
        "training_no_crc.ckpt",
        "integer_keys.pth",
        "parameters.pth",
        "module.pth",
        "system_outside.pth",
    ] {
        assert_eq!(read(&golden(name)), Ok(expected(name)), "{name}");
    }
}

#[test]
fn nothing_in_a_pickle_is_run() {
    let inside = [
        ("system_inside.pth", "posix.system"),
        ("system_flat.pth", "posix.system"),
        ("system_root.pth", "not a readable PyTorch file"),
    ];
    for (name, word) in inside {
        let error = read(&golden(name)).expect_err(name);
        assert!(error.contains(word), "{name}: {error}");
    }
    let trial = Trial::new();
    let text = |text: &str| [&[b'X', text.len() as u8, 0, 0, 0], text.as_bytes()].concat();
    let touch = text(&format!("touch {MARKER}"));
    let calls: [Vec<u8>; 6] = [
        [b"cos\nsystem\n".as_slice(), &touch, b"\x85R"].concat(),
        [&*text("os"), &text("system"), b"\x93", &touch, b"\x85R"].concat(),
        [b"cos\nsystem\n".as_slice(), &touch, b"\x85\x81"].concat(),
        [b"cos\nsystem\n".as_slice(), &touch, b"\x85}\x92"].concat(),
        [b"(".as_slice(), &touch, b"ios\nsystem\n"].concat(),
        [b"(cos\nsystem\n".as_slice(), &touch, b"o"].concat(),
    ];
    for call in calls {
        let good = tensor(0, &[2], &[1]);
        let flat = dictionary(&[("a", &good), ("evil", &call)]);
        trial.refuses(&with_pickle(&flat, false), &["'evil'", "os.system"]);
        // Beside the wanted tensors nobody looks at it.
        let state = dictionary(&[("a", &good)]);
        let state = &state[2..state.len() - 1];
        let around = dictionary(&[("evil", &call), ("state_dict", state)]);
        let found = trial.read(&with_pickle(&around, false)).unwrap();
        assert_eq!(found["a"].2, (0..8).collect::<Vec<u8>>());
    }
    assert!(!Path::new(MARKER).exists());
}

#[test]
fn what_cannot_be_represented_is_told() {
    for (name, word) in [
        ("quantized.pth", "'q'"),
        ("sparse.pth", "'s'"),
        ("complex.pth", "'a'"),
        ("plain.pickle", "not a readable PyTorch file"),
    ] {
        let error = read(&golden(name)).expect_err(name);
        assert!(
            error.contains(word) && error.lines().count() == 1,
            "{name}: {error}"
        );
    }
}

/// Every beginning of a valid file is an error. (In a legacy stream the last storage comes last, so that holds there too.)
#[test]
fn every_prefix() {
    let trial = Trial::new();
    for name in [
        "plain.pth",
        "views.pth",
        "training.ckpt",
        "legacy.pth",
        "views_legacy.pth",
    ] {
        let bytes = fs::read(golden(name)).unwrap();
        let want = expected(name);
        for end in 0..bytes.len() {
            if let Ok(found) = trial.read(&bytes[..end]) {
                assert_eq!(found, want, "{name} cut at {end}");
            }
        }
    }
}

/// What has checksums is an error or gives the right values; what has none gives values of the right length.
#[test]
fn every_flipped_byte() {
    let trial = Trial::new();
    for (name, checked) in [
        ("plain.pth", true),
        ("views.pth", true),
        ("training.ckpt", true),
        ("legacy.pth", false),
        ("views_legacy.pth", false),
        ("no_crc.pth", false),
    ] {
        let mut bytes = fs::read(golden(name)).unwrap();
        let want = expected(name);
        for at in 0..bytes.len() {
            for flip in [1, 8, 64, 128, 255] {
                bytes[at] ^= flip;
                let found = trial.read(&bytes);
                if let (true, Ok(found)) = (checked, found) {
                    assert_eq!(found, want, "{name}: byte {at} ^ {flip}");
                }
                bytes[at] ^= flip;
            }
        }
    }
}

#[test]
fn compressed_archives_are_read_right() {
    let trial = Trial::new();
    for name in ["plain.pth", "views.pth"] {
        let bytes = archive(&entries(&fs::read(golden(name)).unwrap()), true);
        assert_eq!(trial.read(&bytes), Ok(expected(name)), "{name}");
    }
}

#[test]
fn checksums_are_compared_whatever_part_of_a_storage_is_used() {
    let trial = Trial::new();
    for (name, used) in [("plain.pth", 7), ("views.pth", 2), ("training.ckpt", 9)] {
        let bytes = fs::read(golden(name)).unwrap();
        let mut told = 0;
        for (entry, content) in entries(&bytes) {
            if entry.contains("/data/") && !content.is_empty() {
                match trial.read(&flipped(&bytes, &entry)) {
                    Err(error) => {
                        assert!(error.contains("hecksum"), "{name} {entry}: {error}");
                        told += 1;
                    }
                    // Belongs to what lies beside the state_dict.
                    Ok(found) => assert_eq!(found, expected(name), "{name} {entry}"),
                }
            }
        }
        assert_eq!(told, used, "{name}");
    }
    // One of six numbers is used, and another is wrong.
    let pickle = dictionary(&[("a", &tensor(4, &[1], &[1]))]);
    for deflated in [false, true] {
        let bytes = with_pickle(&pickle, deflated);
        assert!(trial.read(&bytes).is_ok());
        let words: &[&str] = if deflated {
            &["a: "]
        } else {
            &["a: ", "checksum"]
        };
        trial.refuses(&flipped(&bytes, "x/data/0"), words);
        trial.refuses(&flipped(&bytes, "x/data.pkl"), &["data.pkl"]);
    }
}

#[test]
fn archives_that_contradict_themselves() {
    let trial = Trial::new();
    let plain = fs::read(golden("plain.pth")).unwrap();
    let parts = entries(&plain);
    let want = expected("plain.pth");

    // Another root, which would lead out of a folder if anything were unpacked.
    let climbing = |(name, bytes): &(String, Vec<u8>)| (format!("../../../{name}"), bytes.clone());
    let bytes = archive(&parts.iter().map(climbing).collect(), false);
    assert_eq!(trial.read(&bytes), Ok(want.clone()));
    assert_eq!(fs::read_dir(trial.path()).unwrap().count(), 1);
    assert!(!trial.path().join("../../../plain").exists());

    // Two entries of one name: the writer refuses that, so one of the same length is renamed.
    let mut twice = parts.clone();
    twice.push(("plain/data/X".into(), vec![7; 24]));
    let mut bytes = archive(&twice, false);
    for at in 0..bytes.len() - 12 {
        if bytes[at..].starts_with(b"plain/data/X") {
            bytes[at + 11] = b'0';
        }
    }
    trial.refuses(&bytes, &["two entries have one name"]);

    let mut two = parts.clone();
    two.push(("y/data.pkl".into(), parts[0].1.clone()));
    trial.refuses(&archive(&two, false), &["two data.pkl"]);

    let none = parts[1..].to_vec();
    trial.refuses(&archive(&none, false), &["no data.pkl"]);
    let without = |part: &str| {
        let kept = parts.iter().filter(|(name, _)| !name.ends_with(part));
        archive(&kept.cloned().collect(), false)
    };
    trial.refuses(&without("/data/1"), &["not in the archive"]);
    assert_eq!(trial.read(&without("/byteorder")), Ok(want));

    for (order, words) in [("big", "big-endian"), ("middle", "byte order")] {
        for name in ["plain.pth", "training.ckpt"] {
            let mut parts = entries(&fs::read(golden(name)).unwrap());
            let entry = parts
                .iter_mut()
                .find(|(name, _)| name.ends_with("/byteorder"));
            entry.unwrap().1 = order.into();
            trial.refuses(&archive(&parts, false), &[words]);
        }
    }
    // The writer's byte order in a legacy stream.
    let mut legacy = fs::read(golden("legacy.pth")).unwrap();
    let word = b"little_endian";
    let at = legacy.windows(word.len()).position(|w| w == word).unwrap();
    let flag = legacy[at..].iter().position(|b| *b == 0x88).unwrap();
    legacy[at + flag] = 0x89;
    trial.refuses(&legacy, &["ig-endian"]);
}

/// Sizes and places in the directory and in the local headers that lie, in 32 bits and in zip64's 64.
#[test]
fn sizes_that_lie() {
    let trial = Trial::new();
    for name in ["plain.pth", "training.ckpt"] {
        let bytes = fs::read(golden(name)).unwrap();
        let want = expected(name);
        let heads = |magic: &[u8]| -> Vec<usize> {
            let starts = |at: &usize| bytes[*at..].starts_with(magic);
            (0..bytes.len()).filter(starts).collect()
        };
        // Checksum, sizes, length of name and extras, place.
        let fields = [
            (b"PK\x01\x02", &[16, 20, 24, 28, 30, 42][..]),
            (b"PK\x03\x04", &[14, 18, 22, 26]),
        ];
        for (magic, fields) in fields {
            for head in heads(magic) {
                for field in fields {
                    for lie in [0_u32, 1, 0x0001_0000, 0x7fff_ffff, 0xffff_fffe, 0xffff_ffff] {
                        let mut bytes = bytes.clone();
                        bytes[head + field..head + field + 4].copy_from_slice(&lie.to_le_bytes());
                        match trial.read(&bytes) {
                            // The central directory is what counts. A checksum of zero is none.
                            Ok(found) => {
                                assert_eq!(found, want, "{name}: {lie:x} at {head}+{field}")
                            }
                            Err(error) => assert_eq!(error.lines().count(), 1, "{error}"),
                        }
                    }
                }
            }
        }
        // The directory of every entry with a zip64 extra whose sizes and place are lies.
        for lie in [0_u64, 1, 1 << 31, 1 << 40, u64::MAX - 1, u64::MAX] {
            for head in heads(b"PK\x01\x02") {
                let name_length =
                    usize::from(u16::from_le_bytes([bytes[head + 28], bytes[head + 29]]));
                let mut lying = bytes.clone();
                lying[head + 20..head + 28].fill(0xff);
                lying[head + 42..head + 46].fill(0xff);
                lying[head + 30..head + 32].copy_from_slice(&28_u16.to_le_bytes());
                let extra = [
                    &[1, 0, 24, 0][..],
                    &lie.to_le_bytes(),
                    &lie.to_le_bytes(),
                    &lie.to_le_bytes(),
                ];
                let at = head + 46 + name_length;
                lying.splice(at..at, extra.concat());
                if let Ok(found) = trial.read(&lying) {
                    assert_eq!(found, want, "{name}: {lie:x} at {head}");
                }
            }
        }
    }
}

#[test]
fn containers_in_themselves() {
    let trial = Trial::new();
    let good = tensor(0, &[2], &[1]);
    let cyclic: [Vec<u8>; 3] = [
        // d = {}; d["a"] = tensor; d["self"] = d
        [
            b"\x80\x02}q\x01(X\x01\0\0\0a".as_slice(),
            &good,
            b"X\x04\0\0\0selfh\x01u.",
        ]
        .concat(),
        // l = []; l.append(l); d = {"a": tensor, "l": l}
        [
            b"\x80\x02}(X\x01\0\0\0a".as_slice(),
            &good,
            b"X\x01\0\0\0l]q\x01h\x01au.",
        ]
        .concat(),
        // d = OrderedDict(); d["self"] = d
        [
            b"\x80\x02ccollections\nOrderedDict\n)Rq\x01(X\x01\0\0\0a".as_slice(),
            &good,
            b"X\x04\0\0\0selfh\x01u.",
        ]
        .concat(),
    ];
    for pickle in cyclic {
        trial.refuses(&with_pickle(&pickle, false), &["contain themselves"]);
    }
    // A list of two lists of two lists …: 60 deep it has 2^60 leaves.
    let mut doubling = b"\x80\x02}(X\x01\0\0\0a".to_vec();
    doubling.extend(&good);
    doubling.extend(b"X\x01\0\0\0l]q\x01");
    for _ in 0..60 {
        doubling.extend(b"0h\x01h\x01\x86q\x01");
    }
    doubling.extend(b"u.");
    trial.refuses(&with_pickle(&doubling, false), &["contain themselves"]);
    let mut deep = b"\x80\x02}(X\x01\0\0\0a".to_vec();
    deep.extend(&good);
    deep.extend(b"X\x01\0\0\0lN");
    deep.extend([0x85; 100_000]);
    deep.extend(b"u.");
    trial.refuses(&with_pickle(&deep, false), &["nest too deeply"]);
}

#[test]
fn names_that_collide() {
    let trial = Trial::new();
    let (one, two) = (tensor(0, &[2], &[1]), tensor(2, &[2], &[1]));
    let inner = dictionary(&[("b", &two)]);
    let inner = &inner[2..inner.len() - 1];
    let dotted = dictionary(&[("a.b", &one), ("a", inner)]);
    trial.refuses(
        &with_pickle(&dotted, false),
        &["two of its tensors are called 'a.b'"],
    );
    let numbered = [
        b"\x80\x02}(X\x01\0\0\x005".as_slice(),
        &one,
        b"K\x05",
        &two,
        b"u.",
    ]
    .concat();
    trial.refuses(&with_pickle(&numbered, false), &["'5'"]);
    // As in Python, the second of two equal keys wins.
    let again = dictionary(&[("a", &one), ("a", &two)]);
    let found = trial.read(&with_pickle(&again, false)).unwrap();
    assert_eq!(found["a"].2, (8..16).collect::<Vec<u8>>());
    let odd = dictionary(&[("a\x1b[2J", &one)]);
    trial.refuses(&with_pickle(&odd, false), &["unprintable"]);
    let odd = dictionary(&[("a", &one), ("b", b"c\x1b[2Jos\nsystem\n)R")]);
    let error = trial.read(&with_pickle(&odd, false)).unwrap_err();
    assert!(
        error.contains("[2Jos.system") && !error.contains(char::is_control),
        "{error:?}"
    );
    let strange = [b"\x80\x02}(N".as_slice(), &one, b"u."].concat();
    trial.refuses(&with_pickle(&strange, false), &["not a string"]);
}

#[test]
fn views_by_hand() {
    let trial = Trial::new();
    let numbers =
        |indices: &[u8]| -> Vec<u8> { indices.iter().flat_map(|i| i * 4..i * 4 + 4).collect() };
    let cases: [(&str, Vec<u8>, &[u8]); 6] = [
        ("expanded", tensor(1, &[2, 3], &[0, 0]), &[1, 1, 1, 1, 1, 1]),
        ("rows", tensor(1, &[2, 2], &[0, 1]), &[1, 2, 1, 2]),
        (
            "overlapping",
            tensor(0, &[3, 3], &[1, 1]),
            &[0, 1, 2, 1, 2, 3, 2, 3, 4],
        ),
        (
            "transposed",
            tensor(0, &[3, 2], &[1, 3]),
            &[0, 3, 1, 4, 2, 5],
        ),
        ("spread", tensor(1, &[2], &[4]), &[1, 5]),
        ("alone", tensor(5, &[1, 1], &[9, 200]), &[5]),
    ];
    let items: Vec<(&str, &[u8])> = cases
        .iter()
        .map(|(name, code, _)| (*name, &**code))
        .collect();
    let with_key = dictionary(&items);
    // With a class as a key around it, another reader is used.
    let inner = &with_key[2..with_key.len() - 1];
    let around = [
        b"\x80\x02}(ca\nB\nNX\x0a\0\0\0state_dict".as_slice(),
        inner,
        b"u.",
    ]
    .concat();
    for pickle in [with_key.clone(), around] {
        for deflated in [false, true] {
            let found = trial.read(&with_pickle(&pickle, deflated)).unwrap();
            for (name, _, indices) in &cases {
                assert_eq!(found[*name].2, numbers(indices), "{name}");
            }
        }
    }
    for (code, word) in [
        (tensor(0, &[7], &[1]), "beyond its storage"),
        (tensor(6, &[1], &[1]), "beyond its storage"),
        (tensor(0, &[2, 2], &[1, 5]), "beyond its storage"),
        (tensor(0, &[255; 9], &[0; 9]), "too large"),
        (tensor(0, &[255; 5], &[0; 5]), "too large"),
        (tensor(0, &[1; 65], &[1; 65]), "_rebuild_tensor_v2"),
        (tensor(0, &[2, 1], &[1]), "_rebuild_tensor_v2"),
    ] {
        trial.refuses(
            &with_pickle(&dictionary(&[("a", &code)]), false),
            &["'a'", word],
        );
    }
}
