/* SPDX-License-Identifier: Apache-2.0 */
#include "proto/json.h"

#include "proto/base/mem.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static void check_print(const char *text, const char *expected)
{
    struct error err = {0};
    cJSON *tree = json_parse(text, strlen(text), &err);
    if (!tree)
        fail_msg("%s: %s", text, err.text);
    char *printed = json_text(tree);
    assert_string_equal(printed, expected);
    free(printed);
    cJSON_Delete(tree);
}

static void test_identity(void **state)
{
    (void)state;
    static const char *const texts[] = {
        "null", "true", "false", "0", "-0", "-0.0", "1.0", "1", "0.1", "1e+16", "1e-07", "1e+300",
        "NaN", "Infinity", "-Infinity", "9007199254740993", "18446744073709551616",
        "10000000000000000000000000000000000000000", "\"\"", "\"\\u0000\"", "\"\\ud800\"",
        "\"a\\udc00\\ud800b\"", "\"\\ud83d\\ude00\"", "\"\\u007f\\u0080\\u00ff\"",
        "\"\\\"\\\\\\b\\f\\n\\r\\t/\"", "[]", "{}", "[1, [2, {\"a\": null}], \"x\"]",
        "{\"a\": 1, \"b\": {\"__type__\": \"uuid\", \"__value__\": {\"hex\": \"00\"}}}",
        "{\"\\u0000\": 1, \"\": 2}"};
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++)
        check_print(texts[i], texts[i]);
}

static void test_normal_form(void **state)
{
    (void)state;
    check_print(" {\"a\":1 ,\"b\":[ 1,2 ]}\n", "{\"a\": 1, \"b\": [1, 2]}");
    check_print("\"\\/\\u0041\xC3\xA9\xF0\x9F\x98\x80\"", "\"/A\\u00e9\\ud83d\\ude00\"");
    check_print("\"\\uD83D\\uDE00\"", "\"\\ud83d\\ude00\"");
    check_print("{\"a\": 1, \"b\": 2, \"a\": [3], \"a\": 4}", "{\"a\": 4, \"b\": 2}");
}

static void check_number(double value, const char *expected)
{
    cJSON *number = cJSON_CreateNumber(value);
    char *printed = json_text(number);
    assert_string_equal(printed, expected);
    if (!isnan(value))
        assert_true(strtod(printed, NULL) == value);
    free(printed);
    cJSON_Delete(number);
}

static void test_numbers(void **state)
{
    (void)state;
    check_number(3, "3");
    check_number(-7, "-7");
    check_number(0, "0");
    check_number(-0.0, "-0.0");
    check_number(0.1, "0.1");
    check_number(1.5, "1.5");
    check_number(0.0001, "0.0001");
    check_number(0.00012345, "0.00012345");
    check_number(0.00001, "1e-05");
    check_number(1e-7, "1e-07");
    check_number(1.25e-10, "1.25e-10");
    check_number(9007199254740992.0, "9007199254740992");
    check_number(1.2345678901234568e16, "1.2345678901234568e+16");
    check_number(1e16, "1e+16");
    check_number(1e300, "1e+300");
    check_number(0.1 + 0.2, "0.30000000000000004");
    check_number(123456.789, "123456.789");
    check_number(5e-324, "5e-324");
    check_number(NAN, "NaN");
    check_number(-INFINITY, "-Infinity");
}

static void check_int(const char *text, bool good, int64_t expected)
{
    cJSON *number = json_number(text);
    int64_t value = 0;
    assert_int_equal(json_as_int(number, &value), good);
    if (good)
        assert_true(value == expected);
    cJSON_Delete(number);
}

