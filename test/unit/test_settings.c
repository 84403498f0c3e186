/* SPDX-License-Identifier: Apache-2.0 */
/* Settings: every way in, every refusal, what is shown of secrets, and that the docs name them all.
 */

#include "proto/base/mem.h"
#include "worker/config/settings.h"
#include "worker/config/settings_names.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

static struct settings s;

static int setup(void **state)
{
    (void)state;
    settings_init(&s);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    settings_done(&s);
    return 0;
}

static void set(const char *name, const char *value)
{
    struct error err = {0};
    if (settings_set(&s, name, value, &err) != 0)
        fail_msg("%s=%s: %s", name, value, err.text);
}

/* The value is refused, and the words are in the reason. */
static void refused(const char *name, const char *value, const char *words)
{
    struct error err = {0};
    assert_true(settings_set(&s, name, value, &err) < 0);
    assert_true(err.code < 0);
    if (!strstr(err.text, words))
        fail_msg("%s=%s: \"%s\" lacks \"%s\"", name, value, err.text, words);
}

static int load(const char *text, struct error *err)
{
    char path[] = "/tmp/test_settings_XXXXXX";
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, text, strlen(text)), strlen(text));
    close(fd);
    int code = settings_load_file(&s, path, err);
    unlink(path);
    return code;
}

static void test_defaults(void **state)
{
    (void)state;
    assert_string_equal(s.broker_url, "redis://127.0.0.1:6379/0");
    assert_null(s.result_backend);
    assert_string_equal(s.task_default_queue, "celery");
    assert_true(s.task_acks_late);
    assert_int_equal(s.worker_prefetch_multiplier, 4);
    assert_true(s.result_expires == 86400);
    assert_string_equal(s.priority_steps[3], "9");
    assert_null(s.priority_steps[4]);
    assert_null(s.task_queues);
}

static void test_texts(void **state)
{
    (void)state;
    set("task_acks_late", "False");
    assert_false(s.task_acks_late);
    set("task_acks_late", "on");
    assert_true(s.task_acks_late);
    assert_false(settings_given(&s, "worker_concurrency"));
    set("worker_concurrency", "7");
    assert_true(settings_given(&s, "worker_concurrency"));
    assert_int_equal(s.worker_concurrency, 7);
    set("visibility_timeout", "2.5");
    assert_true(s.visibility_timeout == 2.5);
    set("task_queues", " a, b ,,c");
    assert_string_equal(s.task_queues[1], "b");
    assert_string_equal(s.task_queues[2], "c");
    assert_null(s.task_queues[3]);
    set("worker_pool", "processes");
    assert_string_equal(s.worker_pool, "prefork");
    set("task_default_rate_limit", "0.5/m");
    set("task_default_rate_limit", " +1_000 /m");
    set("task_default_rate_limit", "");
    assert_null(s.task_default_rate_limit);
    set("result_backend", "mongodb+srv://u:p@h/db");
    set("result_backend", "disabled://");
    set("priority_steps", "0,1");
    set("priority_steps", "");
    assert_string_equal(s.priority_steps[3], "9");
    set("mongodb_backend_settings", "{\"database\": \"jobs\"}");
    assert_string_equal(json_get_string(s.mongodb_backend_settings, "database"), "jobs");
}

static void test_refusals(void **state)
{
    (void)state;
    refused("worker_concurrency", "many", "not a whole number");
    refused("worker_concurrency", "", "not a whole number");
    refused("worker_concurrency", "-1", "too small");
    refused("worker_concurrency", "1025", "too large");
    refused("worker_concurrency", "99999999999999999999", "not a whole number");
    refused("task_time_limit", "-0.5", "too small");
    refused("task_time_limit", "nan", "not a number");
    refused("task_time_limit", "5s", "not a number");
    refused("task_acks_late", "maybe", "neither true nor false");
    refused("worker_pool", "gevent", "threads");
    refused("worker_pool", "forks", "prefork");
    refused("worker_log_color", "blue", "auto");
    refused("queue_order_strategy", "lifo", "round_robin");
    refused("priority_steps", "3,0", "rising");
    refused("priority_steps", "0,x", "rising");
    refused("result_serializer", "pickle", "json only");
    refused("task_default_rate_limit", "10/d", "10/s");
    refused("task_default_rate_limit", "-1/s", "10/s");
    refused("task_default_rate_limit", "0x10/s", "10/s");
    refused("task_default_rate_limit", "1__0", "10/s");
    refused("tasks", "{}", "list");
    refused("task_aliases", "[]", "object");
    refused("task_aliases", "{", "JSON");
    refused("result_backend", "rpc://", "mongodb://");
    refused("worker_lease", "0", "too small");
    assert_true(s.worker_lease == 30); /* a refused value changes nothing */
}

