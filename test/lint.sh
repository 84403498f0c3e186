#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# What style can be checked, is checked here: include directions, headers that stand alone, banned calls.
set -u
cd "$(dirname "$0")/.." || exit 1
failed=0
complain() { echo "lint: $*" >&2; failed=1; }

# Who may include whom: each folder lists all it may see (its own always).
may_include() {
    case $1 in
    proto) echo 'proto/' ;;
    broker) echo 'broker/|proto/' ;;
    worker) echo 'worker/|broker/|proto/|tasks/cworker.h|tasks/tables.h' ;;
    tasks) echo 'tasks/' ;;
    esac
}
for folder in proto broker worker tasks; do
    allowed=$(may_include "$folder")
    while IFS= read -r line; do
        complain "include against the direction: $line"
    done < <(grep -rnE '^#include "' "$folder" --include='*.[ch]' |
        grep -vE "#include \"($allowed)")
done
while IFS= read -r line; do
    complain "a plugin includes cworker.h only: $line"
done < <(grep -rnE '^#include "' examples --include='*.c' | grep -v '"tasks/cworker.h"\|"cworker.h"')

# Calls with a better replacement.
banned='\b(strcpy|strcat|sprintf|strtok|atoi|atol|atof|gmtime|localtime|system|gets|tmpnam|mktemp)\('
while IFS= read -r line; do
    complain "banned call: $line"
done < <(grep -rnE "$banned" proto broker worker tasks examples --include='*.[ch]')

while IFS= read -r line; do
    complain "longer than 110 columns: $line"
done < <(git ls-files '*.[ch]' | xargs -r grep -nE '^.{111,}')

while IFS= read -r file; do
    complain "no SPDX line at the top: $file"
done < <(git ls-files '*.c' '*.h' | xargs -r grep -L 'SPDX-License-Identifier: Apache-2.0')

cflags=$(pkg-config --cflags hiredis libmongoc-1.0 libcjson libevent openssl 2>/dev/null)
while IFS= read -r header; do
    # shellcheck disable=SC2086
    gcc -std=gnu11 -D_GNU_SOURCE -I. $cflags -Wall -Wextra -Werror -fsyntax-only -x c "$header" ||
        complain "does not compile alone: $header"
done < <(git ls-files 'proto/*.h' 'broker/*.h' 'worker/*.h' 'tasks/*.h')

[ $failed -eq 0 ] && echo '  lint: clean'
exit $failed