static void test_as_int(void **state)
{
    (void)state;
    check_int("5", true, 5);
    check_int("-9223372036854775808", true, INT64_MIN);
    check_int("9223372036854775807", true, INT64_MAX);
    check_int("9223372036854775808", false, 0);
    check_int("9007199254740993", true, 9007199254740993);
    check_int("2.0", true, 2);
    check_int("2.5", false, 0);
    check_int("NaN", false, 0);
    check_int("1e300", false, 0);
    cJSON *number = json_int(INT64_MIN);
    assert_string_equal(number->valuestring, "-9223372036854775808");
    cJSON_Delete(number);
}

struct bad {
    const char *text, *why;
};

static void test_errors(void **state)
{
    (void)state;
    static const struct bad bads[] = {
        {"", "text ends where a value is expected at byte 0"},
        {"  ", "text ends where a value is expected at byte 2"},
        {"[1,]", "value expected at byte 3"},
        {"[1 2]", "',' or ']' expected at byte 3"},
        {"{\"a\":1,}", "key expected at byte 7"},
        {"{\"a\" 1}", "':' expected at byte 5"},
        {"{a: 1}", "key expected at byte 1"},
        {"[1", "',' or ']' expected at byte 2"},
        {"{\"a\":", "text ends where a value is expected at byte 5"},
        {"\"abc", "unterminated string at byte 4"},
        {"\"abc\\", "bad escape in a string at byte 4"},
        {"\"a\\x\"", "bad escape in a string at byte 2"},
        {"\"\\u12g4\"", "bad escape in a string at byte 1"},
        {"\"\x01\"", "control character in a string at byte 1"},
        {"\"\xC3\"", "bad UTF-8 at byte 1"},
        {"\"\xC0\x80\"", "bad UTF-8 at byte 1"},
        {"\"\xED\xA0\x80\"", "bad UTF-8 at byte 1"},
        {"\"\xF4\x90\x80\x80\"", "bad UTF-8 at byte 1"},
        {"01", "more text after the value at byte 1"},
        {"1.", "digit expected at byte 2"},
        {"-", "digit expected at byte 1"},
        {"1e+", "digit expected at byte 3"},
        {"+1", "value expected at byte 0"},
        {"nul", "value expected at byte 0"},
        {"null null", "more text after the value at byte 5"},
    };
    for (size_t i = 0; i < sizeof bads / sizeof *bads; i++) {
        struct error err = {0};
        assert_null(json_parse(bads[i].text, strlen(bads[i].text), &err));
        assert_int_equal(err.code, ERROR_INVALID);
        assert_string_equal(err.text, bads[i].why);
    }
    assert_null(json_parse("1\0", 2, NULL));
}

static cJSON *parse_nested(size_t depth)
{
    char *text = mem_alloc(2 * depth);
    memset(text, '[', depth);
    memset(text + depth, ']', depth);
    cJSON *tree = json_parse(text, 2 * depth, NULL);
    free(text);
    return tree;
}

static void test_depth(void **state)
{
    (void)state;
    cJSON *tree = parse_nested(JSON_MAX_DEPTH);
    assert_non_null(tree);
    cJSON_Delete(tree);
    assert_null(parse_nested(JSON_MAX_DEPTH + 1));
    assert_null(parse_nested(1000000));
}

/* Sizes at which anything quadratic would take minutes. */
static void test_large(void **state)
{
    (void)state;
    struct buf text = BUF_INIT(SIZE_MAX / 4);
    buf_str(&text, "{\"n\": ");
    for (int i = 0; i < 100000; i++)
        buf_char(&text, (char)('1' + i % 9));
    for (int i = 0; i < 200000; i++)
        buf_printf(&text, ", \"key%d\": [%d]", i % 100000, i);
    buf_char(&text, '}');
    cJSON *tree = json_parse(text.data, text.size, NULL);
    assert_int_equal(cJSON_GetArraySize(tree), 100001);
    assert_int_equal(strlen(tree->child->valuestring), 100000);
    assert_int_equal(tree->child->next->child->valuedouble, 100000);
    assert_ptr_equal(tree->child->prev->next, NULL);
    assert_string_equal(tree->child->prev->string, "key99999");
    cJSON_Delete(tree);
    buf_done(&text);
}

