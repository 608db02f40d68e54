# The scripts of the tests source this file.

# need COMMAND|FILE PACKAGE: installs the Debian package that has the command or the file.
need() {
    if [ -e "$1" ] || command -v "$1" >/dev/null; then return; fi
    echo "== installing Debian's package $2"
    local sudo=()
    [ "$(id -u)" = 0 ] || sudo=(sudo)
    { retry "${sudo[@]}" apt-get update -qq && retry "${sudo[@]}" apt-get install -y -qq "$2" >/dev/null; } ||
        { echo "${0##*/}: '$1' is missing; install Debian's package '$2'" >&2; exit 1; }
}

# retry COMMAND ARGUMENT..: runs a command that downloads, and again after a failure.
retry() {
    "$@" || { sleep 5; "$@"; } || { sleep 30; "$@"; }
}

# Programs that the tests install. The folder lies outside of the checkout, so that all checkouts share them.
installed=$(realpath -m "${KVCONN_TEST_SERVERS:-$HOME/.cache/kvconn-tests}")

# install_once NAME-VERSION COMMAND ARGUMENT..: runs `COMMAND FOLDER ARGUMENT..`, which fills the tool's folder, unless an earlier
# run has filled it.
install_once() {
    local folder=$installed/$1
    [ ! -e "$folder/complete" ] || return 0
    mkdir -p "$installed"
    # The lock makes a second run wait until the first one has installed.
    (
        flock 9
        [ ! -e "$folder/complete" ] || exit 0
        echo "== installing $1 into $folder"
        # An interrupted install left a part of the files.
        rm -rf "$folder"
        mkdir "$folder"
        "$2" "$folder" "${@:3}" </dev/null
        touch "$folder/complete"
    ) 9>"$folder.lock"
}

# cargo_install FOLDER ARGUMENT..: `cargo install` without the caller's cargo settings, which must not change the build.
cargo_install() {
    env -u CARGO_TARGET_DIR -u RUSTFLAGS cargo install --quiet --locked --root "$1" "${@:2}"
}

# python_environment FOLDER PIP_ARGUMENT..
python_environment() {
    need python3 python3
    python3 -c 'import ensurepip' 2>/dev/null || need python3-venv python3-venv
    python3 -m venv "$1"
    retry "$1/bin/pip" install --quiet --disable-pip-version-check "${@:2}"
}

# npm_install FOLDER PACKAGE..
npm_install() {
    need npm npm
    retry npm install --silent --no-audit --no-fund --no-package-lock --prefix "$1" "${@:2}"
}
