#!/bin/sh
# Install ftdoctor with its test tools into a virtual environment, and beside it the stack that the demo trains with.
#   sh tools/install.sh VENV PYTHON
# pip's own configuration (index, find-links, constraints, certificate) holds for uv too. Without an NVIDIA GPU the CPU
# build of torch is taken where one is offered: it is five times smaller.
set -u
venv=$1 python=$2
axolotl=0.19.0 torch=2.13.0
cpu_index=https://download.pytorch.org/whl/cpu
began=$(date +%s)
say() { echo "[$(($(date +%s) - began)) s] $*"; }
own() { "$venv/bin/python" -m pip --disable-pip-version-check "$@"; }

"$python" -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { echo "ftdoctor needs Python 3.10 or later: make PYTHON=python3.11 ..."; exit 1; }
say "creating $venv with $("$python" --version)"
test -x "$venv/bin/python" || "$python" -m venv "$venv" || exit 1
own install --quiet --upgrade "pip>=23.1" || exit 1
own install --quiet "uv>=0.4" || say "uv cannot be had; pip does it, more slowly"

# what pip is configured to, for uv
setting() { own config list 2>/dev/null | sed -n "s/^[^ ]*[.:]\(\.\)\{0,1\}$1='\(.*\)'\$/\2/p" | tail -1; }
links=$(setting find-links) constraint=$(setting constraint) index=$(setting index-url) cert=$(setting cert)
test -z "$links" || export UV_FIND_LINKS="$(echo "$links" | tr ' ' ',')"
test -z "$constraint" || export UV_CONSTRAINT="$constraint"
test -z "$index" || export UV_DEFAULT_INDEX="$index"
test -z "$cert" || export SSL_CERT_FILE="$cert"
export UV_HTTP_TIMEOUT=180 UV_LINK_MODE=copy

add() { # with uv, else with pip
  if test -x "$venv/bin/uv" && "$venv/bin/uv" pip install --quiet --python "$venv/bin/python" "$@"; then return 0; fi
  say "once more, with pip"
  own install --quiet "$@"
}

say "installing ftdoctor with its test tools"
add -e ".[dev]" || exit 1

if ! "$venv/bin/python" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info < (3, 14))'; then
  say "Axolotl $axolotl has no wheels for this Python: tests of real training are skipped and \`make demo\` cannot train."
  say "make clean, then make PYTHON=python3.12 ... (3.10 to 3.13)"
  exit 0
fi
if "$venv/bin/python" -c 'import importlib.metadata as m; m.version("axolotl"); m.version("torch")' 2>/dev/null; then
  say "Axolotl is there already"
else
  if test "$(uname -s)-$(uname -m)" = Linux-x86_64 && ! test -e /proc/driver/nvidia/version && ! nvidia-smi -L >/dev/null 2>&1; then
    say "no NVIDIA GPU: looking for the CPU build of torch $torch"
    own install --quiet --no-deps --timeout 10 --retries 1 --index-url "$cpu_index" "torch==$torch" 2>/dev/null ||
      say "not to be had here: taking the default build, which is large"
  fi
  say "installing axolotl[deepspeed] $axolotl with torch $torch (the longest step)"
  export DS_BUILD_OPS=0
  add "torch==$torch" "axolotl[deepspeed]==$axolotl" "setuptools" "ninja" "py-spy" || {
    say "the training stack could not be installed: \`make demo\` and the tests of real training need it"
    exit 0
  }
fi
# deepspeed-kernels names a platform in its metadata that pip does not know; that is no conflict
conflicts=$(own check 2>/dev/null | grep -v -e "No broken requirements" -e "is not supported on this platform")
test -z "$conflicts" || { echo "$conflicts"; exit 1; }
say "installed; pip check finds no conflict between ftdoctor and axolotl[deepspeed]"
