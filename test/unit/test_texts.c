/* SPDX-License-Identifier: Apache-2.0 */
/* Dates, Python's reprs, ids, and what is UTF-8. */

#include "proto/message.h"
#include "proto/repr.h"
#include "proto/utf8.h"
#include "proto/uuid.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

struct date {
    const char *text;
    int64_t time;
};

static void test_time(void **state)
{
    (void)state;
    static const struct date dates[] = {
        {"1970-01-01T00:00:00+00:00", 0},
        {"2026-11-21T09:36:17.889569+00:00", 1795253777889569},
        {"2026-11-21T09:36:17", 1795253777000000},
        {"2026-11-21 09:36:17Z", 1795253777000000},
        {"2026-11-21T09:36Z", 1795253760000000},
        {"20261121T093617Z", 1795253777000000},
        {"2026-11-21T15:06:17,5+05:30", 1795253777500000},
        {"2026-11-21T15:06:17.123456789+0530", 1795253777123456},
        {"2026-11-21T01:36:17-08", 1795253777000000},
        {"2026-11-21", 1795219200000000},
        {"1969-12-31T23:59:59.999999Z", -1},
        {"2024-02-29", 1709164800000000},
        {"0001-01-01", -62135596800000000},
        {"9999-12-31T23:59:59.999999Z", 253402300799999999},
        {"", TIME_NONE}, {"x", TIME_NONE}, {"2026-13-01", TIME_NONE}, {"2026-02-29", TIME_NONE},
        {"2026-11-21T", TIME_NONE}, {"2026-11-21T24:00", TIME_NONE}, {"2026-1121", TIME_NONE},
        {"2026-11-21T09:36:17.", TIME_NONE}, {"2026-11-21T09:36:17+", TIME_NONE},
        {"2026-11-21T09:36:17Zx", TIME_NONE}, {"0000-01-01", TIME_NONE}, {"12", TIME_NONE},
    };
    for (size_t i = 0; i < sizeof dates / sizeof *dates; i++) {
        int64_t time = TIME_NONE;
        int code = time_parse(dates[i].text, strlen(dates[i].text), &time);
        if ((code == 0) != (dates[i].time != TIME_NONE) || (code == 0 && time != dates[i].time))
            fail_msg("%s: %d %lld", dates[i].text, code, (long long)time);
    }
    char text[40];
    assert_string_equal(time_print(0, text), "1970-01-01T00:00:00+00:00");
    assert_string_equal(time_print(-1, text), "1969-12-31T23:59:59.999999+00:00");
    assert_string_equal(time_print(1795253777000005, text), "2026-11-21T09:36:17.000005+00:00");
}

static void check_repr(const char *json, bool tuple, size_t max, const char *expected)
{
    cJSON *value = json_parse(json, strlen(json), NULL);
    struct buf out = BUF_INIT(10000);
    repr_print(value, tuple, max, &out);
    assert_string_equal(out.data, expected);
    buf_done(&out);
    cJSON_Delete(value);
}

static void test_repr_of_python(void **state)
{
    (void)state;
    static const char *const pairs[][2] = {
        {"[\"missing: 'y'\"]", "[\"missing: 'y'\"]"},
        {"[\"both ' and \\\"\"]", "['both \\' and \"']"},
        {"\"a\\nb\\t\\\\\\u001b\\u00e9\"", "'a\\nb\\t\\\\\\x1b\u00e9'"},
        {"[[[[[1]]]], {\"a'b\": null}]", "[[[[[1]]]], {\"a'b\": None}]"},
    };
    for (size_t i = 0; i < sizeof pairs / sizeof *pairs; i++) {
        cJSON *value = json_parse(pairs[i][0], strlen(pairs[i][0]), NULL);
        struct buf out = BUF_INIT(10000);
        repr_python(value, false, 1000, &out);
        assert_string_equal(out.data, pairs[i][1]);
        buf_done(&out);
        cJSON_Delete(value);
    }
}

static void test_repr(void **state)
{
    (void)state;
    check_repr("[]", true, 100, "()");
    check_repr("[1]", true, 100, "(1,)");
    check_repr("[1, 2.5, \"a'b\", null, true, false]", true, 100,
               "(1, 2.5, 'a\\'b', None, True, False)");
    check_repr("{\"a\": [1, {\"b\": 2}], \"c\": -Infinity}", false, 100,
               "{'a': [1, {'b': 2}], 'c': -inf}");
    check_repr("[[[[[[1]]]]], {\"a\": {\"b\": {\"c\": 1}}}]", true, 100,
               "([[[...]]], {'a': {'b': {...}}})");
    check_repr("[\"aaaaaaaaaaaaaaaaaaaa\", 1]", true, 10, "('aaaaaaaaa...', ...)");
    check_repr("null", false, 10, "None");
}

static void test_uuid(void **state)
{
    (void)state;
    char one[37], two[37];
    uuid_make(one);
    uuid_make(two);
    assert_int_equal(strlen(one), 36);
    assert_true(one[8] == '-' && one[13] == '-' && one[14] == '4' && one[18] == '-');
    assert_non_null(strchr("89ab", one[19]));
    assert_string_not_equal(one, two);
}

static void test_utf8(void **state)
{
    (void)state;
    static const char *const good[] = {"", "plain text of many bytes", "\xC2\x80", "\xED\x9F\xBF",
                                       "\xEE\x80\x80", "\xF0\x90\x80\x80", "\xF4\x8F\xBF\xBF"};
    static const char *const bad[] = {"\x80", "\xC3", "\xC0\x80", "\xC1\xBF", "\xE0\x9F\xBF",
                                      "\xED\xA0\x80", "\xED\xBF\xBF", "\xF0\x8F\xBF\xBF",
                                      "\xF4\x90\x80\x80", "\xF5\x80\x80\x80", "\xC3(", "\xE2\x82"};
    for (size_t before = 0; before < 20; before++) {
        char text[64] = "";
        memset(text, 'x', before);
        for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
            strcpy(text + before, good[i]);
            assert_true(utf8_is_valid(text, strlen(text)));
            if (*good[i])
                assert_true(i == 1 || !utf8_is_valid(text, strlen(text) - 1));
        }
        for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
            strcpy(text + before, bad[i]);
            assert_false(utf8_is_valid(text, strlen(text)));
            strcat(text, "yyyyyyyyyyyy");
            assert_false(utf8_is_valid(text, strlen(text)));
        }
    }
    assert_true(utf8_is_valid("a\0b", 3));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_time),
        cmocka_unit_test(test_repr_of_python),
        cmocka_unit_test(test_repr),
        cmocka_unit_test(test_uuid),
        cmocka_unit_test(test_utf8),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
