/* SPDX-License-Identifier: Apache-2.0 */
#include "broker/redis.h"

#include "broker/redis_tls.h"
#include "broker/sentinel.h"
#include "proto/base/mem.h"

#include <arpa/inet.h>
#include <errno.h>
#include <event2/buffer.h>
#include <event2/bufferevent.h>
#include <event2/bufferevent_ssl.h>
#include <event2/dns.h>
#include <netinet/tcp.h>
#include <openssl/evp.h>
#include <openssl/ssl.h>
#include <poll.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

/* One pipelined connection. The one idea: Redis answers in order, so the callbacks of all commands under
 * way wait in one ring, and the nth reply belongs to the nth of them. Whatever ends a connection (an
 * error, a deadline, the owner) goes through connection_drop, which answers them all with NULL. */

enum {
    READ_SIZE = 256 * 1024,
    FEED_SIZE = 16 * 1024,   /* hiredis moves the rest of its buffer after each reply: keep it small */
    SMALL_COMMAND = 8 * 1024 /* formatted in one piece */
};
static const double CONNECT_TIMEOUT = 10, BACKOFF_FIRST = 0.1, BACKOFF_MAX = 10,
                    BACKOFF_SENTINEL = 1; /* asking costs little, and a failover is soon over */

enum state { STATE_DOWN, STATE_CONNECTING, STATE_GREETING, STATE_UP };

struct pending {
    redis_reply_fn *fn;
    void *arg;
    int64_t at; /* µs, monotonic */
};

struct redis {
    struct event_base *base;
    struct redis_url url;
    char *client_name;
    double command_timeout;
    struct redis_handlers handlers;
    struct bufferevent *bev;
    redisReader *reader;
    struct evdns_base *dns;
    struct event *timer; /* down: next attempt; connecting: gives up; up: looks at the oldest command */
    struct pending *ring;
    size_t head, n_pending, capacity; /* capacity is a power of two */
    enum state state;
    struct sentinel_search *search;
    bool found; /* url has the master's address, for this attempt */
    int64_t client_id, last_read;
    unsigned attempts, life, depth;
    bool watching, closing;
    bool subscribed;    /* replies may be messages */
    bool plain_scripts; /* the server is too old for `#!lua` lines */
};

static void connection_drop(struct redis *r, const char *reason);

static int64_t clock_now(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC_COARSE, &now);
    return now.tv_sec * INT64_C(1000000) + now.tv_nsec / 1000;
}

static void timer_set(struct redis *r, double seconds)
{
    struct timeval wait = {(time_t)seconds, (suseconds_t)((seconds - (double)(time_t)seconds) * 1e6)};
    evtimer_add(r->timer, &wait);
}

/* --- commands out --- */

static void pending_push(struct redis *r, redis_reply_fn *fn, void *arg)
{
    if (r->n_pending == r->capacity) {
        size_t capacity = r->capacity ? r->capacity * 2 : 64;
        struct pending *ring = mem_alloc(capacity * sizeof *ring);
        for (size_t i = 0; i < r->n_pending; i++)
            ring[i] = r->ring[(r->head + i) & (r->capacity - 1)];
        free(r->ring);
        r->ring = ring;
        r->head = 0;
        r->capacity = capacity;
    }
    r->ring[(r->head + r->n_pending++) & (r->capacity - 1)] = (struct pending){fn, arg, clock_now()};
    if (!r->watching && r->state == STATE_UP) {
        r->watching = true;
        timer_set(r, r->command_timeout / 4 < 1 ? r->command_timeout / 4 : 1);
    }
}

static char *number_put(char *at, char kind, size_t number)
{
    char digits[24];
    int n = 0;
    do
        digits[n++] = (char)('0' + number % 10);
    while (number /= 10);
    *at++ = kind;
    while (n)
        *at++ = digits[--n];
    *at++ = '\r';
    *at++ = '\n';
    return at;
}

