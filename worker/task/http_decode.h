/* SPDX-License-Identifier: Apache-2.0 */
#ifndef WORKER_HTTP_DECODE_H
#define WORKER_HTTP_DECODE_H

#include <stdbool.h>
#include <stddef.h>
#include <zlib.h>

/* What a server has done to a body (Content-Encoding), undone piece by piece, and told whether the
 * body is whole. */

enum http_coding { HTTP_PLAIN, HTTP_GZIP, HTTP_DEFLATE, HTTP_UNKNOWN };

struct http_decoder { /* zeroed at first */
    enum http_coding coding;
    bool has_z, ended; /* at the end of what is packed */
    unsigned char head[2];
    size_t head_size, taken;
    z_stream z;
    char name[80];     /* of what is not known */
    const char *wrong; /* why it cannot be decoded, or NULL */
};

/* < 0 ends the decoding. */
typedef int http_decoded_fn(const char *data, size_t size, void *arg);

/* The value of one Content-Encoding header. */
void http_decode_add(struct http_decoder *d, const char *codings);
/* 0; < 0: fn ended it, or `wrong` says why. */
int http_decode(struct http_decoder *d, const char *data, size_t size, http_decoded_fn *fn,
                void *arg);
/* Why the body could not be decoded; NULL: it could. With `all` of it there it is to be whole, as
 * one of no bytes is whatever its coding. */
const char *http_decode_end(struct http_decoder *d, bool all);
void http_decode_close(struct http_decoder *d); /* zeroes it */

#endif
