/* SPDX-License-Identifier: Apache-2.0 */
#include "worker/task/http_decode.h"

#include <stdio.h>
#include <string.h>
#include <strings.h>

/* Bodies are unpacked here and not by libcurl, which takes a gzip, brotli or zstd stream for whole
 * wherever it stops, and the first part of a gzip body of several for all of it: a list would come
 * short and nobody be told. So nothing is asked for that zlib cannot check. */

enum { PIECE = 16 << 10 };

/* --- which coding --- */

static enum http_coding coding_of(const char *name, size_t size)
{
    static const struct row {
        const char *name;
        enum http_coding coding;
    } rows[] = {
        {"identity", HTTP_PLAIN}, {"none", HTTP_PLAIN},  {"", HTTP_PLAIN},
        {"gzip", HTTP_GZIP},      {"x-gzip", HTTP_GZIP}, {"deflate", HTTP_DEFLATE},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        if (strlen(rows[i].name) == size && strncasecmp(rows[i].name, name, size) == 0)
            return rows[i].coding;
    return HTTP_UNKNOWN;
}

/* One around the other is never asked for. */
void http_decode_add(struct http_decoder *d, const char *codings)
{
    for (const char *at = codings; *at; at += strspn(at, ", \t")) {
        size_t size = strcspn(at, ", \t");
        enum http_coding coding = coding_of(at, size);
        if (coding == HTTP_UNKNOWN || (coding && d->coding)) {
            snprintf(d->name, sizeof d->name, "the coding %.60s", codings);
            d->coding = HTTP_UNKNOWN;
            d->wrong = d->name;
            return;
        }
        d->coding = coding ? coding : d->coding;
        at += size;
    }
}

/* --- zlib --- */

/* `deflate` is zlib's form; some servers leave its header out. */
static bool is_zlib(const unsigned char *head)
{
    return (head[0] & 0x8F) == Z_DEFLATED && (head[0] << 8 | head[1]) % 31 == 0;
}

static bool start(struct http_decoder *d)
{
    int window = d->coding == HTTP_GZIP ? 16 + MAX_WBITS
                 : is_zlib(d->head)     ? MAX_WBITS
                                        : -MAX_WBITS;
    d->has_z = inflateInit2(&d->z, window) == Z_OK;
    if (!d->has_z)
        d->wrong = "no memory to unpack";
    return d->has_z;
}

/* Behind the end: a gzip body may have several parts, and zeros that fill it up. */
static int go_on(struct http_decoder *d)
{
    while (d->coding == HTTP_GZIP && d->z.avail_in && !*d->z.next_in)
        d->z.next_in++, d->z.avail_in--;
    if (!d->z.avail_in)
        return 0;
    if (d->coding != HTTP_GZIP || *d->z.next_in != 0x1F || inflateReset(&d->z) != Z_OK) {
        d->wrong = "there is more behind its end";
        return -1;
    }
    d->ended = false;
    return 0;
}

static int inflate_piece(struct http_decoder *d, const unsigned char *data, size_t size,
                         http_decoded_fn *fn, void *arg)
{
    char out[PIECE];
    int code = Z_OK;
    d->z.next_in = (unsigned char *)data;
    d->z.avail_in = (uInt)size;
    do {
        if (d->ended && go_on(d) < 0)
            return -1;
        if (d->ended)
            return 0;
        d->z.next_out = (unsigned char *)out;
        d->z.avail_out = PIECE;
        code = inflate(&d->z, Z_NO_FLUSH);
        d->ended = code == Z_STREAM_END;
        if (code != Z_OK && code != Z_BUF_ERROR && !d->ended)
            d->wrong = d->z.msg ? d->z.msg : "its data";
        size_t n = PIECE - d->z.avail_out;
        if (d->wrong || (n && fn(out, n, arg) < 0))
            return -1;
    } while (d->z.avail_in || (!d->z.avail_out && !d->ended));
    return 0;
}

int http_decode(struct http_decoder *d, const char *data, size_t size, http_decoded_fn *fn,
                void *arg)
{
    const unsigned char *at = (const unsigned char *)data;
    d->taken += size;
    if (d->wrong)
        return -1;
    if (d->coding == HTTP_PLAIN)
        return fn(data, size, arg);
    while (!d->has_z && size && d->head_size < sizeof d->head)
        d->head[d->head_size++] = *at++, size--;
    if (d->head_size < sizeof d->head)
        return 0;
    if (!d->has_z && (!start(d) || inflate_piece(d, d->head, sizeof d->head, fn, arg) < 0))
        return -1;
    return size ? inflate_piece(d, at, size, fn, arg) : 0;
}

const char *http_decode_end(struct http_decoder *d, bool all)
{
    if (!d->wrong && all && d->coding != HTTP_PLAIN && d->taken && !d->ended)
        d->wrong = "it is cut";
    return d->wrong;
}

void http_decode_close(struct http_decoder *d)
{
    if (d->has_z)
        inflateEnd(&d->z);
    *d = (struct http_decoder){0};
}
