# What `run` and `bench` need: LMCache in a virtual environment of its own, a redis server, the command, the wheels. Sourced by both.
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
    # The compiled parts of LMCache's wheels are for some versions of Python only.
    command -v python3.11 >/dev/null || fail "\`python3.11\` is missing; LMCache $LMCACHE_VERSION is installed with it"
    echo "== installing LMCache $LMCACHE_VERSION into $venv: about 5 GB with torch; KVCONN_INTEROP_VENV names another place"
    python3.11 -m venv "$venv"
    "$venv/bin/pip" install --quiet "lmcache==$LMCACHE_VERSION"
    installed || fail "LMCache $LMCACHE_VERSION is not in $venv after pip has installed it"
fi

echo "== building kvconn"
cargo build --quiet --release --package connector-cli --bin kvconn
kvconn=$(cargo metadata --no-deps --format-version 1 |
    "$python" -c 'import json, sys; print(json.load(sys.stdin)["target_directory"])')/release/kvconn

# LMCache reads these: a test must not depend on who runs it.
unset "${!LMCACHE_@}"
export LMCACHE_LOG_LEVEL=ERROR LMCACHE_TRACK_USAGE=false
export KVCONN=$kvconn PYTHONDONTWRITEBYTECODE=1

echo "== building kvconn's wheel, and one with a connector of its author's"
site=${kvconn%/release/kvconn}/interop-site
rm -rf "$site"
# Beside the virtual environment, which may be shared, not in it. As a user does it, but for the folder.
for wheel in connector-python examples/acme-kv-wheel; do
    "$venv/bin/pip" install --quiet --no-cache-dir --no-deps --disable-pip-version-check --target "$site" "../../$wheel"
done
export PYTHONPATH=$site
