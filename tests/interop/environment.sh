# `run` and `bench` source this file. It installs LMCache into a virtual environment and builds the command and the wheels.
#
# Sets `python` and `kvconn`, and changes to this folder.
cd "$(dirname "${BASH_SOURCE[0]}")"

LMCACHE_VERSION=0.5.6
venv=${KVCONN_INTEROP_VENV:-$HOME/.cache/kvconn-interop}
python=$venv/bin/python

fail() { echo "${0##*/}: $*" >&2; exit 1; }

command -v cargo >/dev/null || fail "cargo is missing; install Rust 1.95 or newer (https://rustup.rs)"
command -v redis-server >/dev/null || fail "\`redis-server\` is missing; install Debian's package \`redis-server\`, or run ./tests/run, which does"

installed() {
    "$python" -c 'import sys; from importlib.metadata import version; sys.exit(version("lmcache") != sys.argv[1])' \
        "$LMCACHE_VERSION" 2>/dev/null
}

if ! installed; then
    # LMCache's wheels have compiled parts, which exist only for some versions of Python.
    command -v python3.11 >/dev/null || fail "\`python3.11\` is missing; LMCache $LMCACHE_VERSION needs it"
    echo "== installing LMCache $LMCACHE_VERSION into $venv: about 5 GB with torch; set KVCONN_INTEROP_VENV for another folder"
    python3.11 -m venv "$venv"
    "$venv/bin/pip" install --quiet "lmcache==$LMCACHE_VERSION"
    installed || fail "LMCache $LMCACHE_VERSION is not in $venv after pip has installed it"
fi

echo "== building kvconn"
cargo build --quiet --release --package connector-cli --bin kvconn
kvconn=$(cargo metadata --no-deps --format-version 1 |
    "$python" -c 'import json, sys; print(json.load(sys.stdin)["target_directory"])')/release/kvconn

# LMCache reads these variables. A test must not depend on the user's environment.
unset "${!LMCACHE_@}"
export LMCACHE_LOG_LEVEL=ERROR LMCACHE_TRACK_USAGE=false
export KVCONN=$kvconn PYTHONDONTWRITEBYTECODE=1

echo "== building kvconn's wheel and an author's wheel"
site=${kvconn%/release/kvconn}/interop-site
rm -rf "$site"
# Other checkouts may share the virtual environment, so the wheels go into a folder of this checkout.
for wheel in connector-python examples/acme-kv-wheel; do
    "$venv/bin/pip" install --quiet --no-cache-dir --no-deps --disable-pip-version-check --target "$site" "../../$wheel"
done
export PYTHONPATH=$site
