/* SPDX-License-Identifier: Apache-2.0 */
/* Result stores: the shapes of their records against what Celery's backends wrote
 * (test/golden-results), and the stores that need no server. */
#include "worker/store/backend.h"

#include "proto/base/mem.h"
#include "proto/time.h"
#include "worker/config/settings.h"
#include "worker/store/mongo_private.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

/* --- golden records --------------------------------------------------------------------------- */

static cJSON *golden(const char *name)
{
    char *path = mem_printf("test/golden-results/%s.json", name);
    FILE *file = fopen(path, "rb");
    if (!file)
        fail_msg("cannot open %s (run from the repository's root)", path);
    struct buf text = BUF_INIT(16 << 20);
    char *room = buf_reserve(&text, 1 << 20);
    text.size = fread(room, 1, 1 << 20, file);
    fclose(file);
    cJSON *value = json_parse(text.data, text.size, NULL);
    assert_non_null(value);
    buf_done(&text);
    free(path);
    return value;
}

/* A record made from the JSON of one, with the texts it points into. */
struct made {
    struct store_record record;
    cJSON *from, *stamps;
    char *texts[6];
    size_t n;
};

static const char *text_of(struct made *m, const cJSON *value)
{
    if (!value || cJSON_IsNull(value))
        return NULL;
    return m->texts[m->n++] = json_text(value);
}

static void make_record(struct made *m, cJSON *from)
{
    struct store_record *r = &m->record;
    *m = (struct made){.from = from};
    r->id = json_get_string(from, "task_id");
    r->state = json_get_string(from, "status");
    r->result.at = text_of(m, json_get(from, "result"));
    r->result.size = r->result.at ? strlen(r->result.at) : 0;
    r->traceback = json_get_string(from, "traceback");
    r->children = text_of(m, json_get(from, "children"));
    const char *date = json_get_string(from, "date_done");
    r->date_done = TIME_NONE;
    if (date)
        assert_int_equal(time_parse(date, strlen(date), &r->date_done), 0);
    r->group_id = json_get_string(from, "group_id");
    r->parent_id = json_get_string(from, "parent_id");
    r->extended = json_get(from, "name") != NULL;
    r->name = json_get_string(from, "name");
    r->worker = json_get_string(from, "worker");
    r->queue = json_get_string(from, "queue");
    r->args = text_of(m, json_get(from, "args"));
    r->kwargs = text_of(m, json_get(from, "kwargs"));
    json_as_int(json_get(from, "retries"), &r->retries);
    r->stamped_headers = text_of(m, json_get(from, "stamped_headers"));
    if (!r->stamped_headers)
        return;
    m->stamps = cJSON_CreateObject();
    const cJSON *name;
    cJSON_ArrayForEach(name, json_get(from, "stamped_headers")) json_set(
        m->stamps, name->valuestring, cJSON_Duplicate(json_get(from, name->valuestring), true));
    r->stamps = text_of(m, m->stamps);
}

static void made_done(struct made *m)
{
    for (size_t i = 0; i < m->n; i++)
        free(m->texts[i]);
    cJSON_Delete(m->stamps);
    cJSON_Delete(m->from);
}

static void check_mongo(const char *name)
{
    cJSON *file = golden(name);
    char *extended_json = json_text(json_get(file, "document"));
    bson_error_t why;
    bson_t *want = bson_new_from_json((const uint8_t *)extended_json, -1, &why),
           got = BSON_INITIALIZER;
    assert_non_null(want);
    char *plain = record_from_bson(want);
    struct made m;
    struct error err;
    make_record(&m, json_parse(plain, strlen(plain), NULL));
    assert_int_equal(record_bson(&m.record, false, 0, &got, &err), 0);
    if (!bson_equal(want, &got)) {
        char *a = bson_as_canonical_extended_json(want, NULL);
        char *b = bson_as_canonical_extended_json(&got, NULL);
        fail_msg("%s:\nwant %s\ngot  %s", name, a, b);
    }
    made_done(&m);
    free(plain);
    free(extended_json);
    bson_destroy(&got);
    bson_destroy(want);
    cJSON_Delete(file);
}

