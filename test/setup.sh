#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Installs what is missing, on Debian 12 or newer. Quiet and quick when nothing is.
#   test/setup.sh build   what compiling needs
#   test/setup.sh demo    that, and what the demo needs
#   test/setup.sh test    what the tests and the benchmarks need
#   test/setup.sh all     everything (the default)
set -euo pipefail
cd "$(dirname "$0")/.."

build_packages=(gcc make pkg-config libhiredis-dev libmongoc-dev libbson-dev libcjson-dev
    libevent-dev libcurl4-openssl-dev libssl-dev libcmocka-dev zlib1g-dev libbz2-dev liblzma-dev
    libzstd-dev libbrotli-dev libexpat1-dev libyaml-dev libpq-dev)
demo_packages=(redis-server nmap python3-venv)
test_packages=(testssl.sh openssl postgresql chromium chromium-driver)

say() { echo "setup: $*"; }
fail() { echo "setup: $*" >&2; exit 1; }

# A test MongoDB is built from Java only where there is no real one.
needs_java() {
    [ -z "${MONGODB_URL:-}" ] && ! command -v mongod > /dev/null
}

as_root() {
    if [ "$(id -u)" = 0 ]; then
        "$@"
    elif command -v sudo > /dev/null; then
        sudo "$@"
    else
        fail "root is needed for: $*"
    fi
}

# Package names that dpkg does not list as installed.
missing_packages() {
    { dpkg-query -W -f '${Package} ${db:Status-Status}\n' "$@" 2> /dev/null || true; } |
        awk '$2 == "installed" { print $1 }' | sort -u > "$installed"
    printf '%s\n' "$@" | sort -u | comm -23 - "$installed"
}

# The servers that come with packages stay off: the tests start their own, on ports of their own.
install_packages() {
    local missing
    mapfile -t missing < <(missing_packages "$@")
    [ ${#missing[@]} -gt 0 ] || return 0
    command -v apt-get > /dev/null ||
        fail "no apt-get here; install by hand what Debian calls: ${missing[*]}"
    say "installing ${missing[*]}"
    if [ -d /usr/sbin ] && [ ! -e /usr/sbin/policy-rc.d ]; then
        printf '#!/bin/sh\nexit 101\n' > "$installed.policy"
        as_root install -m 755 "$installed.policy" /usr/sbin/policy-rc.d
        trap 'as_root rm -f /usr/sbin/policy-rc.d; rm -f "$installed" "$installed.policy"' EXIT
    fi
    as_root apt-get update -qq
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
        "${missing[@]}" > "$installed.log" 2>&1 ||
        { tail -20 "$installed.log" >&2; fail "apt-get could not install ${missing[*]}"; }
    rm -f "$installed.log"
}

pip_install() {
    .venv/bin/pip install --quiet --disable-pip-version-check "$@"
}

# What is installed is noted as the two lists were; the shorter one is a part of the longer.
demo_list=examples/quickstart/requirements.txt
test_list=test/requirements.txt

python_is_complete() {
    cat $demo_list $test_list | cmp -s - .venv/requirements.installed
}

install_python_demo() {
    python_is_complete && return 0
    cmp -s $demo_list .venv/demo-requirements.installed && return 0
    say "installing $demo_list into .venv"
    [ -x .venv/bin/pip ] || python3 -m venv .venv
    pip_install -r $demo_list
    cp $demo_list .venv/demo-requirements.installed
}

install_python() {
    python_is_complete && return 0
    say "installing $test_list into .venv"
    [ -x .venv/bin/pip ] || python3 -m venv .venv
    pip_install -r $test_list
    # Other releases of Celery, each in a folder of its own: applications that are not of today.
    for version in 5.2.7 5.7.0; do
        pip_install --upgrade \
            --target ".venv/producers/$version" "celery[redis]==$version" pymongo==4.16.0
    done
    cat $demo_list $test_list > .venv/requirements.installed
}

# The well-known celery-exporter (github.com/danihodovic/celery-exporter) wants other releases of what the
# tests use, so it has a folder of its own. It refuses Python 3.13 and newer: its test is skipped there.
install_exporter() {
    local wanted='prometheus-exporter-celery==0.11.2 celery==5.5.3 kombu==5.5.4'
    [ "$(cat .venv/exporter/installed 2> /dev/null)" != "$wanted" ] || return 0
    .venv/bin/python -c 'import sys; sys.exit(sys.version_info >= (3, 13))' || return 0
    say "installing $wanted into .venv/exporter"
    # shellcheck disable=SC2086
    pip_install --upgrade --target .venv/exporter $wanted
    echo "$wanted" > .venv/exporter/installed
}

installed=$(mktemp)
trap 'rm -f "$installed"' EXIT
what=${1:-all}
case $what in
build) install_packages "${build_packages[@]}" ;;
demo | test | all)
    packages=("${demo_packages[@]}")
    [ "$what" = demo ] || packages+=("${test_packages[@]}")
    [ "$what" = test ] || packages+=("${build_packages[@]}")
    ! needs_java || packages+=(maven openjdk-17-jdk-headless)
    install_packages "${packages[@]}"
    if [ "$what" = demo ]; then
        install_python_demo
    else
        install_python
        install_exporter
    fi
    ! needs_java || test/services/mongo.sh build
    ;;
*) fail "usage: test/setup.sh [build|demo|test|all]" ;;
esac
