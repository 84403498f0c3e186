/* SPDX-License-Identifier: Apache-2.0 */
#include "worker/task/task_private.h"

#include "proto/base/mem.h"
#include "proto/repr.h"
#include "proto/utf8.h"
#include "worker/task/exception.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

/* Verdicts: each fills the task's outcome and returns its kind. The last one given counts.
 * Exceptions are written as Celery's result stores hold them, and told as Python tells them, so
 * that whoever reads a failed task (AsyncResult.get(), flower, a log) cannot see that C raised it.
 */

static cw_outcome verdict(struct cw_task *t, enum result_kind kind)
{
    t->verdict = kind;
    return (cw_outcome){(uint8_t)kind};
}

static void start_verdict(struct cw_task *t)
{
    buf_reset(&t->result);
    buf_reset(&t->traceback);
    buf_reset(&t->repr);
    t->requeue = false;
    t->countdown = 0;
}

/* --- SUCCESS --- */

static cw_outcome returned(struct cw_task *t)
{
    if (t->result.failed)
        return task_error(t, "EncodeError", "the result is larger than 256 MiB");
    return verdict(t, RESULT_SUCCESS);
}

static bool wants_repr(const struct cw_task *t)
{
    return t->frame->flags & TASK_WANT_REPR;
}

cw_outcome cw_return(cw_task *t, cJSON *value)
{
    start_verdict(t);
    json_print(value, &t->result);
    if (wants_repr(t))
        repr_print(value, false, 1024, &t->repr);
    cJSON_Delete(value);
    return returned(t);
}

static cw_outcome return_text(cw_task *t, const char *json, const char *repr)
{
    start_verdict(t);
    buf_str(&t->result, json);
    if (wants_repr(t))
        buf_str(&t->repr, repr);
    return returned(t);
}

cw_outcome cw_return_int(cw_task *t, int64_t value)
{
    char text[24];
    snprintf(text, sizeof text, "%lld", (long long)value);
    return return_text(t, text, text);
}

cw_outcome cw_return_digits(cw_task *t, const char *digits)
{
    const char *at = digits + (*digits == '-');
    while (*at == '0' && at[1])
        at++;
    if (!*at || at[strspn(at, "0123456789")])
        return cw_raise(t, "ValueError", "not an integer: %.80s", digits);
    bool negative = *digits == '-' && strcmp(at, "0") != 0;
    char *text = mem_printf("%s%s", negative ? "-" : "", at);
    cw_outcome outcome = return_text(t, text, text);
    free(text);
    return outcome;
}

/* A double is a Python float, so a whole one keeps its ".0". */
cw_outcome cw_return_num(cw_task *t, double value)
{
    struct buf text = BUF_INIT(64);
    cJSON *number = cJSON_CreateNumber(value);
    json_print(number, &text);
    cJSON_Delete(number);
    if (!text.data[strspn(text.data, "-0123456789")])
        buf_str(&text, ".0");
    const char *repr = isnan(value)   ? "nan"
                       : isinf(value) ? (value < 0 ? "-inf" : "inf")
                                      : text.data;
    cw_outcome outcome = return_text(t, text.data, repr);
    buf_done(&text);
    return outcome;
}

cw_outcome cw_return_bool(cw_task *t, bool value)
{
    return return_text(t, value ? "true" : "false", value ? "True" : "False");
}

cw_outcome cw_return_str(cw_task *t, const char *value)
{
    return cw_return(t, value ? cJSON_CreateString(value) : NULL);
}

/* --- FAILURE and RETRY --- */

/* Without a place the traceback names the task itself: the error is in its call. */
static void tell(struct cw_task *t, const struct place *place)
{
    struct buf *out = &t->traceback;
    buf_str(out, "Traceback (most recent call last):\n");
    if (place)
        buf_printf(out, "  File \"%s\", line %d, in %s\n", place->file, place->line,
                   place->function);
    else
        buf_printf(out, "  File \"<cworker>\", line 0, in %s\n", t->entry->def->name);
}

static void tell_detail(struct cw_task *t, const char *detail)
{
    if (!detail || !*detail)
        return;
    buf_str(&t->traceback, detail);
    if (detail[strlen(detail) - 1] != '\n')
        buf_char(&t->traceback, '\n');
}

static cw_outcome failed(struct cw_task *t, const struct place *place, const struct exception *e,
                         const char *detail)
{
    start_verdict(t);
    exception_print(e, &t->result);
    if (t->result.failed) {
        cJSON_Delete(e->args);
        return task_error(t, "EncodeError", "the exception is larger than 256 MiB");
    }
    tell(t, place);
    exception_tell(e, &t->traceback);
    tell_detail(t, detail);
    exception_repr(e, &t->repr);
    cJSON_Delete(e->args);
    return verdict(t, RESULT_FAILURE);
}

