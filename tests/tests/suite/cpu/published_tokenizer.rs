//! The tokenizer that `convert trio` writes gives transformers' ids (reference: `tokenizer_vectors.json`, fast tokenizer).

use i2vgen_checkpoint::Folder;
use i2vgen_clip_encoders::CLIPTokenizer;

#[test]
fn the_embedded_vocabulary_gives_the_published_ids() {
    let dir = tempfile::tempdir().expect("a folder");
    for (name, bytes) in i2vgen_weights_converter::published_tokenizer().expect("unpacks") {
        std::fs::write(dir.path().join(name), bytes).expect("written");
    }
    let folder = Folder::open(dir.path()).expect("opens");
    let tokenizer = CLIPTokenizer::from_folder(&folder).expect("loads");
    let cases: [(&str, &[u32]); 5] = [
        (
            "Papers were floating in the air on a table in the library",
            &[
                8204, 1365, 12619, 530, 518, 1922, 525, 320, 2175, 530, 518, 3519,
            ],
        ),
        ("  Hello   WORLD!! ", &[3306, 1002, 748]),
        (
            "It's 1999, they're here... (don't)",
            &[
                585, 568, 272, 280, 280, 280, 267, 889, 982, 763, 678, 263, 847, 713, 264,
            ],
        ),
        (
            "日本語のテキスト",
            &[
                39121, 44353, 34002, 252, 21575, 2429, 228, 47121, 32421, 486,
            ],
        ),
        ("emoji 😀🎉 test", &[16327, 12832, 3986, 1628]),
    ];
    for (text, ids) in cases {
        let mut want = vec![49406];
        want.extend(ids);
        want.resize(77, 49407);
        let found = tokenizer.encode(text).expect("encodes").ids;
        assert_eq!(found, want, "{text}");
    }
}
