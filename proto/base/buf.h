/* SPDX-License-Identifier: Apache-2.0 */
#ifndef PROTO_BASE_BUF_H
#define PROTO_BASE_BUF_H

/* A byte buffer that grows up to a stated maximum and then fails politely: `failed` is set, later
 * writes do nothing, and the writer checks once at the end. Contents are always NUL-terminated. */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct buf {
    char *data; /* NULL until the first write */
    size_t size, capacity, max;
    bool failed;
};

#define BUF_INIT(max_size) ((struct buf){.max = (max_size)})

void buf_add(struct buf *b, const void *data, size_t size);
void buf_str(struct buf *b, const char *text);
void buf_char(struct buf *b, char c);
void buf_printf(struct buf *b, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* room for `size` more bytes; NULL past the maximum */
char *buf_reserve(struct buf *b, size_t size);
void buf_drop(struct buf *b, size_t size); /* removes from the front */
void buf_reset(struct buf *b);             /* empties, keeps the memory */
char *buf_take(struct buf *b);             /* hands the text over (never NULL); buffer is empty */
void buf_done(struct buf *b);

#endif
