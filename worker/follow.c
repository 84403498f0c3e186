/* SPDX-License-Identifier: Apache-2.0 */
/* What follows from a task's end. All messages leave with the ack, so what happens before it may
 * happen again; the steps and what a kill -9 right after each leaves:
 *
 *   what the task asked to revoke is revoked             the task comes again and revokes the same
 *   sizes and shapes of headers that will leave are set  the same again, under the same group ids
 *   the task's result is stored                          the task, or its stored result, comes again
 *   its part is counted, a complete chord claimed        counted once, claimed again by the same task
 *   the body of a failed chord is stored as failed       stored again
 *   ack, with the body or its errbacks, in one step      nothing
 *   the chord's keys are removed                         they expire; its parts find the claim taken */

#include "worker/follow.h"

#include "proto/base/mem.h"
#include "proto/repr.h"
#include "worker/continuation.h"
#include "worker/control/mailbox.h"
#include "worker/join.h"
#include "worker/log.h"
#include "worker/registry.h"

#include <signal.h>
#include <stdlib.h>
#include <string.h>

/* Redis takes a million words as one command, and each message is some of them. */
enum { SENDS_MOST = 100000 };

static int check_sends(const struct request *r, struct error *err)
{
    int n = cJSON_GetArraySize(r->sends);
    if (n > SENDS_MOST)
        return error_set(err, ERROR_TOO_BIG, "%d messages: with one task at most %d are sent", n,
                         SENDS_MOST);
    size_t size = 0;
    for (const cJSON *send = r->sends->child; send; send = send->next)
        size += strlen(json_get_string(send, "text"));
    return size <= (size_t)CANVAS_MIB_MOST << 20
               ? 0
               : error_set(err, ERROR_TOO_BIG, "messages of %zu MiB: with one task at most %d are "
                                               "sent", size >> 20, CANVAS_MIB_MOST);
}

/* An errback with two arguments or more takes (request, exc, traceback). */
static bool takes_error(const char *task)
{
    int index = registry_find(task);
    const struct cw_arg *args = index >= 0 ? registry[index].def->args : NULL;
    return args && args[0].name && args[1].name;
}

/* `ids` are the caller's; `purpose` keeps those of two uses of one delivery apart, `n_ids` those of
 * two chords that end with it. */
static struct continuation make(struct request *r, struct canvas_ids *ids, const char *purpose)
{
    struct worker *w = r->worker;
    const struct settings *s = &w->options->settings;
    struct continuation c;
    continuation_init(&c, &r->message);
    if (!r->sends)
        r->sends = cJSON_CreateArray();
    if (!r->prepares)
        r->prepares = cJSON_CreateArray();
    *ids = (struct canvas_ids){r->message.id, r->message.delivery_tag, purpose,
                               purpose ? r->n_ids : 0};
    c.canvas.ids = ids;
    c.takes_error = takes_error;
    c.canvas.default_queue = s->task_default_queue;
    c.canvas.origin = w->options->hostname;
    c.canvas.priority = s->task_inherit_parent_priority ? r->message.priority : -1;
    c.canvas.counts_chords = store_counts_chords(w->store);
    c.canvas.now = worker_now(w);
    c.canvas.sends = r->sends;
    c.canvas.sent = &r->sent_bytes;
    c.canvas.prepares = r->prepares;
    return c;
}

/* --- messages --------------------------------------------------------------------------------- */

static void remember_revoke(struct request *r, const cJSON *what)
{
    if (!r->revokes)
        r->revokes = cJSON_CreateArray();
    cJSON_AddItemToArray(r->revokes, cJSON_Duplicate(what, true));
}

/* What a C task asked for: rows that are messages already, {"apply": signature}, {"part": …}, … */
static int expand_rows(struct continuation *c, struct request *r, struct error *err)
{
    cJSON *rows = r->sends;
    int code = 0;
    c->canvas.sends = r->sends = cJSON_CreateArray();
    while (rows->child && code == 0) {
        cJSON *row = cJSON_DetachItemViaPointer(rows, rows->child);
        const cJSON *instead = json_get(row, "replace");
        const cJSON *revoke = json_get(row, "revoke"), *part = json_get(row, "part");
        cJSON *signature = json_get(row, "apply");
        if (part)
            code = continuation_add_to_chord(c, part, err);
        else if (signature)
            code = canvas_apply_last(&c->canvas, signature, err);
        else if (instead)
            code = continuation_replace(c, instead, err);
        else if (revoke)
            remember_revoke(r, revoke);
        else
            cJSON_AddItemToArray(r->children, canvas_tuple(json_get_string(row, "id")));
        if (signature || instead || revoke || part)
            cJSON_Delete(row);
        else
            cJSON_AddItemToArray(r->sends, row);
    }
    cJSON_Delete(rows);
    return code;
}

