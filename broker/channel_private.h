/* SPDX-License-Identifier: Apache-2.0 */
#ifndef BROKER_CHANNEL_PRIVATE_H
#define BROKER_CHANNEL_PRIVATE_H

/* What the files of a channel share: channel.c (open, close, hold), queues.c (which queues, and
 * from which may be fetched), pause.c, recover.c (what comes first on a connection), fetch.c,
 * watch.c, settle.c, effect.c, outbox.c, replicas.c, delayed.c, hasten.c, peek.c, lease.c, rescue.c
 * (what dead workers held), restore.c (what Python workers held), adopt.c. */

#include "broker/arguments.h"
#include "broker/channel.h"
#include "broker/scripts.h"
#include "broker/timer.h"

#include <sys/queue.h>

#define KEY_SEPARATOR "\x06\x16"

/* One queue at one priority step: a Redis list and our in-flight list for it. */
struct lane {
    struct channel *c;
    struct queue *queue;
    int step;              /* index */
    struct slice key, inflight;
    struct delivery *held; /* newest first */
    size_t n_held, n_settling;
    int64_t waiting;       /* in the queue, as far as we know */
    size_t n_underway;     /* fetches without an answer yet */
    bool asking, again;    /* an LLEN is under way; one more is due after it */
};

/* Never freed before the channel: deliveries and answers under way point at its name and its
 * lanes. */
struct queue {
    char *name;
    char *exchange, *exchange_type, *routing_key; /* to what it is bound */
    int index;
    bool open;       /* may be fetched from: the next two hold and the last does not */
    bool consumed;   /* false once it was cancelled */
    bool registered; /* our registration names its in-flight lists: the first LMOVE may follow */
    bool paused;     /* for the whole fleet */
    bool promoting;  /* its delayed set is being looked at */
    int64_t delayed_at; /* boot-time µs: when something in it is due; INT64_MAX: not known */
    struct lane lanes[]; /* one for each step */
};

struct settlement {
    struct settlement *next, *prev;
    struct channel *c;
    struct lane *lane;            /* NULL: effects that belong to no delivery */
    struct slice text;            /* behind this struct */
    struct argument_list *script; /* NULL: a plain LREM */
    bool asked;                   /* an answer is under way */
    bool unheard;                 /* sent on a connection that went: may have happened */
    enum { AWAITS_NOTHING, AWAITS_NEXT, AWAITS_THIS } awaiting; /* done; a WAIT is due, under way */
    bool lost;                    /* was not ours any more when it was settled */
    struct delivery *beside;      /* stays held: where it is gone nothing happens. NULL: none */
    channel_settled_fn *fn;
    void *arg;
};

enum { CHANNEL_SAID = 64 };

struct channel {
    struct event_base *base;
    struct channel_handlers handlers;
    struct redis *redis, *watch;
    char *node, *prefix, *incarnation, *description, *lease_key, *registry_key;
    struct queue **queues; /* also those that were cancelled */
    int n_queues, steps[CHANNEL_MAX_STEPS], n_steps, *order;
    bool ordered, by_name;
    size_t max_message;
    char **paused; /* names, n_paused of them: also of queues that are not consumed here */
    int n_paused;

    /* fetch */
    size_t window, n_underway;
    struct lane *arriving; /* whose message the receiver is told of */
    size_t typical_size; /* of messages: that of the last one, or half of what it was before */
    bool stopped, passive, met_later;
    int64_t oom_until;
    struct event *poll_timer, *note_timer;
    double poll_period; /* seconds, while notes are known to arrive */
    struct said {
        char *text;
        int64_t at; /* boot-time µs */
    } said[CHANNEL_SAID]; /* refusals of Redis */

    /* watch */
    bool watch_ready, armed, tracking, probing; /* tracking: a note is known to have come */
    int n_peers;

    /* settle */
    struct settlement *settling, *settling_last;
    struct event *retry_timer;
    uint64_t nonce;
    int wait_replicas;
    bool awaiting_replicas, few_replicas;

    /* delayed */
    struct event *delayed_timer;
    /* Boot-time µs: for which delayed_timer is set, and when all queues are looked at. */
    int64_t delayed_next, delayed_all_at;

    /* hasten */
    STAILQ_HEAD(, hasten) to_search, /* as soon as the search that is under way has ended */
        hastened;                    /* for a second time, a little later */
    bool searching;
    struct event *hasten_timer;

    /* lease */
    double lease;
    /* Boot-time µs: its length after the last renewal that was heard of was sent. */
    int64_t lease_until;
    int64_t lease_asked;
    bool renewing;
    struct event *lease_timer;

