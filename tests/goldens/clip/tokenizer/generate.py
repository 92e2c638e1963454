"""Token ids of transformers' CLIPTokenizerFast, for the demo model's vocabulary and for the published one.

    python generate.py

Writes cases.json, and published/{vocab.json, merges.txt}: of the published vocabulary only what spelling these texts can
touch, under the published ids. Needs transformers==4.51.3, tokenizers==0.21.4, and open_clip_torch==3.3.0 for its merges
(`pip download --no-deps` it and put the wheel on PYTHONPATH; the package itself is not imported).
"""

import gzip
import json
import sys
import tempfile
import zipfile
from pathlib import Path

import transformers
from transformers import CLIPTokenizerFast

assert transformers.__version__ == "4.51.3", transformers.__version__
HERE = Path(__file__).resolve().parent
DEMO = HERE.parents[3] / "crates/demo-model/model/tokenizer"
BOS, EOS = "<|startoftext|>", "<|endoftext|>"

TEXTS = [
    # plain
    "", " ", "a", "a red circle moves left", "Papers were floating in the air on a table in the library",
    "  Hello   WORLD!! ", "A.B.C. 3.14 #tag @user", "1234567890 12 3,000.50", "snake_case kebab-case CamelCase",
    # contractions and quotes
    "It's 1999, they're here... (don't)", "I'VE WE'LL HE'D YOU'RE 'TIS 'S's''s", "can't 'quoted' \"double\"",
    "“curly” ‘quotes’ — dash…", "it’s",
    # whitespace and control characters
    "tab\tnew\nline", "a\r\nb\r\rc", "\u00a0nbsp\u200bzw", "\u2003em\u2003space\u3000ideographic", "\u0085next\u2028line\u2029para",
    "nul\u0000bell\u0007esc\u001b[0m", "\u001cfile\u001dgroup\u001erecord\u001funit", "\ufeffbom", "soft\u00adhyphen", "del\u007f",
    "\n\n\n", "trailing   ", "mongolian\u180evowel",
    # letters beyond ASCII
    "naïve café Ünïcode ﬁ ½ ™", "é combining", "e\u0301 combining", "İstanbul ǅ ẞ", "ΑΣ ΟΔΟΣ σς", "schÃ¶n mojibake",
    "Привет, мир!", "שלום עולם", "مرحبا بالعالم ١٢٣", "हिन्दी में लेख", "ไทยไม่มีเว้นวรรค", "Việt Nam đẹp", "ⅣⅫ ²³ ①②",
    "𝔘𝔫𝔦𝔠𝔬𝔡𝔢 𝟙𝟚𝟛", "\u212b \u2126 \u1e9b\u0323", "K\u212a", "ǆ ǅ Ǆ",
    # CJK
    "日本語のテキスト", "猫と犬 cat", "中文，标点。", "한국어 텍스트", "\u1112\u1161\u11ab", "ﾊﾝｶｸ",
    # emoji
    "emoji 😀🎉 test", "👨‍👩‍👧‍👦 family", "🏳️‍🌈🇩🇪", "👍🏽", "☃️❄",
    # markup
    "&lt;b&gt; &amp;amp; html", "<b>bold</b> <br/>", "http://example.com/?q=1&r=2", "a\\nb \\u00e9", "$100 €5 £3 ¥7 50%",
    "!!! 0 00", "hello!world", "((((weight:1.3))))", "_-_-_ *** ~~~ ``` ^^^", "…", "¿qué? ¡sí!",
    # special tokens
    "<|startoftext|>hi<|endoftext|> there", "<|ENDOFTEXT|> <|StartOfText|>", "a<|endoftext|>b", "<|endoftext|",
    "< |endoftext|>", "x <|endoftext|>", "<|padding|>",
    # length
    " ".join(["word"] * 75), " ".join(["word"] * 76), "word " * 10_000, "x" * 200, "é" * 100, "😀" * 60, "!" * 80,
    "supercalifragilisticexpialidocious antidisestablishmentarianism",
]


def published(folder):
    """The vocabulary that clip.md describes, as vocab.json and merges.txt."""
    wheel = next(p for p in sys.path if "open_clip_torch" in p)
    with zipfile.ZipFile(wheel) as archive:
        packed = archive.read("open_clip/bpe_simple_vocab_16e6.txt.gz")
    merges = gzip.decompress(packed).decode().split("\n")[1 : 49152 - 256 - 2 + 1]
    merges = [tuple(line.split()) for line in merges]
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    rest = [n for n in range(256) if n not in printable]
    symbols = [chr(n) for n in printable] + [chr(256 + i) for i in range(len(rest))]
    tokens = symbols + [s + "</w>" for s in symbols] + ["".join(pair) for pair in merges] + [BOS, EOS]
    assert len(tokens) == 49408
    write(folder, {token: i for i, token in enumerate(tokens)}, merges)
    return merges, {token: i for i, token in enumerate(tokens)}


def write(folder, vocab, merges):
    folder.mkdir(exist_ok=True)
    text = json.dumps(vocab, ensure_ascii=False, separators=(",", ":"))
    (folder / "vocab.json").write_text(text)
    lines = ["#version: 0.2"] + [" ".join(pair) for pair in merges]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n")