cw_outcome task_fail(struct cw_task *t, const struct place *place, const char *type, cJSON *args,
                     const char *detail)
{
    struct exception e;
    exception_name(type, &e);
    e.args = args ? args : cJSON_CreateArray();
    return failed(t, place, &e, detail);
}

static cJSON *one_text(const char *text)
{
    cJSON *args = cJSON_CreateArray();
    cJSON_AddItemToArray(args, cJSON_CreateString(text));
    return args;
}

cw_outcome task_error(struct cw_task *t, const char *type, const char *text)
{
    return task_fail(t, NULL, type, one_text(text), NULL);
}

cw_outcome task_type_error(struct cw_task *t, const char *fmt, ...)
{
    char text[8192];
    va_list args;
    va_start(args, fmt);
    vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    return task_error(t, "TypeError", text);
}

int task_max_retries(const struct cw_task *t)
{
    int max = t->entry->def->max_retries;
    return max == 0 ? 3 : max == CW_FOREVER ? -1 : max < 0 ? 0 : max;
}

static bool has_attempts(const struct cw_task *t)
{
    int max = task_max_retries(t);
    return max < 0 || t->frame->retries < max;
}

/* Celery's exponential backoff; the jitter is drawn in milliseconds instead of whole seconds. */
static double backoff_delay(const struct cw_task *t)
{
    const struct cw_def *def = t->entry->def;
    if (def->backoff.base <= 0)
        return def->default_retry_delay > 0 ? def->default_retry_delay : 180;
    double max = def->backoff.max > 0 ? def->backoff.max : 600;
    double factor = floor(def->backoff.base < 1 ? 1 : def->backoff.base);
    double delay = fmin(max, factor * exp2(fmin((double)t->frame->retries, 64)));
    uint64_t random;
    if (def->backoff.no_jitter || getrandom(&random, sizeof random, 0) != sizeof random)
        return delay;
    return floor((double)(random >> 11) * 0x1p-53 * delay * 1000) / 1000;
}

static cw_outcome retries_exceeded(struct cw_task *t, const struct place *place)
{
    struct buf text = BUF_INIT(1 << 20);
    buf_printf(&text, "Can't retry %s[%s] args:", t->entry->def->name, cw_info(t)->id);
    repr_print(t->args, true, 1024, &text);
    buf_str(&text, " kwargs:");
    repr_print(t->kwargs, false, 1024, &text);
    cw_outcome outcome =
        task_fail(t, place, "MaxRetriesExceededError", one_text(text.data ? text.data : ""), NULL);
    buf_done(&text);
    return outcome;
}

cw_outcome task_retry(struct cw_task *t, const struct place *place, double countdown,
                      const char *type, cJSON *args, const char *detail)
{
    if (!has_attempts(t))
        return type ? task_fail(t, place, type, args, detail) : retries_exceeded(t, place);
    start_verdict(t);
    t->countdown = countdown >= 0 ? countdown : backoff_delay(t);
    struct exception e = {0};
    if (type) {
        exception_name(type, &e);
        e.args = args ? args : cJSON_CreateArray();
        exception_repr(&e, &t->repr);
    }
    tell(t, place);
    tell_detail(t, detail);
    buf_printf(&t->traceback, "celery.exceptions.Retry: Retry in %.10gs", t->countdown);
    if (type)
        buf_printf(&t->traceback, ": %s", t->repr.data);
    buf_char(&t->traceback, '\n');
    if (type)
        exception_print(&e, &t->result);
    else
        buf_str(&t->result, "null");
    cJSON_Delete(e.args);
    return verdict(t, RESULT_RETRY);
}

/* Whether the table lists the exception, by the name the handler gave or by its full one. */
static bool is_retried(const struct cw_task *t, const char *type)
{
    struct exception e;
    char full[2 * sizeof e.type];
    exception_name(type, &e);
    snprintf(full, sizeof full, "%s.%s", e.module, e.type);
    for (const char *const *each = t->entry->def->autoretry_for; each && *each; each++)
        if (strcmp(*each, "*") == 0 || strcmp(*each, type) == 0 || strcmp(*each, e.type) == 0 ||
            strcmp(*each, full) == 0)
            return true;
    return false;
}

static cw_outcome raise_at(cw_task *t, const struct place *place, const char *type, cJSON *args,
                           const char *detail)
{
    if (is_retried(t, type))
        return task_retry(t, place, -1, type, args, detail);
    return task_fail(t, place, type, args, detail);
}

static cJSON *text_args(const struct cw_task *t, const char *fmt, va_list values)
{
    struct buf text = BUF_INIT(TASK_RESULT_MAX);
    va_list again;
    va_copy(again, values);
    int size = vsnprintf(NULL, 0, fmt, again);
    va_end(again);
    char *at = size < 0 ? NULL : buf_reserve(&text, (size_t)size);
    if (at)
        vsnprintf(at, (size_t)size + 1, fmt, values);
    if (at)
        secrets_blot(t, at);
    cJSON *args = one_text(at ? at : fmt);
    buf_done(&text);
    return args;
}

