/* SPDX-License-Identifier: Apache-2.0 */

/* The task API inside a task: arguments, verdicts, exceptions, retries, states, sends. Each case is
 * a call of a handler; what Python would see of it is what is compared. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "proto/message.h"
#include "test/unit/api_harness.h"
#include "worker/canvas.h"

#include <math.h>

/* --- handlers under test --- */

static char order[64];

static cw_outcome sum(cw_task *t)
{
    return cw_return_int(t, cw_int(t, "x") + cw_int(t, "y"));
}

static cw_outcome all_kinds(cw_task *t)
{
    return cw_return_str(t, cw_printf(t, "%s %g %d %s", cw_digits(t, "i"), cw_num(t, "n"),
                                      cw_bool(t, "b"), cw_str(t, "s") ? cw_str(t, "s") : "-"));
}

static cw_outcome give_json(cw_task *t)
{
    return cw_return(t, cJSON_Duplicate(cw_json(t, "x"), true));
}

static cw_outcome give_num(cw_task *t)
{
    return cw_return_num(t, cw_num(t, "x"));
}

static cw_outcome give_digits(cw_task *t)
{
    return cw_return_digits(t, cw_str(t, "x"));
}

static cw_outcome raise_named(cw_task *t)
{
    return cw_raise(t, cw_str(t, "x"), "told %d", 1);
}

static cw_outcome raise_args(cw_task *t)
{
    return cw_raise_args(t, "ValueError", cJSON_Duplicate(cw_json(t, "x"), true));
}

static cw_outcome retry_in(cw_task *t)
{
    return cw_retry(t, cw_num(t, "x"), "ValueError", "try %d", (int)cw_info(t)->retries);
}

static cw_outcome retry_plain(cw_task *t)
{
    return cw_retry(t, 1, NULL, " ");
}

static cw_outcome retry_default(cw_task *t)
{
    return cw_retry(t, -1, "ValueError", "again");
}

static cw_outcome no_verdict(cw_task *t)
{
    (void)t;
    return (cw_outcome){0};
}

static cw_outcome reject(cw_task *t)
{
    return cw_reject(t, true);
}

static cw_outcome asks_wrong(cw_task *t)
{
    return cw_return_int(t, cw_int(t, "nobody"));
}

static void note(void *arg)
{
    strcat(order, arg);
}

static cw_outcome memory(cw_task *t)
{
    char *zeroed = cw_alloc(t, 4096);
    for (int i = 0; i < 4096; i++)
        if (zeroed[i])
            return cw_raise(t, "ValueError", "not zeroed");
    memset(zeroed, 1, 4096);
    cw_defer(t, note, "a");
    cw_defer(t, note, "b");
    return cw_return_str(t, cw_tmpdir(t));
}

static cw_outcome nap(cw_task *t)
{
    return cw_sleep(t, cw_num(t, "x")) < 0 ? cw_stopped(t) : cw_return_bool(t, true);
}

static cw_outcome states(cw_task *t)
{
    cw_progress(t, cJSON_Parse("{\"current\": 1}"));
    cw_state(t, "MINE", NULL);
    return cw_state(t, "SUCCESS", NULL) < 0 ? cw_fail(t) : cw_return(t, NULL);
}

static cw_outcome info(cw_task *t)
{
    const struct cw_info *i = cw_info(t);
    return cw_return_str(t, cw_printf(t, "%s %s %s %s %d %d", i->id, i->name, i->queue, i->root_id,
                                      i->max_retries, i->redelivered));
}

static cw_outcome send_two(cw_task *t)
{
    char id[CW_ID_SIZE];
    if (cw_send(t, (struct cw_send){.task = "t.sum", .args = cJSON_Parse("[1, 2]")}, id) < 0 ||
        cw_send(
            t,
            (struct cw_send){.task = "other.task", .countdown = 60, .priority = 3, .id = "fixed"},
            NULL) < 0)
        return cw_fail(t);
    return cw_given(t, "x") ? cw_raise(t, "ValueError", "after sending") : cw_return_str(t, id);
}