static void command_add(struct evbuffer *out, int argc, const struct slice *argv)
{
    size_t bound = 32;
    for (int i = 0; i < argc; i++)
        bound += argv[i].size + 32;
    struct evbuffer_iovec room;
    if (bound <= SMALL_COMMAND && evbuffer_reserve_space(out, (ev_ssize_t)bound, &room, 1) == 1) {
        char *at = number_put(room.iov_base, '*', (size_t)argc);
        for (int i = 0; i < argc; i++) {
            at = number_put(at, '$', argv[i].size);
            if (argv[i].size)
                at = mempcpy(at, argv[i].at, argv[i].size);
            at = mempcpy(at, "\r\n", 2);
        }
        room.iov_len = (size_t)(at - (char *)room.iov_base);
        evbuffer_commit_space(out, &room, 1);
        return;
    }
    char head[32];
    evbuffer_add(out, head, (size_t)(number_put(head, '*', (size_t)argc) - head));
    for (int i = 0; i < argc; i++) {
        evbuffer_add(out, head, (size_t)(number_put(head, '$', argv[i].size) - head));
        evbuffer_add(out, argv[i].at, argv[i].size);
        evbuffer_add(out, "\r\n", 2);
    }
}

/* A (P)SUBSCRIBE is answered once for each channel. */
static int reply_count(struct redis *r, struct slice name, int argc)
{
    bool subscribes = (name.size == 9 && !strncasecmp(name.at, "SUBSCRIBE", 9)) ||
                      (name.size == 10 && !strncasecmp(name.at, "PSUBSCRIBE", 10));
    bool leaves = (name.size == 11 && !strncasecmp(name.at, "UNSUBSCRIBE", 11)) ||
                  (name.size == 12 && !strncasecmp(name.at, "PUNSUBSCRIBE", 12));
    if (subscribes)
        r->subscribed = true;
    return (subscribes || leaves) && argc > 2 ? argc - 1 : 1;
}

static void command_queue(struct redis *r, redis_reply_fn *fn, void *arg, int argc,
                          const struct slice *argv)
{
    command_add(bufferevent_get_output(r->bev), argc, argv);
    for (int n = reply_count(r, argv[0], argc); n > 0; n--)
        pending_push(r, fn, arg);
}

int redis_send(struct redis *r, redis_reply_fn *fn, void *arg, int argc, const struct slice *argv)
{
    if (r->state != STATE_UP)
        return ERROR_UNAVAILABLE;
    command_queue(r, fn, arg, argc, argv);
    return 0;
}

int redis_sendf(struct redis *r, redis_reply_fn *fn, void *arg, const char *fmt, ...)
{
    if (r->state != STATE_UP)
        return ERROR_UNAVAILABLE;
    char *command = NULL;
    va_list args;
    va_start(args, fmt);
    int size = redisvFormatCommand(&command, fmt, args);
    va_end(args);
    if (size < 0)
        return ERROR_INVALID;
    evbuffer_add(bufferevent_get_output(r->bev), command, (size_t)size);
    int argc = (int)strtol(command + 1, NULL, 10);
    struct slice name = {fmt, strcspn(fmt, " ")};
    for (int n = reply_count(r, name, argc); n > 0; n--)
        pending_push(r, fn, arg);
    redisFreeCommand(command);
    return 0;
}

/* --- scripts --- */

struct script_run {
    struct redis *r;
    struct redis_script *script;
    redis_reply_fn *fn;
    void *arg;
    bool repeated;
    int argc; /* EVALSHA, sha, number of keys, keys and arguments */
    struct slice argv[];
};

static void script_answer(const redisReply *reply, void *arg);

static void script_sha(struct redis_script *script)
{
    if (*script->sha)
        return;
    unsigned char digest[EVP_MAX_MD_SIZE];
    EVP_Digest(script->body, strlen(script->body), digest, NULL, EVP_sha1(), NULL);
    for (int i = 0; i < 20; i++) {
        script->sha[2 * i] = "0123456789abcdef"[digest[i] >> 4];
        script->sha[2 * i + 1] = "0123456789abcdef"[digest[i] & 15];
    }
}

/* Once more with the whole text: Redis then knows it by its sum. */
static bool script_repeat(struct script_run *run)
{
    const char *body = run->script->body;
    if (run->r->plain_scripts && strncmp(body, "#!", 2) == 0)
        body += strcspn(body, "\n");
    run->argv[0] = slice_of("EVAL");
    run->argv[1] = slice_of(body);
    return redis_send(run->r, script_answer, run, run->argc, run->argv) == 0;
}

static void script_answer(const redisReply *reply, void *arg)
{
    struct script_run *run = arg;
    if (reply && reply->type == REDIS_REPLY_ERROR) {
        bool unknown = strncmp(reply->str, "NOSCRIPT", 8) == 0;
        bool too_old = strstr(reply->str, "compiling script") && !run->r->plain_scripts;
        if (too_old)
            run->r->plain_scripts = true;
        if ((too_old || (unknown && !run->repeated)) && script_repeat(run)) {
            run->repeated = true;
            return;
        }
    }
    if (run->fn)
        run->fn(reply, run->arg);
    free(run);
}

