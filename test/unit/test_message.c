/* SPDX-License-Identifier: Apache-2.0 */
/* Messages in: every capture is read and told right, and what nobody should send is refused. */

#include "test/unit/message_rig.h"

#include "proto/base64.h"

#include <dirent.h>

/* --- the captures --- */

struct tally {
    int decoded, unsupported, other;
};

static void check_unsupported(const char *where, const struct message *m, const struct error *err)
{
    static const char *const names[] = {"pickle", "yaml", "msgpack", "auth"};
    bool named = false;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        named |= strstr(err->text, names[i]) != NULL;
    if (!named || !strstr(err->text, "task_serializer='json'") || !m->id || !m->task)
        fail_msg("%s: %s", where, err->text);
}

/* What a message must come to, told from its tree by other means than the decoder's. */
static int expected_code(const char *name, const cJSON *tree)
{
    const char *type = json_get_string(tree, "content-type");
    bool task = json_get(json_get(tree, "headers"), "task") || strncmp(name, "proto1", 6) == 0;
    if (!task)
        return ERROR_INVALID;
    return type && strcmp(type, "application/json") == 0 ? 0 : ERROR_UNSUPPORTED;
}

static void check_decoded(const char *where, const struct message *m, const cJSON *tree)
{
    const cJSON *headers = json_get(tree, "headers"), *properties = json_get(tree, "properties");
    cJSON *body = json_parse(m->body.at, m->body.size, NULL);
    if (!m->id || !m->task || cJSON_GetArraySize(body) != 3)
        fail_msg("%s: incomplete", where);
    cJSON_Delete(body);
    assert_string_equal(m->delivery_tag, json_get_string(properties, "delivery_tag"));
    const cJSON *info = json_get(properties, "delivery_info");
    assert_string_equal(m->routing_key, json_get_string(info, "routing_key"));
    assert_int_equal(m->priority, (int)json_get(properties, "priority")->valuedouble);
    if (m->protocol1)
        return;
    assert_int_equal(m->eta != TIME_NONE, cJSON_IsString(json_get(headers, "eta")));
    assert_string_equal(m->argsrepr, json_get_string(headers, "argsrepr"));
}

static void check_text(const char *where, const char *name, const char *raw, struct tally *tally)
{
    struct message m;
    struct error err;
    cJSON *tree = json_parse(raw, strlen(raw), &err);
    if (!tree)
        fail_msg("%s: %s", where, err.text);
    char *printed = json_text(tree);
    assert_string_equal(printed, raw);
    free(printed);
    int code = decode(raw, &m, &err);
    if (code != expected_code(name, tree))
        fail_msg("%s: %d %s", where, code, err.text);
    if (code == 0) {
        check_decoded(where, &m, tree);
        tally->decoded++;
    } else if (code == ERROR_UNSUPPORTED) {
        check_unsupported(where, &m, &err);
        tally->unsupported++;
    } else {
        tally->other++;
    }
    message_done(&m);
    cJSON_Delete(tree);
}

/* big-1mb is stored as a recipe, see the README of the captures. */
static char *fill_recipe(const char *raw)
{
    static const char mark[] = "<BODY: see recipe>";
    const char *at = strstr(raw, mark);
    if (!at)
        return mem_dup(raw);
    struct buf body = BUF_INIT(8 << 20), text = BUF_INIT(8 << 20);
    buf_str(&body, "[[\"");
    for (int i = 0; i < 1 << 20; i++)
        buf_char(&body, 'x');
    buf_str(&body, "\"], {}, {\"callbacks\": null, \"errbacks\": null, \"chain\": null, "
                   "\"chord\": null}]");
    buf_add(&text, raw, (size_t)(at - raw));
    base64_encode((struct slice){body.data, body.size}, &text);
    buf_str(&text, at + sizeof mark - 1);
    buf_done(&body);
    return buf_take(&text);
}

static void check_file(const char *set, const char *name, struct tally *tally)
{
    static const char *const lists[] = {"elements", "published"};
    cJSON *golden = golden_read(set, name);
    for (int i = 0; i < 2; i++) {
        const cJSON *item;
        cJSON_ArrayForEach(item, json_get(golden, lists[i]))
        {
            const char *raw = json_get_string(item, "raw");
            char *where = mem_printf("%s/%s %s", set, name, lists[i]);
            char *text = raw && *raw == '{' ? fill_recipe(raw) : NULL;
            if (text)
                check_text(where, name, text, tally);
            free(text);
            free(where);
        }
    }
    cJSON_Delete(golden);
}