static void test_mongo_documents(void **state)
{
    static const char *const names[] = {"mongo-add",
                                        "mongo-link",
                                        "mongo-started",
                                        "mongo-retry",
                                        "mongo-fail_value",
                                        "mongo-progress",
                                        "mongo-group-member",
                                        "mongo-chain-last",
                                        "mongo-hard",
                                        "mongo-expired",
                                        "mongo-unknown-task",
                                        "mongo-none",
                                        "mongo-types",
                                        "mongo-extended-add-kw",
                                        "mongo-extended-stamped",
                                        "mongo-extended-started"};
    (void)state;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        check_mongo(names[i]);
}

static void check_redis_value(const char *name, const char *value)
{
    struct made m;
    struct error err;
    struct buf got = BUF_INIT(1 << 20);
    make_record(&m, json_parse(value, strlen(value), NULL));
    assert_int_equal(record_print(&m.record, &got, &err), 0);
    if (strcmp(got.data, value) != 0)
        fail_msg("%s:\nwant %s\ngot  %s", name, value, got.data);
    buf_done(&got);
    made_done(&m);
}

static void test_redis_records(void **state)
{
    static const char *const names[] = {"redis-success",  "redis-extended-success",
                                        "redis-failure",  "redis-extended-failure",
                                        "redis-progress", "redis-retry",
                                        "redis-expired",  "redis-noexpire-prefix-success",
                                        "redis-pytypes"};
    size_t n_checked = 0;
    (void)state;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        cJSON *file = golden(names[i]);
        const cJSON *command;
        cJSON_ArrayForEach(command, json_get(file, "commands"))
        {
            /* PUBLISH channel record: the channel is the key, the record what was stored */
            const cJSON *words = json_get(command, "cmd"), *key = words->child->next;
            if (strcmp(words->child->valuestring, "PUBLISH") == 0 &&
                strstr(key->valuestring, STORE_TASK_KEY)) {
                check_redis_value(names[i], key->next->valuestring);
                n_checked++;
            }
        }
        cJSON_Delete(file);
    }
    assert_true(n_checked >= sizeof names / sizeof *names);
}

/* --- records of our own ----------------------------------------------------------------------- */

static struct store_record record_of(const char *id, const char *state, const char *result)
{
    return (struct store_record){.id = id,
                                 .state = state,
                                 .result = {result, result ? strlen(result) : 0},
                                 .date_done = state_is_final(state) ? 1795253177345678 : TIME_NONE};
}

static char *bson_of(const struct store_record *r, int64_t expires_at)
{
    bson_t document = BSON_INITIALIZER;
    struct error err;
    assert_int_equal(record_bson(r, false, expires_at, &document, &err), 0);
    char *text = bson_as_canonical_extended_json(&document, NULL);
    bson_destroy(&document);
    return text;
}

static void test_bson_values(void **state)
{
    struct store_record r = record_of("id", "SUCCESS", NULL);
    (void)state;
    r.extended = true;
    r.args =
        "[1, 3000000000, 1180591620717411303424, 1.0, 1e-07, true, null, {\"\": 1, \"$date\": 5},"
        " \"a\\u0000b\", \"\\ud800\"]";
    char *text = bson_of(&r, 1795253177345);
    assert_non_null(strstr(text, "\"result\" : \"null\""));
    assert_non_null(strstr(text,
                           "\"args\" : [ { \"$numberInt\" : \"1\" }, { \"$numberLong\" : "
                           "\"3000000000\" }, \"1180591620717411303424\", { \"$numberDouble\" : "
                           "\"1.0\" }"));
    assert_non_null(strstr(text, "{ \"\" : { \"$numberInt\" : \"1\" }, \"$date\" : "
                                 "{ \"$numberInt\" : \"5\" } }"));
    assert_non_null(strstr(text, "\"a\\u0000b\", \"\xEF\xBF\xBD\""));
    assert_non_null(strstr(text, "\"kwargs\" : null"));
    assert_non_null(strstr(text, "\"expires_at\" : { \"$date\" : { \"$numberLong\" : "
                                 "\"1795253177345\" } }"));
    bson_free(text);
}

static void test_stamps_never_replace_fields(void **state)
{
    struct store_record r = record_of("id", "SUCCESS", "3");
    struct buf out = BUF_INIT(1 << 16);
    struct error err;
    (void)state;
    r.extended = true;
    r.stamped_headers = "[\"status\", \"mine\"]";
    r.stamps = "{\"status\": \"FAILURE\", \"mine\": [1]}";
    char *text = bson_of(&r, 0);
    assert_null(strstr(text, "FAILURE"));
    assert_non_null(strstr(text, "\"mine\""));
    bson_free(text);
    assert_int_equal(record_print(&r, &out, &err), 0);
    assert_null(strstr(out.data, "FAILURE"));
    assert_non_null(strstr(out.data, "\"mine\": [1], \"task_id\": \"id\"}"));
    buf_done(&out);
}

