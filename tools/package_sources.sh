# shellcheck shell=bash
# To be sourced: where pip looks for packages, as arguments of uv, which does not read pip's settings.

# pip_setting PYTHON NAME: the value of a setting such as index-url, from the environment or pip's files.
pip_setting() {
    local variable=PIP_${2//-/_}
    variable=${variable^^}
    if [[ -n ${!variable:-} ]]; then
        echo "${!variable}"
    else
        "$1" -m pip config get "global.$2" 2>/dev/null || true
    fi
}

# uv_sources PYTHON: fills the array `sources`. As with pip, all sources count alike.
uv_sources() {
    local pair value
    sources=(--index-strategy unsafe-best-match)
    for pair in index-url:--default-index extra-index-url:--index find-links:--find-links \
        trusted-host:--allow-insecure-host; do
        for value in $(pip_setting "$1" "${pair%%:*}"); do
            sources+=("${pair#*:}" "$value")
        done
    done
    value=$(pip_setting "$1" cert)
    [[ -z $value ]] || export SSL_CERT_FILE=$value
}