static void test_goldens(void **state)
{
    (void)state;
    static const char *const sets[] = {"celery-5.6.3", "celery-5.7.0", "celery-5.2.7",
                                       "celery-4.4.7", "celery-5.6.3-kombu-5.6.2"};
    struct tally tally = {0};
    for (size_t i = 0; i < sizeof sets / sizeof *sets; i++) {
        char *path = mem_printf("%s/%s", golden_root(), sets[i]);
        DIR *dir = opendir(path);
        assert_non_null(dir);
        for (struct dirent *entry; (entry = readdir(dir));) {
            if (strstr(entry->d_name, ".json"))
                check_file(sets[i], entry->d_name, &tally);
        }
        closedir(dir);
        free(path);
    }
    print_message("decoded %d, unsupported %d, no tasks %d\n", tally.decoded, tally.unsupported,
                  tally.other);
    assert_true(tally.decoded > 500 && tally.unsupported > 10);
}

/* --- fields --- */

static char *element(const char *headers, const char *properties, const char *body)
{
    struct buf text = BUF_INIT(SIZE_MAX / 4);
    buf_str(&text, "{\"body\": \"");
    base64_encode((struct slice){body, strlen(body)}, &text);
    buf_printf(&text,
               "\", \"content-encoding\": \"utf-8\", \"content-type\": \"application/json\", "
               "\"headers\": {%s}, \"properties\": {\"body_encoding\": \"base64\"%s}}",
               headers, properties);
    return buf_take(&text);
}

#define TRIPLE "[[2, 3], {}, null]"
#define IDS "\"task\": \"t\", \"id\": \"i\""

static int decode_parts(const char *headers, const char *properties, const char *body,
                        struct message *m, struct error *err)
{
    char *text = element(headers, properties, body);
    int code = decode(text, m, err);
    free(text);
    return code;
}

static void test_all_fields(void **state)
{
    (void)state;
    struct message m;
    struct error err;
    int code = decode_parts(
        IDS ", \"shadow\": \"s\", \"eta\": \"2026-11-21T10:02:11.612363+05:30\", "
            "\"expires\": \"2026-11-21T10:42:11+00:00\", \"group\": \"g\", \"group_index\": 3, "
            "\"retries\": 2, \"timelimit\": [60, 50.5], \"root_id\": \"r\", \"parent_id\": \"p\", "
            "\"argsrepr\": \"(2, 3)\", \"kwargsrepr\": \"{}\", \"origin\": \"gen1@h\", "
            "\"ignore_result\": true, \"replaced_task_nesting\": 1, \"stamped_headers\": [\"a\"], "
            "\"stamps\": {\"a\": 1}, \"tenant\": \"acme\", \"redelivered\": true",
        ", \"correlation_id\": \"i\", \"reply_to\": \"q\", \"priority\": 6, \"delivery_info\": "
        "{\"exchange\": \"e\", \"routing_key\": \"k\"}, \"delivery_tag\": \"d\"",
        TRIPLE, &m, &err);
    assert_int_equal(code, 0);
    assert_string_equal(m.task, "t");
    assert_string_equal(m.id, "i");
    assert_string_equal(m.shadow, "s");
    assert_true(m.eta == 1795235531612363);
    assert_true(m.expires == 1795257731000000);
    assert_string_equal(m.group, "g");
    assert_int_equal(m.group_index, 3);
    assert_int_equal(m.retries, 2);
    assert_true(m.hard_limit == 60 && m.soft_limit == 50.5);
    assert_string_equal(m.root_id, "r");
    assert_string_equal(m.parent_id, "p");
    assert_string_equal(m.argsrepr, "(2, 3)");
    assert_string_equal(m.kwargsrepr, "{}");
    assert_string_equal(m.origin, "gen1@h");
    assert_int_equal(m.ignore_result, YES);
    assert_int_equal(m.replaced_task_nesting, 1);
    assert_memory_equal(m.stamped_headers.at, "[\"a\"]", m.stamped_headers.size);
    assert_memory_equal(m.stamps.at, "{\"a\": 1}", m.stamps.size);
    assert_true(m.redelivered && !m.protocol1);
    assert_string_equal(m.exchange, "e");
    assert_string_equal(m.routing_key, "k");
    assert_string_equal(m.delivery_tag, "d");
    assert_string_equal(m.reply_to, "q");
    assert_int_equal(m.priority, 6);
    assert_string_equal(m.body.at, TRIPLE);
    message_done(&m);
}

