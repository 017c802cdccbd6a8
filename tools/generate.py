"""Write the generated files, or with --check say which are stale.

python -m tools.generate
python -m tools.generate --check
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from ftdoctor.errors import RuleError
from ftdoctor.rulecheck.docs import generated

ROOT = Path(__file__).resolve().parent.parent


def main() -> int:
    """Exit code 1 when something is stale (--check) or a rule is broken."""
    parser = argparse.ArgumentParser(description="Write or check the generated files.")
    parser.add_argument("--check", action="store_true", help="change nothing, name stale files")
    options = parser.parse_args()
    try:
        files = generated(ROOT)
    except RuleError as error:
        print("\n".join(error.problems), file=sys.stderr)
        return 1
    stale = [path for path, text in files.items() if not path.is_file() or path.read_text(encoding="utf-8") != text]
    pages = ROOT / "docs" / "rules"
    orphans = [path for path in sorted(pages.glob("*.md")) if path not in files] if pages.is_dir() else []
    for path in [*stale, *orphans]:
        print(f"{'stale' if options.check else 'written'}: {path.relative_to(ROOT)}")
    if options.check:
        if stale or orphans:
            print("run `make docs` and commit the result", file=sys.stderr)
        return 1 if stale or orphans else 0
    for path in stale:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(files[path], encoding="utf-8")
    for path in orphans:
        path.unlink()
    return 0


if __name__ == "__main__":
    sys.exit(main())