static bool failed(enum outcome outcome)
{
    return outcome == OUTCOME_FAILED || outcome == OUTCOME_TIMED_OUT ||
           outcome == OUTCOME_WORKER_LOST || outcome == OUTCOME_WORKER_LOST_TOO_OFTEN;
}

static int add_messages(struct request *r, enum outcome outcome, struct error *err)
{
    struct canvas_ids ids;
    struct continuation c = make(r, &ids, NULL);
    int code = 0;
    if (!r->children)
        r->children = cJSON_CreateArray();
    c.canvas.children = r->children;
    if (r->sends->child)
        code = expand_rows(&c, r, err);
    if (code == 0 && outcome == OUTCOME_SUCCEEDED)
        code = continuation_succeeded(&c, slice_of(r->result), err);
    c.canvas.children = NULL;
    if (code == 0 && failed(outcome))
        code = continuation_failed(&c, slice_of(r->result), r->traceback, err);
    return code ? code : check_sends(r, err);
}

/* A store that counts hears of it; else the broker counts, with the ack, for the task that
 * polls. */
static void add_part(struct request *r, cJSON *part)
{
    bool counted = store_counts_chords(r->worker->store);
    cJSON **list = counted ? &r->parts : &r->counts;
    if (!*list)
        *list = cJSON_CreateArray();
    cJSON_AddItemToArray(*list,
                         counted ? part : cJSON_DetachItemFromObjectCaseSensitive(part, "group"));
    if (!counted)
        cJSON_Delete(part);
}

static bool is_part(const cJSON *end)
{
    return cJSON_IsObject(json_get(end, "chord")) && json_get_string(end, "group");
}

/* The chords that the outcome is a part of: the task's own, and those of the steps that fail with
 * it. */
static void add_parts(struct request *r, enum outcome outcome)
{
    const struct outcome_row *row = &outcome_rows[outcome];
    bool stays = row->dispose == DISPOSE_ACK || row->dispose == DISPOSE_DEAD;
    if (!row->state || strcmp(row->state, "RETRY") == 0 || !stays || !store_keeps(r->worker->store))
        return;
    cJSON *part = continuation_part(&r->message);
    cJSON *ends = failed(outcome) ? continuation_abandoned(&r->message) : NULL;
    cJSON_Delete(r->parts);
    cJSON_Delete(r->counts);
    r->parts = r->counts = NULL;
    if (part)
        add_part(r, part);
    while (ends && ends->child) {
        cJSON *end = cJSON_DetachItemViaPointer(ends, ends->child);
        if (is_part(end))
            add_part(r, end);
        else
            cJSON_Delete(end);
    }
    cJSON_Delete(ends);
}

/* None of it leaves: the result must not name it, nor the store wait for it. */
static void drop_messages(struct request *r)
{
    cJSON_Delete(r->sends);
    cJSON_Delete(r->children);
    cJSON_Delete(r->prepares);
    r->sends = r->children = r->prepares = NULL;
    r->sent_bytes = 0;
}

enum outcome follow_add(struct request *r, enum outcome outcome)
{
    struct error err = {0};
    bool asks = !continuation_is_empty(&r->message) && r->message.body.at;
    if (r->lost || (!r->sends && !asks))
        return outcome;
    bool sends = r->sends || outcome == OUTCOME_SUCCEEDED || failed(outcome);
    if (sends && !r->recorded && add_messages(r, outcome, &err) < 0) {
        log_error("Task %s[%s]: what should follow it cannot be sent: %s", request_name(r),
                  request_id(r), err.text);
        drop_messages(r);
        if (!failed(outcome)) {
            request_raise(r, exception_text("builtins", "NotImplementedError", err.text));
            return follow_add(r, OUTCOME_FAILED);
        }
    }
    if (asks)
        add_parts(r, outcome);
    return outcome;
}

/* --- before anything leaves ------------------------------------------------------------------- */

struct wait {
    struct request *r;
    follow_fn *then;
    size_t n;
};

static void one_done(int code, const char *why, void *arg)
{
    struct wait *wait = arg;
    if (code != 0)
        log_error("Task %s[%s]: the result store refuses what a chord needs: %s",
                  request_name(wait->r), request_id(wait->r), why);
    if (--wait->n > 0)
        return;
    struct wait done = *wait;
    free(wait);
    done.then(done.r);
}

