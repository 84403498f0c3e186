/* SPDX-License-Identifier: Apache-2.0 */
/* The set of revoked ids and stamps: its bounds, its order, what matches. */

#include "proto/base/mem.h"
#include "worker/revoked.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static const int64_t second = 1000000;

static void assert_list(struct revoked *s, const char *expected)
{
    cJSON *list = revoked_list(s);
    char *text = json_text(list);
    assert_string_equal(text, expected);
    free(text);
    cJSON_Delete(list);
}

static struct revoked *bounded(const char *max, const char *expires)
{
    setenv("CELERY_WORKER_REVOKES_MAX", max, 1);
    setenv("CELERY_WORKER_REVOKE_EXPIRES", expires, 1);
    struct revoked *s = revoked_new();
    unsetenv("CELERY_WORKER_REVOKES_MAX");
    unsetenv("CELERY_WORKER_REVOKE_EXPIRES");
    return s;
}

static void ids_are_found(void **state)
{
    (void)state;
    struct revoked *s = revoked_new();
    assert_true(revoked_is_empty(s));
    assert_false(revoked_has(s, "a"));
    for (int i = 0; i < 3000; i++) {
        char id[16];
        snprintf(id, sizeof id, "id-%d", i);
        revoked_add(s, id, i);
    }
    assert_int_equal(s->n_ids, 3000);
    assert_true(revoked_has(s, "id-0") && revoked_has(s, "id-2999"));
    assert_false(revoked_has(s, "id-3000"));
    assert_false(revoked_has(s, NULL));
    revoked_free(s);
}

static void the_oldest_leave_a_full_set(void **state)
{
    (void)state;
    struct revoked *s = bounded("3", "0");
    revoked_add(s, "c", 30);
    revoked_add(s, "a", 10);
    revoked_add(s, "b", 20);
    assert_list(s, "[\"a\", \"b\", \"c\"]");
    revoked_add(s, "d", 40);
    assert_list(s, "[\"b\", \"c\", \"d\"]");
    revoked_add(s, "b", 50); /* again: it is the youngest now */
    revoked_add(s, "b", 5);
    revoked_add(s, "e", 60);
    assert_list(s, "[\"d\", \"b\", \"e\"]");
    assert_false(revoked_has(s, "c"));
    revoked_free(s);
}

/* Another worker remembers more, and tells of the oldest last. */
static void a_full_set_hears_of_many_older_ids(void **state)
{
    (void)state;
    enum { MOST = 50000 };
    struct revoked *s = revoked_new();
    for (int i = 6 * MOST; i-- > 0;) {
        char id[16];
        snprintf(id, sizeof id, "id-%d", i);
        revoked_add(s, id, i * second);
    }
    cJSON *list = revoked_list(s);
    assert_int_equal(cJSON_GetArraySize(list), MOST);
    assert_string_equal(list->child->valuestring, "id-250000");
    cJSON_Delete(list);
    revoked_free(s);
}

static void old_ids_leave_when_purged(void **state)
{
    (void)state;
    struct revoked *s = bounded("100", "10");
    revoked_add(s, "old", 1 * second);
    revoked_add(s, "young", 5 * second);
    revoked_purge(s, 11 * second);
    assert_list(s, "[\"young\"]");
    revoked_free(s);
}

static void bounds_that_are_none_are_the_usual_ones(void **state)
{
    (void)state;
    struct revoked *s = bounded("many", "-3");
    assert_int_equal(s->max_ids, 50000);
    assert_int_equal(s->expires, 10800 * second);
    revoked_free(s);
}

static void ids_are_exchanged(void **state)
{
    (void)state;
    int64_t now = INT64_C(1800000000) * second;
    const char *text = "{\"ours\": 1799999999.5, \"celerys\": [1234.5, \"celerys\"], \"bad\": \"x\"}";
    cJSON *ids = json_parse(text, strlen(text), NULL);
    struct revoked *s = revoked_new(), *copy = revoked_new();
    revoked_add_ids(s, ids, now);
    revoked_add_ids(s, NULL, now);
    assert_list(s, "[\"ours\", \"celerys\"]");
    cJSON_Delete(ids);
    ids = revoked_ids(s);
    revoked_add_ids(copy, ids, now);
    assert_list(copy, "[\"ours\", \"celerys\"]");
    revoked_purge(copy, now + 10800 * second - second / 2);
    assert_list(copy, "[\"celerys\"]");
    cJSON_Delete(ids);
    revoked_free(s);
    revoked_free(copy);
}

static void assert_match(const struct revoked *s, const char *stamped_headers, const char *stamps,
                         const char *expected)
{
    struct message m = {.stamped_headers = {stamped_headers, strlen(stamped_headers)},
                        .stamps = {stamps, strlen(stamps)}};
    cJSON *found = revoked_match(s, &m);
    char *text = json_text(found);
    assert_string_equal(text, expected);
    free(text);
    cJSON_Delete(found);
}

