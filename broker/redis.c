/* SPDX-License-Identifier: Apache-2.0 */
#include "broker/redis_private.h"

#include "broker/redis_tls.h"
#include "broker/sentinel.h"
#include "broker/timer.h"
#include "proto/base/mem.h"

#include <arpa/inet.h>
#include <errno.h>
#include <event2/buffer.h>
#include <event2/bufferevent_ssl.h>
#include <event2/dns.h>
#include <netinet/tcp.h>
#include <openssl/ssl.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/un.h>
#include <unistd.h>

/* The life of one connection: down, connecting, greeting, up, and down again by redis_drop, which
 * every end of it goes through, whether an error, a deadline or the owner is the reason. */

enum { READ_SIZE = 256 * 1024 };
static const double CONNECT_TIMEOUT = 10, BACKOFF_FIRST = 0.1, BACKOFF_MAX = 10,
                    BACKOFF_SENTINEL = 1; /* asking costs little, and a failover is soon over */
static const int64_t LASTING = 1000000; /* µs after which a connection has been a good one */

void redis_watch(struct redis *r)
{
    r->watching = true;
    timer_arm(r->timer, r->command_timeout / 4 < 1 ? r->command_timeout / 4 : 1);
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

void redis_release(struct redis *r)
{
    if (--r->depth == 0 && r->closing)
        redis_free(r);
}

/* --- greeting --- */

static void greet_checked(const redisReply *reply, void *arg)
{
    struct redis *r = arg;
    if (!reply || reply->type != REDIS_REPLY_ERROR)
        return;
    char reason[200];
    size_t size = strlen(reply->str);
    size -= size && reply->str[size - 1] == '.'; /* a sentence is made around it */
    snprintf(reason, sizeof reason, "refused: %.*s", size < 180 ? (int)size : 180, reply->str);
    redis_drop(r, reason);
}

/* Who takes no more clients, or none from elsewhere, says so in answer to whatever comes first, and
 * hangs up. */
static void greet_first(const redisReply *reply, void *arg)
{
    static const char *const final[] = {"DENIED ", "ERR max number of clients"};
    for (size_t i = 0; i < sizeof final / sizeof *final; i++)
        if (reply && reply->type == REDIS_REPLY_ERROR &&
            strncmp(reply->str, final[i], strlen(final[i])) == 0)
            greet_checked(reply, arg);
}

/* A sentinel may not know yet that its master has become a replica. */
static void greet_role(const redisReply *reply, void *arg)
{
    struct redis *r = arg;
    bool told =
        reply && reply->type == REDIS_REPLY_ARRAY && reply->elements && reply->element[0]->str;
    if (told && strcmp(reply->element[0]->str, "master") != 0)
        redis_drop(r, "the server is not the master any more");
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
    r->up_since = redis_clock();
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
        redis_command(r, greet_checked, r, n, words);
    }
    if (r->url.db) {
        char db[16];
        snprintf(db, sizeof db, "%d", r->url.db);
        redis_command(r, greet_checked, r, 2, (struct slice[]){slice_of("SELECT"), slice_of(db)});
    }
    if (r->client_name)
        redis_command(
            r, greet_first, r, 3,
            (struct slice[]){slice_of("CLIENT"), slice_of("SETNAME"), slice_of(r->client_name)});
    if (r->url.n_sentinels)
        redis_command(r, greet_role, r, 1, (struct slice[]){slice_of("ROLE")});
    redis_command(r, greet_id, r, 2, (struct slice[]){slice_of("CLIENT"), slice_of("ID")});
    redis_command(r, greet_done, r, 1, (struct slice[]){slice_of("PING")});
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
    redis_hold(r);
    if (what & BEV_EVENT_CONNECTED) {
        socket_tune(r);
        if (r->state == STATE_CONNECTING)
            greeting_send(r);
    } else if (what & (BEV_EVENT_EOF | BEV_EVENT_ERROR)) {
        char reason[200];
        failure_explain(r, what, reason, sizeof reason);
        redis_drop(r, reason);
    }
    redis_release(r);
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
        redis_drop(r, why);
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
            redis_drop(r, err.text);
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
        redis_drop(r, "out of memory");
        return;
    }
    bufferevent_setcb(r->bev, redis_read, NULL, connection_event, r);
    bufferevent_set_max_single_read(r->bev, READ_SIZE);
    bufferevent_set_max_single_write(r->bev, READ_SIZE);
    bufferevent_enable(r->bev, EV_READ | EV_WRITE);
    timer_arm(r->timer, CONNECT_TIMEOUT);
    unsigned life = r->life;
    errno = 0;
    if (connection_start(r) < 0 && life == r->life)
        redis_drop(r, errno ? strerror(errno) : "the address cannot be used");
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

void redis_drop(struct redis *r, const char *reason)
{
    struct redis_pending *ring = r->ring;
    size_t head = r->head, n = r->n_pending, mask = r->capacity - 1;
    r->ring = NULL;
    r->head = r->n_pending = r->capacity = 0;
    r->life++;
    /* A replica greets like a master, and refuses the first write of each connection. */
    if (r->state == STATE_UP && redis_clock() - r->up_since > LASTING)
        r->attempts = 0;
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
        timer_arm(r->timer, backoff_next(r));
    redis_hold(r);
    for (size_t i = 0; i < n; i++) {
        struct redis_pending *p = &ring[(head + i) & mask];
        if (p->fn)
            p->fn(NULL, p->arg);
    }
    free(ring);
    if (!r->closing && r->handlers.on_down)
        r->handlers.on_down(r, reason, r->handlers.arg);
    redis_release(r);
}

/* An answer that is late counts only while nothing at all arrives: a peer that sends is alive. */
static void watchdog_look(struct redis *r)
{
    r->watching = false;
    if (!r->n_pending)
        return;
    int64_t since = r->ring[r->head].at > r->last_read ? r->ring[r->head].at : r->last_read;
    if ((double)(redis_clock() - since) > r->command_timeout * 1e6) {
        redis_drop(r, "the server does not answer");
        return;
    }
    redis_watch(r);
}

static void timer_fired(evutil_socket_t fd, short what, void *arg)
{
    (void)fd, (void)what;
    struct redis *r = arg;
    redis_hold(r);
    if (r->state == STATE_DOWN)
        connection_open(r);
    else if (r->state == STATE_UP)
        watchdog_look(r);
    else
        redis_drop(r, r->url.tls ? "no TLS connection within 10 seconds (does the port speak TLS?)"
                                 : "no connection within 10 seconds");
    redis_release(r);
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
    timer_arm(r->timer, 0);
    return r;
}

void redis_close(struct redis *r)
{
    if (!r || r->closing)
        return;
    r->closing = true;
    evtimer_del(r->timer);
    redis_drop(r, "closed");
}

/* Waits until the socket can be written to or `until` has passed. */
static bool socket_wait(int fd, short what, int64_t until)
{
    int64_t left = until - redis_clock();
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
        int64_t until = redis_clock() + (int64_t)(seconds * 1e6);
        bufferevent_disable(r->bev, EV_READ | EV_WRITE);
        /* The server closes its side when it has read and done all: a close of ours with answers
         * still unread would be a reset, which may overtake the commands. */
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
        redis_drop(r, reason);
}

size_t redis_unsent(const struct redis *r)
{
    return r->bev ? evbuffer_get_length(bufferevent_get_output(r->bev)) : 0;
}

int64_t redis_client_id(const struct redis *r)
{
    return r->state == STATE_UP ? r->client_id : 0;
}
