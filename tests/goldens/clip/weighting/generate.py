"""Weighted prompts on the demo model: own parser, transformers' tokenizer and text tower, the rule in torch.

    python generate.py

Writes cases.json (prompts, the text without brackets, ids and weights) and hidden.safetensors (embeddings at clip_skip 1).
Needs torch==2.15.0, transformers==4.51.3.
"""

import json
from pathlib import Path

import torch
import transformers
from safetensors.torch import save_file
from transformers import CLIPTextModel, CLIPTokenizerFast

assert torch.__version__.startswith("2.15.0"), torch.__version__
assert transformers.__version__ == "4.51.3", transformers.__version__
HERE = Path(__file__).resolve().parent
DEMO = HERE.parents[3] / "crates/demo-model/model"
PROMPTS = [
    "a (red:1.3) circle moves left",
    "a ((red)) circle [moves] left",
    "(a [blue] (square:1.5):0.5) stays still",
    r"a \(green\) star, (grows:2.5) é",
    "a yel(low:1.4) triangle and something unfore(seen:0.2)",
    "(" + "a star " * 40 + ":1.2) cut",
    "a plain prompt",
]
torch.set_num_threads(1)


def letters(prompt):
    """The characters that remain and the weight of each, by recursion."""
    position = 0

    def group(closing):
        nonlocal position
        found = []
        while position < len(prompt):
            c = prompt[position]
            position += 1
            if c == "\\":
                found.append((prompt[position], 1.0))
                position += 1
            elif c in "([":
                found += group({"(": ")", "[": "]"}[c])
            elif c == closing:
                factor = 1.1 if c == ")" else 1 / 1.1
                end = "".join(letter for letter, _ in found).rsplit(":", 1)
                if c == ")" and len(end) == 2 and end[1].replace(".", "").isdigit():
                    factor, found = float(end[1]), found[: -len(end[1]) - 1]
                return [(letter, weight * factor) for letter, weight in found]
            else:
                found.append((c, 1.0))
        return found

    return group(None)


@torch.no_grad()
def main():
    tokenizer = CLIPTokenizerFast.from_pretrained(DEMO / "tokenizer")
    encoder = CLIPTextModel.from_pretrained(DEMO / "text_encoder", torch_dtype=torch.float32).eval()
    cases, tensors = [], {}
    for number, prompt in enumerate(PROMPTS):
        found = letters(prompt)
        text = "".join(letter for letter, _ in found)
        tokens = tokenizer(text, padding="max_length", truncation=True, max_length=77, return_offsets_mapping=True)
        ids = torch.tensor([tokens["input_ids"]])
        weights = [found[start][1] if end > start else 1.0 for start, end in tokens["offset_mapping"]]
        hidden = encoder(ids, output_hidden_states=True).hidden_states[-2]
        z = encoder.text_model.final_layer_norm(hidden)
        weighted = z * torch.tensor(weights)[None, :, None]
        weighted = weighted * (z.mean() / weighted.mean())
        cases.append({"prompt": prompt, "text": text, "ids": tokens["input_ids"], "weights": weights})
        tensors[f"{number}"] = weighted.contiguous()
    (HERE / "cases.json").write_text("[\n" + ",\n".join(json.dumps(c) for c in cases) + "\n]\n")
    save_file(tensors, HERE / "hidden.safetensors")


main()
