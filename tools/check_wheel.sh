#!/bin/sh
# Build the wheel, install it into a fresh environment and diagnose a recorded run with it.
set -eu
python=.venv/bin/python
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
$python -m build --wheel --outdir "$place/dist" . >"$place/build.log" 2>&1 || { tail -20 "$place/build.log"; exit 1; }
$python -m venv "$place/env"
"$place/env/bin/python" -m pip install --quiet --disable-pip-version-check "$place"/dist/*.whl
"$place/env/bin/python" -m pip check
cp fixtures/failing/*/train.log "$place/" 2>/dev/null || true
cd "$place"
count=$(env/bin/ftdoctor rules list | wc -l)
test "$count" -ge 3 || { echo "the wheel has $count rules"; exit 1; }
printf 'torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 1.95 GiB. GPU 3 has a total capacity of 79.11 GiB\n' >oom.log
code=0
env/bin/ftdoctor check oom.log >report.txt || code=$?
test "$code" -eq 1 || { echo "check answered $code"; cat report.txt; exit 1; }
! env/bin/python -c 'import torch' 2>/dev/null || { echo "torch came along"; exit 1; }
echo "wheel: $count rules, found and run outside the checkout"