static void stamps(void **state)
{
    (void)state;
    struct revoked *s = revoked_new();
    struct message none = {0};
    cJSON *values = json_parse("[\"m-1\", 7, \"m-1\"]", 17, NULL);
    assert_null(revoked_match(s, &none));
    revoked_add_stamps(s, "monitoring_id", values);
    revoked_add_stamps(s, "tenant", values->child);
    assert_int_equal(s->n_stamps, 3);
    assert_false(revoked_is_empty(s));
    assert_null(revoked_match(s, &none));

    assert_match(s, "[\"monitoring_id\"]", "{\"monitoring_id\": \"m-1\"}",
                 "{\"monitoring_id\": \"m-1\"}");
    assert_match(s, "[\"other\", \"monitoring_id\"]",
                 "{\"other\": \"m-1\", \"monitoring_id\": [\"x\", 7]}", "{\"monitoring_id\": 7}");
    assert_match(s, "[\"monitoring_id\", \"tenant\"]",
                 "{\"monitoring_id\": \"m-2\", \"tenant\": \"m-1\"}", "{\"tenant\": \"m-1\"}");
    assert_match(s, "[\"monitoring_id\"]", "{\"monitoring_id\": \"7\"}", "null");
    assert_match(s, "[\"other\"]", "{\"monitoring_id\": \"m-1\"}", "null");
    assert_match(s, "7", "[]", "null");
    assert_match(s, "[1]", "{\"monitoring_id\": \"m-1\"}", "null");
    cJSON_Delete(values);
    revoked_free(s);
}

static void the_oldest_stamps_leave_a_full_set(void **state)
{
    (void)state;
    struct revoked *s = bounded("3", "0");
    cJSON *values = json_parse("[1, 2, 3, 1, 4]", 15, NULL);
    revoked_add_stamps(s, "a \"header\"", values);
    assert_int_equal(s->n_stamps, 3);
    cJSON *stamps = revoked_stamps(s);
    char *text = json_text(stamps);
    assert_string_equal(text, "{\"a \\\"header\\\"\": [3, 1, 4]}");
    free(text);
    cJSON_Delete(stamps);
    cJSON_Delete(values);
    revoked_clear_stamps(s);
    assert_true(revoked_is_empty(s));
    revoked_free(s);
}

/* A list searched from its beginning would take minutes. */
static void many_stamps_are_found(void **state)
{
    (void)state;
    struct revoked *s = bounded("100000", "0");
    cJSON *values = cJSON_CreateArray();
    for (int i = 0; i < 100000; i++)
        cJSON_AddItemToArray(values, cJSON_CreateNumber(i));
    revoked_add_stamps(s, "n", values);
    assert_int_equal(s->n_stamps, 100000);
    for (int i = 0; i < 1000; i++)
        assert_match(s, "[\"n\"]", "{\"n\": [-1, 99999]}", "{\"n\": 99999}");
    cJSON_Delete(values);
    revoked_free(s);
}

/* So does a message that names many, and a set of many headers. */
static void many_headers_are_matched(void **state)
{
    (void)state;
    enum { MANY = 30000 };
    struct buf names = BUF_INIT(1 << 24), values = BUF_INIT(1 << 24), others = BUF_INIT(1 << 24);
    struct revoked *s = bounded("100000", "0");
    for (int i = 0; i < MANY; i++) {
        buf_printf(&names, "%s\"k%d\"", i ? ", " : "[", i);
        buf_printf(&others, "%s\"j%d\"", i ? ", " : "[", i);
        buf_printf(&values, "%s\"k%d\": %d", i ? ", " : "{", i, i);
    }
    buf_str(&names, "]");
    buf_str(&others, "]");
    buf_str(&values, "}");
    cJSON *headers = json_parse(values.data, values.size, NULL);
    revoked_add_stamps(s, "x", headers->child);
    assert_match(s, names.data, values.data, "null");
    assert_match(s, others.data, values.data, "null");
    for (int twice = 0; twice < 2; twice++)
        for (const cJSON *h = headers->child; h; h = h->next)
            revoked_add_stamps(s, h->string, twice ? headers->child : h);
    assert_match(s, names.data, values.data, "{\"k0\": 0}");
    cJSON *stamps = revoked_stamps(s);
    assert_int_equal(cJSON_GetArraySize(stamps), MANY + 1);
    assert_string_equal(stamps->child->string, "x");
    const cJSON *again = stamps->child->prev;
    assert_string_equal(again->string, "k0");
    char *last = json_text(again->prev);
    assert_string_equal(last, "[29999, 0]");
    free(last);
    cJSON_Delete(stamps);
    cJSON_Delete(headers);
    buf_done(&names);
    buf_done(&others);
    buf_done(&values);
    revoked_free(s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(ids_are_found),
        cmocka_unit_test(the_oldest_leave_a_full_set),
        cmocka_unit_test(a_full_set_hears_of_many_older_ids),
        cmocka_unit_test(old_ids_leave_when_purged),
        cmocka_unit_test(bounds_that_are_none_are_the_usual_ones),
        cmocka_unit_test(ids_are_exchanged),
        cmocka_unit_test(stamps),
        cmocka_unit_test(the_oldest_stamps_leave_a_full_set),
        cmocka_unit_test(many_stamps_are_found),
        cmocka_unit_test(many_headers_are_matched),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
