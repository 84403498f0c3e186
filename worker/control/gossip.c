/* SPDX-License-Identifier: Apache-2.0 */
#include "worker/control/mailbox.h"

#include "proto/base/mem.h"
#include "proto/envelope.h"
#include "worker/canvas.h"
#include "worker/events.h"
#include "worker/log.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Gossip, as far as elections need it. The `election` command reaches every worker; each says
 * worker-elect with its clock, and the lowest (clock, node.pid) applies the action. The one idea:
 * votes are counted for a fixed while after the first, so nobody has to know who is alive and
 * heartbeats need not be listened to. Nothing is durable: an election in which the winner dies has
 * no effect, as in Celery.
 *
 * Celery's workers decide sooner: each when it has heard as many acks as there are others, by the
 * votes it has heard until then. So that they agree with us, whichever votes these are, ours have
 * the lowest clocks that there can be: in a mixed fleet a cworker is elected. There are two of
 * each, because Celery's worker ends with an IndexError where it has to decide by a single vote
 * (kombu.clocks, sort_heap); and our acks come last, so that it hears more votes. */

enum { ELECTIONS_MOST = 100, VOTES_MOST = 10000 };
static const struct timeval patience = {1, 0};

struct election {
    struct election *next;
    struct gossip *gossip;
    char *id;
    int64_t clock;  /* the lowest so far, its node.pid, and what that one asked for */
    char *leader, *topic;
    int n_votes;
    cJSON *action;
    struct event *timer;
};

struct gossip {
    struct control *control;
    struct election *elections;
    int n_elections;
};

/* --- elections -------------------------------------------------------------------------------- */

static void election_free(struct election *e)
{
    event_free(e->timer);
    cJSON_Delete(e->action);
    free(e->id);
    free(e->leader);
    free(e->topic);
    free(e);
}

static void election_end(struct election *e)
{
    struct election **at = &e->gossip->elections;
    while (*at != e)
        at = &(*at)->next;
    *at = e->next;
    e->gossip->n_elections--;
    election_free(e);
}

/* The action is a signature: a task, or a whole canvas. */
static void apply(struct worker *w, const cJSON *signature)
{
    struct error err = {0};
    struct canvas canvas = {
        .default_queue = w->options->settings.task_default_queue,
        .priority = -1,
        .now = worker_now(w),
        .sends = cJSON_CreateArray(),
    };
    if (!cJSON_IsObject(signature))
        error_set(&err, ERROR_INVALID, "the action is no signature");
    else
        canvas_apply(&canvas, signature, NULL, NULL, &err);
    if (err.code)
        log_error("Could not call task: %s", err.text);
    else
        flow_publish(w, canvas.sends);
    cJSON_Delete(canvas.sends);
}

/* For those that still count: one for each vote. */
static void say_acks(const struct election *e)
{
    cJSON *fields = cJSON_CreateObject();
    cJSON_AddStringToObject(fields, "id", e->id);
    for (int i = 0; i < e->n_votes; i++)
        events_say(e->gossip->control->worker, "worker-elect-ack", fields);
    cJSON_Delete(fields);
}

static void election_decide(struct election *e)
{
    struct worker *w = e->gossip->control->worker;
    char *us = mem_printf("%s.%d", w->options->hostname, (int)getpid());
    if (e->leader && strcmp(e->leader, us) == 0) {
        log_info("I won the election '%s'", e->id);
        if (e->topic && strcmp(e->topic, "task") == 0)
            apply(w, e->action);
        else
            log_error("Unknown election topic '%s'", e->topic ? e->topic : "None");
    } else if (e->leader) {
        log_info("node %s elected for '%s'", e->leader, e->id);
    }
    free(us);
    say_acks(e);
    election_end(e);
}

static void on_patience(evutil_socket_t fd, short what, void *arg)
{
    (void)fd, (void)what;
    election_decide(arg);
}

