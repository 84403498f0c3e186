/* SPDX-License-Identifier: Apache-2.0 */
#include "proto/compress.h"

#include <bzlib.h>
#include <limits.h>
#include <lzma.h>
#include <string.h>
#include <strings.h>
#include <zlib.h>
#ifdef HAVE_ZSTD
#include <zstd.h>
#endif
#ifdef HAVE_BROTLI
#include <brotli/decode.h>
#include <brotli/encode.h>
#endif

/* Every codec sees its work as this: input that is all there, output that is fetched piece by piece
 * and stops at `max`. Nothing trusts a size that a stream announces. */
struct pump {
    struct slice in;
    struct buf *out;
    size_t start, max;
    char *at; /* the current piece */
    size_t room;
    bool too_big;
};

enum { PIECE = 64 << 10 };
#define LZMA_MEMORY (128u << 20) /* xz -9 asks for 65 MiB; a hostile header for gigabytes */

/* Another piece of room. One byte more than `max` is allowed, so that an output of exactly `max`
 * bytes can still meet the stream's end. */
static bool more_room(struct pump *p)
{
    size_t made = p->out->size - p->start;
    p->room = made > p->max ? 0 : p->max - made + 1;
    size_t piece = made / 2 > PIECE ? made / 2 : PIECE;
    if (p->room > piece)
        p->room = piece;
    if (p->room > INT_MAX)
        p->room = INT_MAX;
    p->at = p->room ? buf_reserve(p->out, p->room) : NULL;
    p->too_big = !p->at;
    return p->at != NULL;
}

static void made(struct pump *p, size_t left)
{
    p->out->size += p->room - left;
    p->out->data[p->out->size] = '\0';
    p->too_big = p->out->size - p->start > p->max;
}

/* Each codec's function returns true when its stream ended well. */
typedef bool codec_fn(struct pump *p);

static bool zlib_decode(struct pump *p)
{
    z_stream z = {.next_in = (Bytef *)p->in.at, .avail_in = (uInt)p->in.size};
    if (inflateInit(&z) != Z_OK)
        return false;
    int code = Z_OK;
    while (code == Z_OK && more_room(p)) {
        z.next_out = (Bytef *)p->at;
        z.avail_out = (uInt)p->room;
        code = inflate(&z, Z_NO_FLUSH);
        made(p, z.avail_out);
    }
    inflateEnd(&z);
    return code == Z_STREAM_END;
}

static bool zlib_encode(struct pump *p)
{
    z_stream z = {.next_in = (Bytef *)p->in.at, .avail_in = (uInt)p->in.size};
    if (deflateInit(&z, Z_DEFAULT_COMPRESSION) != Z_OK)
        return false;
    int code = Z_OK;
    while (code == Z_OK && more_room(p)) {
        z.next_out = (Bytef *)p->at;
        z.avail_out = (uInt)p->room;
        code = deflate(&z, Z_FINISH);
        made(p, z.avail_out);
    }
    deflateEnd(&z);
    return code == Z_STREAM_END;
}

static bool bzip2_decode(struct pump *p)
{
    bz_stream z = {.next_in = (char *)p->in.at, .avail_in = (unsigned)p->in.size};
    if (BZ2_bzDecompressInit(&z, 0, 0) != BZ_OK)
        return false;
    int code = BZ_OK;
    while (code == BZ_OK && more_room(p)) {
        z.next_out = p->at;
        z.avail_out = (unsigned)p->room;
        code = BZ2_bzDecompress(&z);
        bool starved = code == BZ_OK && z.avail_in == 0 && z.avail_out != 0;
        made(p, z.avail_out);
        if (starved) /* libbz2 would wait for more input for ever */
            break;
    }
    BZ2_bzDecompressEnd(&z);
    return code == BZ_STREAM_END;
}

static bool bzip2_encode(struct pump *p)
{
    bz_stream z = {.next_in = (char *)p->in.at, .avail_in = (unsigned)p->in.size};
    if (BZ2_bzCompressInit(&z, 9, 0, 0) != BZ_OK)
        return false;
    int code = BZ_FINISH_OK;
    while (code == BZ_FINISH_OK && more_room(p)) {
        z.next_out = p->at;
        z.avail_out = (unsigned)p->room;
        code = BZ2_bzCompress(&z, BZ_FINISH);
        made(p, z.avail_out);
    }
    BZ2_bzCompressEnd(&z);
    return code == BZ_STREAM_END;
}

static bool lzma_pump(struct pump *p, lzma_stream *z)
{
    lzma_ret code = LZMA_OK;
    z->next_in = (const uint8_t *)p->in.at;
    z->avail_in = p->in.size;
    while (code == LZMA_OK && more_room(p)) {
        z->next_out = (uint8_t *)p->at;
        z->avail_out = p->room;
        code = lzma_code(z, LZMA_FINISH);
        made(p, z->avail_out);
    }
    lzma_end(z);
    return code == LZMA_STREAM_END;
}

static bool lzma_decode(struct pump *p)
{
    lzma_stream z = LZMA_STREAM_INIT;
    return lzma_auto_decoder(&z, LZMA_MEMORY, LZMA_CONCATENATED) == LZMA_OK && lzma_pump(p, &z);
}

static bool lzma_encode(struct pump *p)
{
    lzma_stream z = LZMA_STREAM_INIT;
    return lzma_easy_encoder(&z, LZMA_PRESET_DEFAULT, LZMA_CHECK_CRC64) == LZMA_OK &&
           lzma_pump(p, &z);
}