static void test_broker_scheme_and_secrets(void **state)
{
    (void)state;
    static const char *const urls[] = {"amqp://u:hunter2@h//", "sqs://hunter2:x@", "u:hunter2@h",
                                       "redis://u:hunter2@h:notaport/0", "http://u:hunter2@h"};
    for (size_t i = 0; i < sizeof urls / sizeof *urls; i++) {
        struct error err = {0};
        assert_true(settings_set(&s, "broker_url", urls[i], &err) < 0);
        assert_non_null(strstr(err.text, "broker_url"));
        assert_null(strstr(err.text, "hunter2"));
    }
    refused("broker_url", "amqp://h", "cworker speaks Redis only");
    struct error err = {0};
    assert_true(settings_set(&s, "result_backend", "db+mysql://u:hunter2@h", &err) < 0);
    assert_null(strstr(err.text, "hunter2"));
}

static void test_names(void **state)
{
    (void)state;
    refused("task_ack_late", "true", "did you mean task_acks_late?");
    refused("concurrency", "3", "did you mean worker_concurrency?");
    refused("CELERY_TASK_ACKS_LATE", "true", "did you mean task_acks_late?");
    refused("wrker_pool", "prefork", "did you mean worker_pool?");
    refused("zzzzzzzzzzzzzzzzzzzzzzzzzzz", "1", "unknown setting");
    set("cassandra_table", "t");
    set("worker_pool_putlocks", "true");
    set("worker_pool_putlocks", "false");
    set("task_routes", "{}");
    set("task_serializer", "json");
    assert_string_equal(s.ignored, "cassandra_table, worker_pool_putlocks, task_routes, task_serializer");
    refused("task_serializer", "pickle", "json only");
    refused("security_key", "/etc/key", "signed");
    refused("broker_use_ssl", "true", "rediss://");
    set("broker_use_ssl", "false");
}