static void test_set(void **state)
{
    (void)state;
    cJSON *tree = json_parse("{\"a\": 1, \"A\": 2}", 16, NULL);
    json_set(tree, "a", cJSON_CreateString("x"));
    json_set(tree, "b", cJSON_CreateRaw("[1,2]"));
    assert_string_equal(json_get_string(tree, "a"), "x");
    assert_null(json_get_string(tree, "A"));
    assert_null(json_get(tree, "c"));
    assert_null(json_get(NULL, "c"));
    char *text = json_text(tree);
    assert_string_equal(text, "{\"a\": \"x\", \"A\": 2, \"b\": [1,2]}");
    free(text);
    cJSON_Delete(tree);
}

static cJSON *numbered(int from, int n, const char *value)
{
    struct buf text = BUF_INIT(1 << 24);
    for (int i = from; i < from + n; i++)
        buf_printf(&text, "%s\"k%d\": %s", i == from ? "{" : ", ", i, value);
    buf_str(&text, n ? "}" : "{}");
    cJSON *tree = json_parse(text.data, text.size, NULL);
    buf_done(&text);
    return tree;
}

/* Few are walked, many are sorted. */
static void test_index(void **state)
{
    (void)state;
    static const int numbers[] = {0, 1, 16, 17, 20000};
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++) {
        cJSON *tree = numbered(0, numbers[i], "1");
        struct json_index x = json_index(tree);
        for (const cJSON *item = tree->child; item; item = item->next)
            assert_ptr_equal(json_index_get(&x, item->string), item);
        assert_null(json_index_get(&x, "k"));
        assert_null(json_index_get(&x, "l"));
        json_index_done(&x);
        cJSON_Delete(tree);
    }
    struct json_index none = json_index(NULL);
    assert_null(json_index_get(&none, "k"));
}

static void test_index_of_texts(void **state)
{
    (void)state;
    cJSON *list = cJSON_CreateArray();
    for (int i = 0; i < 60; i++)
        cJSON_AddItemToArray(list, i % 3 ? cJSON_CreateString(i % 2 ? "a" : "b") : json_int(i));
    struct json_index x = json_index(list);
    assert_ptr_equal(json_index_get(&x, "a"), list->child->next); /* the first */
    assert_ptr_equal(json_index_get(&x, "b"), list->child->next->next);
    assert_null(json_index_get(&x, "c"));
    json_index_done(&x);
    cJSON_Delete(list);
}

static void test_merge(void **state)
{
    (void)state;
    static const int numbers[] = {0, 1, 10, 16, 17, 20000};
    enum { N = sizeof numbers / sizeof *numbers };
    for (int i = 0; i < N * N; i++) {
        int n = numbers[i / N], m = numbers[i % N];
        cJSON *tree = numbered(0, n, "1"), *over = numbered(n / 2, m, "\"x\"");
        json_merge(tree, over);
        int k = 0, end = n > n / 2 + m ? n : n / 2 + m;
        for (const cJSON *item = tree->child; item; item = item->next, k++) {
            assert_int_equal(strtol(item->string + 1, NULL, 10), k);
            assert_int_equal(cJSON_IsString(item) != 0, k >= n / 2 && k < n / 2 + m);
            assert_ptr_equal(item->next ? item->next->prev : tree->child->prev, item);
        }
        assert_int_equal(k, end);
        cJSON_Delete(tree);
    }
}

static void test_sort_members(void **state)
{
    (void)state;
    static const char text[] = "{\"b\": [{\"d\": 1, \"c\": 2}], \"a\": {}}";
    cJSON *tree = json_parse(text, sizeof text - 1, NULL);
    json_sort_members(tree);
    char *sorted = json_text(tree);
    assert_string_equal(sorted, "{\"a\": {}, \"b\": [{\"c\": 2, \"d\": 1}]}");
    free(sorted);
    cJSON_Delete(tree);
}