int redis_run(struct redis *r, struct redis_script *script, redis_reply_fn *fn, void *arg, int n_keys,
              int argc, const struct slice *argv)
{
    if (r->state != STATE_UP)
        return ERROR_UNAVAILABLE;
    script_sha(script);
    char keys[16];
    size_t size = (size_t)snprintf(keys, sizeof keys, "%d", n_keys);
    for (int i = 0; i < argc; i++)
        size += argv[i].size;
    struct script_run *run = mem_alloc(sizeof *run + (size_t)(argc + 3) * sizeof *argv + size);
    *run = (struct script_run){r, script, fn, arg, false, argc + 3};
    char *at = (char *)(run->argv + argc + 3);
    run->argv[0] = slice_of("EVALSHA");
    run->argv[1] = (struct slice){script->sha, 40};
    run->argv[2] = (struct slice){at, strlen(keys)};
    at = mempcpy(at, keys, strlen(keys));
    for (int i = 0; i < argc; i++) {
        run->argv[3 + i] = (struct slice){at, argv[i].size};
        if (argv[i].size)
            at = mempcpy(at, argv[i].at, argv[i].size);
    }
    if (r->plain_scripts) {
        run->repeated = true;
        script_repeat(run);
    } else {
        command_queue(r, script_answer, run, run->argc, run->argv);
    }
    return 0;
}

/* --- replies in --- */

static bool reply_is_push(const struct redis *r, const redisReply *reply)
{
    if (!r->subscribed || reply->type != REDIS_REPLY_ARRAY || reply->elements < 3)
        return false;
    const redisReply *kind = reply->element[0];
    return kind->type == REDIS_REPLY_STRING &&
           (!strcmp(kind->str, "message") || !strcmp(kind->str, "pmessage"));
}

static void reply_hand_out(struct redis *r, redisReply *reply)
{
    if (reply_is_push(r, reply)) {
        if (r->handlers.on_push)
            r->handlers.on_push(reply, r->handlers.arg);
        return;
    }
    if (!r->n_pending) {
        /* Redis says why before it hangs up (too many clients, for one). */
        char reason[200];
        snprintf(reason, sizeof reason, "unexpected answer: %.150s",
                 reply->type == REDIS_REPLY_ERROR ? reply->str : "");
        connection_drop(r, reason);
        return;
    }
    struct pending p = r->ring[r->head];
    r->head = (r->head + 1) & (r->capacity - 1);
    r->n_pending--;
    bool replica = reply->type == REDIS_REPLY_ERROR && strncmp(reply->str, "READONLY", 8) == 0;
    unsigned life = r->life;
    if (p.fn)
        p.fn(reply, p.arg);
    if (replica && life == r->life)
        connection_drop(r, "the server has become a replica");
}

static void replies_take(struct redis *r)
{
    unsigned life = r->life;
    void *reply = NULL;
    while (life == r->life) {
        if (redisReaderGetReply(r->reader, &reply) != REDIS_OK) {
            char reason[160];
            snprintf(reason, sizeof reason, "bad answer: %.120s", r->reader->errstr);
            connection_drop(r, reason);
            return;
        }
        if (!reply)
            return;
        reply_hand_out(r, reply);
        freeReplyObject(reply);
    }
}

static void redis_free(struct redis *r)
{
    if (r->dns)
        evdns_base_free(r->dns, 0);
    event_free(r->timer);
    redis_url_done(&r->url);
    free(r->client_name);
    free(r);
}

static void depth_leave(struct redis *r)
{
    if (--r->depth == 0 && r->closing)
        redis_free(r);
}

static void bytes_arrived(struct bufferevent *bev, void *arg)
{
    struct redis *r = arg;
    struct evbuffer *in = bufferevent_get_input(bev);
    unsigned life = r->life;
    r->depth++;
    r->last_read = clock_now();
    while (life == r->life && evbuffer_get_length(in)) {
        struct evbuffer_iovec piece;
        if (evbuffer_peek(in, FEED_SIZE, NULL, &piece, 1) < 1)
            break;
        size_t size = piece.iov_len < FEED_SIZE ? piece.iov_len : FEED_SIZE;
        redisReaderFeed(r->reader, piece.iov_base, size);
        evbuffer_drain(in, size);
        replies_take(r);
    }
    depth_leave(r);
}