cw_outcome cw_raise_at(cw_task *t, const char *file, int line, const char *function,
                       const char *type, const char *fmt, ...)
{
    va_list values;
    va_start(values, fmt);
    cJSON *args = text_args(t, fmt, values);
    va_end(values);
    return raise_at(t, &(struct place){file, function, line}, type, args, NULL);
}

cw_outcome cw_raise_args_at(cw_task *t, const char *file, int line, const char *function,
                            const char *type, cJSON *args)
{
    if (args && !cJSON_IsArray(args)) {
        cJSON *list = cJSON_CreateArray();
        cJSON_AddItemToArray(list, args);
        args = list;
    }
    return raise_at(t, &(struct place){file, function, line}, type, args, NULL);
}

cw_outcome cw_retry_at(cw_task *t, const char *file, int line, const char *function,
                       double countdown, const char *type, const char *fmt, ...)
{
    cJSON *args = NULL;
    if (type) {
        va_list values;
        va_start(values, fmt);
        args = text_args(t, fmt, values);
        va_end(values);
    }
    return task_retry(t, &(struct place){file, function, line}, countdown, type, args, NULL);
}

cw_outcome cw_fail_at(cw_task *t, const char *file, int line, const char *function)
{
    const struct problem *p = &t->problem;
    struct place place = {file, function, line};
    if (p->stopped)
        return cw_stopped_at(t, file, line, function);
    if (!p->type)
        return task_fail(t, &place, "RuntimeError", one_text("cw_fail() without a failed helper"),
                         NULL);
    if (!p->transient)
        return raise_at(t, &place, p->type, one_text(p->text), p->detail);
    double wait = p->retry_after > 0 ? fmax(p->retry_after, backoff_delay(t)) : -1;
    return task_retry(t, &place, wait, p->type, one_text(p->text), p->detail);
}

cw_outcome cw_stopped_at(cw_task *t, const char *file, int line, const char *function)
{
    struct place place = {file, function, line};
    switch (cw_stopping(t)) {
    case CW_SOFT_LIMIT:
        return task_fail(t, &place, "SoftTimeLimitExceeded", NULL, NULL);
    case CW_REVOKED:
        return task_fail(t, &place, "TaskRevokedError", one_text("terminated"), NULL);
    case CW_SHUTDOWN:
        return cw_reject(t, true);
    default:
        return task_fail(t, &place, "RuntimeError",
                         one_text("cw_stopped() without a request to stop"), NULL);
    }
}

cw_outcome cw_reject(cw_task *t, bool requeue)
{
    start_verdict(t);
    t->requeue = requeue;
    return verdict(t, RESULT_REJECT);
}

cw_outcome cw_ignore(cw_task *t)
{
    start_verdict(t);
    return verdict(t, RESULT_IGNORE);
}

/* --- what helpers leave for cw_fail --- */

/* Reasons quote what others wrote, cut anywhere, and end up in documents, which no Python reads when
 * one byte of them is not UTF-8. */
static void make_readable(char *text)
{
    const char *end = text + strlen(text);
    for (size_t size; *text; text += size) {
        size = (unsigned char)*text < 0x80 ? 1 : utf8_strict(text, end);
        if (size == 0) {
            *text = '?';
            size = 1;
        }
    }
}

int helper_failed(struct cw_task *t, bool transient, const char *type, const char *fmt, ...)
{
    char text[1024];
    va_list args;
    va_start(args, fmt);
    vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    secrets_blot(t, text);
    make_readable(text);
    t->problem = (struct problem){
        .type = task_text(t, type, strlen(type)),
        .text = task_text(t, text, strlen(text)),
        .transient = transient,
    };
    return -1;
}

int cw_problem(cw_task *t, bool transient, const char *type, const char *fmt, ...)
{
    char text[1024];
    va_list args;
    va_start(args, fmt);
    vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    return helper_failed(t, transient, type, "%s", text);
}

int helper_stopped(struct cw_task *t)
{
    t->problem = (struct problem){.stopped = true};
    return -1;
}

static const char *why_stopped(const struct cw_task *t)
{
    switch (cw_stopping(t)) {
    case CW_SOFT_LIMIT:
        return "it ran for longer than its time limit";
    case CW_REVOKED:
        return "it was revoked";
    default:
        return "it was asked to stop";
    }
}

const char *cw_problem_text(cw_task *t, bool *ret_transient)
{
    const struct problem *p = &t->problem;
    if (ret_transient)
        *ret_transient = p->transient || p->stopped;
    if (p->stopped)
        return why_stopped(t);
    return p->type ? cw_printf(t, "%s: %s", p->type, p->text) : NULL;
}