static void test_refused_records(void **state)
{
    bson_t document = BSON_INITIALIZER;
    struct buf out = BUF_INIT(1 << 16);
    struct error err;
    struct store_record r = record_of("id", "SUCCESS", "\"\xff\"");
    (void)state;
    assert_int_equal(record_bson(&r, false, 0, &document, &err), ERROR_INVALID);
    assert_int_equal(record_print(&r, &out, &err), ERROR_INVALID);
    size_t size = STORE_MAX_DOCUMENT;
    char *big = mem_alloc(size);
    memset(big, '1', size);
    r.result = (struct slice){big, size};
    assert_int_equal(record_bson(&r, false, 0, &document, &err), ERROR_TOO_BIG);
    bson_reinit(&document);
    r.result.size = size - 1000;
    assert_int_equal(record_bson(&r, false, 0, &document, &err), 0);
    r.result.size = 1;
    r.extended = true;
    r.args = "[1, ";
    bson_reinit(&document);
    assert_int_equal(record_bson(&r, false, 0, &document, &err), ERROR_INVALID);
    assert_non_null(strstr(err.text, "args"));
    free(big);
    buf_done(&out);
    bson_destroy(&document);
}

static void test_children_can_be_left_out(void **state)
{
    struct store_record r = record_of("id", "SUCCESS", "1");
    bson_t document = BSON_INITIALIZER;
    struct error err;
    (void)state;
    r.children = "[[[\"a\", null], null]]";
    assert_int_equal(record_bson(&r, true, 0, &document, &err), 0);
    char *text = record_from_bson(&document);
    assert_non_null(strstr(text, "\"children\": []"));
    free(text);
    bson_destroy(&document);
}

static void test_guard(void **state)
{
    static const struct {
        const char *text;
        bool succeeded;
    } rows[] = {
        {"{\"status\": \"SUCCESS\", \"result\": 3", true},
        {"{\"status\":\"SUCCESS\",", true},
        {"{\"status\": \"SUCCESSOR\"", false},
        {"{\"status\": \"FAILURE\"", false},
        {"{\"status\": \"SUCC", false},
        {"", false},
    };
    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        assert_int_equal(record_text_succeeded(rows[i].text, strlen(rows[i].text)),
                         rows[i].succeeded);
}

static void test_coalesce(void **state)
{
    static const struct {
        const char *first, *second, *winner;
    } rows[] = {
        {"STARTED", "SUCCESS", "SUCCESS"},  {"PROGRESS", "STARTED", "STARTED"},
        {"SUCCESS", "FAILURE", "SUCCESS"},  {"FAILURE", "SUCCESS", "SUCCESS"},
        {"FAILURE", "PROGRESS", "FAILURE"}, {"RETRY", "FAILURE", "FAILURE"},
        {"REVOKED", "FAILURE", "FAILURE"},  {"REVOKED", "RETRY", "REVOKED"},
    };
    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct store_record a = record_of("a", rows[i].first, "1");
        struct store_record other = record_of("b", "STARTED", "2");
        struct store_record b = record_of("a", rows[i].second, "3");
        struct store_entry *entries[] = {entry_copy(&a), entry_copy(&other), entry_copy(&b)};
        assert_int_equal(store_coalesce(entries, 3), 2);
        assert_string_equal(entries[0]->record.state, rows[i].winner);
        assert_non_null(entries[0]->merged);
        assert_null(entries[0]->merged->merged);
        assert_string_equal(entries[1]->record.id, "b");
        assert_null(entries[1]->merged);
        entry_free(entries[0]);
        entry_free(entries[1]);
    }
}

static void test_coalesce_full_batch(void **state)
{
    struct store_entry *entries[STORE_BATCH];
    size_t n_merged = 0;
    (void)state;
    for (size_t i = 0; i < STORE_BATCH; i++) {
        char id[16];
        snprintf(id, sizeof id, "id-%zu", i % 10);
        struct store_record r = record_of(id, "PROGRESS", "1");
        r.retries = (int64_t)i;
        entries[i] = entry_copy(&r);
    }
    assert_int_equal(store_coalesce(entries, STORE_BATCH), 10);
    for (size_t i = 0; i < 10; i++) {
        assert_int_equal(entries[i]->record.retries, STORE_BATCH - 10 + (int)i);
        for (const struct store_entry *e = entries[i]->merged; e; e = e->merged)
            n_merged++;
        entry_free(entries[i]);
    }
    assert_int_equal(n_merged, STORE_BATCH - 10);
}

