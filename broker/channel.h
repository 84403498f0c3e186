/* SPDX-License-Identifier: Apache-2.0 */
#ifndef BROKER_CHANNEL_H
#define BROKER_CHANNEL_H

/* The worker's side of the queues: fetch, settle, publish, delay, rescue. Loop thread only.
 *
 * A message leaves its queue by one LMOVE into this incarnation's in-flight list and leaves that
 * list only by channel_settle. An incarnation is one life of one worker: node, host, boot id, pid,
 * random.
 *
 *   keys, for queue key K of queue Q (K = Q or Q\x06\x16step), incarnation I, all prefixed:
 *     {Q}.cworker.inflight.I[.step]   list   what I holds, newest at the left
 *     cworker.lease.I                 string lives `lease` seconds, renewed by EXPIRE
 *     cworker.incarnations            hash   I → JSON {"v":1,"node","host","boot","pid","start",
 *                                            "lists":[…]}; written before the first LMOVE
 *     cworker.paused                  hash   queue → since when nobody fetches from it
 *     {Q}.cworker.delayed             zset   due time in µs (Redis' clock) → member id
 *     {Q}.cworker.delayed.msg         hash   member id → key step and element
 *     {Q}.cworker.outbox              hash   task id/delivery tag → "2 " and what it will cause
 *     {Q}.cworker.dead                list   JSON {"v":1,"reason","at","queue","worker","message"}
 *     cworker.chord.<group>           hash   of a chord that is polled: how many parts have ended
 *                                            (n), how many there are (size), where what looks for
 *                                            them waits (set, member, list), whether its body has
 *                                            left (sent)
 *
 * What a kill -9 leaves: before LMOVE the message is in its queue; after it, in the in-flight list,
 * and comes back when the lease has lapsed (or at once, where the same host can prove the death).
 * An ack is one LREM; an ack with effects is one script that does nothing unless its own removal
 * removed. */

#include "broker/redis.h"

struct channel;

enum { CHANNEL_MAX_STEPS = 10 };

struct channel_options {
    const char *node;          /* celery@host */
    const char *key_prefix;    /* global_keyprefix or NULL */
    const char *const *queues; /* NULL-ended, in the order of -Q */
    int steps[CHANNEL_MAX_STEPS];
    int n_steps;  /* priority_steps: {0,3,6,9} */
    double lease; /* seconds; 0: 30 */
    /* queue_order_strategy: `ordered` is "priority", by the names of the queues "sorted"; neither:
     * round robin. */
    bool ordered, by_name;
    /* Kombu's restore of what Python workers did not ack in time; visibility_timeout 0: none. */
    double visibility_timeout, unacked_mutex_expire; /* seconds; expire 0: 300 */
    size_t unacked_restore_limit;                    /* messages for one look; 0: no limit */
    const char *unacked_key, *unacked_index_key, *unacked_mutex_key; /* NULL: Kombu's names */
    int wait_replicas; /* that should have a settlement before its owner hears of it; 0: none */
    size_t max_message;        /* larger elements go to the dead-letter list unread; 0: 512 MiB */
    bool passive; /* fetches, promotes, rescues and restores nothing: holds what it adopts */
};

/* One held message, embedded in the request that owns it. */
struct delivery {
    struct slice text;    /* the element; must stay valid until the delivery is settled */
    const char *queue;    /* name as in -Q, owned by the channel, lives as long as the channel */
    int step;             /* index of the priority step it came by */
    bool held;            /* in our in-flight list as far as we know */
    struct delivery *next, *prev; /* private, as is the list */
    struct lane *lane;
};