/* A name is ours or ignored, never both. */
static void test_ignored_are_not_settings(void **state)
{
    (void)state;
#define SETTING_CHECK(name, type, fallback, unit, help)                                            \
    assert_int_equal(setting_name_check(#name, "", NULL), ERROR_NOT_FOUND);
    SETTINGS(SETTING_CHECK)
}

static void test_nearest(void **state)
{
    (void)state;
    static const char *const names[] = {"concurrency", "queues", "quiet", "without-gossip"};
    assert_string_equal(name_nearest("concurency", names, 4), "concurrency");
    assert_string_equal(name_nearest("cnocurrency", names, 4), "concurrency");
    assert_string_equal(name_nearest("conc", names, 4), "concurrency");
    assert_string_equal(name_nearest("gossip", names, 4), "without-gossip");
    assert_string_equal(name_nearest("queue", names, 4), "queues");
    assert_null(name_nearest("q", names, 4));
    assert_null(name_nearest("elephant", names, 4));
    assert_null(name_nearest("", names, 4));
}

static void test_file(void **state)
{
    (void)state;
    struct error err = {0};
    int code =
        load("{\"visibility_timeout\": 7, \"task_acks_late\": false, \"worker_concurrency\": 3,"
             " \"broker_transport_options\": {\"visibility_timeout\": 5, \"socket_timeout\": 3,"
             " \"priority_steps\": [0, 5], \"global_keyprefix\": \"x:\"},"
             " \"task_queues\": [\"a\", {\"name\": \"b\"}], \"task_default_rate_limit\": 10,"
             " \"result_expires\": null, \"worker_max_tasks_per_child\": null,"
             " \"accept_content\": [\"json\"], \"broker_connection_retry_on_startup\": true,"
             " \"tasks\": [{\"name\": \"t\"}]}",
             &err);
    if (code)
        fail_msg("%s", err.text);
    assert_true(s.visibility_timeout == 7); /* its own name is more specific */
    assert_string_equal(s.priority_steps[1], "5");
    assert_null(s.priority_steps[2]);
    assert_string_equal(s.global_keyprefix, "x:");
    assert_false(s.task_acks_late);
    assert_int_equal(s.worker_concurrency, 3);
    assert_string_equal(s.task_queues[1], "b");
    assert_string_equal(s.task_default_rate_limit, "10");
    assert_true(s.result_expires == 0);
    assert_int_equal(cJSON_GetArraySize(s.tasks), 1);
    assert_int_equal(load("{\"task_queues\": {\"m\": {\"exchange\": \"m\"}}}", &err), 0);
    assert_string_equal(s.task_queues[0], "m");
}

static void test_bad_files(void **state)
{
    (void)state;
    static const struct {
        const char *text, *words;
    } files[] = {
        {"", "not JSON"},
        {"{\"a\":", "not JSON"},
        {"[]", "one JSON object"},
        {"{\"task_ack_late\": 1}", "did you mean task_acks_late?"},
        {"{\"worker_concurrency\": 1.5}", "whole number"},
        {"{\"worker_concurrency\": [1]}", "single value"},
        {"{\"worker_concurrency\": true}", "whole number"},
        {"{\"task_queues\": [[]]}", "list of names"},
        {"{\"broker_transport_options\": {\"visibility_timout\": 1}}",
         "did you mean visibility_timeout?"},
        {"{\"broker_transport_options\": {\"visibility_timeout\": -1}}", "too small"},
        {"{\"broker_transport_options\": {\"sep\": \":\"}}", "sep"},
        {"{\"broker_transport_options\": 3}", "object"},
        {"{\"accept_content\": [\"json\", \"pickle\"]}", "json only"},
        {"{\"broker_use_ssl\": {\"ssl_cert_reqs\": 0}}", "rediss://"},
    };
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        struct error err = {0};
        assert_true(load(files[i].text, &err) < 0);
        if (!strstr(err.text, files[i].words))
            fail_msg("%s: \"%s\"", files[i].text, err.text);
    }
    struct error err = {0};
    assert_int_equal(settings_load_file(&s, "/nonexistent/x.json", &err), ERROR_NOT_FOUND);
    assert_true(settings_load_file(&s, "/", &err) < 0);
}

static void test_environment(void **state)
{
    (void)state;
    struct error err = {0};
    setenv("CELERY_BROKER_URL", "redis://h1/1", 1);
    setenv("CELERY_RESULT_BACKEND", "file:///tmp/r", 1);
    setenv("CWORKER_TASK_ACKS_LATE", "false", 1);
    setenv("CWORKER_BROKER_TRANSPORT_OPTIONS", "{\"visibility_timeout\": 11}", 1);
    setenv("CWORKER_TASK_DEFAULT_QUEUE", "", 1);
    assert_int_equal(settings_load_environment(&s, &err), 0);
    assert_string_equal(s.broker_url, "redis://h1/1");
    assert_string_equal(s.result_backend, "file:///tmp/r");
    assert_false(s.task_acks_late);
    assert_true(s.visibility_timeout == 11);
    assert_string_equal(s.task_default_queue, "celery");
    setenv("CWORKER_BROKER_URL", "redis://h2/1", 1);
    assert_int_equal(settings_load_environment(&s, &err), 0);
    assert_string_equal(s.broker_url, "redis://h2/1");
    setenv("CWORKER_WORKER_CONCURRENCY", "x", 1);
    assert_true(settings_load_environment(&s, &err) < 0);
    assert_non_null(strstr(err.text, "CWORKER_WORKER_CONCURRENCY"));
    unsetenv("CELERY_BROKER_URL");
    unsetenv("CELERY_RESULT_BACKEND");
    unsetenv("CWORKER_TASK_ACKS_LATE");
    unsetenv("CWORKER_BROKER_TRANSPORT_OPTIONS");
    unsetenv("CWORKER_TASK_DEFAULT_QUEUE");
    unsetenv("CWORKER_BROKER_URL");
    unsetenv("CWORKER_WORKER_CONCURRENCY");
}

static void test_contradictions(void **state)
{
    (void)state;
    struct error err = {0};
    assert_int_equal(settings_check(&s, &err), 0);
    set("task_soft_time_limit", "10");
    assert_int_equal(settings_check(&s, &err), 0);
    set("task_time_limit", "5");
    assert_true(settings_check(&s, &err) < 0);
    assert_non_null(strstr(err.text, "task_soft_time_limit"));
}

static void test_dump(void **state)
{
    (void)state;
    set("broker_url", "redis://u:hunter2@h/1");
    set("result_backend", "mongodb://u:hunter2@h,h2/db");
    set("mongodb_backend_settings", "{\"password\": \"hunter2\", \"database\": \"d\"}");
    set("tasks", "[{\"name\": \"t\", \"command\": [\"psql\", \"postgres://u:hunter2@h\"]}]");
    set("worker_concurrency", "3");
    cJSON *all = settings_dump(&s, true), *changed = settings_dump(&s, false);
    char *text = json_text(all);
    assert_null(strstr(text, "hunter2"));
    assert_non_null(strstr(text, "redis://u:**@h/1"));
    assert_non_null(strstr(text, "\"result_expires\": 86400"));
    assert_non_null(json_get(changed, "worker_concurrency"));
    assert_null(json_get(changed, "result_expires"));
    assert_int_equal(cJSON_GetArraySize(changed), 5);
    free(text);
    cJSON_Delete(all);
    cJSON_Delete(changed);
}

static void test_concurrency(void **state)
{
    (void)state;
    assert_true(settings_concurrency(&s) >= 1);
    assert_true(settings_concurrency(&s) <= (int)sysconf(_SC_NPROCESSORS_CONF));
    set("worker_concurrency", "17");
    assert_int_equal(settings_concurrency(&s), 17);
}

/* docs/settings.md has a row for each setting, with its default. */
static void test_documented(void **state)
{
    (void)state;
    FILE *file = fopen("docs/settings.md", "r");
    assert_non_null(file);
    static char text[1 << 18];
    text[fread(text, 1, sizeof text - 1, file)] = '\0';
    fclose(file);
    static const struct {
        const char *name, *fallback;
    } rows[] = {
#define SETTING_DOC(name, type, fallback, unit, help) {#name, fallback},
        SETTINGS(SETTING_DOC)
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        char *row = rows[i].fallback
                        ? mem_printf("\n| `%s` | `%s` |", rows[i].name, rows[i].fallback)
                        : mem_printf("\n| `%s` | |", rows[i].name);
        if (!strstr(text, row))
            fail_msg("docs/settings.md lacks a row that starts with: %s", row + 1);
        free(row);
    }
}

int main(void)
{
#define WITH_SETTINGS(test) cmocka_unit_test_setup_teardown(test, setup, teardown)
    const struct CMUnitTest tests[] = {
        WITH_SETTINGS(test_defaults),
        WITH_SETTINGS(test_texts),
        WITH_SETTINGS(test_refusals),
        WITH_SETTINGS(test_broker_scheme_and_secrets),
        WITH_SETTINGS(test_names),
        cmocka_unit_test(test_ignored_are_not_settings),
        cmocka_unit_test(test_nearest),
        WITH_SETTINGS(test_file),
        WITH_SETTINGS(test_bad_files),
        WITH_SETTINGS(test_environment),
        WITH_SETTINGS(test_contradictions),
        WITH_SETTINGS(test_dump),
        WITH_SETTINGS(test_concurrency),
        cmocka_unit_test(test_documented),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