static cw_outcome send_wrong(cw_task *t)
{
    return cw_send(t, (struct cw_send){.task = "t.sum", .args = cJSON_Parse("{}")}, NULL) < 0
               ? cw_fail(t)
               : cw_return(t, NULL);
}

static const struct cw_arg two_ints[] = {
    {.name = "x", .kind = CW_INT}, {.name = "y", .kind = CW_INT}, {0}};
static const struct cw_arg kinds[] = {
    {.name = "i", .kind = CW_INT},
    {.name = "n", .kind = CW_NUM, .fallback = "0.5"},
    {.name = "b", .kind = CW_BOOL, .fallback = "true"},
    {.name = "s", .kind = CW_STR, .fallback = "null", .nullable = true},
    {0}};
static const struct cw_arg any_x[] = {{.name = "x", .kind = CW_ANY}, {0}};
static const struct cw_arg num_x[] = {{.name = "x", .kind = CW_NUM}, {0}};
static const struct cw_arg str_x[] = {{.name = "x", .kind = CW_STR}, {0}};
static const struct cw_arg maybe_x[] = {{.name = "x", .kind = CW_ANY, .fallback = "null"}, {0}};
static const char *const all_errors[] = {"*", NULL};
static const char *const value_errors[] = {"ValueError", NULL};

static cJSON *part(const char *id)
{
    return cw_sig((struct cw_send){.task = "t.sum", .id = id});
}

static cJSON *parts(cJSON *first, cJSON *second)
{
    cJSON *list = cJSON_CreateArray();
    cJSON_AddItemToArray(list, first);
    cJSON_AddItemToArray(list, second);
    return list;
}

static cJSON *group_of_one(void)
{
    cJSON *list = cJSON_CreateArray();
    cJSON_AddItemToArray(list, part(NULL));
    return cw_group(list);
}

static cw_outcome canvas(cw_task *t)
{
    int64_t kind = cw_int(t, "a");
    cJSON *end = kind == 2   ? part("own")
                 : kind == 3 ? group_of_one()
                 : kind == 4 ? cw_chain(parts(part(NULL), part(NULL)))
                             : part(NULL);
    cJSON *sig = kind == 0 ? cw_group(parts(part(NULL), end)) : cw_chain(parts(part(NULL), end));
    if (kind == 0) {
        cw_link(sig, part(NULL));
        cw_link_error(sig, part(NULL));
    } else if (kind > 3) {
        sig = cw_chord(parts(part(NULL), part(NULL)), sig);
    }
    char id[CW_ID_SIZE];
    return cw_apply(t, sig, id) < 0 ? cw_fail(t) : cw_return_str(t, id);
}

static const struct cw_arg kind_of_canvas[] = {{"a", CW_INT}, {0}};

static const struct cw_def defs[] = {
    {.name = "t.canvas", .run = canvas, .args = kind_of_canvas},
    {.name = "t.sum", .run = sum, .args = two_ints},
    {.name = "t.kinds", .run = all_kinds, .args = kinds},
    {.name = "t.json", .run = give_json, .args = any_x},
    {.name = "t.num", .run = give_num, .args = num_x},
    {.name = "t.digits", .run = give_digits, .args = str_x},
    {.name = "t.raise", .run = raise_named, .args = str_x},
    {.name = "t.raise_args", .run = raise_args, .args = any_x},
    {.name = "t.retry", .run = retry_in, .args = num_x},
    {.name = "t.retry_plain", .run = retry_plain, .flags = CW_ANY_ARGS},
    {.name = "t.retry_default", .run = retry_default, .max_retries = CW_FOREVER},
    {.name = "t.retry_backoff",
     .run = retry_default,
     .max_retries = CW_FOREVER,
     .backoff = {.base = 2.9, .max = 50, .no_jitter = true}},
    {.name = "t.retry_jitter", .run = retry_default, .max_retries = 100, .backoff = {.base = 1}},
    {.name = "t.retry_none", .run = retry_default, .max_retries = -1},
    {.name = "t.auto", .run = raise_named, .args = str_x, .autoretry_for = value_errors},
    {.name = "t.auto_all", .run = raise_named, .args = str_x, .autoretry_for = all_errors},
    {.name = "t.no_verdict", .run = no_verdict},
    {.name = "t.reject", .run = reject},
    {.name = "t.asks_wrong", .run = asks_wrong},
    {.name = "t.memory", .run = memory},
    {.name = "t.nap", .run = nap, .args = num_x},
    {.name = "t.states", .run = states},
    {.name = "t.info", .run = info},
    {.name = "t.send", .run = send_two, .args = maybe_x},
    {.name = "t.send_wrong", .run = send_wrong},
    {0},
};
static const struct cw_table table = {.api = CW_API, .queue = "tests", .defs = defs};