struct channel_handlers {
    /* A message has arrived. `text` is malloc'd and now the receiver's; it must call channel_hold
     * with a delivery before returning, then settle it some day. */
    void (*on_message)(char *text, size_t size, const char *queue, int step, void *arg);
    /* This delivery is no longer ours (rescued while we were away): cancel it, it runs
     * elsewhere. */
    void (*on_lost)(struct delivery *d, void *arg);
    /* No task may be begun from then on (CLOCK_BOOTTIME µs), unless a later instant is told. */
    void (*on_lease)(int64_t until, void *arg);
    void (*on_up)(void *arg);
    void (*on_down)(const char *reason, void *arg);
    void (*on_note)(const char *text, bool warning, void *arg); /* things an operator should read */
    void *arg;
};

struct channel *channel_open(struct event_base *base, const struct redis_url *url,
                             const struct channel_options *options,
                             const struct channel_handlers *handlers, struct error *err);
/* after everything is settled: removes lease and registration */
void channel_close(struct channel *c);

/* All that is held, of each list the newest first; `fn` may settle it. */
void channel_each_held(struct channel *c, void (*fn)(struct delivery *d, void *arg), void *arg);
void channel_hold(struct channel *c, struct delivery *d, struct slice text, const char *queue,
                  int step);

/* How many more messages may come now. The channel never has more LMOVEs under way than this. */
void channel_set_window(struct channel *c, size_t n_free);
/* for shutdown: nothing new; what is under way arrives */
void channel_stop_fetching(struct channel *c);
bool channel_is_fetching(const struct channel *c);
bool channel_is_quiet(const struct channel *c); /* no fetch and no settlement under way */

/* May tasks be started? False once the lease's local age (CLOCK_BOOTTIME) has passed its length. */
bool channel_owns(const struct channel *c);

enum effect_kind {
    EFFECT_SEND,  /* LPUSH to `queue` at `priority`: behind all that waits */
    EFFECT_RETURN, /* RPUSH to `queue` at `priority`: the next one to be taken */
    EFFECT_DELAY, /* into the delayed set of `queue`, due at `due`; back at the front when due */
    EFFECT_DEAD,  /* into the dead-letter list of `queue`, with `reason` */
    EFFECT_RECORD, /* into the outbox of `queue`, under `id` and `tag`: see channel_outbox_write */
    EFFECT_FORGET, /* out of it */
    EFFECT_LEASE, /* the key `text`, where it holds `id`, goes; with `due` it lasts so much more */
    EFFECT_PART,  /* a part of `chord` has ended */
    EFFECT_BODY,  /* sends and delays behind it happen for the first only that says so of `chord` */
};

struct effect {
    enum effect_kind kind;
    const char *queue;  /* name without step */
    int priority;       /* as in the message, clamped to a step here */
    struct slice text;  /* the element */
    int64_t due;        /* EFFECT_DELAY: µs since the epoch */
    const char *id;     /* EFFECT_DELAY: task id, part of the member's name; of a record */
    const char *tag;    /* of a record: the delivery tag */
    const char *reason; /* EFFECT_DEAD */
    /* The group's id. EFFECT_DELAY: `due` is now once `n_parts` of it have ended; NULL: of no
     * chord. */
    const char *chord;
    int64_t n_parts;
};

/* Removes the delivery from the in-flight list and makes its effects happen, in one atomic step (a
 * plain LREM when there are none). `fn` hears 0, LOST (somebody else has it: no effect happened),
 * or UNAVAILABLE (not known; the channel asks again after the reconnect and calls fn then, so this
 * comes only from channel_close). Texts are copied before it returns. */
typedef void channel_settled_fn(int code, void *arg);
void channel_settle(struct channel *c, struct delivery *d, const struct effect *effects,
                    size_t n_effects, channel_settled_fn *fn, void *arg);

/* Effects that belong to no delivery, at once; fn may be NULL. */
void channel_publish(struct channel *c, const struct effect *effects, size_t n_effects,
                     channel_settled_fn *fn, void *arg);

/* Queues at run time. A new one is fetched from as soon as it is registered; one that is cancelled
 * is not fetched from any more, what is held of it settles as ever. Both do nothing when it is so
 * already, and answer INVALID for an empty name. */
