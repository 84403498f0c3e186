/* SPDX-License-Identifier: Apache-2.0 */

/* Bodies of HTTP as servers pack them: whole in any pieces, and cut or damaged at every byte. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "worker/task/http_decode.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { SIZE = 40000, ROOM = 3 * SIZE };
enum { RAW = -MAX_WBITS, ZLIB = MAX_WBITS, GZIP = 16 + MAX_WBITS };

static char text[SIZE];

struct packed {
    unsigned char data[ROOM];
    size_t size;
};

/* Appends, so that a gzip body may have several parts. */
static void pack(struct packed *p, const char *data, size_t size, int window)
{
    z_stream z = {.next_in = (unsigned char *)data,
                  .avail_in = (uInt)size,
                  .next_out = p->data + p->size,
                  .avail_out = (uInt)(ROOM - p->size)};
    assert_int_equal(deflateInit2(&z, 6, Z_DEFLATED, window, 8, Z_DEFAULT_STRATEGY), Z_OK);
    assert_int_equal(deflate(&z, Z_FINISH), Z_STREAM_END);
    p->size += z.total_out;
    deflateEnd(&z);
}

struct result {
    char data[ROOM];
    size_t size;
};

static int keep(const char *data, size_t size, void *arg)
{
    struct result *r = arg;
    assert_true(size && r->size + size <= ROOM);
    memcpy(r->data + r->size, data, size);
    r->size += size;
    return 0;
}

/* What is wrong with it, or NULL; *r has what came out. */
static const char *decode(const char *coding, const void *data, size_t size, size_t piece,
                          struct result *r)
{
    static char said[200];
    struct http_decoder d = {0};
    int code = 0;
    r->size = 0;
    http_decode_add(&d, coding);
    for (size_t at = 0; at < size && code == 0; at += piece)
        code = http_decode(&d, (const char *)data + at, size - at < piece ? size - at : piece, keep,
                           r);
    const char *wrong = http_decode_end(&d, code == 0);
    snprintf(said, sizeof said, "%s", wrong ? wrong : "");
    assert_int_equal(code != 0 && !wrong, 0);
    http_decode_close(&d);
    return wrong ? said : NULL;
}

static void expect_text(const char *coding, const struct packed *p)
{
    static const size_t pieces[] = {1, 2, 3, 1000, ROOM};
    static struct result r;
    for (size_t i = 0; i < sizeof pieces / sizeof *pieces; i++) {
        assert_null(decode(coding, p->data, p->size, pieces[i], &r));
        assert_int_equal(r.size, SIZE);
        assert_memory_equal(r.data, text, SIZE);
    }
}

static void expect_wrong(const char *coding, const void *data, size_t size, const char *wrong)
{
    static struct result r;
    for (size_t piece = 1; piece <= ROOM; piece += ROOM - 1) {
        const char *said = decode(coding, data, size, piece, &r);
        assert_non_null(said);
        assert_string_equal(said, wrong);
        assert_true(r.size <= SIZE);
        assert_memory_equal(r.data, text, r.size);
    }
}

static void test_whole(void **state)
{
    static struct packed parts, gzip, zlib, raw, plain;
    (void)state;
    pack(&gzip, text, SIZE, GZIP);
    pack(&zlib, text, SIZE, ZLIB);
    pack(&raw, text, SIZE, RAW);
    pack(&parts, text, 7, GZIP);
    pack(&parts, "", 0, GZIP);
    pack(&parts, text + 7, SIZE - 7, GZIP);
    memcpy(plain.data, text, plain.size = SIZE);
    expect_text("gzip", &gzip);
    expect_text(" X-GZip ,identity,", &gzip);
    expect_text("gzip", &parts);
    expect_text("deflate", &zlib);
    expect_text("Deflate", &raw);
    expect_text("", &plain);
    expect_text("none", &plain);
    gzip.size += 600; /* of zeros */
    expect_text("gzip", &gzip);
}

