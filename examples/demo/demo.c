/* SPDX-License-Identifier: Apache-2.0 */
#include "tasks/cworker.h"

#include <fcntl.h>
#include <math.h>
#include <openssl/bn.h>
#include <openssl/crypto.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

/* The tasks of the quick start, of the tests and of the benchmark, and an example of most of what
 * the task API can do. Build it as any plugin:
 *
 *     cc -shared -fPIC -I. -o demo.so examples/demo/demo.c -lcjson -lcrypto
 *     cworker -A ./demo.so
 */

/* --- arithmetic: exact for integers of any size, as in Python --- */

enum operation { ADD, MULTIPLY };

static bool is_int(const cJSON *v)
{
    return v->valuestring
               ? !v->valuestring[strspn(v->valuestring, "-0123456789")]
               : v->valuedouble == trunc(v->valuedouble) && fabs(v->valuedouble) <= 0x1p53;
}

static char *calculate(enum operation operation, const char *x, const char *y)
{
    BIGNUM *a = NULL, *b = NULL, *sum = BN_new();
    BN_CTX *context = BN_CTX_new();
    char *text = NULL;
    if (sum && context && BN_dec2bn(&a, x) && BN_dec2bn(&b, y) &&
        (operation == ADD ? BN_add(sum, a, b) : BN_mul(sum, a, b, context)))
        text = BN_bn2dec(sum);
    BN_free(a);
    BN_free(b);
    BN_free(sum);
    BN_CTX_free(context);
    return text;
}

static cw_outcome arithmetic(cw_task *t, enum operation operation)
{
    if (!is_int(cw_json(t, "x")) || !is_int(cw_json(t, "y"))) {
        double x = cw_num(t, "x"), y = cw_num(t, "y");
        return cw_return_num(t, operation == ADD ? x + y : x * y);
    }
    char *digits = calculate(operation, cw_digits(t, "x"), cw_digits(t, "y"));
    if (!digits)
        return cw_raise(t, "MemoryError", "the numbers are too large");
    cw_outcome outcome = cw_return_digits(t, digits);
    OPENSSL_free(digits);
    return outcome;
}

static cw_outcome add(cw_task *t)
{
    return arithmetic(t, ADD);
}

static cw_outcome mul(cw_task *t)
{
    return arithmetic(t, MULTIPLY);
}

static char *int_text(const cJSON *v)
{
    return v->valuestring ? strdup(v->valuestring) : cJSON_PrintUnformatted(v);
}

/* Exact as long as all are integers; one float makes the sum a float. */
static cw_outcome xsum(cw_task *t)
{
    const cJSON *numbers = cw_json(t, "numbers");
    bool exact = true;
    double sum = 0;
    for (const cJSON *v = numbers->child; v; v = v->next) {
        if (!cJSON_IsNumber(v))
            return cw_raise(t, "TypeError",
                            "demo.xsum() argument 'numbers' must be a list of numbers");
        exact = exact && is_int(v);
        sum += v->valuedouble;
    }
    if (!exact)
        return cw_return_num(t, sum);
    char *total = NULL;
    for (const cJSON *v = numbers->child; v; v = v->next) {
        char *digits = int_text(v), *next = calculate(ADD, total ? total : "0", digits);
        free(digits);
        OPENSSL_free(total);
        total = next;
    }
    cw_outcome outcome = cw_return_digits(t, total ? total : "0");
    OPENSSL_free(total);
    return outcome;
}

/* --- values as they come --- */

static cw_outcome identity(cw_task *t)
{
    return cw_return(t, cJSON_Duplicate(cw_json(t, "x"), true));
}

static cw_outcome echo(cw_task *t)
{
    cJSON *all = cJSON_CreateObject();
    cJSON_AddItemToObject(all, "args", cJSON_Duplicate(cw_args(t), true));
    cJSON_AddItemToObject(all, "kwargs", cJSON_Duplicate(cw_kwargs(t), true));
    return cw_return(t, all);
}

static cw_outcome noop(cw_task *t)
{
    return cw_return(t, NULL);
}

static cw_outcome text(cw_task *t)
{
    int64_t n = cw_int(t, "n");
    char *x = n >= 0 && n < 1 << 28 ? malloc((size_t)n + 1) : NULL;
    if (!x)
        return cw_raise(t, "ValueError", "%lld characters", (long long)n);
    memset(x, 'x', (size_t)n);
    x[n] = '\0';
    cw_outcome outcome = cw_return_str(t, x);
    free(x);
    return outcome;
}

/* --- for the benchmark --- */

static int trace_fd = -1;
static pthread_once_t trace_once = PTHREAD_ONCE_INIT;

static void trace_open(void)
{
    const char *path = getenv("BENCH_TRACE");
    if (path && *path)
        trace_fd = open(path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0644);
}

