/* SPDX-License-Identifier: Apache-2.0 */
#include "tasks/lib/check.h"
#include "tasks/lib/doc.h"
#include "tasks/lib/json_stream.h"
#include "tasks/lib/targets.h"

/* cmocka wants these before it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "test/unit/api_harness.h"

/* The helpers of the built-in tasks, each called inside of a task as handlers call them. */

struct collected {
    char text[4096];
};

static int on_element(cw_task *t, const cJSON *element, void *arg)
{
    struct collected *c = arg;
    char *text = cJSON_PrintUnformatted(element);
    (void)t;
    size_t used = strlen(c->text);
    snprintf(c->text + used, sizeof c->text - used, "%s;", text);
    cJSON_free(text);
    return strstr(c->text, "\"stop\"") ? cw_problem(t, false, "KeyError", "stopped") : 0;
}

static int on_member(cw_task *t, const char *name, const cJSON *value, void *arg)
{
    struct collected *c = arg;
    size_t used = strlen(c->text);
    snprintf(c->text + used, sizeof c->text - used, "%s=", name);
    return on_element(t, value, arg);
}

/* split(text, member, piece, max) → what was seen, or the problem. */
static cw_outcome split(cw_task *t)
{
    struct collected c = {""};
    const char *text = cw_str(t, "text");
    size_t piece = (size_t)cw_int(t, "piece"), size = strlen(text);
    struct json_stream_options options = {
        .member = cw_str(t, "member"),
        .max_element = (size_t)cw_int(t, "max"),
        .on_element = on_element,
        .on_member = on_member,
        .arg = &c,
    };
    struct json_stream *s = json_stream_open(t, &options);
    for (size_t at = 0; at < size; at += piece)
        if (json_stream_feed(s, text + at, size - at < piece ? size - at : piece) < 0)
            return cw_fail(t);
    if (json_stream_end(s) < 0)
        return cw_fail(t);
    return cw_return_str(t, c.text);
}

static const struct cw_arg split_args[] = {{"text", CW_STR},
                                           {"member", CW_STR, "null", true},
                                           {"piece", CW_INT, "1"},
                                           {"max", CW_INT, "0"},
                                           {0}};

static int on_text(cw_task *t, const char *text, size_t size, void *arg)
{
    static const char *const members[] = {"n", NULL};
    struct json_stream_options options = {
        .member = "in", .on_element = on_element, .on_member = on_member, .members = members,
        .arg = arg};
    return json_stream_text(t, text, size, &options);
}

/* dig(text, piece, members_only): `rows` of the object `e`, their lists `in` and members `n`; what
 * is larger than 20 bytes is counted. Or the members of the object itself. */
static cw_outcome dig(cw_task *t)
{
    struct collected c = {""};
    size_t large = 0, piece = (size_t)cw_int(t, "piece");
    bool found;
    struct json_stream_options rows = {.member = "rows", .within = "e", .on_text = on_text},
                               only = {.on_member = on_member}, options;
    const char *text = cw_str(t, "text");
    options = cw_bool(t, "members_only") ? only : rows;
    options.max_element = 20;
    options.ret_large = &large;
    options.ret_found = &found;
    options.arg = &c;
    struct json_stream *s = json_stream_open(t, &options);
    for (size_t at = 0, size = strlen(text); at < size; at += piece)
        if (json_stream_feed(s, text + at, size - at < piece ? size - at : piece) < 0)
            return cw_fail(t);
    if (json_stream_end(s) < 0)
        return cw_fail(t);
    return cw_return_str(t, cw_printf(t, "%s%s %zu large", c.text, found ? "found" : "", large));
}

static const struct cw_arg dig_args[] = {
    {"text", CW_STR}, {"piece", CW_INT}, {"members_only", CW_BOOL, "false"}, {0}};

/* A reason that quotes what is cut within a letter, and bytes that are no letter. */
static cw_outcome quote(cw_task *t)
{
    cw_problem(t, false, "ValueError", "%.4s|%s", "a\xC3\xA4\xC3\xA4", "\xFFz\xED\xA0\x80\xC0\x80");
    return cw_return_str(t, cw_problem_text(t, NULL));
}

static const struct cw_def defs[] = {{.name = "t.split", .run = split, .args = split_args},
                                     {.name = "t.dig", .run = dig, .args = dig_args},
                                     {.name = "t.quote", .run = quote},
                                     {0}};
