/* SPDX-License-Identifier: Apache-2.0 */
#include "worker/control/mailbox.h"

#include "proto/base/mem.h"
#include "proto/envelope.h"
#include "proto/uuid.h"
#include "worker/log.h"
#include "worker/revoked.h"

#include <stdlib.h>
#include <string.h>

/* Mingle: at the start, what other workers know of revoked tasks, and their clocks. Unlike Celery's
 * the start does not wait for it: `hello` goes out, and a second later the answers are read from
 * the reply queue, some at a time, since those of a large fleet are megabytes. A kill -9 in between
 * leaves a reply queue that expires by itself. */

enum { PAGE = 16 };
static const struct timeval patience = {1, 0};

struct mingle {
    struct control *control; /* NULL: it is over, the answer comes too late */
    struct event *timer;     /* NULL: Redis has been asked for the answers */
    char oid[37], ticket[37];
    char *queue;
    int n; /* nodes that have answered */
};

static void mingle_free(struct mingle *m)
{
    if (m->timer)
        event_free(m->timer);
    free(m->queue);
    free(m);
}

static void sync_with(struct worker *w, const cJSON *reply)
{
    int64_t clock = 0;
    json_as_int(json_get(reply, "clock"), &clock);
    lamport_adjust(&w->clock, clock);
    revoked_take(w, json_get(reply, "revoked"));
}

/* {node: {"revoked", "clock"}}; our own answer is null. */
static int read_answer(const struct mingle *m, const redisReply *element)
{
    struct worker *w = m->control->worker;
    struct error err = {0};
    cJSON *headers, *body;
    int n = 0;
    struct slice text = {element->str, element->len};
    if (element->type != REDIS_REPLY_STRING || envelope_decode(text, &headers, &body, &err) < 0)
        return 0;
    const char *ticket = json_get_string(headers, "ticket");
    for (const cJSON *node = cJSON_IsObject(body) ? body->child : NULL; node; node = node->next)
        if ((!ticket || strcmp(ticket, m->ticket) == 0) && cJSON_IsObject(node) &&
            strcmp(node->string, w->options->hostname) != 0) {
            sync_with(w, node);
            n++;
        }
    cJSON_Delete(headers);
    cJSON_Delete(body);
    return n;
}

static void on_answers(const redisReply *reply, void *arg);

static int ask(struct mingle *m)
{
    struct worker *w = m->control->worker;
    const char *prefix = w->options->settings.global_keyprefix;
    char *key = mem_printf("%s%s", prefix ? prefix : "", m->queue);
    int code = redis_sendf(channel_redis(w->channel), on_answers, m, "LPOP %s %d", key, PAGE);
    free(key);
    return code;
}

static void on_answers(const redisReply *reply, void *arg)
{
    struct mingle *m = arg;
    if (!m->control) {
        mingle_free(m);
        return;
    }
    size_t n = reply && reply->type == REDIS_REPLY_ARRAY ? reply->elements : 0;
    for (size_t i = 0; i < n; i++)
        m->n += read_answer(m, reply->element[i]);
    if (n && ask(m) == 0)
        return;
    if (m->n) {
        log_info("mingle: sync with %d nodes", m->n);
        log_info("mingle: sync complete");
        flow_discard_revoked(m->control->worker);
    } else {
        log_info("mingle: all alone");
    }
    fanout_unbind_reply(m->control->worker->fanout, m->control->reply_exchange, m->oid, m->queue);
    m->control->mingle = NULL;
    mingle_free(m);
}

static void on_patience(evutil_socket_t fd, short what, void *arg)
{
    (void)fd, (void)what;
    struct mingle *m = arg;
    if (ask(m) < 0) {
        mingle_end(m->control);
    } else {
        event_free(m->timer);
        m->timer = NULL;
    }
}

void mingle_start(struct control *c)
{
    struct mingle *m = mem_zalloc(sizeof *m);
    struct worker *w = c->worker;
    m->control = c;
    c->mingle = m;
    uuid_make(m->oid);
    uuid_make(m->ticket);
    m->queue = mem_printf("%s.%s", m->oid, c->reply_exchange);
    m->timer = evtimer_new(w->base, on_patience, m);
    event_add(m->timer, &patience);
    cJSON *arguments = cJSON_CreateObject();
    cJSON_AddStringToObject(arguments, "from_node", w->options->hostname);
    cJSON_AddItemToObject(arguments, "revoked", revoked_exchange(w));
    log_info("mingle: searching for neighbors");
    fanout_bind_reply(w->fanout, c->reply_exchange, m->oid, m->queue);
    control_send(c, "hello", arguments, m->ticket, m->oid);
}

void mingle_end(struct control *c)
{
    struct mingle *m = c->mingle;
    if (!m)
        return;
    fanout_unbind_reply(c->worker->fanout, c->reply_exchange, m->oid, m->queue);
    c->mingle = NULL;
    m->control = NULL;
    if (m->timer) /* else Redis' answer is under way and frees it */
        mingle_free(m);
}
