#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Installs the real tools that `make check-tools` runs, into build/tools, once. One that cannot be had is
# skipped, and says why in build/tools/NAME.skipped: the tests show that reason.
#   install.sh [zap] [prowler]    both by default; prowler takes 2.3 GB and some minutes
set -euo pipefail
cd "$(dirname "$0")/../.."
here=test/tools-check
tools=$PWD/build/tools
mkdir -p "$tools"

say() { echo "check-tools: $*"; }

skip() {
    echo "$2" > "$tools/$1.skipped"
    say "skipped $1: $2"
}

# Jars from Maven Central, and the two rules as an add-on.
install_zap() {
    local target=$tools/zap
    [ ! -f "$target/rules.zap" ] || return 0
    say "installing ZAP 2.11.1 (34 MB)"
    command -v mvn > /dev/null && command -v javac > /dev/null ||
        { skip zap 'needs maven and a JDK (apt-get install maven openjdk-17-jdk-headless)'; return 0; }
    mkdir -p "$target/classes"
    mvn -q -B -f "$here/zap/pom.xml" -DoutputDirectory="$target/libs" \
        dependency:copy-dependencies > "$tools/zap.log" 2>&1 &&
        javac --release 8 -nowarn -d "$target/classes" -cp "$target/libs/*" \
            "$here"/zap/rules/*.java >> "$tools/zap.log" 2>&1 &&
        cp "$here/zap/ZapAddOn.xml" "$target/classes/" &&
        python3 -m zipfile -c "$target/rules.zap" "$target/classes/ZapAddOn.xml" \
            "$target/classes/rules" ||
        { rm -f "$target/rules.zap"; skip zap "it could not be built: see $tools/zap.log"; }
}

install_prowler() {
    local target=$tools/prowler free
    [ ! -f "$target/installed" ] || return 0
    free=$(df -Pk "$tools" | awk 'NR == 2 { print int($4 / 1048576) }')
    [ "$free" -ge 6 ] ||
        { skip prowler "needs 6 GiB of free disk for the time of installing, $free are left"; return 0; }
    say "installing prowler 5.46.0 and moto (2.3 GB, some minutes)"
    python3 -m venv "$target" &&
        timeout 2400 "$target/bin/pip" install --quiet --disable-pip-version-check \
            prowler==5.46.0 'moto[server]==5.2.5' > "$tools/prowler.log" 2>&1 &&
        touch "$target/installed" ||
        skip prowler "pip could not install it: see $tools/prowler.log"
}

[ $# -gt 0 ] || set -- zap prowler
for tool in "$@"; do
    rm -f "$tools/$tool.skipped"
    "install_$tool"
done