/* --- arguments --- */

static void test_arguments(void **state)
{
    (void)state;
    expect("t.sum", "[1, 2], {}", "3", "3");
    expect("t.sum", "[1], {\"y\": 2}", "3", "3");
    expect("t.sum", "[], {\"y\": 2, \"x\": -5}", "-3", "-3");
    expect("t.kinds", "[18446744073709551616], {}", "\"18446744073709551616 0.5 1 -\"", NULL);
}

static void test_arguments_fallback(void **state)
{
    (void)state;
    expect("t.kinds", "[7], {\"s\": \"text\", \"b\": false}", "\"7 0.5 0 text\"", NULL);
    expect("t.kinds", "[7, 2, true, null], {}", "\"7 2 1 -\"", NULL);
}

static void test_type_errors(void **state)
{
    (void)state;
    static const struct row {
        const char *name, *args, *message;
    } rows[] = {
        {"t.sum", "[1], {}", "sum() missing 1 required positional argument: 'y'"},
        {"t.sum", "[], {}", "sum() missing 2 required positional arguments: 'x' and 'y'"},
        {"t.sum", "[1, 2, 3], {}", "sum() takes 2 positional arguments but 3 were given"},
        {"t.json", "[1, 2], {}", "json() takes 1 positional argument but 2 were given"},
        {"t.memory", "[1], {}", "memory() takes 0 positional arguments but 1 was given"},
        {"t.kinds", "[1, 2, true, null, 5], {}",
         "kinds() takes from 1 to 4 positional arguments but 5 were given"},
        {"t.sum", "[1, 2], {\"z\": 1}", "sum() got an unexpected keyword argument 'z'"},
        {"t.sum", "[1, 2], {\"x\": 1}", "sum() got multiple values for argument 'x'"},
        {"t.sum", "[\"abc\", 2], {}", "sum() argument 'x' must be an integer, not str (\"abc\")"},
        {"t.sum", "[1.0, 2], {}", "sum() argument 'x' must be an integer, not float (1.0)"},
        {"t.sum", "[true, 2], {}", "sum() argument 'x' must be an integer, not bool (true)"},
        {"t.sum", "[null, 2], {}", "sum() argument 'x' must be an integer, not None"},
        {"t.kinds", "[1, [2]], {}", "kinds() argument 'n' must be a number, not list ([2])"},
        {"t.sum", "{}, {}", "sum() args must be a list, not dict"},
        {"t.sum", "[], [1]", "sum() kwargs must be a dict, not list"},
        {"t.sum", "[], null", "sum() kwargs must be a dict, not NoneType"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        expect_failure(rows[i].name, rows[i].args, "TypeError", rows[i].message);
}

static void test_bad_bodies(void **state)
{
    (void)state;
    static const char *const bodies[] = {"", "null", "[", "[]", "[[]]", "{\"a\": 1}", "[1, 2"};
    for (size_t i = 0; i < sizeof bodies / sizeof *bodies; i++) {
        struct run *r = run_frame(
            (struct task_frame){.def = (uint32_t)registry_find("t.sum"), .body = slice(bodies[i])});
        assert_int_equal(r->o.kind, RESULT_FAILURE);
        assert_non_null(strstr(r->result, "\"TypeError\""));
        end(r);
    }
}

static void test_long_value_is_clipped(void **state)
{
    (void)state;
    char args[2000];
    memset(args, 'a', sizeof args);
    memcpy(args, "[\"", 2);
    strcpy(args + 1900, "\", 1], {}");
    struct run *r = run_task("t.sum", args);
    assert_true(strlen(r->result) < 400);
    assert_non_null(strstr(r->result, "aaa...)"));
    end(r);
}

static void test_handler_slips(void **state)
{
    (void)state;
    expect_failure("t.sum", "[99999999999999999999, 1], {}", "OverflowError",
                   "sum() argument 'x' does not fit in 64 bits: 99999999999999999999");
    expect_failure("t.asks_wrong", "[], {}", "RuntimeError",
                   "t.asks_wrong asks for an argument 'nobody' that its table does not name");
    expect_failure("t.no_verdict", "[], {}", "RuntimeError",
                   "t.no_verdict returned without a verdict");
}

/* --- results --- */

static void test_results(void **state)
{
    (void)state;
    static const char *const values[] = {"null",
                                         "true",
                                         "18446744073709551617",
                                         "1.0",
                                         "1e-07",
                                         "\"\\u00e4\\ud83d\\ude00\\u0000\"",
                                         "[1, {\"a\": [2.5]}]",
                                         "NaN"};
    for (size_t i = 0; i < sizeof values / sizeof *values; i++) {
        char args[200];
        snprintf(args, sizeof args, "[%s], {}", values[i]);
        expect("t.json", args, values[i], NULL);
    }
    expect("t.json", "[{\"a\": [true, null, \"x\"]}], {}", "{\"a\": [true, null, \"x\"]}",
           "{'a': [True, None, 'x']}");
}

static void test_result_numbers(void **state)
{
    (void)state;
    expect("t.num", "[2], {}", "2.0", "2.0");
    expect("t.num", "[0.1], {}", "0.1", "0.1");
    expect("t.num", "[-Infinity], {}", "-Infinity", "-inf");
    expect("t.num", "[1e22], {}", "1e+22", "1e+22");
    expect("t.digits", "[\"-00012\"], {}", "-12", "-12");
    expect("t.digits", "[\"-0\"], {}", "0", "0");
    expect_failure("t.digits", "[\"1x\"], {}", "ValueError", "not an integer: 1x");
}

/* --- exceptions --- */

static void test_exceptions(void **state)
{
    (void)state;
    static const struct row {
        const char *name, *type, *module;
    } rows[] = {
        {"ValueError", "ValueError", "builtins"},
        {"TimeoutError", "TimeoutError", "builtins"},
        {"ArithmeticError", "ArithmeticError", "builtins"},
        {"ZeroDivisionError", "ZeroDivisionError", "builtins"},
        {"celery.exceptions.TaskError", "TaskError", "celery.exceptions"},
        {"TaskError", "TaskError", "celery.exceptions"},
        {"MaxRetriesExceededError", "MaxRetriesExceededError", "celery.exceptions"},
        {"WorkerLostError", "WorkerLostError", "billiard.exceptions"},
        {"EncodeError", "EncodeError", "kombu.exceptions"},
        {"MyError", "MyError", "cworker"},
        {"SystemExit", "RuntimeError", "builtins"},
        {"builtins.KeyboardInterrupt", "RuntimeError", "builtins"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        char args[100], wanted[300];
        snprintf(args, sizeof args, "[\"%s\"], {}", rows[i].name);
        snprintf(wanted, sizeof wanted,
                 "{\"exc_type\": \"%s\", \"exc_message\": [\"told 1\"], \"exc_module\": \"%s\"}",
                 rows[i].type, rows[i].module);
        struct run *r = run_task("t.raise", args);
        assert_string_equal(r->result, wanted);
        end(r);
    }
}

static void test_exception_texts(void **state)
{
    (void)state;
    struct run *r = run_task("t.raise", "[\"ValueError\"], {}");
    assert_string_equal(r->repr, "ValueError('told 1')");
    assert_memory_equal(r->traceback, "Traceback (most recent call last):\n  File \"", 43);
    assert_non_null(strstr(r->traceback, ", in raise_named\nValueError: told 1\n"));
    end(r);
    r = run_task("t.raise_args", "[[\"bad\", 42]], {}");
    assert_string_equal(r->repr, "ValueError('bad', 42)");
    assert_non_null(strstr(r->traceback, "\nValueError: ('bad', 42)\n"));
    end(r);
    r = run_task("t.raise", "[\"celery.exceptions.TaskError\"], {}");
    assert_non_null(strstr(r->traceback, "\ncelery.exceptions.TaskError: told 1\n"));
    end(r);
}

/* --- retries --- */

static void test_retry(void **state)
{
    (void)state;
    struct run *r = run_task("t.retry", "[1], {}");
    assert_int_equal(r->o.kind, RESULT_RETRY);
    assert_true(r->o.countdown == 1);
    assert_string_equal(r->result, "{\"exc_type\": \"ValueError\", \"exc_message\": [\"try 0\"], "
                                   "\"exc_module\": \"builtins\"}");
    assert_non_null(
        strstr(r->traceback, "\ncelery.exceptions.Retry: Retry in 1s: ValueError('try 0')\n"));
    end(r);
    r = run_task("t.retry_plain", "[], {}");
    assert_string_equal(r->result, "null");
    assert_non_null(strstr(r->traceback, "\ncelery.exceptions.Retry: Retry in 1s\n"));
    end(r);
}

static void test_retry_limit(void **state)
{
    (void)state;
    struct run *r = run_retried("t.retry", "[1], {}", 2);
    assert_int_equal(r->o.kind, RESULT_RETRY);
    end(r);
    r = run_retried("t.retry", "[1], {}", 3);
    assert_int_equal(r->o.kind, RESULT_FAILURE);
    assert_string_equal(r->repr, "ValueError('try 3')");
    end(r);
    r = run_retried("t.retry_plain", "[1, \"a\"], {\"k\": null}", 3);
    assert_string_equal(
        r->result, "{\"exc_type\": \"MaxRetriesExceededError\", \"exc_message\": [\"Can't retry "
                   "t.retry_plain[id-1] args:(1, 'a') kwargs:{'k': None}\"], "
                   "\"exc_module\": \"celery.exceptions\"}");
    end(r);
    r = run_task("t.retry_none", "[], {}");
    assert_int_equal(r->o.kind, RESULT_FAILURE);
    end(r);
}

static double countdown_of(const char *name, int64_t retries)
{
    struct run *r = run_retried(name, "[], {}", retries);
    double countdown = r->o.countdown;
    assert_int_equal(r->o.kind, RESULT_RETRY);
    end(r);
    return countdown;
}

static void test_retry_delays(void **state)
{
    (void)state;
    assert_true(countdown_of("t.retry_default", 1000) == 180);
    static const double wanted[] = {2, 4, 8, 16, 32, 50, 50};
    for (int i = 0; i < 7; i++)
        assert_true(countdown_of("t.retry_backoff", i) == wanted[i]);
    assert_true(countdown_of("t.retry_backoff", 5000) == 50);
    double lowest = 100, highest = 0;
    for (int i = 0; i < 300; i++) {
        double each = countdown_of("t.retry_jitter", 3);
        lowest = fmin(lowest, each);
        highest = fmax(highest, each);
    }
    assert_true(lowest >= 0 && lowest < 1 && highest > 7 && highest <= 8);
}

static void test_autoretry(void **state)
{
    (void)state;
    static const struct row {
        const char *name, *args;
        int64_t retries;
        unsigned kind;
    } rows[] = {
        {"t.auto", "[\"ValueError\"], {}", 0, RESULT_RETRY},
        {"t.auto", "[\"ValueError\"], {}", 3, RESULT_FAILURE},
        {"t.auto", "[\"KeyError\"], {}", 0, RESULT_FAILURE},
        {"t.auto_all", "[\"KeyError\"], {}", 0, RESULT_RETRY},
        {"t.auto_all", "[], {}", 0, RESULT_FAILURE}, /* a TypeError of the call is never retried */
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct run *r = run_retried(rows[i].name, rows[i].args, rows[i].retries);
        assert_int_equal(r->o.kind, rows[i].kind);
        end(r);
    }
}

/* --- while it runs --- */

static void test_memory_and_clean_up(void **state)
{
    (void)state;
    order[0] = '\0';
    struct run *r = run_task("t.memory", "[], {}");
    assert_int_equal(r->o.kind, RESULT_SUCCESS);
    assert_string_equal(order, "ba");
    r->result[strlen(r->result) - 1] = '\0';
    assert_int_not_equal(access(r->result + 1, F_OK), 0);
    end(r);
}

static void test_stop(void **state)
{
    (void)state;
    struct run *r = run_stopped("t.nap", "[20], {}", CW_SOFT_LIMIT);
    assert_string_equal(r->result, "{\"exc_type\": \"SoftTimeLimitExceeded\", \"exc_message\": [], "
                                   "\"exc_module\": \"billiard.exceptions\"}");
    assert_non_null(strstr(
        r->traceback, "\nbilliard.exceptions.SoftTimeLimitExceeded: SoftTimeLimitExceeded()\n"));
    end(r);
    r = run_stopped("t.nap", "[20], {}", CW_REVOKED);
    assert_string_equal(r->repr, "TaskRevokedError('terminated')");
    end(r);
    r = run_stopped("t.nap", "[20], {}", CW_SHUTDOWN);
    assert_int_equal(r->o.kind, RESULT_REJECT);
    assert_true(r->o.requeue);
    end(r);
}

static void test_stop_of_another_job(void **state)
{
    (void)state;
    atomic_store(&slot.stop_job, 6);
    atomic_store(&slot.stop, CW_SOFT_LIMIT);
    expect("t.nap", "[0.15], {}", "true", "True");
    atomic_store(&slot.stop, 0);
}

static void test_states(void **state)
{
    (void)state;
    seen_states[0] = '\0';
    expect_failure("t.states", "[], {}", "ValueError", "state SUCCESS is given by the verdict");
    assert_string_equal(seen_states, "PROGRESS={\"current\": 1};MINE=null;");
}

static void test_info(void **state)
{
    (void)state;
    struct task_frame f = {.def = (uint32_t)registry_find("t.info"),
                           .flags = TASK_REDELIVERED,
                           .id = slice("i"),
                           .name = slice("alias"),
                           .queue = slice("q"),
                           .root_id = slice("r"),
                           .body = slice("[[], {}, null]")};
    struct run *r = run_frame(f);
    assert_string_equal(r->result, "\"i alias q r 3 1\"");
    end(r);
}

/* --- sends --- */

static void test_send(void **state)
{
    (void)state;
    struct run *r = run_task("t.send", "[], {}");
    cJSON *sends = cJSON_Parse(r->sends), *first = sends->child, *second = first->next;
    assert_string_equal(json_get_string(first, "queue"), "tests");
    assert_true(cJSON_IsNull(json_get(first, "due")));
    assert_string_equal(json_get_string(second, "queue"), "celery");
    assert_string_equal(json_get_string(second, "id"), "fixed");
    assert_true(json_get(second, "due")->valuedouble > 1e15);
    struct message m;
    const char *text = json_get_string(first, "text");
    assert_int_equal(message_decode(mem_dup(text), strlen(text), NULL, &m, NULL), 0);
    assert_string_equal(m.task, "t.sum");
    assert_string_equal(m.root_id, "id-1");
    assert_string_equal(m.parent_id, "id-1");
    assert_memory_equal(m.body.at, "[[1, 2], {}, ", 13);
    message_done(&m);
    cJSON_Delete(sends);
    end(r);
}

static void test_send_only_with_success(void **state)
{
    (void)state;
    struct run *r = run_task("t.send", "[1], {}");
    assert_int_equal(r->o.kind, RESULT_FAILURE);
    assert_string_equal(r->sends, "");
    end(r);
    expect_failure("t.send_wrong", "[], {}", "TypeError",
                   "task t.sum: args must be a list and kwargs a dict");
}

/* --- canvases --- */

/* "link" and "link_error" of the n-th task of a group: how many, and the first one's immutable. */
static void expect_links(const cJSON *tasks, int n, int n_links, int n_errbacks)
{
    const cJSON *options = json_get(cJSON_GetArrayItem(tasks, n), "options");
    const cJSON *links = json_get(options, "link"), *errbacks = json_get(options, "link_error");
    assert_int_equal(cJSON_GetArraySize(links), n_links);
    assert_int_equal(cJSON_GetArraySize(errbacks), n_errbacks);
    assert_true(n_links == 0 || cJSON_IsTrue(json_get(links->child, "immutable")));
    assert_true(n_errbacks == 0 || cJSON_IsTrue(json_get(errbacks->child, "immutable")));
}

static void test_links_of_a_group(void **state)
{
    (void)state;
    struct run *r = run_task("t.canvas", "[0], {}");
    cJSON *sends = cJSON_Parse(r->sends);
    const cJSON *group = json_get(sends->child, "apply"), *tasks = canvas_tasks(group);
    expect_links(tasks, 0, 1, 1);
    expect_links(tasks, 1, 0, 1);
    assert_null(json_get(json_get(group, "options"), "link"));
    assert_null(json_get(json_get(group, "options"), "link_error"));
    cJSON_Delete(sends);
    end(r);
}

/* The id that a task is told is that of the result that will be stored. */
static void test_id_of_a_canvas(void **state)
{
    (void)state;
    for (int kind = 0; kind < 6; kind++) {
        char args[32];
        snprintf(args, sizeof args, "[%d], {}", kind);
        struct run *r = run_task("t.canvas", args);
        cJSON *sends = cJSON_Parse(r->sends), *id = cJSON_Parse(r->result);
        cJSON *tuple = canvas_freeze(json_get(sends->child, "apply"), NULL, NULL, NULL);
        assert_string_equal(tuple->child->child->valuestring, id->valuestring);
        cJSON_Delete(tuple);
        cJSON_Delete(id);
        cJSON_Delete(sends);
        end(r);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_arguments),
        cmocka_unit_test(test_arguments_fallback),
        cmocka_unit_test(test_type_errors),
        cmocka_unit_test(test_bad_bodies),
        cmocka_unit_test(test_long_value_is_clipped),
        cmocka_unit_test(test_handler_slips),
        cmocka_unit_test(test_results),
        cmocka_unit_test(test_result_numbers),
        cmocka_unit_test(test_exceptions),
        cmocka_unit_test(test_exception_texts),
        cmocka_unit_test(test_retry),
        cmocka_unit_test(test_retry_limit),
        cmocka_unit_test(test_retry_delays),
        cmocka_unit_test(test_autoretry),
        cmocka_unit_test(test_memory_and_clean_up),
        cmocka_unit_test(test_stop),
        cmocka_unit_test(test_stop_of_another_job),
        cmocka_unit_test(test_states),
        cmocka_unit_test(test_info),
        cmocka_unit_test(test_send),
        cmocka_unit_test(test_send_only_with_success),
        cmocka_unit_test(test_links_of_a_group),
        cmocka_unit_test(test_id_of_a_canvas),
    };
    return cmocka_run_group_tests(tests, add_table, NULL);
}