/* Where BENCH_TRACE names a file, each run appends 16 bytes to it, little-endian: the first
 * argument and the instant on CLOCK_MONOTONIC in ns. */
static cw_outcome bench_noop(cw_task *t)
{
    pthread_once(&trace_once, trace_open);
    if (trace_fd >= 0) {
        const cJSON *first = cw_args(t)->child;
        struct timespec now;
        clock_gettime(CLOCK_MONOTONIC, &now);
        uint64_t number = !first                   ? 0
                          : first->valuestring     ? strtoull(first->valuestring, NULL, 10)
                          : first->valuedouble > 0 ? (uint64_t)first->valuedouble
                                                   : 0;
        uint64_t at = (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
        unsigned char record[16];
        for (int i = 0; i < 8; i++) {
            record[i] = (unsigned char)(number >> 8 * i);
            record[8 + i] = (unsigned char)(at >> 8 * i);
        }
        if (write(trace_fd, record, sizeof record) != sizeof record)
            return cw_raise(t, "OSError", "BENCH_TRACE cannot be written");
    }
    return cw_return(t, NULL);
}

/* --- time --- */

static cw_outcome sleep_for(cw_task *t)
{
    if (cw_sleep(t, cw_num(t, "seconds")) < 0)
        return cw_stopped(t);
    return cw_return(t, cJSON_Duplicate(cw_json(t, "seconds"), true));
}

/* Equal by `key`: while one waits or runs, others are set aside. */
static cw_outcome unique(cw_task *t)
{
    if (cw_sleep(t, cw_num(t, "seconds")) < 0)
        return cw_stopped(t);
    if (!*cw_str(t, "key"))
        return cw_raise(t, "ValueError", "key must not be empty");
    if (cw_num(t, "retry") > 0 && cw_info(t)->retries == 0)
        return cw_retry(t, cw_num(t, "retry"), NULL, "once");
    return cw_return_str(t, cw_str(t, "key"));
}

/* Busy, and deaf to the soft limit: only the hard one ends it. */
static cw_outcome spin(cw_task *t)
{
    struct timespec start, now;
    double seconds = cw_num(t, "seconds");
    clock_gettime(CLOCK_MONOTONIC, &start);
    do
        clock_gettime(CLOCK_MONOTONIC, &now);
    while ((double)(now.tv_sec - start.tv_sec) + (double)(now.tv_nsec - start.tv_nsec) / 1e9 <
           seconds);
    return cw_return(t, cJSON_Duplicate(cw_json(t, "seconds"), true));
}

static cw_outcome progress(cw_task *t)
{
    int64_t total = cw_int(t, "n");
    for (int64_t i = 1; i <= total; i++) {
        cJSON *meta = cJSON_CreateObject();
        cJSON_AddNumberToObject(meta, "current", (double)i);
        cJSON_AddNumberToObject(meta, "total", (double)total);
        cw_progress(t, meta);
        if (cw_sleep(t, 0.1) < 0)
            return cw_stopped(t);
    }
    return cw_return_int(t, total);
}

/* --- failures --- */

static cw_outcome fail(cw_task *t)
{
    return cw_raise(t, "ValueError", "%s", cw_str(t, "message"));
}

static cw_outcome fail_n(cw_task *t)
{
    int64_t attempt = cw_info(t)->retries + 1;
    if (attempt >= cw_int(t, "n"))
        return cw_return_int(t, attempt);
    return cw_retry(t, 0.1, "ValueError", "%s: attempt %lld of %lld", cw_str(t, "key"),
                    (long long)attempt, (long long)cw_int(t, "n"));
}

static cw_outcome retry_forever(cw_task *t)
{
    return cw_retry(t, cw_num(t, "countdown"), NULL, " ");
}

static cw_outcome backoff(cw_task *t)
{
    int64_t attempt = cw_info(t)->retries + 1;
    if (attempt >= cw_int(t, "n"))
        return cw_return_int(t, attempt);
    return cw_raise(t, "ValueError", "attempt %lld of %lld", (long long)attempt,
                    (long long)cw_int(t, "n"));
}

static cw_outcome crash(cw_task *t)
{
    int64_t signal = cw_int(t, "signal");
    if (signal < 1 || signal > 64)
        return cw_raise(t, "ValueError", "%lld is no signal", (long long)signal);
    kill(getpid(), (int)signal);
    if (cw_sleep(t, 1) < 0)
        return cw_stopped(t);
    return cw_raise(t, "RuntimeError", "signal %lld did not end the process", (long long)signal);
}

/* With requeue it comes round again and again, behind what waits, as in Celery. */
static cw_outcome reject(cw_task *t)
{
    return cw_reject(t, cw_bool(t, "requeue"));
}

static cw_outcome ignore(cw_task *t)
{
    return cw_ignore(t);
}

/* --- other tasks --- */

static cw_outcome send_task(cw_task *t)
{
    char id[CW_ID_SIZE];
    cJSON *args = cJSON_Duplicate(cw_json(t, "args"), true);
    if (cw_send(t, (struct cw_send){.task = cw_str(t, "name"), .args = args}, id) < 0)
        return cw_fail(t);
    return cw_return_str(t, id);
}

static cw_outcome send_many(cw_task *t)
{
    int64_t n = cw_int(t, "n");
    for (int64_t i = 0; i < n; i++) {
        cJSON *args = cJSON_CreateArray();
        cJSON_AddItemToArray(args, cJSON_CreateNumber((double)i));
        if (cw_send(t, (struct cw_send){"bench.noop", .args = args, .queue = cw_str(t, "queue")},
                    NULL) < 0)
            return cw_fail(t);
    }
    return cw_return_int(t, n);
}

/* Bounded by its table: more than it may use ends its child. */
static cw_outcome allocate(cw_task *t)
{
    size_t size = (size_t)cw_int(t, "mib") << 20;
    memset(cw_alloc(t, size), 1, size);
    return cw_return_int(t, cw_int(t, "mib"));
}

static cw_outcome event(cw_task *t)
{
    if (cw_event(t, cw_str(t, "type"), cJSON_Duplicate(cw_json(t, "fields"), true)) < 0)
        return cw_fail(t);
    return cw_return(t, NULL);
}

/* The sum of 0 … n-1, by a chord: n parts, then one task with the list of their results. */
static cw_outcome fan_out(cw_task *t)
{
    char id[CW_ID_SIZE];
    int64_t n = cw_int(t, "n");
    cJSON *parts = cJSON_CreateArray();
    for (int64_t i = 0; i < n; i++) {
        cJSON *args = cJSON_CreateArray();
        cJSON_AddItemToArray(args, cJSON_CreateNumber((double)i));
        cJSON_AddItemToArray(parts, cw_sig((struct cw_send){"demo.identity", .args = args}));
    }
    if (cw_apply(t, cw_chord(parts, cw_sig((struct cw_send){"demo.xsum"})), id) < 0)
        return cw_fail(t);
    return cw_return_str(t, id);
}

/* As in Celery's Task.replace: whoever waits for this task gets the result of the signature. */
static cw_outcome replace(cw_task *t)
{
    return cw_replace(t, cJSON_Duplicate(cw_json(t, "signature"), true));
}

static cw_outcome result_of(cw_task *t)
{
    int code;
    const cJSON *result = cw_result(t, cw_str(t, "id"), &code);
    if (code < 0)
        return cw_fail(t);
    return cw_return(t, cJSON_Duplicate(cJSON_GetObjectItemCaseSensitive(result, "result"), true));
}

static cw_outcome revoke_task(cw_task *t)
{
    const char *ids[] = {cw_str(t, "id")};
    cw_revoke(t, ids, 1, true);
    return cw_return(t, NULL);
}

/* Three arguments: an errback of the new style. */
static cw_outcome errback(cw_task *t)
{
    const cJSON *request = cw_json(t, "request");
    return cw_return(t, cJSON_Duplicate(cJSON_GetObjectItemCaseSensitive(request, "id"), true));
}

static const struct cw_arg two_numbers[] = {
    {.name = "x", .kind = CW_NUM}, {.name = "y", .kind = CW_NUM}, {0}};
static const struct cw_arg numbers[] = {{.name = "numbers", .kind = CW_LIST}, {0}};
static const struct cw_arg anything[] = {{.name = "x", .kind = CW_ANY}, {0}};
static const struct cw_arg seconds[] = {{.name = "seconds", .kind = CW_NUM}, {0}};
static const struct cw_arg message[] = {{"message", CW_STR, .fallback = "\"failed\""}, {0}};
static const struct cw_arg key_and_n[] = {
    {.name = "key", .kind = CW_STR}, {.name = "n", .kind = CW_INT}, {0}};
static const struct cw_arg countdown[] = {{"countdown", CW_NUM, .fallback = "0"}, {0}};
static const struct cw_arg only_n[] = {{.name = "n", .kind = CW_INT}, {0}};
static const struct cw_arg signal_number[] = {{"signal", CW_INT, .fallback = "9"}, {0}};
static const struct cw_arg requeue[] = {{"requeue", CW_BOOL, .fallback = "false"}, {0}};
static const struct cw_arg name_and_args[] = {
    {.name = "name", .kind = CW_STR}, {"args", CW_LIST, .fallback = "[]"}, {0}};
static const struct cw_arg n_and_queue[] = {
    {.name = "n", .kind = CW_INT}, {"queue", CW_STR, .fallback = "\"celery\""}, {0}};
static const struct cw_arg unique_args[] = {{.name = "key", .kind = CW_STR},
                                             {"seconds", CW_NUM, .fallback = "0"},
                                             {"retry", CW_NUM, .fallback = "0"},
                                             {0}};
static const char *const only_key[] = {"key", NULL};
static const char *const value_errors[] = {"ValueError", NULL};

static const struct cw_arg one_signature[] = {{.name = "signature", .kind = CW_OBJECT}, {0}};
static const struct cw_arg one_id[] = {{.name = "id", .kind = CW_STR}, {0}};
static const struct cw_arg failure[] = {{.name = "request", .kind = CW_OBJECT},
                                        {.name = "exc", .kind = CW_ANY, .nullable = true},
                                        {.name = "traceback", .kind = CW_STR, .nullable = true},
                                        {0}};

static const struct cw_arg type_and_fields[] = {{"type", CW_STR}, {"fields", CW_ANY}, {0}};

static const struct cw_def defs[] = {
    {.name = "demo.add", .run = add, .args = two_numbers, .help = "x + y"},
    {.name = "demo.mul", .run = mul, .args = two_numbers, .help = "x * y"},
    {.name = "demo.xsum", .run = xsum, .args = numbers, .help = "the sum of a list"},
    {.name = "demo.identity", .run = identity, .args = anything, .help = "its argument"},
    {.name = "demo.noop", .run = noop, .help = "null"},
    {.name = "bench.noop", .run = bench_noop, .flags = CW_ANY_ARGS, .help = "null, traced"},
    {.name = "demo.echo", .run = echo, .flags = CW_ANY_ARGS, .help = "all its arguments"},
    {.name = "demo.sleep", .run = sleep_for, .args = seconds, .help = "returns the seconds slept"},
    {.name = "demo.spin", .run = spin, .args = seconds, .help = "a busy loop without soft limit"},
    {.name = "demo.fail", .run = fail, .args = message, .help = "ValueError(message)"},
    {.name = "demo.fail_n",
     .run = fail_n,
     .args = key_and_n,
     .max_retries = 5,
     .help = "fails until attempt n"},
    {.name = "demo.retry_forever",
     .run = retry_forever,
     .args = countdown,
     .max_retries = 3,
     .help = "ends in MaxRetriesExceededError"},
    {.name = "demo.backoff",
     .run = backoff,
     .args = only_n,
     .max_retries = 5,
     .backoff = {.base = 1},
     .autoretry_for = value_errors,
     .help = "fails until attempt n, with backoff and jitter"},
    {.name = "demo.progress", .run = progress, .args = only_n, .help = "n steps of 0.1 s"},
    {.name = "demo.crash", .run = crash, .args = signal_number, .help = "kills its own process"},
    {.name = "demo.reject",
     .run = reject,
     .args = requeue,
     .flags = CW_ACKS_LATE,
     .help = "rejects; with requeue it comes back"},
    {.name = "demo.unique",
     .run = unique,
     .args = unique_args,
     .unique_for = 2,
     .unique_key = only_key,
     .help = "returns key; one at a time for each key"},
    {.name = "demo.ignore", .run = ignore, .help = "stores no result"},
    {.name = "demo.text", .run = text, .args = only_n, .help = "n characters"},
    {.name = "demo.send_many", .run = send_many, .args = n_and_queue, .help = "sends n tasks"},
    {.name = "demo.event", .run = event, .args = type_and_fields, .help = "an event of its own"},
    {.name = "demo.fan_out", .run = fan_out, .args = only_n, .help = "the id of a chord's body"},
    {.name = "demo.replace", .run = replace, .args = one_signature, .help = "becomes a signature"},
    {.name = "demo.result", .run = result_of, .args = one_id, .help = "another task's result"},
    {.name = "demo.revoke", .run = revoke_task, .args = one_id, .help = "revokes a task"},
    {.name = "demo.errback", .run = errback, .args = failure, .help = "the id of what failed"},
    {.name = "demo.send", .run = send_task, .args = name_and_args, .help = "sends another task"},
    {0},
};

static const struct cw_table table = {.api = CW_API, .queue = "celery", .defs = defs};

/* --- tasks that are held to limits of the kernel --- */

static const struct cw_arg one_mib[] = {{"mib", CW_INT}, {0}};

static const struct cw_def bounded_defs[] = {
    {.name = "demo.allocate", .run = allocate, .args = one_mib, .help = "takes so many MiB of 256"},
    {.name = "demo.burn", .run = spin, .args = seconds, .help = "a busy loop, one second at most"},
    {0},
};

static const struct cw_table bounded = {.api = CW_API, .queue = "celery", .defs = bounded_defs,
                                        .max_memory_kb = 256 << 10, .max_cpu = 1};

const struct cw_table *const cworker_tables[] = {&table, &bounded, NULL};
