/* SPDX-License-Identifier: Apache-2.0 */
#include "proto/base/mem.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

int mem_last_words = STDERR_FILENO;

void mem_exhausted(void)
{
    static const char line[] = "cworker: out of memory\n";
    ssize_t ignored = write(mem_last_words, line, sizeof line - 1);
    (void)ignored;
    abort();
}

void *mem_alloc(size_t size)
{
    return mem_check(malloc(size ? size : 1));
}

void *mem_zalloc(size_t size)
{
    return mem_check(calloc(1, size ? size : 1));
}

void *mem_realloc(void *old, size_t size)
{
    return mem_check(realloc(old, size ? size : 1));
}

char *mem_dup(const char *text)
{
    return text ? mem_ndup(text, strlen(text)) : NULL;
}

char *mem_ndup(const char *text, size_t size)
{
    char *copy = mem_alloc(size + 1);
    memcpy(copy, text, size);
    copy[size] = '\0';
    return copy;
}

char *mem_printf(const char *fmt, ...)
{
    char *text = NULL;
    va_list args;
    va_start(args, fmt);
    int size = vasprintf(&text, fmt, args);
    va_end(args);
    return mem_check(size < 0 ? NULL : text);
}