/* --- stores without a server ------------------------------------------------------------------ */

struct heard {
    struct event_base *base;
    int n, want, last;
    char *json;
};

static void on_done(int code, const char *why, void *arg)
{
    struct heard *h = arg;
    (void)why;
    h->last = code;
    if (++h->n == h->want)
        event_base_loopbreak(h->base);
}

static void on_read(int code, const char *json, void *arg)
{
    struct heard *h = arg;
    h->last = code;
    free(h->json);
    h->json = mem_dup(json);
    event_base_loopbreak(h->base);
}

static void put(struct store *s, struct heard *h, const char *id, const char *state,
                const char *result)
{
    struct store_record r = record_of(id, state, result);
    h->want = h->n + 1;
    store_put(s, &r, on_done, h);
    assert_int_not_equal(h->n, h->want);
    event_base_dispatch(h->base);
    assert_int_equal(h->n, h->want);
}

static void test_null_store(void **state)
{
    struct settings settings = {0};
    struct heard h = {.base = event_base_new()};
    struct error err;
    (void)state;
    struct store *s = store_open(h.base, NULL, &settings, NULL, &err);
    assert_non_null(s);
    put(s, &h, "a", "SUCCESS", "1");
    assert_int_equal(h.last, 0);
    assert_int_equal(store_pending(s), 0);
    store_get(s, "a", on_read, &h);
    event_base_dispatch(h.base);
    assert_null(h.json);
    struct store_record r = record_of("b", "SUCCESS", "1");
    store_put(s, &r, on_done, &h);
    store_close(s);
    assert_int_equal(h.n, 2);
    event_base_free(h.base);
}

static void remove_folder(const char *folder)
{
    char *command = mem_printf("rm -r '%s'", folder);
    assert_int_equal(system(command), 0);
    free(command);
}

static void test_file_store(void **state)
{
    char folder[] = "/tmp/test_store.XXXXXX", *text;
    struct settings settings = {.result_expires = 86400};
    struct heard h = {.base = event_base_new()};
    struct error err;
    (void)state;
    assert_non_null(mkdtemp(folder));
    char *url = mem_printf("file://%s", folder);
    struct store *s = store_open(h.base, url, &settings, NULL, &err);
    assert_non_null(s);
    put(s, &h, "a", "STARTED", "{}");
    put(s, &h, "a", "SUCCESS", "[1, \"x\"]");
    put(s, &h, "a", "FAILURE", "{}");
    assert_int_equal(h.last, 0);
    store_get(s, "a", on_read, &h);
    event_base_dispatch(h.base);
    assert_string_equal(h.json,
                        "{\"status\": \"SUCCESS\", \"result\": [1, \"x\"], \"traceback\": null, "
                        "\"children\": [], \"date_done\": \"2026-11-21T09:26:17.345678+00:00\", "
                        "\"task_id\": \"a\"}");
    put(s, &h, "../b", "SUCCESS", "1");
    assert_int_equal(h.last, ERROR_INVALID);
    put(s, &h, "c", "SUCCESS", "\"\xff\"");
    assert_int_equal(h.last, ERROR_INVALID);
    struct store_record r = record_of("late", "SUCCESS", "1");
    store_put(s, &r, NULL, NULL);
    store_close(s);
    text = store_read(url, &settings, "late", &err);
    assert_non_null(text);
    free(text);
    assert_null(store_read(url, &settings, "nothing", &err));
    assert_int_equal(err.code, 0);
    remove_folder(folder);
    free(h.json);
    free(url);
    event_base_free(h.base);
}