static void test_cut_anywhere(void **state)
{
    static const struct row {
        const char *coding;
        int window;
    } rows[] = {{"gzip", GZIP}, {"deflate", ZLIB}, {"deflate", RAW}};
    static struct packed p;
    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        p.size = 0;
        pack(&p, text, 300, rows[i].window);
        for (size_t size = 1; size < p.size; size++)
            expect_wrong(rows[i].coding, p.data, size, "it is cut");
    }
    p.size = 0;
    pack(&p, text, 300, GZIP);
    size_t first = p.size;
    pack(&p, text + 300, 300, GZIP);
    for (size_t size = first + 1; size < p.size; size++)
        expect_wrong("gzip", p.data, size, "it is cut");
}

static void test_damaged(void **state)
{
    static struct packed gzip, zlib, raw;
    (void)state;
    pack(&gzip, text, SIZE, GZIP);
    pack(&zlib, text, SIZE, ZLIB);
    pack(&raw, text, SIZE, RAW);
    gzip.data[gzip.size - 1] ^= 1;
    expect_wrong("gzip", gzip.data, gzip.size, "incorrect length check");
    gzip.data[gzip.size - 8] ^= 1;
    expect_wrong("gzip", gzip.data, gzip.size, "incorrect data check");
    zlib.data[zlib.size - 1] ^= 1;
    expect_wrong("deflate", zlib.data, zlib.size, "incorrect data check");
    raw.data[raw.size] = 'x';
    expect_wrong("deflate", raw.data, raw.size + 1, "there is more behind its end");
    gzip.size = 0;
    pack(&gzip, text, SIZE, GZIP);
    gzip.data[gzip.size] = '\n';
    expect_wrong("gzip", gzip.data, gzip.size + 1, "there is more behind its end");
    expect_wrong("gzip", text, SIZE, "incorrect header check");
}

static void test_codings(void **state)
{
    static struct packed p;
    static struct result r;
    (void)state;
    pack(&p, text, SIZE, GZIP);
    expect_wrong("br", p.data, p.size, "the coding br");
    expect_wrong("gzip, gzip", p.data, p.size, "the coding gzip, gzip");
    expect_wrong("gzip,deflate", p.data, p.size, "the coding gzip,deflate");
    assert_null(decode("gzip", "", 0, 1, &r));
    struct http_decoder twice = {0}; /* as two headers */
    http_decode_add(&twice, "gzip");
    http_decode_add(&twice, "deflate");
    assert_true(http_decode(&twice, (char *)p.data, p.size, keep, &r) < 0);
    assert_string_equal(http_decode_end(&twice, false), "the coding deflate");
    http_decode_close(&twice);
}

static int refuse(const char *data, size_t size, void *arg)
{
    (void)data;
    *(size_t *)arg += size;
    return -1;
}

/* A small body that holds a large one comes in pieces, and whoever takes them may end it. */
static void test_refused(void **state)
{
    static struct packed p;
    struct http_decoder d = {0};
    char *zeros = calloc(1, 8 << 20);
    size_t taken = 0;
    (void)state;
    pack(&p, zeros, 8 << 20, GZIP);
    free(zeros);
    http_decode_add(&d, "gzip");
    assert_true(http_decode(&d, (char *)p.data, p.size, refuse, &taken) < 0);
    assert_true(taken > 0 && taken <= 65536);
    assert_null(http_decode_end(&d, false));
    http_decode_close(&d);
}

static int make_text(void **state)
{
    unsigned seed = 7;
    (void)state;
    for (size_t i = 0; i < SIZE; i++) {
        seed = seed * 1103515245 + 12345;
        text[i] = "0123456789.\n"[(seed >> 16) % 12];
    }
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_whole),   cmocka_unit_test(test_cut_anywhere),
        cmocka_unit_test(test_damaged), cmocka_unit_test(test_codings),
        cmocka_unit_test(test_refused),
    };
    return cmocka_run_group_tests(tests, make_text, NULL);
}
