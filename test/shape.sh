#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# The tail of the code: longest files, and longest functions (from a brace in column one to its end).
cd "$(dirname "$0")/.." || exit 1
files=$(git ls-files 'proto/*.[ch]' 'broker/*.[ch]' 'worker/*.[ch]' 'tasks/*.[ch]')
echo 'lines  file'
# shellcheck disable=SC2086
wc -l $files | grep -v total | sort -rn | head -10
echo 'lines  function'
# shellcheck disable=SC2086
awk 'FNR == 1 { start = 0 }
     /^[a-z].*\(/ && !/;$/ { name = $0 }
     /^{/ { start = FNR; title = name }
     /^}/ && start { printf "%5d  %s: %s\n", FNR - start + 1, FILENAME, title; start = 0 }' $files |
    sort -rn | head -10
