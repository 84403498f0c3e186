/* SPDX-License-Identifier: Apache-2.0 */
#ifndef PROTO_BASE_MEM_H
#define PROTO_BASE_MEM_H

/* Allocation that cannot return NULL: out of memory ends the process with one clear line, and its
 * deliveries come back. Whatever a stranger chooses the size of goes through a struct buf
 * instead. */

#include <stddef.h>

void *mem_alloc(size_t size) __attribute__((malloc, returns_nonnull, warn_unused_result));
void *mem_zalloc(size_t size) __attribute__((malloc, returns_nonnull, warn_unused_result));
void *mem_realloc(void *old, size_t size) __attribute__((returns_nonnull, warn_unused_result));
char *mem_dup(const char *text) __attribute__((warn_unused_result)); /* NULL stays NULL */
char *mem_ndup(const char *text, size_t size) __attribute__((returns_nonnull, warn_unused_result));
char *mem_printf(const char *fmt, ...)
    __attribute__((format(printf, 1, 2), returns_nonnull, warn_unused_result));

extern int mem_last_words; /* where that line goes: standard error, or who logs says where */
void mem_exhausted(void) __attribute__((cold, noreturn)); /* the line, and the end */

/* The same promise for a block that somebody else's allocator gave. */
static inline void *mem_check(void *block)
{
    if (!block)
        mem_exhausted();
    return block;
}

#endif
