/* SPDX-License-Identifier: Apache-2.0 */
/* Envelopes of control messages, patterns of node names, the logical clock. */

#include "proto/envelope.h"
#include "worker/lamport.h"
#include "worker/control/call.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static struct slice text_of(const char *text)
{
    return (struct slice){text, strlen(text)};
}

static void test_envelope_round_trip(void **state)
{
    (void)state;
    struct envelope_spec spec = {text_of("{\"a\": [1, \"\\u00e9\"]}"), "{\"clock\": 3}", "ex\"", "key", 1};
    char *text = envelope_encode(&spec);
    cJSON *headers, *body;
    struct error err = {0};
    assert_int_equal(envelope_decode(text_of(text), &headers, &body, &err), 0);
    assert_int_equal(json_get(headers, "clock")->valueint, 3);
    char *printed = json_text(body);
    assert_string_equal(printed, "{\"a\": [1, \"\\u00e9\"]}");
    assert_non_null(strstr(text, "\"exchange\": \"ex\\\"\", \"routing_key\": \"key\""));
    free(printed);
    free(text);
    cJSON_Delete(headers);
    cJSON_Delete(body);
}

static void test_envelope_refuses(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        int code;
    } rows[] = {
        {"", ERROR_INVALID},
        {"[]", ERROR_INVALID},
        {"{}", ERROR_INVALID},
        {"{\"body\": 1}", ERROR_INVALID},
        {"{\"body\": \"{\"}", ERROR_INVALID},
        {"{\"body\": \"?\", \"properties\": {\"body_encoding\": \"base64\"}}", ERROR_INVALID},
        {"{\"body\": \"{}\", \"content-type\": \"text/plain\"}", ERROR_UNSUPPORTED},
        {"{\"body\": \"{}\", \"content-encoding\": \"utf-16\"}", ERROR_UNSUPPORTED},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        cJSON *headers, *body;
        struct error err = {0};
        assert_int_equal(envelope_decode(text_of(rows[i].text), &headers, &body, &err), rows[i].code);
        assert_null(headers);
        assert_null(body);
        assert_true(*err.text);
    }
}

static void test_patterns(void **state)
{
    (void)state;
    static const struct {
        const char *name, *pattern, *matcher;
        int matches; /* -1: refused */
    } rows[] = {
        {"w1@host", "*", "glob", 1},
        {"w1@host", "w?@*", "glob", 1},
        {"w1@host", "w[0-9]@host", "glob", 1},
        {"w1@host", "w[!0-9]@host", "glob", 0},
        {"w1@host", "w1", "glob", 0},
        {"w\\1", "w\\1", "glob", 1},
        {"w1@host", "w", "pcre", 1},
        {"w1@host", "host", "pcre", 0},
        {"w1@host", ".*host$", "pcre", 1},
        {"w1@host", "w\\d+@\\w+\\Z", "pcre", 1},
        {"w1@host", "w\\D", "pcre", 0},
        {"w1@host", "(?:a|w)[\\d_]@", "pcre", 1},
        {"w1@host", "w.*?@h??", "pcre", 1},
        {"w1@host", "a|w1", "pcre", 1},
        {"w1@host", "[]w]", "pcre", 1},
        {"w1@host", "\\Aw1\\@", "pcre", 1},
        {"w.1", "w\\.1", "pcre", 1},
        {"w-1", "[\\w\\-]+$", "pcre", 1},
        {"w1@host", "\\w{2}@", "pcre", 1},
        {"w1@host", "((x{9999}){9999}){9999}", "pcre", -1},
        {"w1@host", "[\\w@]{1,255}$", "pcre", 1},
        {"w1@host", "(wwwwwwwwwwwwwwwwwwwwwwwwwwwwwwww){32767}", "pcre", -1},
        {"w1@host", "((w*)*){255}", "pcre", -1},
        {"w1@host", "(w*)*(w*)*(w*)*(w*)*(w*)*(w*)*(w*)*(w*)*(w*)*(w*)*(w*)*(w*)*(w*)*(w*)*(w*)*(w*)*"
                    "(w*)*(w*)*(w*)*(w*)*(w*)*(w*)*(w*)*(w*)*(w*)*(w*)*(w*)*(w*)*(w*)*(w*)*x",
         "pcre", -1},
        {"w1@host", "(.)(.)\\2", "pcre", -1},
        {"w1@host", "(", "pcre", -1},
        {"w1@host", "(?!x)", "pcre", -1},
        {"w1@host", "x", "soundex", -1},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        bool match = false;
        struct error err = {0};
        int code = pattern_match(rows[i].name, rows[i].pattern, rows[i].matcher, &match, &err);
        int seen = code < 0 ? -1 : match;
        if (seen != rows[i].matches)
            fail_msg("%s on %s: %d", rows[i].pattern, rows[i].name, seen);
    }
}

static void test_clock(void **state)
{
    (void)state;
    struct lamport clock = {0};
    assert_int_equal(lamport_forward(&clock), 1);
    assert_int_equal(lamport_adjust(&clock, 10), 11);
    assert_int_equal(lamport_adjust(&clock, 3), 12);
    assert_int_equal(lamport_adjust(&clock, INT64_MAX), 13);
    assert_int_equal(lamport_adjust(&clock, INT64_MIN), 14);
}

static void test_repr_of_texts(void **state)
{
    (void)state;
    static const char *const rows[][2] = {
        {"plain", "'plain'"},
        {"it's", "\"it's\""},
        {"say \"x\"", "'say \"x\"'"},
        {"it's \"x\"", "'it\\'s \"x\"'"},
        {"it's\\n", "\"it's\\\\n\""},
        {"'", "\"'\""},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        cJSON *value = cJSON_CreateString(rows[i][0]);
        char *repr = call_repr(value);
        assert_string_equal(repr, rows[i][1]);
        free(repr);
        cJSON_Delete(value);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_envelope_round_trip), cmocka_unit_test(test_envelope_refuses),
        cmocka_unit_test(test_patterns),            cmocka_unit_test(test_clock),
        cmocka_unit_test(test_repr_of_texts),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
