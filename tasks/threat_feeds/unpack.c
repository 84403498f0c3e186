/* SPDX-License-Identifier: Apache-2.0 */
#include "tasks/threat_feeds/unpack.h"

#include <stdlib.h>
#include <string.h>
#include <zlib.h>

/* Unpacking by zlib, piece by piece. Only what comes out is counted: the sizes in a header are what
 * an attacker wrote there. Of a zip the first local file is read, without its directory. */

enum { PIECE = 64 << 10, ZIP_HEADER = 30, ZIP_HEADER_MAX = ZIP_HEADER + 2 * 65535 };
enum { FOLDERS_MAX = 1000 };
enum form { UNKNOWN, RAW, PACKED, BETWEEN /* parts of a gzip file */, ZIP_HEAD, STORED, ENDED };

struct unpack {
    cw_task *t;
    unpack_fn *fn;
    void *arg;
    size_t left, max;
    enum form form;
    z_stream z;
    bool has_z, gzip;
    unsigned char *head; /* the first bytes, until the form is known */
    size_t head_size;
    int folders;
    size_t stored; /* bytes of a stored file still to come */
    uLong crc, told_crc;
    bool has_crc; /* the zip told it before the file */
    char out[PIECE];
};

static void close_unpack(void *unpack)
{
    struct unpack *u = unpack;
    if (u->has_z)
        inflateEnd(&u->z);
    free(u->head);
}

struct unpack *unpack_open(cw_task *t, size_t max, unpack_fn *fn, void *arg)
{
    struct unpack *u = cw_alloc(t, sizeof *u);
    u->t = t;
    u->fn = fn;
    u->arg = arg;
    u->left = u->max = max;
    u->head = malloc(ZIP_HEADER_MAX);
    cw_defer(t, close_unpack, u);
    return u->head ? u : NULL;
}

static int broken(struct unpack *u, const char *what)
{
    return cw_problem(u->t, false, "ValueError", "the archive cannot be read: %s", what);
}

static int give(struct unpack *u, const char *data, size_t size)
{
    if (size > u->left)
        return cw_problem(u->t, false, "ValueError", "the feed unpacks to more than %zu bytes",
                          u->max);
    u->left -= size;
    if (u->has_crc)
        u->crc = crc32(u->crc, (const unsigned char *)data, (uInt)size);
    return size ? u->fn(data, size, u->arg) : 0;
}

/* What follows the first file of a zip is nothing of ours. */
static int end_file(struct unpack *u)
{
    u->form = ENDED;
    return u->has_crc && u->crc != u->told_crc ? broken(u, "incorrect data check") : 0;
}

/* A gzip file may have several parts, and zeros that fill it up. Else the next part is damaged. */
static int begin_part(struct unpack *u)
{
    while (u->z.avail_in && !*u->z.next_in)
        u->z.next_in++, u->z.avail_in--;
    if (!u->z.avail_in)
        return 0;
    if (*u->z.next_in != 0x1F || inflateReset(&u->z) != Z_OK)
        return broken(u, "there is more behind its end");
    u->form = PACKED;
    return 0;
}

static int inflate_piece(struct unpack *u, const unsigned char *data, size_t size)
{
    u->z.next_in = (unsigned char *)(uintptr_t)data;
    u->z.avail_in = (uInt)size;
    do {
        if (u->form == BETWEEN && begin_part(u) < 0)
            return -1;
        if (u->form == BETWEEN)
            return 0;
        u->z.next_out = (unsigned char *)u->out;
        u->z.avail_out = PIECE;
        int code = inflate(&u->z, Z_NO_FLUSH);
        if (code != Z_OK && code != Z_STREAM_END && code != Z_BUF_ERROR)
            return broken(u, u->z.msg ? u->z.msg : "its data");
        if (give(u, u->out, PIECE - u->z.avail_out) < 0)
            return -1;
        if (code == Z_STREAM_END && !u->gzip)
            return end_file(u);
        if (code == Z_STREAM_END)
            u->form = BETWEEN;
    } while (u->z.avail_in || (!u->z.avail_out && u->form == PACKED));
    return 0;
}

static int start_inflate(struct unpack *u, int window)
{
    if (inflateInit2(&u->z, window) != Z_OK)
        return cw_problem(u->t, true, "MemoryError", "no memory to unpack");
    u->has_z = true;
    u->gzip = window > 0;
    u->form = PACKED;
    return 0;
}

