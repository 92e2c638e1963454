"""Opens in diffusers 0.33.1 the configs that the test `configs_go_around` saved, and compares every value that its class reads.

    python open_configs.py TARGET/tmp/scheduler_configs
"""

import json
import pathlib
import sys

import diffusers
import diffusers.schedulers

assert diffusers.__version__ == "0.33.1", diffusers.__version__
folders = sorted(pathlib.Path(sys.argv[1]).iterdir())
for folder in folders:
    saved = json.loads((folder / "scheduler_config.json").read_text())
    cls = getattr(diffusers.schedulers, saved["_class_name"])
    config = cls.from_pretrained(folder).config
    known = set(cls._get_init_keys(cls)) & set(saved)
    wrong = {key: (saved[key], config[key]) for key in known if config[key] != saved[key]}
    assert not wrong, (folder.name, wrong)
    print(folder.name, cls.__name__, len(known), "values")
assert len(folders) == 13, len(folders)