int channel_add_queue(struct channel *c, const char *name);
/* The same for producers that publish to an exchange: to which one, direct or topic, and by which
 * routing key or pattern. NULL members: as without them. A queue that is known already stays as it
 * is bound. */
struct queue_binding {
    const char *exchange, *type, *routing_key;
};
int channel_add_bound_queue(struct channel *c, const char *name, const struct queue_binding *binding);
/* Nothing is NULL here; borrowed. */
struct queue_binding channel_binding(const struct channel *c, const char *name);
int channel_cancel_queue(struct channel *c, const char *name);
/* Do we look after the delayed set of this queue? Only who consumes a queue does: what is sent to
 * one that may have Python workers alone must not wait there. */
bool channel_promotes(const struct channel *c, const char *queue);
/* Names of the queues that are consumed, NULL-ended, in their order. The caller frees the array
 * alone. */
const char **channel_queues(const struct channel *c);

/* What waits for its time in the delayed sets of our queues, soonest first in each: up to `most`
 * entries, and no more than some megabytes of them. Returns UNAVAILABLE, and fn is not called,
 * without a connection; fn may hear UNAVAILABLE later. Texts are borrowed. */
struct delayed_entry {
    const char *queue;
    int64_t due; /* µs since the epoch */
    struct slice text;
};
typedef void channel_delayed_fn(int code, const struct delayed_entry *entries, size_t n, void *arg);
int channel_peek_delayed(struct channel *c, size_t most, channel_delayed_fn *fn, void *arg);

/* Pausing for the whole fleet: cworker.paused says of each paused queue since when, and every
 * worker, also one that starts later, fetches nothing from it. `fn` (may be NULL) hears 0 when
 * Redis has it, UNAVAILABLE when that is not known. Returns UNAVAILABLE, and fn is not called,
 * without a connection. */
int channel_pause(struct channel *c, const char *queue, channel_settled_fn *fn, void *arg);
int channel_resume(struct channel *c, const char *queue, channel_settled_fn *fn, void *arg);
bool channel_paused(const struct channel *c, const char *queue);

/* Up to `most` elements of a dead worker's in-flight list, newest first, become ours as if they had
 * been fetched: on_message is called for each, then fn with how many; UNAVAILABLE, or LOST when
 * that worker's lease lives. INVALID, and fn is not called, where we have no list for that step. */
struct adoption {
    const char *list, *lease; /* names with the prefix */
    const char *queue;
    int step;                 /* as in priority_steps */
    const char *record;       /* only the message of this field of the outbox, if both are there; NULL: all */
};
typedef void channel_adopted_fn(int code, size_t n, void *arg);
int channel_adopt(struct channel *c, const struct adoption *what, size_t most,
                  channel_adopted_fn *fn, void *arg);

/* What a delivery will cause, durable beside its queue once `fn` has heard 0; LOST: the delivery is
 * not ours any more and nothing was written. EFFECT_FORGET removes it. */
void channel_outbox_write(struct channel *c, struct delivery *d, const char *id, const char *tag,
                          struct slice text, channel_settled_fn *fn, void *arg);
/* text.at NULL: there is none. UNAVAILABLE: ask again; UNSUPPORTED: of a later version of cworker.
 * When it returns non-zero fn is not called. */
typedef void channel_outbox_fn(int code, struct slice text, void *arg);
int channel_outbox_read(struct channel *c, const char *queue, const char *id, const char *tag,
                        channel_outbox_fn *fn, void *arg);

/* The delayed messages of these tasks, in the queues consumed here, are due now. Found a little
 * later. */
void channel_hasten(struct channel *c, const char *const *ids, size_t n);
/* The same for those that may have one of these values of a stamp; all as JSON texts. */
void channel_hasten_stamped(struct channel *c, const char *header, const char *const *values,
                            size_t n);

/* borrowed, for odd commands on the same connection */
struct redis *channel_redis(struct channel *c);

#endif
