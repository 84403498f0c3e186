/* SPDX-License-Identifier: Apache-2.0 */
/* The members are asked from the last to the first, as they end mostly in their order, a window of
 * them at a time, and asking stops at the first that is not ready: a chord that is polled while it
 * runs costs one window, not all its members. What has been read stays read when it looks again. */

#include "worker/join.h"

#include "proto/base/mem.h"
#include "worker/outcome.h"

#include <stdlib.h>
#include <string.h>

enum { WINDOW = 64, AGAIN_MS = 100 };

struct member {
    struct join *join;
    const char *id;  /* in the tuples */
    cJSON *place;    /* its tuple, where the result goes */
    cJSON *result;   /* once it is ready */
    bool asked, failed;
};

struct join {
    struct event_base *base;
    struct store *store;
    struct event *timer;
    cJSON *tuples;
    struct member *members;
    size_t n, left, n_asked; /* `left`: all from it on are ready */
    int64_t rounds_left;
    bool stalled;
    join_fn *fn;
    void *arg;
};

static const char *tuple_id(const cJSON *tuple)
{
    const cJSON *head = cJSON_GetArrayItem(tuple, 0);
    const cJSON *id = cJSON_IsArray(head) ? head->child : head;
    return cJSON_IsString(id) ? id->valuestring : NULL;
}

size_t join_count(const cJSON *tuples)
{
    size_t n = 0;
    for (const cJSON *tuple = tuples->child; tuple; tuple = tuple->next) {
        const cJSON *inner = cJSON_GetArrayItem(tuple, 1);
        n += cJSON_IsArray(inner) ? join_count(inner) : tuple_id(tuple) != NULL;
    }
    return n;
}

static void collect(struct join *j, cJSON *tuples)
{
    for (cJSON *tuple = tuples->child; tuple; tuple = tuple->next) {
        cJSON *inner = cJSON_GetArrayItem(tuple, 1);
        if (cJSON_IsArray(inner))
            collect(j, inner);
        else if (tuple_id(tuple))
            j->members[j->n++] = (struct member){.join = j, .id = tuple_id(tuple), .place = tuple};
    }
}

static cJSON *build(const struct join *j, const cJSON *tuples, size_t *at)
{
    cJSON *list = cJSON_CreateArray();
    for (const cJSON *tuple = tuples->child; tuple; tuple = tuple->next) {
        const cJSON *inner = cJSON_GetArrayItem(tuple, 1);
        if (cJSON_IsArray(inner)) {
            cJSON_AddItemToArray(list, build(j, inner, at));
        } else if (tuple_id(tuple)) {
            struct member *m = &j->members[(*at)++];
            cJSON_AddItemToArray(list, m->result);
            m->result = NULL;
        }
    }
    return list;
}

static void finish(struct join *j, struct join_end *end)
{
    j->fn(end, j->arg);
    for (size_t i = 0; i < j->n; i++)
        cJSON_Delete(j->members[i].result);
    if (j->timer)
        event_free(j->timer);
    cJSON_Delete(j->tuples);
    free(j->members);
    free(j);
}

static void finish_ready(struct join *j)
{
    size_t at = 0;
    for (size_t i = 0; i < j->n; i++)
        if (j->members[i].failed) {
            char *exception = json_text(j->members[i].result);
            finish(j, &(struct join_end){true, j->members[i].id, exception, NULL});
            free(exception);
            return;
        }
    finish(j, &(struct join_end){.ready = true, .results = build(j, j->tuples, &at)});
}

static void ask_more(struct join *j);

static void on_again(evutil_socket_t fd, short what, void *arg)
{
    struct join *j = arg;
    (void)fd, (void)what;
    j->stalled = false;
    ask_more(j);
}

static void look_again(struct join *j)
{
    const struct timeval delay = {0, AGAIN_MS * 1000};
    if (j->rounds_left-- <= 0) {
        finish(j, &(struct join_end){0});
        return;
    }
    if (!j->timer)
        j->timer = evtimer_new(j->base, on_again, j);
    evtimer_add(j->timer, &delay);
}

static void take(struct member *m, cJSON *record)
{
    const char *state = json_get_string(record, "status");
    bool failed = state && (!strcmp(state, "FAILURE") || !strcmp(state, "REVOKED"));
    if (failed || (state && !strcmp(state, "SUCCESS"))) {
        m->failed = failed;
        m->result = cJSON_DetachItemFromObjectCaseSensitive(record, "result") ?: cJSON_CreateNull();
    }
}

/* Looking again would not help: the member fails, instead of a null in its result's place. */
static void take_unreadable(struct member *m)
{
    char *why = mem_printf("the stored result of task %s cannot be read", m->id);
    char *text = exception_text("kombu.exceptions", "DecodeError", why);
    m->failed = true;
    m->result = json_parse(text, strlen(text), NULL);
    free(text);
    free(why);
}

static void on_read(int code, const char *json, void *arg)
{
    struct member *m = arg;
    struct join *j = m->join;
    m->asked = false;
    j->n_asked--;
    bool told = code == 0 && json;
    cJSON *record = told ? json_parse(json, strlen(json), NULL) : NULL;
    if (code == ERROR_INVALID || code == ERROR_UNSUPPORTED || (told && !cJSON_IsObject(record)))
        take_unreadable(m);
    else
        take(m, record);
    cJSON_Delete(record);
    j->stalled = j->stalled || !m->result;
    ask_more(j);
}

static void ask_more(struct join *j)
{
    while (j->left > 0 && j->members[j->left - 1].result)
        j->left--;
    for (size_t i = j->left; i > 0 && i + WINDOW > j->left && !j->stalled; i--) {
        struct member *m = &j->members[i - 1];
        if (m->result || m->asked)
            continue;
        m->asked = true;
        j->n_asked++;
        store_get(j->store, m->id, on_read, m);
    }
    if (j->n_asked > 0)
        return;
    if (j->left == 0)
        finish_ready(j);
    else
        look_again(j);
}

static void on_begin(evutil_socket_t fd, short what, void *arg)
{
    (void)fd, (void)what;
    ask_more(arg);
}

void join_start(struct event_base *base, struct store *store, cJSON *tuples, double timeout,
                join_fn *fn, void *arg)
{
    const struct timeval now = {0, 0};
    struct join *j = mem_zalloc(sizeof *j);
    *j = (struct join){.base = base, .store = store, .tuples = tuples, .fn = fn, .arg = arg,
                       .rounds_left = (int64_t)(timeout * 1000 / AGAIN_MS)};
    j->members = mem_zalloc((join_count(tuples) + 1) * sizeof *j->members);
    collect(j, tuples);
    j->left = j->n;
    event_base_once(base, -1, EV_TIMEOUT, on_begin, j, &now);
}