/* --- greeting --- */

static void greet_checked(const redisReply *reply, void *arg)
{
    struct redis *r = arg;
    if (!reply || reply->type != REDIS_REPLY_ERROR)
        return;
    char reason[200];
    snprintf(reason, sizeof reason, "refused: %.180s", reply->str);
    connection_drop(r, reason);
}

/* A sentinel may not know yet that its master has become a replica. */
static void greet_role(const redisReply *reply, void *arg)
{
    struct redis *r = arg;
    bool told = reply && reply->type == REDIS_REPLY_ARRAY && reply->elements && reply->element[0]->str;
    if (told && strcmp(reply->element[0]->str, "master") != 0)
        connection_drop(r, "the server is not the master any more");
}

static void greet_id(const redisReply *reply, void *arg)
{
    struct redis *r = arg;
    r->client_id = reply && reply->type == REDIS_REPLY_INTEGER ? reply->integer : 0;
}

/* The last word: a server that is still loading its data says so here. */
static void greet_done(const redisReply *reply, void *arg)
{
    struct redis *r = arg;
    if (!reply)
        return;
    if (reply->type == REDIS_REPLY_ERROR && strncmp(reply->str, "NOPERM", 6) != 0) {
        greet_checked(reply, r);
        return;
    }
    r->state = STATE_UP;
    r->attempts = 0;
    r->watching = false;
    evtimer_del(r->timer);
    if (r->handlers.on_up)
        r->handlers.on_up(r, r->handlers.arg);
}

static void greeting_send(struct redis *r)
{
    r->state = STATE_GREETING;
    if (r->url.password) {
        struct slice words[3] = {slice_of("AUTH")};
        int n = 1;
        if (r->url.user)
            words[n++] = slice_of(r->url.user);
        words[n++] = slice_of(r->url.password);
        command_queue(r, greet_checked, r, n, words);
    }
    if (r->url.db) {
        char db[16];
        snprintf(db, sizeof db, "%d", r->url.db);
        command_queue(r, greet_checked, r, 2, (struct slice[]){slice_of("SELECT"), slice_of(db)});
    }
    if (r->client_name)
        command_queue(r, NULL, NULL, 3, (struct slice[]){slice_of("CLIENT"), slice_of("SETNAME"),
                                                         slice_of(r->client_name)});
    if (r->url.n_sentinels)
        command_queue(r, greet_role, r, 1, (struct slice[]){slice_of("ROLE")});
    command_queue(r, greet_id, r, 2, (struct slice[]){slice_of("CLIENT"), slice_of("ID")});
    command_queue(r, greet_done, r, 1, (struct slice[]){slice_of("PING")});
}

/* --- connecting --- */

static void socket_tune(struct redis *r)
{
    int fd = bufferevent_getfd(r->bev), on = 1, idle = 15, interval = 5, count = 3, lost = 30000;
    if (fd < 0 || r->url.socket_path)
        return;
    setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof on);
    setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &idle, sizeof idle);
    setsockopt(fd, IPPROTO_TCP, TCP_KEEPINTVL, &interval, sizeof interval);
    setsockopt(fd, IPPROTO_TCP, TCP_KEEPCNT, &count, sizeof count);
    setsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &lost, sizeof lost);
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
}

static void failure_explain(struct redis *r, short what, char *out, size_t size)
{
    int error = EVUTIL_SOCKET_ERROR(), dns = bufferevent_socket_get_dns_error(r->bev);
    unsigned long tls = r->url.tls ? bufferevent_get_openssl_error(r->bev) : 0;
    if (what & BEV_EVENT_EOF)
        snprintf(out, size, "the server closed the connection");
    else if (dns)
        snprintf(out, size, "host name not found: %s", evutil_gai_strerror(dns));
    else if (tls)
        redis_tls_explain(bufferevent_openssl_get_ssl(r->bev), tls, out, size);
    else
        snprintf(out, size, "%s", error ? evutil_socket_error_to_string(error) : "connection lost");
}

static void connection_event(struct bufferevent *bev, short what, void *arg)
{
    struct redis *r = arg;
    (void)bev;
    r->depth++;
    if (what & BEV_EVENT_CONNECTED) {
        socket_tune(r);
        if (r->state == STATE_CONNECTING)
            greeting_send(r);
    } else if (what & (BEV_EVENT_EOF | BEV_EVENT_ERROR)) {
        char reason[200];
        failure_explain(r, what, reason, sizeof reason);
        connection_drop(r, reason);
    }
    depth_leave(r);
}