static void test_nulls(void **state)
{
    (void)state;
    struct message m;
    struct error err;
    int code = decode_parts(IDS ", \"eta\": null, \"expires\": null, \"retries\": null, "
                                "\"timelimit\": null, \"ignore_result\": null, \"stamps\": null",
                            ", \"priority\": \"high\", \"delivery_info\": null", TRIPLE, &m, &err);
    assert_int_equal(code, 0);
    assert_true(m.eta == TIME_NONE && m.expires == TIME_NONE && m.retries == 0);
    assert_true(m.hard_limit == 0 && m.soft_limit == 0 && m.priority == 0);
    assert_int_equal(m.ignore_result, UNSET);
    assert_int_equal(m.group_index, -1);
    assert_null(m.stamps.at);
    assert_null(m.exchange);
    assert_null(m.delivery_tag);
    message_done(&m);
}

static void test_typed(void **state)
{
    (void)state;
    struct message m;
    struct error err;
    int code = decode_parts(
        "\"t\\u0061sk\": \"t\", \"id\": {\"__type__\": \"uuid\", \"__value__\": {\"hex\": "
        "\"0123456789abcdef0123456789abcdef\"}}, \"eta\": {\"__type__\": \"datetime\", "
        "\"__value__\": \"2020-01-02T00:00:00+00:00\"}, \"group\": 5, \"argsrepr\": [1]",
        "", TRIPLE, &m, &err);
    assert_int_equal(code, 0);
    assert_string_equal(m.task, "t");
    assert_string_equal(m.id, "01234567-89ab-cdef-0123-456789abcdef");
    assert_true(m.eta == 1577923200000000);
    assert_string_equal(m.group, "5");
    assert_null(m.argsrepr);
    message_done(&m);
}

static void test_protocol1(void **state)
{
    (void)state;
    struct message m;
    struct error err;
    int code = decode_parts("", "", "{\"task\": \"t\", \"id\": \"i\", \"args\": [1], \"retries\": 4, "
                                    "\"taskset\": \"g\", \"timelimit\": [9, null], "
                                    "\"eta\": \"2020-01-02T00:00:00\", \"errbacks\": [{}]}",
                            &m, &err);
    assert_int_equal(code, 0);
    assert_true(m.protocol1 && m.retries == 4 && m.hard_limit == 9);
    assert_true(m.eta == 1577923200000000);
    assert_string_equal(m.group, "g");
    assert_string_equal(m.body.at, "[[1], {}, {\"callbacks\": null, \"errbacks\": [{}], "
                                   "\"chain\": null, \"chord\": null}]");
    char *retry = message_encode_retry(&m, TIME_NONE, 0);
    struct message again;
    assert_int_equal(decode(retry, &again, &err), 0);
    assert_true(!again.protocol1 && again.retries == 5);
    assert_string_equal(again.body.at, m.body.at);
    message_done(&again);
    free(retry);
    message_done(&m);
    code = decode_parts(IDS, "", "{\"args\": [7], \"kwargs\": {\"a\": 1}, \"id\": \"x\"}", &m, &err);
    assert_int_equal(code, 0);
    assert_string_equal(m.id, "i");
    assert_true(!m.protocol1 && strncmp(m.body.at, "[[7], {\"a\": 1}, {", 17) == 0);
    message_done(&m);
}

/* --- what must fail --- */

struct bad {
    const char *headers, *properties, *body;
    int code;
    const char *why;
};

