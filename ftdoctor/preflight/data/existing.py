"""The samples that lie prepared already, judged in a preflight: is what will be trained what inference will ask?

Axolotl takes a prepared set whose folder has the hash of the configuration's data part as its name, and prepares anew
when there is none. Their names come from the installed Axolotl (`validate.Answer.prepared`). Without them the
newest set is looked at, and it is a verdict only when the YAML was not written after it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

from ftdoctor.errors import InputError
from ftdoctor.events import FactLearned, Origin
from ftdoctor.preflight import sizes
from ftdoctor.preflight.checks import Seen
from ftdoctor.preflight.data import contract, parity, telling
from ftdoctor.preflight.data.check import files_of
from ftdoctor.training_python import TrainingPython

SECONDS = 60.0
PROOF_SECONDS = 45.0
SOON = 0.5
SCANNED = 512 << 20  # bytes of Arrow files that are read whole; the proof takes samples of any size
WIDTH = 60
COPIED = 60 * 10**9  # ns: the files of a folder that was copied are this near to each other
AGAIN = "run `ftdoctor preprocess`, which prepares and judges it"

Names = tuple[str, str | None]
Proven = tuple[dict[str, Any], dict[str, Any], str]


def look(python: TrainingPython, config: Path, data: Mapping[str, Any], names: Callable[[], Names | None]) -> Seen:
    """The preflight's check: the proof, and the counts of the samples where they are not too many to be read.

    `names` may take as long as an import of Axolotl; where there is one set only, it is proven meanwhile.
    """
    found = contract.sets(data, config.parent)
    folder, test = contract.newest(data, config.parent)
    with ThreadPoolExecutor(1) as asking:
        named = asking.submit(names)
        wait([named], SOON)
        guess = None if named.done() or len(found) > 1 + bool(test) else folder
        proof = _prove(python, config, data, guess) if guess else None
        expected = named.result()
    if expected is not None:
        by_name = {path.name: path for path in found}
        if (own := by_name.get(expected[0])) is None:
            told = f"none of {len(found)} prepared in {folder.parent} is of this configuration: Axolotl prepares anew"
            return Seen(told, {}, "absent", AGAIN)
        folder, test = own, by_name.get(expected[1] or "")
    sure = expected is not None or (folder / "state.json").stat().st_mtime_ns >= config.stat().st_mtime_ns
    about, compared, problem = proof if proof and guess == folder else _prove(python, config, data, folder)
    asked = contract.asked(data, about, test)
    lines = [f"{folder.parent.name}/{folder.name}"]
    facts = list(contract.parity_facts(about, compared))
    scanned: dict[str, Any] = {"rows": 0}
    size = sum(path.stat().st_size for path in folder.glob("*.arrow"))
    if size <= SCANNED:
        try:
            scanned = contract.scan(folder, asked, python.path)
        except InputError as error:
            return Seen(f"{lines[0]} {error.seen}", {}, "absent", error.remedy)
        facts += contract.facts(scanned)
        lines += [f"{scanned['rows']:,} samples, {100 * scanned['trained'] / max(1, scanned['tokens']):.0f} % of "
                  f"{scanned['tokens']:,} tokens trained"]  # fmt: skip
    else:
        lines.append(f"{size / (1 << 20):,.0f} MiB: compared in samples, not read whole (`ftdoctor preprocess` does)")
    lines += [text for _, text in telling.proof(about, compared, problem, scanned, asked.ends, WIDTH)]
    apart = bool(compared.get("apart"))
    if late := list(_changed(data, config.parent, folder)):
        lines.append(f"{', '.join(late)} is younger: Axolotl does not prepare again for a file's new content")
    if not sure:
        lines.append(f"{config.name} was written after it was prepared: this may be another configuration's")
        return Seen("\n".join(lines), {}, "note", AGAIN)
    state = "absent" if problem else "note" if apart or late else "good"
    return Seen(
        "\n".join(lines), {}, state, AGAIN if late else "",
        tuple(FactLearned(Origin(str(folder)), name, value) for name, value in facts),
    )  # fmt: skip


def _prove(python: TrainingPython, config: Path, data: Mapping[str, Any], folder: Path) -> Proven:
    return parity.prove(python, data, config.parent, folder, None, PROOF_SECONDS)


def _changed(data: Mapping[str, Any], folder: Path, prepared: Path) -> Iterator[str]:
    """Names of raw files that are younger than the prepared set: its name does not tell their content."""
    made = (prepared / "state.json").stat().st_mtime_ns
    for item in sizes.datasets(data):
        for path in files_of(item, folder):
            if path.stat().st_mtime_ns > made + COPIED:
                yield path.name