static int note_member(struct slice key, struct slice value, void *arg)
{
    buf_printf(arg, "%.*s=%.*s;", (int)key.size, key.at, (int)value.size, value.at);
    return key.size == 4 ? 7 : 0;
}

static int note_item(struct slice value, void *arg)
{
    buf_printf(arg, "%.*s;", (int)value.size, value.at);
    return 0;
}

static int walk(const char *text, struct buf *seen, struct error *err)
{
    buf_reset(seen);
    return json_walk((struct slice){text, strlen(text)}, note_member, seen, err);
}

static void test_walk(void **state)
{
    (void)state;
    struct buf seen = BUF_INIT(1000);
    struct error err = {0};
    assert_int_equal(walk(" { \"a\" : [1, {}] ,\"b\":\"x\\\"\"} ", &seen, &err), 0);
    assert_string_equal(seen.data, "a=[1, {}];b=\"x\\\"\";");
    assert_int_equal(walk("{\"stop\": 1, \"b\": ", &seen, &err), 7);
    assert_int_equal(walk("{}", &seen, &err), 0);
    assert_int_equal(walk("[]", &seen, &err), ERROR_INVALID);
    assert_string_equal(err.text, "object expected at byte 0");
    assert_int_equal(walk("{\"a\": 1, \"b\": tru}", &seen, &err), ERROR_INVALID);
    assert_string_equal(seen.data, "a=1;");
    assert_int_equal(walk("{} x", &seen, &err), ERROR_INVALID);
    buf_reset(&seen);
    struct slice list = {"[1, [2], {}]", 12};
    assert_int_equal(json_walk_list(list, note_item, &seen, &err), 0);
    assert_string_equal(seen.data, "1;[2];{};");
    buf_done(&seen);
}

static void check_unquote(const char *raw, const char *expected)
{
    struct buf out = BUF_INIT(100);
    int code = json_unquote((struct slice){raw, strlen(raw)}, &out);
    assert_int_equal(code, expected ? 0 : ERROR_INVALID);
    if (expected)
        assert_string_equal(out.data, expected);
    else
        assert_int_equal(out.size, 0);
    buf_done(&out);
}

static void test_unquote(void **state)
{
    (void)state;
    check_unquote("\"\"", "");
    check_unquote("\"abc defghijkl\\n\"", "abc defghijkl\n");
    check_unquote("\"\\u0000\\ud800\"", "\xC0\x80\xED\xA0\x80");
    check_unquote("\"\\ud83d\\ude00\xC3\xA9\"", "\xF0\x9F\x98\x80\xC3\xA9");
    check_unquote("\"abc", NULL);
    check_unquote("\"abc\\\"", NULL);
    check_unquote("\"a\"b\"", NULL);
    check_unquote("abc", NULL);
    check_unquote("\"", NULL);
    check_unquote("", NULL);
}

static void test_print_string(void **state)
{
    (void)state;
    struct buf out = BUF_INIT(1000);
    json_print_string("a\xFF" "b\xC3", 4, &out);
    assert_string_equal(out.data, "\"a\\ufffdb\\ufffd\"");
    buf_reset(&out);
    json_print_string("a\0b", 3, &out);
    assert_string_equal(out.data, "\"a\\u0000b\"");
    buf_done(&out);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_identity),     cmocka_unit_test(test_normal_form),
        cmocka_unit_test(test_numbers),      cmocka_unit_test(test_as_int),
        cmocka_unit_test(test_errors),       cmocka_unit_test(test_depth),
        cmocka_unit_test(test_large),        cmocka_unit_test(test_set),
        cmocka_unit_test(test_index),        cmocka_unit_test(test_index_of_texts),
        cmocka_unit_test(test_merge),        cmocka_unit_test(test_sort_members),
        cmocka_unit_test(test_walk),         cmocka_unit_test(test_unquote),
        cmocka_unit_test(test_print_string),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