static const struct cw_table table = {.api = CW_API, .queue = "q", .defs = defs};

/* Whatever the size of the pieces: the same elements, or an error that tells `expected`. */
static void expect_split(const char *text, const char *member, const char *expected)
{
    static const int pieces[] = {1, 2, 3, 7, 4096};
    cJSON *args = cJSON_CreateArray();
    cJSON_AddItemToArray(args, cJSON_CreateString(text));
    cJSON_AddItemToArray(args, member ? cJSON_CreateString(member) : cJSON_CreateNull());
    cJSON_AddItemToArray(args, cJSON_CreateNumber(0));
    for (size_t i = 0; i < sizeof pieces / sizeof *pieces; i++) {
        cJSON_SetNumberValue(cJSON_GetArrayItem(args, 2), pieces[i]);
        char *call = cJSON_PrintUnformatted(args);
        char *both = mem_printf("%s, {}", call);
        struct run *r = run_task("t.split", both);
        free(both);
        cJSON *result = cJSON_Parse(r->result);
        if (cJSON_IsString(result) ? strcmp(result->valuestring, expected) != 0
                                   : !strstr(r->traceback, expected))
            fail_msg("%s (pieces of %d): %s%s, not %s", text, pieces[i], r->result, r->traceback,
                     expected);
        cJSON_Delete(result);
        cJSON_free(call);
        end(r);
    }
    cJSON_Delete(args);
}

static void test_stream_elements(void **state)
{
    (void)state;
    expect_split("[1, {\"a\":[2,\"]\"]} ,\"x\\\"]\", null]", NULL,
                 "1;{\"a\":[2,\"]\"]};\"x\\\"]\";null;");
    expect_split(" [ ] ", NULL, "");
    expect_split("{\"a\":1}\n{\"a\":2}\n", NULL, "{\"a\":1};{\"a\":2};");
    expect_split("1\n2", NULL, "1;2;");
    expect_split("", NULL, "it stops");
    expect_split("\xEF\xBB\xBF[7]", NULL, "7;");
}

static void test_stream_member(void **state)
{
    (void)state;
    expect_split("{\"n\":3,\"rows\":[1,2],\"m\":{\"rows\":[9]}}", "rows",
                 "n=3;1;2;m={\"rows\":[9]};");
    expect_split("{\"rows\":null}", "rows", "rows=null;");
    expect_split("[5]", "rows", "5;");
    expect_split("{}", "rows", "");
    expect_split("7", "rows", "ValueError");
}

/* Halves of surrogate pairs and \u0000, as other programs write them. */
static void test_stream_escapes(void **state)
{
    (void)state;
    expect_split("[\"a\\uD83D\\ude00|\\ud83d|\\uDE00\\ud83d\", 1]", NULL,
                 "\"a\xF0\x9F\x98\x80|\xEF\xBF\xBD|\xEF\xBF\xBD\xEF\xBF\xBD\";1;");
    expect_split("[{\"k\\u0000\":\"a\\u0000b\\\\u0000\"}]", NULL,
                 "{\"k\xEF\xBF\xBD\":\"a\xEF\xBF\xBD" "b\\\\u0000\"};");
    expect_split("[\"\\ud8\"]", NULL, "ValueError");
}

static void test_stream_wrong(void **state)
{
    static const char *const texts[] = {"[1, 2",   "[1 2]", "[1,]",    "[1}",       "[{\"a\":]",
                                        "[tru]",   "[\"a",  "[1] [2]", "{\"a\"1}",  "[,1]",
                                        "[{\"a\"", "][",    "[1,,2]",  "[\"\\q\"]", "[01x]"};
    (void)state;
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++)
        expect_split(texts[i], NULL, "ValueError");
    expect_split("[1, \"stop\", 2]", NULL, "KeyError");
    struct run *r = run_task("t.split", "[\"[\\\"0123456789\\\"]\", null, 4, 8], {}");
    assert_non_null(strstr(r->traceback, "larger than 8 bytes"));
    end(r);
}

