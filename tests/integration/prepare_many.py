"""Several configurations through Axolotl's own `preprocess`, in one process of the training python.

`prepare_many.py CONFIG.yml ...` writes each log to CONFIG.log, and the tokenizer that Axolotl would save with the model to
CONFIG.tokenizer. What costs most, the import of Axolotl, is paid once.
"""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path


def main() -> None:
    from axolotl.cli.config import load_cfg
    from axolotl.cli.preprocess import do_cli
    from axolotl.loaders import load_tokenizer

    for config in sys.argv[1:]:
        sys.argv[1:] = []  # Axolotl's parser reads it
        with open(Path(config).with_suffix(".log"), "w") as log, contextlib.redirect_stdout(log):
            do_cli(config, download=False, output_dir=f"{config}.out")
            load_tokenizer(load_cfg(config, output_dir=f"{config}.out")).save_pretrained(
                Path(config).with_suffix(".tokenizer")
            )


if __name__ == "__main__":
    main()
