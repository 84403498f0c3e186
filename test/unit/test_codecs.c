/* SPDX-License-Identifier: Apache-2.0 */
/* Compression and base64, there and back, and what is cut or too large. */

#include "proto/base/mem.h"
#include "proto/base64.h"
#include "proto/compress.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static void test_compression(void **state)
{
    (void)state;
    static const char *const names[] = {"zlib", "gzip", "bzip2", "bzip", "lzma", "xz",
#ifdef HAVE_ZSTD
                                        "zstd", "zstandard",
#endif
#ifdef HAVE_BROTLI
                                        "brotli",
#endif
    };
    enum { SIZE = 8 << 20 };
    char *zeros = mem_zalloc(SIZE);
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        struct buf packed = BUF_INIT(2 * SIZE), plain = BUF_INIT(2 * SIZE);
        struct error err = {0};
        const char *header = NULL;
        struct slice in = {zeros, SIZE};
        assert_int_equal(compression_encode(names[i], in, &packed, &header, &err), 0);
        in = (struct slice){packed.data, packed.size};
        assert_int_equal(compression_decode(header, in, SIZE, &plain, &err), 0);
        assert_int_equal(plain.size, SIZE);
        assert_memory_equal(plain.data, zeros, SIZE);
        buf_reset(&plain);
        assert_int_equal(compression_decode(names[i], in, SIZE - 1, &plain, &err), ERROR_TOO_BIG);
        assert_true(plain.size <= SIZE);
        buf_reset(&plain);
        in.size--;
        assert_int_equal(compression_decode(names[i], in, SIZE, &plain, &err), ERROR_INVALID);
        buf_reset(&plain);
        in.size = 0;
        assert_int_equal(compression_decode(names[i], in, SIZE, &plain, &err), ERROR_INVALID);
        buf_done(&packed);
        buf_done(&plain);
    }
    free(zeros);
}

static void check_base64(const char *text, const char *expected)
{
    struct buf out = BUF_INIT(100);
    int code = base64_decode((struct slice){text, strlen(text)}, &out);
    assert_int_equal(code, expected ? 0 : ERROR_INVALID);
    if (expected && *expected)
        assert_string_equal(out.data, expected);
    assert_int_equal(out.size, expected ? strlen(expected) : 0);
    buf_done(&out);
}

static void test_base64(void **state)
{
    (void)state;
    check_base64("", "");
    check_base64("YQ==", "a");
    check_base64("YWI=", "ab");
    check_base64("YWJj", "abc");
    check_base64("YWJjZGVm", "abcdef");
    check_base64("YWJ", NULL);
    check_base64("YQ=a", NULL);
    check_base64("Y===", NULL);
    check_base64("====", NULL);
    check_base64("YQ==YQ==", NULL);
    check_base64("YW\nJ", NULL);
    check_base64("YW-_", NULL);
    for (size_t size = 0; size < 300; size++) {
        char bytes[300];
        for (size_t i = 0; i < size; i++)
            bytes[i] = (char)(i * 7 + size);
        struct buf text = BUF_INIT(1000), back = BUF_INIT(1000);
        base64_encode((struct slice){bytes, size}, &text);
        assert_int_equal(base64_decode((struct slice){text.data, text.size}, &back), 0);
        assert_int_equal(back.size, size);
        assert_true(size == 0 || memcmp(back.data, bytes, size) == 0);
        buf_done(&text);
        buf_done(&back);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_compression),
        cmocka_unit_test(test_base64),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