#ifdef HAVE_ZSTD
static bool zstd_decode(struct pump *p)
{
    ZSTD_DStream *z = ZSTD_createDStream();
    ZSTD_inBuffer in = {p->in.at, p->in.size, 0};
    size_t left = 1;
    bool stuck = false;
    while (z && left && !stuck && more_room(p)) {
        ZSTD_outBuffer out = {p->at, p->room, 0};
        left = ZSTD_decompressStream(z, &out, &in);
        stuck = ZSTD_isError(left) || (in.pos == in.size && out.pos < out.size);
        made(p, p->room - out.pos);
    }
    ZSTD_freeDStream(z);
    return z && left == 0;
}

static bool zstd_encode(struct pump *p)
{
    size_t bound = ZSTD_compressBound(p->in.size);
    char *at = buf_reserve(p->out, bound);
    size_t size = at ? ZSTD_compress(at, bound, p->in.at, p->in.size, ZSTD_CLEVEL_DEFAULT) : 0;
    if (!at || ZSTD_isError(size))
        return false;
    p->out->size += size;
    p->out->data[p->out->size] = '\0';
    return true;
}
#endif

#ifdef HAVE_BROTLI
static bool brotli_decode(struct pump *p)
{
    BrotliDecoderState *z = BrotliDecoderCreateInstance(NULL, NULL, NULL);
    const uint8_t *in = (const uint8_t *)p->in.at;
    size_t left = p->in.size;
    BrotliDecoderResult code = BROTLI_DECODER_RESULT_NEEDS_MORE_OUTPUT;
    while (z && code == BROTLI_DECODER_RESULT_NEEDS_MORE_OUTPUT && more_room(p)) {
        uint8_t *out = (uint8_t *)p->at;
        size_t room = p->room;
        code = BrotliDecoderDecompressStream(z, &left, &in, &room, &out, NULL);
        made(p, room);
    }
    if (z)
        BrotliDecoderDestroyInstance(z);
    return z && code == BROTLI_DECODER_RESULT_SUCCESS;
}

static bool brotli_encode(struct pump *p)
{
    size_t size = BrotliEncoderMaxCompressedSize(p->in.size);
    char *at = size ? buf_reserve(p->out, size) : NULL;
    if (!at || !BrotliEncoderCompress(BROTLI_DEFAULT_QUALITY, BROTLI_DEFAULT_WINDOW,
                                      BROTLI_DEFAULT_MODE, p->in.size,
                                      (const uint8_t *)p->in.at, &size, (uint8_t *)at))
        return false;
    p->out->size += size;
    p->out->data[p->out->size] = '\0';
    return true;
}
#endif

/* Kombu's names for them; the header carries the content type, older peers a short name. */
static const struct codec {
    const char *header, *names[4];
    codec_fn *decode, *encode;
} codecs[] = {
    {"application/x-gzip", {"zlib", "gzip"}, zlib_decode, zlib_encode},
    {"application/x-bz2", {"bzip2", "bzip"}, bzip2_decode, bzip2_encode},
    {"application/x-lzma", {"lzma", "xz"}, lzma_decode, lzma_encode},
#ifdef HAVE_ZSTD
    {"application/zstd", {"zstd", "zstandard"}, zstd_decode, zstd_encode},
#endif
#ifdef HAVE_BROTLI
    {"application/x-brotli", {"brotli"}, brotli_decode, brotli_encode},
#endif
};

static const struct codec *codec_find(const char *name)
{
    for (size_t i = 0; i < sizeof codecs / sizeof *codecs; i++) {
        if (strcasecmp(name, codecs[i].header) == 0)
            return &codecs[i];
        for (const char *const *at = codecs[i].names; *at; at++) {
            if (strcasecmp(name, *at) == 0)
                return &codecs[i];
        }
    }
    return NULL;
}

static int unknown(const char *name, struct error *err)
{
    return error_set(err, ERROR_UNSUPPORTED,
                     "compression '%.60s' is not supported: set task_compression='zlib' in the "
                     "producer (known here: zlib, gzip, bzip2, lzma"
#ifdef HAVE_ZSTD
                     ", zstd"
#endif
#ifdef HAVE_BROTLI
                     ", brotli"
#endif
                     ")",
                     name);
}

int compression_decode(const char *name, struct slice in, size_t max, struct buf *out,
                       struct error *err)
{
    const struct codec *codec = codec_find(name);
    if (!codec)
        return unknown(name, err);
    struct pump p = {.in = in, .out = out, .start = out->size, .max = max};
    if (in.size > INT_MAX)
        return error_set(err, ERROR_TOO_BIG, "compressed text of more than 2 GiB");
    bool good = codec->decode(&p);
    if (p.too_big)
        return error_set(err, ERROR_TOO_BIG, "more than %zu bytes after decompression (%s)", max,
                         codec->names[0]);
    return good ? 0 : error_set(err, ERROR_INVALID, "broken %s data", codec->names[0]);
}

int compression_encode(const char *name, struct slice in, struct buf *out, const char **ret_header,
                       struct error *err)
{
    const struct codec *codec = codec_find(name);
    if (!codec)
        return unknown(name, err);
    struct pump p = {.in = in, .out = out, .start = out->size, .max = SIZE_MAX / 4};
    if (in.size > INT_MAX || !codec->encode(&p))
        return error_set(err, ERROR_TOO_BIG, "too much for %s to compress", codec->names[0]);
    *ret_header = codec->header;
    return 0;
}