static void test_key_prefix(void **state)
{
    char folder[] = "/tmp/test_store.XXXXXX";
    struct settings settings = {0};
    struct heard h = {.base = event_base_new()};
    struct error err;
    (void)state;
    assert_non_null(mkdtemp(folder));
    settings.result_backend_transport_options =
        json_parse("{\"global_keyprefix\": \"pre\"}", 27, NULL);
    char *url = mem_printf("file://localhost%s", folder);
    struct store *s = store_open(h.base, url, &settings, NULL, &err);
    put(s, &h, "a", "SUCCESS", "1");
    store_close(s);
    char *path = mem_printf("%s/pre_" STORE_TASK_KEY "a", folder);
    assert_int_equal(access(path, F_OK), 0);
    free(path);
    free(url);
    remove_folder(folder);
    cJSON_Delete(settings.result_backend_transport_options);
    event_base_free(h.base);
}

static void test_bad_urls(void **state)
{
    static const struct {
        const char *url;
        int code;
    } rows[] = {
        {"mysql://x", ERROR_UNSUPPORTED},
        {"nonsense", ERROR_UNSUPPORTED},
        {"file:///no/such/folder", ERROR_NOT_FOUND},
        {"file://relative", ERROR_INVALID},
        {"mongodb://h:27999x/", ERROR_INVALID},
        {"mongodb://h:/", ERROR_INVALID},
        {"mongodb:h", ERROR_INVALID},
        {"mongodb://u:p%@h/", ERROR_INVALID},
        {"mongodb://h/?w=majority&ssl=maybe,h:x", ERROR_INVALID},
        {"mongodb+srv://one.two/", ERROR_INVALID},
    };
    struct settings settings = {0};
    struct event_base *base = event_base_new();
    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct error err = {0};
        struct store *s = store_open(base, rows[i].url, &settings, NULL, &err);
        if (s || err.code != rows[i].code)
            fail_msg("%s: %s (%d)", rows[i].url, s ? "accepted" : err.text, err.code);
    }
    event_base_free(base);
}

/* Nobody listens there: the record waits, is noted once, and closing gives up. */
static void count_note(const char *text, bool warning, void *arg)
{
    int *n = arg;
    assert_true(warning);
    assert_null(strstr(text, "secret"));
    ++*n;
}

static void test_unreachable_mongo(void **state)
{
    int n_notes = 0;
    const struct store_handlers handlers = {count_note, &n_notes};
    struct settings settings = {0};
    struct heard h = {.base = event_base_new(), .want = -1};
    struct error err;
    (void)state;
    struct store *s =
        store_open(h.base, "mongodb://user:secret@127.0.0.1:1/db?serverSelectionTimeoutMS=100",
                   &settings, &handlers, &err);
    assert_non_null(s);
    struct store_record r = record_of("a", "SUCCESS", "1");
    store_put(s, &r, on_done, &h);
    const struct timeval second = {1, 0};
    event_base_loopexit(h.base, &second);
    event_base_dispatch(h.base);
    assert_int_equal(n_notes, 1);
    assert_int_equal(store_pending(s), 1);
    store_close(s);
    assert_int_equal(h.n, 0);
    event_base_free(h.base);
}

/* A secondary may lag, and what is read decides whether a task runs again. */
static void test_mongo_is_read_at_its_primary(void **state)
{
    (void)state;
    struct settings settings = {0};
    struct error err = {0};
    struct store_setup setup = {
        .url = "mongodb://a,b/db?replicaSet=r&readPreference=secondary&maxStalenessSeconds=100",
        .settings = &settings};
    struct mongo_store *m = mongo_store_new(&setup, &err);
    assert_non_null(m);
    assert_int_equal(mongoc_read_prefs_get_mode(mongoc_uri_get_read_prefs_t(m->uri)),
                     MONGOC_READ_PRIMARY);
    m->client = mongoc_client_new_from_uri_with_error(m->uri, NULL);
    assert_non_null(m->client);
    mongo_store_free(m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_mongo_documents),
        cmocka_unit_test(test_redis_records),
        cmocka_unit_test(test_bson_values),
        cmocka_unit_test(test_stamps_never_replace_fields),
        cmocka_unit_test(test_refused_records),
        cmocka_unit_test(test_children_can_be_left_out),
        cmocka_unit_test(test_guard),
        cmocka_unit_test(test_coalesce),
        cmocka_unit_test(test_coalesce_full_batch),
        cmocka_unit_test(test_null_store),
        cmocka_unit_test(test_file_store),
        cmocka_unit_test(test_key_prefix),
        cmocka_unit_test(test_bad_urls),
        cmocka_unit_test(test_unreachable_mongo),
        cmocka_unit_test(test_mongo_is_read_at_its_primary),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
