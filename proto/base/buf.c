/* SPDX-License-Identifier: Apache-2.0 */
#include "proto/base/buf.h"

#include "proto/base/mem.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

char *buf_reserve(struct buf *b, size_t size)
{
    if (b->failed || size > b->max || b->size > b->max - size) {
        b->failed = true;
        return NULL;
    }
    size_t need = b->size + size + 1;
    if (need > b->capacity) {
        size_t capacity = b->capacity ? b->capacity : 256;
        while (capacity < need)
            capacity *= 2;
        b->data = mem_realloc(b->data, capacity);
        b->capacity = capacity;
    }
    return b->data + b->size;
}

void buf_add(struct buf *b, const void *data, size_t size)
{
    char *at = buf_reserve(b, size);
    if (!at)
        return;
    if (size)
        memcpy(at, data, size);
    b->size += size;
    b->data[b->size] = '\0';
}

void buf_str(struct buf *b, const char *text)
{
    buf_add(b, text, strlen(text));
}

void buf_char(struct buf *b, char c)
{
    buf_add(b, &c, 1);
}

void buf_printf(struct buf *b, const char *fmt, ...)
{
    va_list args, again;
    va_start(args, fmt);
    va_copy(again, args);
    int size = vsnprintf(NULL, 0, fmt, args);
    va_end(args);
    char *at = size < 0 ? NULL : buf_reserve(b, (size_t)size);
    if (at) {
        vsnprintf(at, (size_t)size + 1, fmt, again);
        b->size += (size_t)size;
    }
    va_end(again);
}

void buf_drop(struct buf *b, size_t size)
{
    if (size >= b->size) {
        buf_reset(b);
        return;
    }
    memmove(b->data, b->data + size, b->size - size + 1);
    b->size -= size;
}

void buf_reset(struct buf *b)
{
    b->size = 0;
    b->failed = false;
    if (b->data)
        b->data[0] = '\0';
}

char *buf_take(struct buf *b)
{
    char *text = b->data ? b->data : mem_ndup("", 0);
    *b = BUF_INIT(b->max);
    return text;
}

void buf_done(struct buf *b)
{
    free(b->data);
    *b = BUF_INIT(b->max);
}