static int pass(struct unpack *u, const unsigned char *data, size_t size)
{
    size_t n = u->stored < size ? u->stored : size;
    switch (u->form) {
    case RAW:
        return give(u, (const char *)data, size);
    case BETWEEN:
    case PACKED:
        return inflate_piece(u, data, size);
    case STORED:
        u->stored -= n;
        if (give(u, (const char *)data, n) < 0)
            return -1;
        return u->stored ? 0 : end_file(u);
    default:
        return 0; /* what follows the first file */
    }
}

static unsigned le16(const unsigned char *at)
{
    return at[0] | (unsigned)at[1] << 8;
}

/* Of the header at the beginning of what is kept; 0: it is not complete, its names are missing. */
static size_t zip_header_size(const struct unpack *u)
{
    const unsigned char *h = u->head;
    size_t size = u->head_size < ZIP_HEADER ? 0 : ZIP_HEADER + le16(h + 26) + le16(h + 28);
    return u->head_size < size ? 0 : size;
}

/* A folder is an entry of its own, before the files in it. */
static bool is_folder(const unsigned char *h)
{
    static const unsigned char nothing[4];
    unsigned name = le16(h + 26);
    return name && h[ZIP_HEADER + name - 1] == '/' && !(le16(h + 6) & 8) &&
           memcmp(h + 18, nothing, sizeof nothing) == 0;
}

/* The local header says how the file is packed. */
static int read_zip_head(struct unpack *u)
{
    const unsigned char *h = u->head;
    size_t size;
    for (;;) {
        if (u->head_size >= 4 && memcmp(h, "PK\3\4", 4) != 0) {
            u->form = ENDED; /* no file at all */
            return 0;
        }
        size = zip_header_size(u);
        if (!size)
            return 0;
        if (!is_folder(h))
            break;
        if (++u->folders > FOLDERS_MAX)
            return broken(u, "it begins with too many folders");
        u->head_size -= size;
        memmove(u->head, h + size, u->head_size);
    }
    unsigned flags = le16(h + 6), method = le16(h + 8);
    u->has_crc = !(flags & 8);
    u->told_crc = le16(h + 14) | (uLong)le16(h + 16) << 16;
    if (flags & 1)
        return broken(u, "it is encrypted");
    if (method == 8) {
        if (start_inflate(u, -MAX_WBITS) < 0)
            return -1;
    } else if (method == 0 && !(flags & 8)) {
        u->stored = le16(h + 18) | (size_t)le16(h + 20) << 16;
        u->form = u->stored ? STORED : ENDED;
    } else {
        return broken(u, "it is packed in a way that is not known");
    }
    return pass(u, h + size, u->head_size - size);
}

static int find_form(struct unpack *u, bool at_end)
{
    if (u->head_size < 4 && !at_end)
        return 0;
    if (u->head_size >= 4 && memcmp(u->head, "PK\3\4", 4) == 0) {
        u->form = ZIP_HEAD;
        return read_zip_head(u);
    }
    if (u->head_size >= 2 && memcmp(u->head, "\x1F\x8B", 2) == 0) {
        if (start_inflate(u, 16 + MAX_WBITS) < 0)
            return -1;
    } else {
        u->form = RAW;
    }
    return pass(u, u->head, u->head_size);
}

int unpack_feed(struct unpack *u, const char *data, size_t size)
{
    while (size && (u->form == UNKNOWN || u->form == ZIP_HEAD)) {
        size_t room = ZIP_HEADER_MAX - u->head_size, n = size < room ? size : room;
        memcpy(u->head + u->head_size, data, n);
        u->head_size += n;
        data += n;
        size -= n;
        if ((u->form == UNKNOWN ? find_form(u, false) : read_zip_head(u)) < 0)
            return -1;
    }
    return size ? pass(u, (const unsigned char *)data, size) : 0;
}

int unpack_end(struct unpack *u)
{
    if (u->form == UNKNOWN && find_form(u, true) < 0)
        return -1;
    return u->form == RAW || u->form == BETWEEN || u->form == ENDED ? 0 : broken(u, "it is cut");
}

bool unpack_is_archive(const struct unpack *u)
{
    return u->form != RAW;
}
