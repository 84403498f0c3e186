/* SPDX-License-Identifier: Apache-2.0 */
#ifndef PROTO_BASE_SLICE_H
#define PROTO_BASE_SLICE_H

#include <stddef.h>
#include <string.h>

/* A stretch of bytes that somebody else owns; no NUL need follow. */
struct slice {
    const char *at; /* NULL: absent */
    size_t size;
};

static inline struct slice slice_of(const char *text) /* NULL: absent */
{
    return (struct slice){text, text ? strlen(text) : 0};
}

#endif