void follow_prepare(struct request *r, follow_fn *then)
{
    cJSON *rows = r->prepares;
    r->prepares = NULL;
    if (!rows || !rows->child) {
        cJSON_Delete(rows);
        then(r);
        return;
    }
    struct wait *wait = mem_alloc(sizeof *wait);
    *wait = (struct wait){r, then, (size_t)cJSON_GetArraySize(rows)};
    for (const cJSON *row = rows->child; row; row = row->next) {
        const cJSON *result = json_get(row, "result");
        char *text = result ? json_text(result) : NULL;
        struct store_header header = {.group = json_get_string(row, "group"), .result = text,
                                      .added = json_get_string(row, "added"),
                                      .keep = cJSON_IsTrue(json_get(row, "keep"))};
        json_as_int(json_get(row, "size"), &header.size);
        store_prepare_chord(r->worker->store, &header, one_done, wait);
        free(text);
    }
    cJSON_Delete(rows);
}

/* --- chords ----------------------------------------------------------------------------------- */

char *follow_exception_repr(const char *exception)
{
    cJSON *e = exception ? json_parse(exception, strlen(exception), NULL) : NULL;
    const char *type = json_get_string(e, "exc_type") ?: "Exception", *dot = strrchr(type, '.');
    const cJSON *args = json_get(e, "exc_message");
    struct buf out = BUF_INIT(1 << 20);
    buf_printf(&out, "%s(", dot ? dot + 1 : type);
    if (cJSON_IsArray(args))
        for (const cJSON *arg = args->child; arg; arg = arg->next) {
            repr_python(arg, false, 4096, &out);
            buf_str(&out, arg->next ? ", " : "");
        }
    else if (args)
        repr_python(args, false, 4096, &out);
    buf_char(&out, ')');
    cJSON_Delete(e);
    return buf_take(&out);
}

static void on_put(int code, const char *why, void *arg)
{
    struct request *r = arg;
    if (code != 0)
        log_error("Task %s[%s]: the failure of a chord's body cannot be stored: %s",
                  request_name(r), request_id(r), why);
    if (--r->n_puts == 0 && r->after_puts)
        r->after_puts(r);
}

static void put_failure(struct request *r, struct store_record *record)
{
    record->state = "FAILURE";
    record->date_done = worker_now(r->worker);
    r->n_puts++;
    store_put(r->worker->store, record, on_put, r);
}

/* A chord that the failed body is itself a part of goes on with the failure. */
static void fail_end(struct request *r, cJSON *end, const char *exception, const char *traceback,
                     const cJSON *children)
{
    char *text = children->child ? json_text(children) : NULL;
    struct store_record record = {
        .id = json_get_string(end, "id"),
        .result = slice_of(exception),
        .traceback = traceback,
        .children = text,
    };
    put_failure(r, &record);
    free(text);
    if (!is_part(end)) {
        cJSON_Delete(end);
        return;
    }
    json_set(end, "exception", cJSON_CreateString(exception));
    add_part(r, end);
}

/* What the inner of two nested chords has called is not called for the outer one again: a chord
 * links its errbacks to both. Caller frees. */
static cJSON *errbacks_of(const cJSON *body, const cJSON *called)
{
    const cJSON *given = json_get(json_get(body, "options"), "link_error");
    cJSON *one = cJSON_CreateArray();
    if (given && !cJSON_IsArray(given))
        cJSON_AddItemReferenceToArray(one, (cJSON *)(uintptr_t)given);
    cJSON *list = canvas_others(cJSON_IsArray(given) ? given : one, called, false);
    cJSON_Delete(one);
    return list;
}

/* Each member of a body that is a group calls all of them. */
static void drop_too_many(const struct request *r, const cJSON *ends, cJSON *errbacks)
{
    int64_t n = (int64_t)cJSON_GetArraySize(ends) * cJSON_GetArraySize(errbacks);
    if (n <= SENDS_MOST)
        return;
    log_error("Task %s[%s]: %lld errbacks of its chord are not called: with one task at most %d "
              "messages are sent", request_name(r), request_id(r), (long long)n, SENDS_MOST);
    while (errbacks->child)
        cJSON_Delete(cJSON_DetachItemViaPointer(errbacks, errbacks->child));
}

