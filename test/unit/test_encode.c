/* SPDX-License-Identifier: Apache-2.0 */
/* Messages out: new ones byte for byte as Celery's, and of those that came only what must be is
 * changed. */

#include "test/unit/message_rig.h"

/* The text of an element without what differs from one sending to the next. */
static char *normalised(const char *text)
{
    cJSON *tree = json_parse(text, strlen(text), NULL);
    json_set(json_get(tree, "properties"), "delivery_tag", cJSON_CreateString("-"));
    if (json_get(json_get(tree, "properties"), "expiration"))
        json_set(json_get(tree, "properties"), "expiration", cJSON_CreateString("-"));
    char *out = json_text(tree);
    cJSON_Delete(tree);
    return out;
}

static void check_encode(const char *raw, const char *where)
{
    struct message m;
    struct error err;
    if (decode(raw, &m, &err) != 0)
        fail_msg("%s: %s", where, err.text);
    cJSON *body = json_parse(m.body.at, m.body.size, &err);
    cJSON *headers = json_parse(m.headers.at, m.headers.size, &err);
    cJSON *custom = cJSON_CreateObject();
    static const char *const own[] = {"tenant", "n", "nested", "u", "d", "stamped_headers",
                                      "stamps", "argsrepr", "kwargsrepr", "eta"};
    for (size_t i = 0; i < sizeof own / sizeof *own; i++) {
        if (json_get(headers, own[i]))
            json_set(custom, own[i], cJSON_Duplicate(json_get(headers, own[i]), true));
    }
    struct message_spec spec = {
        .task = m.task, .id = m.id, .args = cJSON_GetArrayItem(body, 0),
        .kwargs = cJSON_GetArrayItem(body, 1), .embed = cJSON_GetArrayItem(body, 2),
        .queue = m.routing_key, .exchange = m.exchange, .root_id = m.root_id,
        .parent_id = m.parent_id, .group = m.group, .shadow = m.shadow, .origin = m.origin,
        .reply_to = m.reply_to, .group_index = m.group_index, .eta = m.eta, .expires = m.expires,
        .now = 0, .retries = m.retries, .hard_limit = m.hard_limit, .soft_limit = m.soft_limit,
        .priority = m.priority, .ignore_result = m.ignore_result == YES,
        .compression = m.compression, .headers = custom};
    char *made = message_encode(&spec, &err);
    char *left = normalised(made), *right = normalised(raw);
    if (strcmp(left, right) != 0)
        fail_msg("%s:\n%s\n%s", where, left, right);
    free(left);
    free(right);
    free(made);
    cJSON_Delete(custom);
    cJSON_Delete(headers);
    cJSON_Delete(body);
    message_done(&m);
}

static void test_encode(void **state)
{
    (void)state;
    static const char *const names[] = {
        "plain", "kwargs", "no-args", "eta-aware", "eta-offset", "expires-seconds", "headers",
        "headers-typed", "group", "chain-3", "chord", "link-many", "stamps-list", "shadow",
        "time-limits", "soft-time-limit", "retries", "task-id", "priority-255", "ignore-result",
        "unicode-emoji", "large-ints", "nan-inf", "lone-surrogate", "nested-args", "datetime-args",
        "compress-zlib", "compress-bzip2", "compress-lzma", "queue-unicode", "reply-to"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        char *name = mem_printf("%s.json", names[i]);
        cJSON *golden = golden_read("celery-5.6.3", name);
        const cJSON *item;
        cJSON_ArrayForEach(item, json_get(golden, "elements"))
            check_encode(json_get_string(item, "raw"), names[i]);
        cJSON_Delete(golden);
        free(name);
    }
}

static void test_encode_little(void **state)
{
    (void)state;
    struct error err = {0};
    struct message_spec spec = {.task = "t", .id = "i", .queue = "q", .eta = TIME_NONE,
                                .expires = 5000000, .now = 3999500};
    char *text = message_encode(&spec, &err);
    assert_non_null(strstr(text, "\"expiration\": \"1000\", \"delivery_info\""));
    assert_non_null(strstr(text, "\"root_id\": \"i\", \"parent_id\": null, \"argsrepr\": \"()\""));
    struct message m;
    assert_int_equal(decode(text, &m, &err), 0);
    assert_string_equal(m.body.at, "[[], {}, {\"callbacks\": null, \"errbacks\": null, "
                                   "\"chain\": null, \"chord\": null}]");
    message_done(&m);
    free(text);
    spec.compression = "snappy";
    assert_null(message_encode(&spec, &err));
    assert_int_equal(err.code, ERROR_UNSUPPORTED);
}

static void test_redelivered(void **state)
{
    (void)state;
    cJSON *golden = golden_read("celery-5.6.3", "task-eta-wait.json");
    const char *before = golden_element(golden, 0), *after = NULL;
    const cJSON *item;
    cJSON_ArrayForEach(item, json_get(golden, "elements"))
    {
        const char *raw = json_get_string(item, "raw");
        after = strstr(raw, "\"redelivered\": true") ? raw : after;
    }
    char *made = message_encode_redelivered(before, strlen(before));
    assert_string_equal(made, after);
    free(made);
    cJSON_Delete(golden);
    assert_null(message_encode_redelivered("[1]", 3));
    assert_null(message_encode_redelivered("{\"body\"", 7));
}

static void test_retry(void **state)
{
    (void)state;
    static const char *const names[] = {"task-retry.json", "task-retry-chain.json"};
    for (int i = 0; i < 2; i++) {
        cJSON *golden = golden_read("celery-5.7.0", names[i]);
        const char *before = NULL, *after = NULL;
        const cJSON *item;
        cJSON_ArrayForEach(item, json_get(golden, "elements"))
        {
            const char *raw = json_get_string(item, "raw");
            before = strstr(raw, "\"retries\": 0") ? raw : before;
            after = strstr(raw, "\"retries\": 1") ? raw : after;
        }
        struct message m, next;
        struct error err;
        assert_int_equal(decode(before, &m, &err), 0);
        assert_int_equal(decode(after, &next, &err), 0);
        /* Celery also leaks `origin` into the properties and may change the queue; neither is for us. */
        cJSON *tree = json_parse(after, strlen(after), &err);
        cJSON *properties = json_get(tree, "properties");
        cJSON_DeleteItemFromObjectCaseSensitive(properties, "origin");
        json_set(json_get(properties, "delivery_info"), "routing_key",
                 cJSON_CreateString(m.routing_key));
        char *plain = json_text(tree), *expected = normalised(plain);
        char *text = message_encode_retry(&m, next.eta, next.eta - 600000000);
        char *made = normalised(text);
        assert_string_equal(made, expected);
        if (m.expires != TIME_NONE)
            assert_non_null(strstr(text, "\"expiration\": \"2999"));
        assert_null(strstr(text, m.delivery_tag));
        free(plain);
        free(expected);
        free(text);
        free(made);
        cJSON_Delete(tree);
        message_done(&m);
        message_done(&next);
        cJSON_Delete(golden);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_encode),
        cmocka_unit_test(test_encode_little),
        cmocka_unit_test(test_redelivered),
        cmocka_unit_test(test_retry),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