static bool host_is_numeric(const char *host)
{
    unsigned char address[sizeof(struct in6_addr)];
    return inet_pton(AF_INET, host, address) == 1 || inet_pton(AF_INET6, host, address) == 1;
}

static int connection_start(struct redis *r)
{
    if (r->url.socket_path) {
        struct sockaddr_un address = {.sun_family = AF_UNIX};
        if (strlen(r->url.socket_path) >= sizeof address.sun_path)
            return -1;
        strncpy(address.sun_path, r->url.socket_path, sizeof address.sun_path - 1);
        return bufferevent_socket_connect(r->bev, (struct sockaddr *)&address, sizeof address);
    }
    if (!r->dns && !host_is_numeric(r->url.host))
        r->dns = evdns_base_new(r->base, EVDNS_BASE_INITIALIZE_NAMESERVERS |
                                             EVDNS_BASE_DISABLE_WHEN_INACTIVE);
    return bufferevent_socket_connect_hostname(r->bev, r->dns, AF_UNSPEC, r->url.host, r->url.port);
}

static void connection_open(struct redis *r);

static void master_found(const char *host, int port, const char *why, void *arg)
{
    struct redis *r = arg;
    r->search = NULL;
    if (!host) {
        connection_drop(r, why);
        return;
    }
    free(r->url.host);
    r->url.host = mem_dup(host);
    r->url.port = port;
    r->found = true;
    connection_open(r);
}

static void connection_open(struct redis *r)
{
    r->state = STATE_CONNECTING;
    r->subscribed = false;
    if (r->url.n_sentinels && !r->found) {
        r->search = sentinel_ask(r->base, &r->url, master_found, r);
        return;
    }
    struct error err = {0};
    if (r->url.tls) {
        SSL *ssl = redis_tls_new(&r->url, &err);
        if (!ssl) {
            connection_drop(r, err.text);
            return;
        }
        r->bev = bufferevent_openssl_socket_new(r->base, -1, ssl, BUFFEREVENT_SSL_CONNECTING,
                                                BEV_OPT_CLOSE_ON_FREE);
        bufferevent_openssl_set_allow_dirty_shutdown(r->bev, 1);
    } else {
        r->bev = bufferevent_socket_new(r->base, -1, BEV_OPT_CLOSE_ON_FREE);
    }
    r->reader = redisReaderCreate();
    if (!r->bev || !r->reader) {
        connection_drop(r, "out of memory");
        return;
    }
    bufferevent_setcb(r->bev, bytes_arrived, NULL, connection_event, r);
    bufferevent_set_max_single_read(r->bev, READ_SIZE);
    bufferevent_set_max_single_write(r->bev, READ_SIZE);
    bufferevent_enable(r->bev, EV_READ | EV_WRITE);
    timer_set(r, CONNECT_TIMEOUT);
    unsigned life = r->life;
    if (connection_start(r) < 0 && life == r->life)
        connection_drop(r, "the address cannot be used");
}

static double backoff_next(struct redis *r)
{
    double wait = BACKOFF_FIRST, most = r->url.n_sentinels ? BACKOFF_SENTINEL : BACKOFF_MAX;
    for (unsigned i = 0; i < r->attempts && wait < most; i++)
        wait *= 2;
    r->attempts++;
    unsigned char random;
    evutil_secure_rng_get_bytes(&random, 1);
    return (wait < most ? wait : most) * (0.5 + random / 512.0);
}

static void connection_drop(struct redis *r, const char *reason)
{
    struct pending *ring = r->ring;
    size_t head = r->head, n = r->n_pending, mask = r->capacity - 1;
    r->ring = NULL;
    r->head = r->n_pending = r->capacity = 0;
    r->life++;
    r->state = STATE_DOWN;
    r->client_id = 0;
    r->found = false;
    if (r->search)
        sentinel_cancel(r->search);
    r->search = NULL;
    r->watching = false;
    if (r->bev)
        bufferevent_free(r->bev);
    r->bev = NULL;
    if (r->reader)
        redisReaderFree(r->reader);
    r->reader = NULL;
    if (!r->closing)
        timer_set(r, backoff_next(r));
    r->depth++;
    for (size_t i = 0; i < n; i++) {
        struct pending *p = &ring[(head + i) & mask];
        if (p->fn)
            p->fn(NULL, p->arg);
    }
    free(ring);
    if (!r->closing && r->handlers.on_down)
        r->handlers.on_down(r, reason, r->handlers.arg);
    depth_leave(r);
}