static struct election *election_find(struct gossip *g, const char *id)
{
    struct election *e = g->elections;
    while (e && strcmp(e->id, id) != 0)
        e = e->next;
    if (e || g->n_elections >= ELECTIONS_MOST)
        return e;
    e = mem_zalloc(sizeof *e);
    e->gossip = g;
    e->id = mem_dup(id);
    e->timer = evtimer_new(g->control->worker->base, on_patience, e);
    event_add(e->timer, &patience);
    e->next = g->elections;
    g->elections = e;
    g->n_elections++;
    return e;
}

static void on_elect(struct gossip *g, const cJSON *event, const char *hostname)
{
    const char *id = json_get_string(event, "id"), *topic = json_get_string(event, "topic");
    int64_t clock = 0, pid = 0;
    json_as_int(json_get(event, "clock"), &clock);
    json_as_int(json_get(event, "pid"), &pid);
    struct election *e = id ? election_find(g, id) : NULL;
    if (!e)
        return;
    e->n_votes += e->n_votes < VOTES_MOST;
    char *node = mem_printf("%s.%lld", hostname, (long long)pid);
    if (!e->leader || clock < e->clock || (clock == e->clock && strcmp(node, e->leader) < 0)) {
        free(e->leader);
        free(e->topic);
        cJSON_Delete(e->action);
        e->clock = clock;
        e->leader = node;
        e->topic = mem_dup(topic);
        e->action = cJSON_Duplicate(json_get(event, "action"), true);
    } else {
        free(node);
    }
}

cJSON *call_election(struct call *call)
{
    struct gossip *g = call->control->gossip;
    const char *id = json_get_string(call->arguments, "id");
    const cJSON *action = json_get(call->arguments, "action");
    if (!g)
        return call_raise("AttributeError", "gossip is off: no elections here");
    if (!id)
        return call_raise("TypeError", "id must be a text");
    cJSON *fields = cJSON_CreateObject();
    cJSON_AddStringToObject(fields, "id", id);
    cJSON_AddItemToObject(fields, "topic",
                          cJSON_Duplicate(json_get(call->arguments, "topic"), true));
    cJSON_AddItemToObject(fields, "action",
                          action ? cJSON_Duplicate(action, true) : cJSON_CreateNull());
    cJSON_AddItemToObject(fields, "cver", json_int(1));
    for (int clock = 0; clock < 2; clock++)
        events_say_at(call->worker, "worker-elect", clock, fields);
    cJSON_Delete(fields);
    return NULL;
}

/* --- what is heard ---------------------------------------------------------------------------- */

static void on_worker_event(struct gossip *g, const cJSON *event)
{
    struct worker *w = g->control->worker;
    const char *type = json_get_string(event, "type");
    const char *hostname = json_get_string(event, "hostname");
    int64_t clock = 0;
    if (!type || !hostname || strcmp(type, "worker-elect") != 0)
        return;
    json_as_int(json_get(event, "clock"), &clock);
    if (strcmp(hostname, w->options->hostname) == 0)
        lamport_forward(&w->clock);
    else
        lamport_adjust(&w->clock, clock);
    on_elect(g, event, hostname);
}

static void on_event(struct slice text, void *arg)
{
    cJSON *headers, *body;
    struct error err = {0};
    if (envelope_decode(text, &headers, &body, &err) == 0)
        on_worker_event(arg, body);
    else
        log_debug("gossip: %s", err.text);
    cJSON_Delete(headers);
    cJSON_Delete(body);
}

/* --- open and close --------------------------------------------------------------------------- */

void gossip_open(struct control *c)
{
    const struct settings *s = &c->worker->options->settings;
    /* Without patterns the topic carries every event of every task: too much to listen to. */
    if (c->worker->options->without_gossip || !s->fanout_patterns)
        return;
    struct gossip *g = mem_zalloc(sizeof *g);
    g->control = c;
    c->gossip = g;
    fanout_listen(c->worker->fanout, s->event_exchange, "worker.elect", NULL, on_event, g);
}

void gossip_close(struct control *c)
{
    struct gossip *g = c->gossip;
    if (!g)
        return;
    while (g->elections)
        election_end(g->elections);
    free(g);
    c->gossip = NULL;
}
