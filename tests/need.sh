# `tests/run` and `tests/interop/environment.sh` source this file.

# need COMMAND|FILE PACKAGE: installs the Debian package that has the command or the file.
need() {
    if [ -e "$1" ] || command -v "$1" >/dev/null; then return; fi
    echo "== installing Debian's package $2"
    local sudo=()
    [ "$(id -u)" = 0 ] || sudo=(sudo)
    "${sudo[@]}" apt-get update -qq && "${sudo[@]}" apt-get install -y -qq "$2" >/dev/null ||
        { echo "${0##*/}: '$1' is missing; install Debian's package '$2'" >&2; exit 1; }
}