def touched(word, ranks):
    """Every known pair that stands side by side at some time while `word` is merged."""
    parts, seen = [*word[:-1], word[-1] + "</w>"], set()
    while True:
        pairs = {p for p in zip(parts, parts[1:]) if p in ranks}
        seen |= pairs
        if not pairs:
            return seen
        best, merged = min(pairs, key=ranks.get), []
        for part in parts:
            if merged and (merged[-1], part) == best:
                merged[-1] += part
            else:
                merged.append(part)
        parts = merged


def flagged(token):
    return {"content": token, "single_word": False, "lstrip": False, "rstrip": False, "normalized": True,
            "__type": "AddedToken"}


# How folders in the wild describe their special tokens.
CONFIGS = {
    "bare": {},
    # laion/CLIP-ViT-H-14-laion2B-s32B-b79K and openai/clip-vit-*
    "flags": {
        "tokenizer_config.json": {
            "unk_token": flagged(EOS), "bos_token": flagged(BOS), "eos_token": flagged(EOS), "pad_token": EOS,
            "add_prefix_space": False, "errors": "replace", "do_lower_case": True, "model_max_length": 77,
            "tokenizer_class": "CLIPTokenizer",
        },
    },
    # stabilityai/stable-diffusion-2-1: the map has the last word
    "exclamation": {
        "tokenizer_config.json": {
            "unk_token": flagged(EOS), "bos_token": flagged(BOS), "eos_token": flagged(EOS), "pad_token": EOS,
            "add_prefix_space": False, "errors": "replace", "do_lower_case": True, "model_max_length": 77,
            "tokenizer_class": "CLIPTokenizer",
        },
        "special_tokens_map.json": {"bos_token": flagged(BOS), "eos_token": flagged(EOS), "pad_token": "!",
                                    "unk_token": flagged(EOS)},
    },
    # As transformers writes since 4.34: the map is not read
    "decoder": {
        "tokenizer_config.json": {
            "added_tokens_decoder": {
                str(n): {"content": token, "single_word": False, "lstrip": False, "rstrip": False,
                         "normalized": token == EOS, "special": True}
                for n, token in ((0, "!"), (49406, BOS), (49407, EOS))
            },
            "unk_token": EOS, "bos_token": BOS, "eos_token": EOS, "pad_token": "!", "model_max_length": 77,
            "tokenizer_class": "CLIPTokenizer",
        },
        "special_tokens_map.json": {"pad_token": EOS},
    },
}


def encode(tokenizer, text):
    ids = tokenizer(text, padding="max_length", max_length=77, truncation=True)["input_ids"]
    assert len(ids) == 77
    return ids


def tokenizer_from(vocabulary, config, folder):
    for name in ("vocab.json", "merges.txt"):
        (folder / name).write_bytes((vocabulary / name).read_bytes())
    for name, content in config.items():
        (folder / name).write_text(json.dumps(content))
    return CLIPTokenizerFast.from_pretrained(folder)


def shortened(ids):
    """Without the repeats of the last id but one of them."""
    n = len(ids)
    while n > 1 and ids[n - 2] == ids[-1]:
        n -= 1
    return ids[:n]


def main():
    with tempfile.TemporaryDirectory() as temporary:
        temporary = Path(temporary)
        full = temporary / "full"
        merges, vocab = published(full)
        ranks = {pair: i for i, pair in enumerate(merges)}
        results, pairs = {}, set()
        for name, config in CONFIGS.items():
            (temporary / name).mkdir()
            tokenizer = tokenizer_from(full, config, temporary / name)
            results[name] = [encode(tokenizer, text) for text in TEXTS]
            backend = tokenizer.backend_tokenizer
            for text in TEXTS:
                text = backend.normalizer.normalize_str(text)
                for piece in text.split("!") + [text]:
                    for word, _ in backend.pre_tokenizer.pre_tokenize_str(piece):
                        if len(word) < 400:
                            pairs |= touched(word, ranks)
        # Every vocabulary entry that spelling can reach, in the published order.
        kept = {s for s in vocab if len(s.removesuffix("</w>")) == 1} | {"".join(p) for p in pairs} | {BOS, EOS}
        subset = {token: i for token, i in vocab.items() if token in kept}
        write(HERE / "published", subset, sorted(pairs, key=ranks.get))
        for name, config in CONFIGS.items():
            (temporary / f"{name}_subset").mkdir()
            tokenizer = tokenizer_from(HERE / "published", config, temporary / f"{name}_subset")
            assert [encode(tokenizer, text) for text in TEXTS] == results[name], name
    assert results["bare"] == results.pop("flags")
    demo = CLIPTokenizerFast.from_pretrained(DEMO)
    results["demo"] = [encode(demo, text) for text in TEXTS]
    cases = [
        {"text": text, **{name: shortened(rows[i]) for name, rows in results.items()}}
        for i, text in enumerate(TEXTS)
    ]
    lines = ",\n".join(json.dumps(case, ensure_ascii=True, separators=(",", ":")) for case in cases)
    configs = json.dumps(CONFIGS)
    (HERE / "cases.json").write_text(f'{{"configs":{configs},\n"cases":[\n{lines}\n]}}\n')


if __name__ == "__main__":
    main()