static void expect_dug(const char *text, bool members_only, const char *expected)
{
    for (int piece = 1; piece < 60; piece += 7) {
        cJSON *quoted = cJSON_CreateString(text);
        char *json = cJSON_PrintUnformatted(quoted);
        char *call = mem_printf("[%s, %d, %s], {}", json, piece, members_only ? "true" : "false");
        struct run *r = run_task("t.dig", call);
        if (!strstr(r->result, expected) && !strstr(r->traceback, expected))
            fail_msg("%s: %s%s, not %s", text, r->result, r->traceback, expected);
        end(r);
        free(call);
        cJSON_free(json);
        cJSON_Delete(quoted);
    }
}

static void test_stream_within(void **state)
{
    (void)state;
    expect_dug("{\"rows\":[{\"in\":[9]}],\"e\":{\"e\":{\"rows\":[8]},\"rows\":[{\"n\":2,\"in\":[1]},"
               "{\"in\":[3]}],\"z\":1},\"e2\":[0]}",
               false, "n=2;1;3;found 0 large");
    expect_dug("{\"e\":{\"rows\":[{\"in\":[\"0123456789abcdef\"]},{\"in\":[4]}]}}", false,
               "4;found 1 large");
    expect_dug("{\"e\":{}}", false, "found 0 large");
    expect_dug("{\"e\":[1],\"rows\":[{\"in\":[1]}]}", false, "\" 0 large");
    expect_dug("{\"e\":{\"rows\":[{\"in\":[1]}]}", false, "it stops");
    expect_dug("{\"e\":{\"rows\":[{\"in\":[1}]}}", false, "ValueError");
    expect_dug("[{\"in\":[1]}]", false, "an object was expected");
    expect_dug("{\"a\":1,\"b\":[\"0123456789abcdef0123456789\"],\"c\":{}}", true,
               "a=1;c={}; 1 large");
    expect_dug("[1]", true, "an object was expected");
    expect_dug("{\"0123456789abcdef01234\":1}", true, "larger than 20 bytes");
}

static void test_checks(void **state)
{
    (void)state;
    assert_true(check_region("eu-west-1") && check_region("us-gov-east-1"));
    assert_false(check_region("-eu-west-1") || check_region("eu") || check_region("EU-west-1") ||
                 check_region("eu-west-1;id") || check_region("eu--west-1") || check_region(""));
    assert_true(check_framework("cis_1.4_aws") && check_name("a.b_c-1"));
    assert_false(check_framework("--help") || check_framework("a b") || check_name("../x"));
    assert_true(check_url("https://example.com/a?b=c") && check_url("http://[::1]:80/"));
    assert_false(check_url("file:///etc/passwd") || check_url("http://") ||
                 check_url("-http://x") || check_url("http://u:p@h/") || check_url("http://h/ x") ||
                 check_url("gopher://h"));
    assert_true(check_url("http://h:1") && check_url("https://h:65535?q=:x") &&
                check_url("http://[::1]?a@b"));
    assert_false(check_url("http://h:65536/") || check_url("http://h:0/") ||
                 check_url("http://h:/") || check_url("http://h:80:80/") ||
                 check_url("http://h:8a/") || check_url("http://[::1].example/") ||
                 check_url("http://[::1/") || check_url("http://[::1]@h/") ||
                 check_url("http://h:18446744073709551697/"));
    assert_true(check_image("ghcr.io/a/b:1.2@sha256:00ff"));
    assert_false(check_image("--config=x") || check_image("a b") || check_image("a/../b"));
    assert_false(check_image("http://a.example/b") || check_image("a//b"));
    assert_true(target_is_valid("10.0.0.0/8") && target_is_covered("10.1.2.3", "10.0.0.0/8"));
    assert_false(target_is_valid("-oN") || target_is_covered("11.0.0.1", "10.0.0.0/8"));
}

static void test_doc_texts(void **state)
{
    bson_t d = BSON_INITIALIZER;
    (void)state;
    doc_put(&d, "bad", "a\xFF\xC0\x80z\xED\xA0\x80", 100);
    doc_put(&d, "cut", "äöü", 5);
    doc_put(&d, "none", "", 5);
    assert_true(bson_validate(&d, BSON_VALIDATE_UTF8, NULL));
    assert_string_equal(doc_text(&d, "cut"), "äö");
    assert_string_equal(doc_text(&d, "bad"), "a\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBDz\xEF\xBF\xBD"
                                             "\xEF\xBF\xBD\xEF\xBF\xBD");
    assert_null(doc_text(&d, "none"));
    bson_destroy(&d);
}