static void fail_body(struct request *r, const cJSON *body, const char *message,
                      const char *exception, const cJSON *called)
{
    struct canvas_ids ids;
    struct continuation c = make(r, &ids, "/errbacks");
    struct error err = {0};
    bool own = canvas_is(body, "group") && exception;
    char *text = own ? mem_dup(exception)
                     : exception_text("celery.exceptions", "ChordError", message);
    char *traceback = mem_printf("Traceback (most recent call last):\n"
                                 "celery.exceptions.ChordError: %s\n", message);
    cJSON *errbacks = errbacks_of(body, called), *ends = cJSON_CreateArray();
    log_error("Chord of task %s[%s] raised: %s", request_name(r), request_id(r), message);
    continuation_ends(body, ends);
    drop_too_many(r, ends, errbacks);
    const char *group = own ? json_get_string(json_get(body, "options"), "task_id") : NULL;
    if (group)
        put_failure(r, &(struct store_record){.id = group, .result = slice_of(text)});
    while (ends->child) {
        cJSON *end = cJSON_DetachItemViaPointer(ends, ends->child);
        bool calls = errbacks->child && (canvas_is(body, "group") || !ends->child);
        c.canvas.children = cJSON_CreateArray(); /* by which a client finds the errbacks' results */
        if (calls && continuation_call_errbacks(&c, errbacks, json_get_string(end, "id"),
                                                slice_of(text), traceback, &err) < 0)
            log_error("Task %s[%s]: an errback cannot be sent: %s", request_name(r), request_id(r),
                      err.text);
        json_set(end, "called", cJSON_Duplicate(errbacks, true));
        fail_end(r, end, text, traceback, c.canvas.children);
        cJSON_Delete(c.canvas.children);
    }
    r->n_ids = ids.n;
    cJSON_Delete(errbacks);
    cJSON_Delete(ends);
    free(text);
    free(traceback);
}

void follow_fail_body(struct request *r, const cJSON *body, const char *message,
                      const char *exception)
{
    fail_body(r, body, message, exception, NULL);
}

void follow_send_body(struct request *r, const cJSON *body, cJSON *results)
{
    struct canvas_ids ids;
    struct continuation c = make(r, &ids, "/body");
    struct error err = {0};
    cJSON *args = cJSON_CreateArray();
    cJSON_AddItemToArray(args, results);
    int n = cJSON_GetArraySize(r->sends);
    int code = canvas_apply(&c.canvas, body, args, NULL, &err);
    r->n_ids = ids.n;
    if (code < 0 || check_sends(r, &err) < 0) {
        for (int more = cJSON_GetArraySize(r->sends); more > n; more--)
            cJSON_Delete(cJSON_DetachItemViaPointer(r->sends, r->sends->child->prev));
        char *why = exception_text("builtins", "ValueError", err.text);
        char *repr = follow_exception_repr(why);
        char *message = mem_printf("Callback error: %s", repr);
        follow_fail_body(r, body, message, why);
        free(message);
        free(repr);
        free(why);
    }
    cJSON_Delete(args);
}

struct chord_run {
    struct request *r;
    cJSON *part; /* whose turn it is */
};

static void next_part(struct chord_run *run);

static void end_part(struct chord_run *run, bool forget)
{
    if (forget) {
        if (!run->r->chords)
            run->r->chords = cJSON_CreateArray();
        cJSON_AddItemToArray(run->r->chords,
                             cJSON_CreateString(json_get_string(run->part, "group")));
    }
    cJSON_Delete(run->part);
    run->part = NULL;
    next_part(run);
}

/* As with Celery the keys of a chord that failed stay until they expire: who looks for what its
 * other parts returned finds it there. */
static void fail_part(struct chord_run *run, const char *id, const char *exception)
{
    char *repr = follow_exception_repr(exception);
    char *message = mem_printf("Dependency %s raised %s", id, repr);
    fail_body(run->r, json_get(run->part, "chord"), message, exception,
              json_get(run->part, "called"));
    free(message);
    free(repr);
    end_part(run, false);
}

static void on_joined(const struct join_end *end, void *arg)
{
    struct chord_run *run = arg;
    const cJSON *body = json_get(run->part, "chord");
    if (!end->ready) {
        follow_fail_body(run->r, body, "Join error: TimeoutError('The operation timed out.')",
                         NULL);
        end_part(run, true);
    } else if (end->failed) {
        fail_part(run, end->failed_id, end->failed);
    } else {
        follow_send_body(run->r, body, end->results);
        end_part(run, true);
    }
}