    /* recover */
    unsigned era; /* one for each recovery */
    bool ready, recovering, ever_ready, warned;
    /* Lists without an answer; queues in the registration that is under way, with the lease or
     * without. */
    int n_comparing, n_describing, n_registering;
    int64_t last_client_id;
    char run_id[48];

    /* restore */
    struct {
        char *hash, *index, *mutex;
        double timeout, mutex_expire;
        size_t limit;
    } unacked;
    struct event *restore_timer;
    bool restoring;

    /* rescue */
    struct peer *peers;
    struct event *rescue_timer;
    int64_t looked_at, look_next, pids_at; /* boot-time µs */
    int64_t steady_since;               /* since then every answer came promptly */
    bool looking;
    struct rescue *rescues;
};

/* All lanes, of all queues: for (struct lane *lane = lane_first(c); lane; lane =
 * lane_after(lane)) */
struct lane *lane_first(struct channel *c);
struct lane *lane_after(struct lane *lane);

/* queues.c */
struct lane *lane_find(struct channel *c, const char *queue, int step);
void queue_append(struct channel *c, const char *name);
void queue_update(struct channel *c, struct queue *queue); /* after one of its flags has changed */
void queue_declare(struct channel *c, const struct queue *queue); /* as Kombu registers it */
void queues_register(struct channel *c);                   /* those that are not yet */

/* pause.c */
void pause_ask(struct channel *c);
bool pause_key_is(const struct channel *c, const redisReply *key);
void pause_forget(struct channel *c);

/* channel.c */
void note(struct channel *c, bool warning, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
/* each text once a minute */
void note_rarely(struct channel *c, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
void note_error(struct channel *c, const char *what, const redisReply *reply);
void note_later(struct channel *c, const char *what); /* entries of a later format: says so once */
int step_of(const struct channel *c, int priority); /* index of the step that serves a priority */
char *queue_key(const struct channel *c, const char *queue, int step); /* caller frees */
int64_t time_boot(void);
void delivery_unlink(struct delivery *d);

/* recover.c */
void recover_start(struct channel *c);

/* fetch.c */
void fetch_begin(struct channel *c);
void fetch_pump(struct channel *c);
void fetch_ask(struct lane *lane);
void fetch_ask_all(struct channel *c);
void fetch_arrived(struct lane *lane, const char *text, size_t size);
void fetch_poll(evutil_socket_t fd, short what, void *arg);

/* watch.c */
void watch_open(struct channel *c, const struct redis_url *url, const char *name);
void watch_arm(struct channel *c);
void watch_check(struct channel *c);
void watch_jitter_over(evutil_socket_t fd, short what, void *arg);

/* settle.c */
void settle_resend(struct channel *c);
void settle_retry(evutil_socket_t fd, short what, void *arg);
void settle_abandon(struct channel *c);
void settlement_finish(struct settlement *s, int code); /* frees it, then tells its owner */
void settle_beside(struct channel *c, struct delivery *d, const struct effect *effect,
                   channel_settled_fn *fn, void *arg);
void settle_dead(struct lane *lane, struct slice text, const char *reason);

/* outbox.c */
enum { OUTBOX_VERSION = 2 }; /* 1: a list of what is sent, and nothing besides */
char *outbox_key(const struct channel *c, const char *queue);    /* caller frees */
char *outbox_field(const char *id, const char *tag);             /* caller frees */

/* effect.c: the keys of one effect, and what script_settle and script_restore want to know of it */
void effect_keys(struct argument_list *list, struct channel *c, const struct effect *e);
void effect_arguments(struct argument_list *list, struct channel *c, const struct effect *e);

/* delayed.c */
void delayed_look(evutil_socket_t fd, short what, void *arg);
void delayed_expect(struct queue *queue, int64_t wait); /* µs */

/* hasten.c */
void hasten_again(evutil_socket_t fd, short what, void *arg);
void hasten_go_on(struct channel *c); /* there is a connection */
void hasten_forget_all(struct channel *c);

/* lease.c */
void lease_identify(struct channel *c);
void lease_describe(struct channel *c); /* all queues, for a registration */
bool lease_host_is_ours(const char *host, const char *boot);
bool process_is_gone(int64_t pid, int64_t start);
void lease_renew(struct channel *c);
void lease_confirmed(struct channel *c); /* by an answer to what was sent at lease_asked */
void lease_tick(evutil_socket_t fd, short what, void *arg);

/* replicas.c */
void replicas_await(struct settlement *s);

/* restore.c */
void restore_look(evutil_socket_t fd, short what, void *arg);

/* rescue.c */
void rescue_look(struct channel *c);
void rescue_due(evutil_socket_t fd, short what, void *arg);
void rescue_watch_pids(struct channel *c);
void rescue_forget_all(struct channel *c);

#endif
