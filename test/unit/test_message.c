/* SPDX-License-Identifier: Apache-2.0 */
#include "proto/message.h"

#include "proto/base/mem.h"
#include "proto/base64.h"
#include "proto/compress.h"
#include "proto/repr.h"
#include "proto/uuid.h"

#include <dirent.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

/* --- the captures --- */

static char *file_text(const char *path, size_t *ret_size)
{
    FILE *file = fopen(path, "rb");
    if (!file)
        fail_msg("cannot open %s (run from the repository's root or set GOLDEN)", path);
    struct buf text = BUF_INIT(64 << 20);
    char *room;
    while ((room = buf_reserve(&text, 1 << 16))) {
        size_t got = fread(room, 1, 1 << 16, file);
        text.size += got;
        if (!got)
            break;
    }
    fclose(file);
    *ret_size = text.size;
    return buf_take(&text);
}

static const char *golden_root(void)
{
    const char *root = getenv("GOLDEN");
    return root ? root : "test/golden";
}

static cJSON *golden_read(const char *set, const char *name)
{
    struct error err = {0};
    char *path = mem_printf("%s/%s/%s", golden_root(), set, name);
    size_t size;
    char *text = file_text(path, &size);
    cJSON *tree = json_parse(text, size, &err);
    if (!tree)
        fail_msg("%s: %s", path, err.text);
    free(text);
    free(path);
    return tree;
}

static const char *golden_element(const cJSON *golden, int index)
{
    return json_get_string(cJSON_GetArrayItem(json_get(golden, "elements"), index), "raw");
}

static int decode(const char *text, struct message *m, struct error *err)
{
    *err = (struct error){0};
    return message_decode(mem_dup(text), strlen(text), NULL, m, err);
}

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

/* --- compression --- */

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

/* --- encoding --- */

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

/* --- dates, texts, ids --- */

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

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_goldens),       cmocka_unit_test(test_all_fields),
        cmocka_unit_test(test_nulls),         cmocka_unit_test(test_typed),
        cmocka_unit_test(test_protocol1),     cmocka_unit_test(test_bad_fields),
        cmocka_unit_test(test_bad_texts),     cmocka_unit_test(test_truncation),
        cmocka_unit_test(test_mutation),      cmocka_unit_test(test_limits),
        cmocka_unit_test(test_compression),   cmocka_unit_test(test_base64),
        cmocka_unit_test(test_encode),        cmocka_unit_test(test_encode_little),
        cmocka_unit_test(test_redelivered),   cmocka_unit_test(test_retry),
        cmocka_unit_test(test_time),          cmocka_unit_test(test_repr),
        cmocka_unit_test(test_repr_of_python),
        cmocka_unit_test(test_uuid),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