/* Members that are groups: their results are read from their own records. */
static void join_saved(struct chord_run *run, const char *saved)
{
    struct worker *w = run->r->worker;
    cJSON *meta = json_parse(saved, strlen(saved), NULL);
    cJSON *tuple = json_get(meta, "result");
    cJSON *members = cJSON_DetachItemFromArray(tuple, 1);
    cJSON_Delete(meta);
    join_start(w->base, w->store, cJSON_IsArray(members) ? members : cJSON_CreateArray(),
               w->options->settings.result_chord_join_timeout, on_joined, run);
    if (!cJSON_IsArray(members))
        cJSON_Delete(members);
}

static void on_part(int code, const struct store_chord *chord, void *arg)
{
    struct chord_run *run = arg;
    struct error err = {0};
    if (code ==
        ERROR_UNAVAILABLE) /* the store is closed: it is counted when its message comes back */
        flow_give_up(run->r);
    else if (code != 0)
        log_error("Task %s[%s]: its chord %s cannot be counted: %s", request_name(run->r),
                  request_id(run->r), json_get_string(run->part, "group"), error_text(code));
    if (code != 0 || !chord->complete) {
        end_part(run, false);
    } else if (chord->saved) {
        join_saved(run, chord->saved);
    } else if (chord->failed) {
        fail_part(run, chord->failed_id, chord->failed);
    } else {
        cJSON *results = json_parse(chord->results.at, chord->results.size, &err);
        if (results)
            follow_send_body(run->r, json_get(run->part, "chord"), results);
        else
            follow_fail_body(run->r, json_get(run->part, "chord"), err.text, NULL);
        end_part(run, true);
    }
}

static void wait_puts(struct request *r)
{
    follow_fn *then = r->after_chords;
    r->after_puts = NULL;
    if (r->n_puts > 0)
        r->after_puts = wait_puts;
    else
        then(r);
}

static void next_part(struct chord_run *run)
{
    struct request *r = run->r;
    if (!r->parts || !r->parts->child) {
        free(run);
        cJSON_Delete(r->parts);
        r->parts = NULL;
        follow_prepare(r, wait_puts);
        return;
    }
    run->part = cJSON_DetachItemViaPointer(r->parts, r->parts->child);
    const char *exception = json_get_string(run->part, "exception");
    struct store_part part = {
        .id = json_get_string(run->part, "id"),
        .group = json_get_string(run->part, "group"),
        .state = exception ? "FAILURE" : outcome_rows[r->outcome].state,
        .index = -1,
        .result = slice_of(exception ? exception : r->result),
    };
    json_as_int(json_get(run->part, "index"), &part.index);
    json_as_int(json_get(json_get(run->part, "chord"), "chord_size"), &part.size);
    store_add_part(r->worker->store, &part, on_part, run);
}

void follow_chords(struct request *r, follow_fn *then)
{
    if (!r->parts && !r->n_puts) {
        then(r);
        return;
    }
    struct chord_run *run = mem_alloc(sizeof *run);
    *run = (struct chord_run){r, NULL};
    r->after_chords = then;
    next_part(run);
}

/* All workers hear it, this one too; without remote control only this one does. */
static void revoke_all(struct worker *w, const cJSON *what)
{
    const cJSON *ids = json_get(what, "ids");
    bool terminate = cJSON_IsTrue(json_get(what, "terminate"));
    size_t n = (size_t)cJSON_GetArraySize(ids), i = 0;
    const char **texts = mem_alloc((n + 1) * sizeof *texts);
    for (const cJSON *id = ids->child; id; id = id->next)
        texts[i++] = id->valuestring;
    cJSON_Delete(flow_revoke(w, texts, n, terminate, SIGTERM));
    free(texts);
    if (!w->control)
        return;
    cJSON *arguments = cJSON_CreateObject();
    json_set(arguments, "task_id", cJSON_Duplicate(ids, true));
    json_set(arguments, "terminate", cJSON_CreateBool(terminate));
    json_set(arguments, "signal", cJSON_CreateString("SIGTERM"));
    control_send(w->control, "revoke", arguments, NULL, NULL);
}

void follow_revoke(struct request *r)
{
    for (const cJSON *what = r->revokes->child; what; what = what->next)
        revoke_all(r->worker, what);
}

void follow_settled(struct request *r)
{
    for (const cJSON *chord = r->chords ? r->chords->child : NULL; chord; chord = chord->next)
        store_forget_chord(r->worker->store, chord->valuestring);
}