/* An answer that is late counts only while nothing at all arrives: a peer that sends is alive. */
static void watchdog_look(struct redis *r)
{
    r->watching = false;
    if (!r->n_pending)
        return;
    int64_t since = r->ring[r->head].at > r->last_read ? r->ring[r->head].at : r->last_read;
    if ((double)(clock_now() - since) > r->command_timeout * 1e6) {
        connection_drop(r, "the server does not answer");
        return;
    }
    r->watching = true;
    timer_set(r, r->command_timeout / 4 < 1 ? r->command_timeout / 4 : 1);
}

static void timer_fired(evutil_socket_t fd, short what, void *arg)
{
    (void)fd, (void)what;
    struct redis *r = arg;
    r->depth++;
    if (r->state == STATE_DOWN)
        connection_open(r);
    else if (r->state == STATE_UP)
        watchdog_look(r);
    else
        connection_drop(r, "no connection within 10 seconds");
    depth_leave(r);
}

/* --- the owner's calls --- */

struct redis *redis_open(struct event_base *base, const struct redis_url *url,
                         const struct redis_options *options, const struct redis_handlers *handlers)
{
    struct redis *r = mem_zalloc(sizeof *r);
    r->base = base;
    r->url = redis_url_copy(url);
    r->client_name = mem_dup(options->client_name);
    /* Redis refuses spaces in a client's name. */
    for (char *at = r->client_name; at && *at; at++)
        if (*at <= ' ' || *at > '~')
            *at = '_';
    r->command_timeout = options->command_timeout > 0 ? options->command_timeout : 30;
    r->handlers = *handlers;
    r->timer = evtimer_new(base, timer_fired, r);
    timer_set(r, 0);
    return r;
}

void redis_close(struct redis *r)
{
    if (!r || r->closing)
        return;
    r->closing = true;
    evtimer_del(r->timer);
    connection_drop(r, "closed");
}

/* Waits until the socket can be written to or `until` has passed. */
static bool socket_wait(int fd, short what, int64_t until)
{
    int64_t left = until - clock_now();
    struct pollfd p = {fd, what, 0};
    return left > 0 && poll(&p, 1, (int)(left / 1000) + 1) > 0;
}

static bool output_write(struct redis *r, int fd, int64_t until)
{
    struct evbuffer *out = bufferevent_get_output(r->bev);
    SSL *ssl = r->url.tls ? bufferevent_openssl_get_ssl(r->bev) : NULL;
    evbuffer_unfreeze(out, 1);
    while (evbuffer_get_length(out)) {
        size_t size = evbuffer_get_contiguous_space(out);
        const void *data = evbuffer_pullup(out, (ev_ssize_t)size);
        ssize_t done = ssl ? SSL_write(ssl, data, (int)size) : write(fd, data, size);
        if (done > 0)
            evbuffer_drain(out, (size_t)done);
        else if (!socket_wait(fd, POLLOUT, until))
            return false;
    }
    return true;
}

void redis_finish(struct redis *r, double seconds)
{
    if (r->state == STATE_UP) {
        int fd = bufferevent_getfd(r->bev);
        int64_t until = clock_now() + (int64_t)(seconds * 1e6);
        bufferevent_disable(r->bev, EV_READ | EV_WRITE);
        /* The server closes its side when it has read and done all: a close of ours with answers still
         * unread would be a reset, which may overtake the commands. */
        if (output_write(r, fd, until) && shutdown(fd, SHUT_WR) == 0) {
            char ignored[4096];
            while (socket_wait(fd, POLLIN, until) && read(fd, ignored, sizeof ignored) > 0)
                ;
        }
    }
    redis_close(r);
}

bool redis_is_up(const struct redis *r)
{
    return r->state == STATE_UP;
}

void redis_reconnect(struct redis *r, const char *reason)
{
    if (r->state != STATE_DOWN && !r->closing)
        connection_drop(r, reason);
}

size_t redis_unsent(const struct redis *r)
{
    return r->bev ? evbuffer_get_length(bufferevent_get_output(r->bev)) : 0;
}

int64_t redis_client_id(const struct redis *r)
{
    return r->state == STATE_UP ? r->client_id : 0;
}