static void test_bad_fields(void **state)
{
    (void)state;
    static const struct bad bads[] = {
        {IDS ", \"eta\": \"soon\"", "", TRIPLE, ERROR_INVALID, "headers.eta is not a date: \"soon\""},
        {IDS ", \"expires\": 12", "", TRIPLE, ERROR_INVALID, "headers.expires is not a date: 12"},
        {IDS ", \"retries\": \"x\"", "", TRIPLE, ERROR_INVALID, "headers.retries is not an integer"},
        {IDS ", \"timelimit\": [1]", "", TRIPLE, ERROR_INVALID, "headers.timelimit is not [hard"},
        {IDS ", \"group\": []", "", TRIPLE, ERROR_INVALID, "headers.group is not a string"},
        {"\"task\": \"t\"", "", TRIPLE, ERROR_INVALID, "headers.id is missing"},
        {"\"task\": \"t\", \"id\": null", "", TRIPLE, ERROR_INVALID, "headers.id is missing"},
        {"", "", TRIPLE, ERROR_INVALID, "neither headers.task"},
        {IDS ", \"compression\": \"snappy\"", "", TRIPLE, ERROR_UNSUPPORTED, "compression 'snappy'"},
        {IDS ", \"compression\": \"zlib\"", "", TRIPLE, ERROR_INVALID, "broken zlib"},
        {IDS, ", \"body_encoding\": \"hex\"", TRIPLE, ERROR_INVALID, "body_encoding 'hex'"},
        {IDS, ", \"delivery_info\": []", TRIPLE, ERROR_INVALID, "delivery_info is not an object"},
        {IDS, "", "[[], {}]", ERROR_INVALID, "body is not [args, kwargs, embed]"},
        {IDS, "", "[[], null, null]", ERROR_INVALID, "body is not [args, kwargs, embed]"},
        {IDS, "", "[[], {}, {}, 1]", ERROR_INVALID, "body is not [args, kwargs, embed]"},
        {IDS, "", "[[1, {}, null]", ERROR_INVALID, "body: ',' or ']' expected at byte 14"},
        {IDS, "", "[[\"\xFF\"], {}, null]", ERROR_INVALID, "body: bad UTF-8 at byte 3"},
        {IDS, "", "", ERROR_INVALID, "body: list expected at byte 0"},
        {IDS, "", "{\"args\": 1}", ERROR_INVALID, "body's args"},
    };
    for (size_t i = 0; i < sizeof bads / sizeof *bads; i++) {
        const struct bad *b = &bads[i];
        struct message m;
        struct error err;
        int code = decode_parts(b->headers, b->properties, b->body, &m, &err);
        if (code != b->code || err.code != code || !strstr(err.text, b->why))
            fail_msg("%s %s: %d %s", b->headers, b->body, code, err.text);
        if (strncmp(b->headers, IDS, strlen(IDS)) == 0) {
            assert_string_equal(m.id, "i");
            assert_string_equal(m.task, "t");
        }
        message_done(&m);
    }
}

static void test_bad_texts(void **state)
{
    (void)state;
    static const char *const texts[] = {"", "hello", "[1,2]", "\"x\"", "null", "{}", "{",
                                        "{\"headers\": 5}", "{\"body\": \"\"}"};
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        struct message m;
        struct error err;
        assert_int_equal(decode(texts[i], &m, &err), ERROR_INVALID);
        assert_true(err.text[0] != '\0');
        message_done(&m);
        assert_int_equal(message_decode(mem_dup(texts[i]), strlen(texts[i]), NULL, &m, NULL),
                         ERROR_INVALID);
        message_done(&m);
    }
}

/* Cut off anywhere, the element fails, and gives its id as soon as that was there. */
static void test_truncation(void **state)
{
    (void)state;
    char *text = element(IDS ", \"x\": \"\xC3\xA9\"", ", \"priority\": 1", TRIPLE);
    size_t size = strlen(text), behind = (size_t)(strstr(text, "\"i\"") + 4 - text);
    for (size_t cut = 0; cut < size; cut++) {
        struct message m;
        struct error err = {0};
        assert_int_equal(message_decode(mem_ndup(text, cut), cut, NULL, &m, &err), ERROR_INVALID);
        assert_int_equal(m.id != NULL, cut >= behind - 1);
        message_done(&m);
    }
    free(text);
}

/* Any byte changed to any of some others: no crash, and success or a stated error. */
static void test_mutation(void **state)
{
    (void)state;
    static const char bytes[] = "\0\"\\{}[],:0nt\xFF\xC3";
    char *text = element(IDS ", \"eta\": null, \"timelimit\": [1, null]", "", TRIPLE);
    size_t size = strlen(text);
    for (size_t i = 0; i < size; i++) {
        for (size_t j = 0; j < sizeof bytes - 1; j++) {
            struct message m;
            struct error err = {0};
            char *changed = mem_ndup(text, size);
            changed[i] = bytes[j];
            int code = message_decode(changed, size, NULL, &m, &err);
            assert_true(code == 0 || (err.code == code && err.text[0]));
            message_done(&m);
        }
    }
    free(text);
}

static void test_limits(void **state)
{
    (void)state;
    struct message m;
    struct error err = {0};
    struct message_limits limits = {.body_size = sizeof TRIPLE - 1};
    char *text = element(IDS, "", TRIPLE);
    assert_int_equal(message_decode(mem_dup(text), strlen(text), &limits, &m, &err), 0);
    message_done(&m);
    limits.body_size--;
    assert_int_equal(message_decode(text, strlen(text), &limits, &m, &err), ERROR_TOO_BIG);
    assert_string_equal(m.id, "i");
    message_done(&m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_goldens),
        cmocka_unit_test(test_all_fields),
        cmocka_unit_test(test_nulls),
        cmocka_unit_test(test_typed),
        cmocka_unit_test(test_protocol1),
        cmocka_unit_test(test_bad_fields),
        cmocka_unit_test(test_bad_texts),
        cmocka_unit_test(test_truncation),
        cmocka_unit_test(test_mutation),
        cmocka_unit_test(test_limits),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