static void test_doc_trees(void **state)
{
    bson_t d = BSON_INITIALIZER;
    cJSON *tree = cJSON_Parse("{\"a\": [1, 2.5, \"x\", {\"b\": true}], \"c\": null}");
    (void)state;
    doc_put_tree(&d, "v", tree);
    assert_int_equal(doc_int(&d, "v.a.0", 0), 1);
    assert_string_equal(doc_text(&d, "v.a.2"), "x");
    assert_true(doc_bool(&d, "v.a.3.b", false));
    assert_string_equal(tree_text(tree, "a.2"), "x");
    assert_null(tree_at(tree, "a.9.z"));
    cJSON_Delete(tree);
    bson_destroy(&d);
}

/* Tags of a cloud's resources have names of their own. */
static void test_doc_tree_names(void **state)
{
    bson_t d = BSON_INITIALIZER;
    cJSON *tree = cJSON_Parse("{\"\": 1, \"\xFFz\": {\"\": 2}, \"k8s.io/x\": 3}");
    (void)state;
    doc_put_tree(&d, "v", tree);
    assert_true(bson_validate(&d, BSON_VALIDATE_UTF8 | BSON_VALIDATE_EMPTY_KEYS, NULL));
    assert_int_equal(doc_int(&d, "v._", 0), 1);
    assert_int_equal(doc_int(&d, "v.\xEF\xBF\xBDz._", 0), 2);
    cJSON_Delete(tree);
    bson_destroy(&d);
}

static void test_doc_match_id(void **state)
{
    bson_t d = BSON_INITIALIZER;
    char room[DOC_ID_SIZE];
    (void)state;
    doc_match_id(&d, "a", "team-1");
    doc_match_id(&d, "b", "0123456789abcdef01234567");
    assert_string_equal(doc_text(&d, "a"), "team-1");
    assert_string_equal(doc_id(&d, "b.$in.1", room), "0123456789abcdef01234567");
    bson_destroy(&d);
    bson_t *numbers = BCON_NEW("a", BCON_DOUBLE(7.0), "b", BCON_DOUBLE(7.5), "c", BCON_DOUBLE(1e300));
    assert_string_equal(doc_id(numbers, "a", room), "7");
    assert_null(doc_id(numbers, "b", room));
    assert_null(doc_id(numbers, "c", room));
    bson_destroy(numbers);
    /* What doc_id tells finds the document again; what only looks like it is text. */
    static const char *const good[] = {"0", "-7", "9223372036854775807",
                                       "00112233-4455-6677-8899-aabbccddeeff"};
    static const char *const texts[] = {"", "07", "+7", "-", "9223372036854775808", "1e3", "7 ",
                                        "00112233-4455-6677-8899-AABBCCDDEEFF",
                                        "0123456789ABCDEF01234567",
                                        "00112233-4455-6677-8899-aabbccddeef",
                                        "0011223344556677-8899-aabb-ccddeeff--"};
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
        bson_t f = BSON_INITIALIZER;
        doc_match_id(&f, "a", good[i]);
        assert_string_equal(doc_text(&f, "a.$in.0"), good[i]);
        assert_null(doc_text(&f, "a.$in.1"));
        assert_string_equal(doc_id(&f, "a.$in.1", room), good[i]);
        bson_destroy(&f);
    }
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        bson_t f = BSON_INITIALIZER;
        doc_match_id(&f, "a", texts[i]);
        assert_string_equal(doc_text(&f, "a"), texts[i]);
        bson_destroy(&f);
    }
}

static void test_reasons_are_text(void **state)
{
    struct run *r = run_task("t.quote", "[], {}");
    cJSON *result = cJSON_Parse(r->result);
    (void)state;
    assert_string_equal(cJSON_GetStringValue(result), "ValueError: a\xC3\xA4?|?z?????");
    cJSON_Delete(result);
    end(r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_stream_elements), cmocka_unit_test(test_stream_member),
        cmocka_unit_test(test_stream_escapes),  cmocka_unit_test(test_stream_wrong),
        cmocka_unit_test(test_stream_within),   cmocka_unit_test(test_checks),
        cmocka_unit_test(test_doc_texts),       cmocka_unit_test(test_doc_trees),
        cmocka_unit_test(test_doc_tree_names),  cmocka_unit_test(test_doc_match_id),
        cmocka_unit_test(test_reasons_are_text),
    };
    return cmocka_run_group_tests(tests, add_table, NULL);
}
