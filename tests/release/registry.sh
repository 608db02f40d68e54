# `publish` and `semver` source this file.

# on_registry CRATE[@VERSION]: whether crates.io has it. Ends the script if crates.io does not answer.
on_registry() {
    local said
    said=$(cargo info --registry crates-io "$1" 2>&1 >/dev/null) && return 0
    [[ $said == *"could not find"* ]] && return 1
    echo "$said" >&2
    exit 1
}
