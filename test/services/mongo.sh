#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# A MongoDB server for tests (mongo-java-server), for machines without mongod.
#   mongo.sh build                      fetches and compiles it into build/services/mongo/, once
#   mongo.sh run HOST PORT [DATADIR]    serves in the foreground; prints "ready" when it listens
set -eu

here=$(cd "$(dirname "$0")" && pwd)
source=$here/mongo
target=${MONGO_SERVICE_DIR:-$(cd "$here/../.." && pwd)/build/services/mongo}

is_current() {
    [ -f "$target/classes/Main.class" ] &&
        [ -z "$(find "$source" -newer "$target/classes/Main.class" -type f)" ]
}

build() {
    is_current && return
    mkdir -p "$target/jars" "$target/classes"
    mvn -q -B -f "$source/pom.xml" -DoutputDirectory="$target/jars" dependency:copy-dependencies >&2
    javac -d "$target/classes" -cp "$target/jars/*" "$source/src/Main.java"
    touch "$target/classes/Main.class"
}

run() {
    build
    [ -z "${3:-}" ] || mkdir -p "$3"
    exec java -Xmx"${MONGO_SERVICE_MEMORY:-512m}" -XX:+UseSerialGC \
        -cp "$target/classes:$target/jars/*" Main "$@"
}

case "${1:-}" in
build)
    build
    ;;
run)
    [ $# -ge 3 ] || { echo "usage: mongo.sh run HOST PORT [DATADIR]" >&2; exit 2; }
    shift
    run "$@"
    ;;
*)
    echo "usage: mongo.sh build | run HOST PORT [DATADIR]" >&2
    exit 2
    ;;
esac
