/* SPDX-License-Identifier: Apache-2.0 */
#ifndef TEST_FUZZ_H
#define TEST_FUZZ_H

/* A fuzz target is LLVMFuzzerTestOneInput. clang's libFuzzer searches with it (`make fuzz`); built by any
 * other compiler it has this main, the short form in `make check`: each file named, and so many mutants of
 * each, the same ones in each run. */

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#ifndef __clang__
enum { FUZZ_INPUT_MAX = 4 << 20, FUZZ_MUTANT_MAX = 64 << 10, FUZZ_STEPS = 6 };

static uint64_t fuzz_state;

static size_t fuzz_random(size_t below)
{
    fuzz_state ^= fuzz_state << 13;
    fuzz_state ^= fuzz_state >> 7;
    fuzz_state ^= fuzz_state << 17;
    return below ? (size_t)(fuzz_state % below) : 0;
}

/* What breaks parsers: other bytes, cuts, repetitions, and the characters that mean something. */
static size_t fuzz_mutate(uint8_t *data, size_t size)
{
    static const char marks[] = "\"\\{}[]:,<>&;=-+.eE0919\n\r\t #/\x80\xff\xed\xa0";
    size_t at = fuzz_random(size + 1), n = 1 + fuzz_random(1u << fuzz_random(8));
    if (n > size - at)
        n = size - at;
    switch (fuzz_random(5)) {
    case 0:
        if (at < size)
            data[at] = (uint8_t)fuzz_random(256);
        return size;
    case 1:
        if (at < size)
            data[at] = (uint8_t)marks[fuzz_random(sizeof marks)];
        return size;
    case 2:
        memmove(data + at, data + at + n, size - at - n);
        return size - n;
    case 3:
        if (size + n > FUZZ_MUTANT_MAX)
            return size;
        memmove(data + at + n, data + at, size - at);
        return size + n;
    default:
        return fuzz_random(8) ? size : at;
    }
}

static void fuzz_file(const char *path, long n_mutants)
{
    static uint8_t original[FUZZ_INPUT_MAX];
    FILE *file = fopen(path, "rb");
    if (!file) {
        perror(path);
        exit(1);
    }
    size_t size = fread(original, 1, sizeof original, file);
    fclose(file);
    LLVMFuzzerTestOneInput(original, size);
    if (size > FUZZ_MUTANT_MAX)
        return;
    for (long i = 0; i < n_mutants; i++) {
        uint8_t *mutant = malloc(FUZZ_MUTANT_MAX);
        size_t length = size;
        memcpy(mutant, original, size);
        for (size_t step = 1 + fuzz_random(FUZZ_STEPS); step > 0; step--)
            length = fuzz_mutate(mutant, length);
        /* To its exact size, so that a sanitizer sees the byte behind it. */
        uint8_t *exact = malloc(length ? length : 1);
        memcpy(exact, mutant, length);
        LLVMFuzzerTestOneInput(exact, length);
        free(exact);
        free(mutant);
    }
}

int main(int argc, char **argv)
{
    long n_mutants = argc > 1 ? strtol(argv[1], NULL, 10) : 0;
    fuzz_state = 88172645463325252u;
    for (int i = 2; i < argc; i++)
        fuzz_file(argv[i], n_mutants);
    return 0;
}
#endif

#endif
