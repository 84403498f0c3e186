/* SPDX-License-Identifier: Apache-2.0 */
/* Revocation as an operator's command: what a worker does at once with what it has in its hands,
 * and for whom else it leaves word. The one idea: every task meets the revoked set when it arrives
 * and again when it starts (flow.c), so all that waits somewhere is only brought there.
 *
 * A kill -9 within flow_revoke leaves the tasks as they were; the set in Redis, once written, ends
 * them when another worker takes them. */

#include "worker/revoke.h"

#include "proto/base/mem.h"
#include "worker/log.h"
#include "worker/revoked.h"

#include "tasks/cworker.h"

#include <signal.h>
#include <stdlib.h>
#include <string.h>

/* As the command writes it in Celery: without what only a request knows. */
static void store_revoked(struct worker *w, const char *id)
{
    char *result = exception_text("celery.exceptions", "TaskRevokedError", "revoked");
    struct store_record record = {
        .id = id,
        .state = "REVOKED",
        .result = slice_of(result),
        .children = "null",
        .date_done = worker_now(w),
    };
    store_put(w->store, &record, NULL, NULL);
    free(result);
}

/* The pool says POOL_TERMINATED when it is done, or POOL_UNSTARTED: then the task meets the set
 * again. SIGUSR1 is Celery's soft limit, which ends no process: the task raises, or goes on. */
static void terminate_run(struct request *r, int signal)
{
    log_info("Terminating %s (%d)", request_id(r), signal);
    if (signal == SIGUSR1) {
        pool_stop(r->worker->pool, r->job, CW_SOFT_LIMIT);
        return;
    }
    r->terminated = signal;
    if (!pool_terminate(r->worker->pool, r->job, signal))
        r->terminated = 0;
}

/* Called for each request that runs. */
typedef void run_fn(struct request *r, void *arg);

static void each_run(struct worker *w, run_fn *fn, void *arg)
{
    for (size_t i = 0; i < WORKER_JOB_BUCKETS; i++)
        for (struct request *r = w->jobs[i], *next; r; r = next) {
            next = r->job_next;
            fn(r, arg);
        }
}

struct by_id {
    const char **ids; /* sorted */
    size_t n;
    int signal;
    cJSON *found;
};

static int compare_ids(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

static bool find(struct by_id *by, const struct request *r)
{
    bool found = bsearch(&r->message.id, by->ids, by->n, sizeof *by->ids, compare_ids);
    if (found)
        cJSON_AddItemToArray(by->found, cJSON_CreateString(r->message.id));
    return found;
}

static void terminate_by_id(struct request *r, void *arg)
{
    struct by_id *by = arg;
    if (find(by, r))
        terminate_run(r, by->signal);
}

static void find_waiting(struct request_list *list, void *arg)
{
    for (const struct request *r = list->first; r; r = r->next)
        find(arg, r);
}

/* What of these is in our hands; what of that runs is ended. */
static cJSON *terminate_all(struct worker *w, const char *const *ids, size_t n, int signal)
{
    struct by_id by = {mem_alloc(n * sizeof *ids), n, signal, cJSON_CreateArray()};
    for (size_t i = 0; i < n; i++)
        by.ids[i] = ids[i];
    qsort(by.ids, n, sizeof *by.ids, compare_ids);
    flow_each_waiting(w, find_waiting, &by);
    each_run(w, terminate_by_id, &by);
    free(by.ids);
    return by.found;
}

cJSON *flow_revoke(struct worker *w, const char *const *ids, size_t n, bool terminate, int signal)
{
    cJSON *found = NULL;
    for (size_t i = 0; i < n; i++) {
        revoked_add(w->revoked, ids[i], worker_now(w));
        store_revoked(w, ids[i]);
    }
    revoked_share_ids(w, ids, n);
    channel_hasten(w->channel, ids, n);
    if (terminate)
        found = terminate_all(w, ids, n, signal);
    flow_discard_revoked(w);
    worker_pump(w);
    return found;
}

/* --- by stamps -------------------------------------------------------------------------------- */

struct by_stamps {
    struct revoked *wanted; /* of this command alone */
    int signal;
    struct revoked *found;
};

static void terminate_by_stamps(struct request *r, void *arg)
{
    struct by_stamps *by = arg;
    cJSON *stamp = revoked_match(by->wanted, &r->message);
    if (!stamp)
        return;
    revoked_add_stamps(by->found, stamp->child->string, stamp->child);
    cJSON_Delete(stamp);
    terminate_run(r, by->signal);
}

static void add_all_stamps(struct revoked *set, const cJSON *headers)
{
    for (const cJSON *h = cJSON_IsObject(headers) ? headers->child : NULL; h; h = h->next)
        revoked_add_stamps(set, h->string, h);
}

/* Delayed tasks with these stamps come now and meet the set. */
static void hasten_stamped(struct worker *w, const cJSON *headers)
{
    for (const cJSON *h = cJSON_IsObject(headers) ? headers->child : NULL; h; h = h->next) {
        size_t n = cJSON_IsArray(h) ? (size_t)cJSON_GetArraySize(h) : 1, at = 0;
        char **values = mem_alloc((n + 1) * sizeof *values);
        cJSON *name = cJSON_CreateString(h->string);
        char *header = json_text(name);
        for (const cJSON *v = cJSON_IsArray(h) ? h->child : h; v && at < n; v = v->next)
            values[at++] = json_text(v);
        channel_hasten_stamped(w->channel, header, (const char *const *)values, at);
        while (at)
            free(values[--at]);
        free(values);
        free(header);
        cJSON_Delete(name);
    }
}

cJSON *flow_revoke_stamped(struct worker *w, const cJSON *headers, bool terminate, int signal)
{
    cJSON *found = NULL;
    add_all_stamps(w->revoked, headers);
    revoked_share_stamps(w, headers);
    hasten_stamped(w, headers);
    if (terminate) {
        struct by_stamps by = {revoked_new(), signal, revoked_new()};
        add_all_stamps(by.wanted, headers);
        each_run(w, terminate_by_stamps, &by);
        found = revoked_stamps(by.found);
        revoked_free(by.wanted);
        revoked_free(by.found);
    }
    flow_discard_revoked(w);
    worker_pump(w);
    return found;
}

/* --- open, close ------------------------------------------------------------------------------ */

int revoke_open(struct worker *w, struct error *err)
{
    w->revoked = revoked_new();
    return revoked_load(w, err);
}

void revoke_close(struct worker *w)
{
    revoked_save(w, true);
    revoked_free(w->revoked);
}
