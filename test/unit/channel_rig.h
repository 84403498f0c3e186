/* SPDX-License-Identifier: Apache-2.0 */
#ifndef TEST_UNIT_CHANNEL_RIG_H
#define TEST_UNIT_CHANNEL_RIG_H

#include "broker/channel_private.h"
#include "proto/base/mem.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

/* A channel against a real Redis, private to this run. The one idea: a second, blocking connection
 * (`admin`) looks at what is really in Redis, and plays producer, rescuer and saboteur. */

static char folder[64], socket_path[96], tcp_url[64], unix_url[128];
static pid_t server;
static redisContext *admin;
static struct event_base *base;

enum { MAX_MESSAGES = 5000 };
static const double PATIENCE = 30;

struct item {
    struct delivery d;
    char *text;
};

struct worker {
    struct channel *c;
    struct item items[MAX_MESSAGES];
    size_t n, most, n_settled, n_failed, n_notes;
    int n_up, n_down, n_lost, last_code;
    size_t window; /* kept open this wide by hand_back */
    bool hand_back;
    char last_note[400];
};

/* --- harness --- */

static inline redisReply *ask(const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    redisReply *reply = redisvCommand(admin, fmt, args);
    va_end(args);
    if (!reply)
        fail_msg("admin: %s", admin->errstr);
    if (reply->type == REDIS_REPLY_ERROR)
        fail_msg("admin: %s: %s", fmt, reply->str);
    return reply;
}

#define TELL(...) freeReplyObject(ask(__VA_ARGS__))
#define NUMBER(...) number_of(ask(__VA_ARGS__))

static inline long long number_of(redisReply *reply)
{
    long long value = reply->type == REDIS_REPLY_INTEGER ? reply->integer : (long long)reply->elements;
    freeReplyObject(reply);
    return value;
}

static int free_port(void)
{
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof address;
    assert_int_equal(bind(fd, (struct sockaddr *)&address, size), 0);
    getsockname(fd, (struct sockaddr *)&address, &size);
    close(fd);
    return ntohs(address.sin_port);
}

static void server_start(int port)
{
    char number[16];
    snprintf(number, sizeof number, "%d", port);
    server = fork();
    if (server == 0) {
        int null = open("/dev/null", O_WRONLY);
        dup2(null, 1);
        dup2(null, 2);
        prctl(PR_SET_PDEATHSIG, SIGKILL); /* a test that crashes takes its server along */
        execlp("redis-server", "redis-server", "--port", number, "--bind", "127.0.0.1",
               "--unixsocket", socket_path, "--dir", folder, "--save", "", (char *)NULL);
        _exit(127);
    }
    for (int i = 0; i < 500 && !admin; i++) {
        admin = redisConnectUnix(socket_path);
        if (admin && admin->err) {
            redisFree(admin);
            admin = NULL;
            usleep(20000);
        }
    }
    assert_non_null(admin);
}

static inline int group_setup(void **state)
{
    (void)state;
    const char *tmp = getenv("TMPDIR");
    snprintf(folder, sizeof folder, "%.30s/channel-XXXXXX", tmp ? tmp : "/tmp");
    assert_non_null(mkdtemp(folder));
    snprintf(socket_path, sizeof socket_path, "%s/redis.sock", folder);
    int port = free_port();
    snprintf(tcp_url, sizeof tcp_url, "redis://127.0.0.1:%d/0", port);
    snprintf(unix_url, sizeof unix_url, "redis+socket://%s", socket_path);
    server_start(port);
    return 0;
}

static inline int group_teardown(void **state)
{
    (void)state;
    redisFree(admin);
    kill(server, SIGTERM);
    waitpid(server, NULL, 0);
    return rmdir(folder);
}

static inline int test_setup(void **state)
{
    (void)state;
    TELL("FLUSHALL");
    base = event_base_new();
    return 0;
}

static inline int test_teardown(void **state)
{
    (void)state;
    event_base_free(base);
    return 0;
}

static void nothing(evutil_socket_t fd, short what, void *arg)
{
    (void)fd, (void)what, (void)arg;
}

static double seconds_now(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

static void loop_once(void)
{
    struct timeval tick = {0, 5000};
    event_base_once(base, -1, EV_TIMEOUT, nothing, NULL, &tick);
    event_base_loop(base, EVLOOP_ONCE);
}

static inline void loop_for(double seconds)
{
    for (double end = seconds_now() + seconds; seconds_now() < end;)
        loop_once();
}

#define WAIT_FOR(condition)                                                                        \
    do {                                                                                           \
        double end_ = seconds_now() + PATIENCE;                                                    \
        while (!(condition) && seconds_now() < end_)                                               \
            loop_once();                                                                           \
        if (!(condition))                                                                          \
            fail_msg("waited in vain for " #condition);                                            \
    } while (0)

static inline void settled(int code, void *arg)
{
    struct worker *w = arg;
    w->last_code = code;
    w->n_settled++;
    w->n_failed += code != 0;
    if (w->hand_back)
        channel_set_window(w->c, w->window);
}

static void message_came(char *text, size_t size, const char *queue, int step, void *arg)
{
    struct worker *w = arg;
    assert_true(w->n < MAX_MESSAGES);
    struct item *item = &w->items[w->n++];
    item->text = text;
    channel_hold(w->c, &item->d, (struct slice){text, size}, queue, step);
    if (w->hand_back)
        channel_settle(w->c, &item->d, NULL, 0, settled, w);
}

static void message_lost(struct delivery *d, void *arg)
{
    struct worker *w = arg;
    assert_false(d->held);
    w->n_lost++;
}

static void channel_up(void *arg)
{
    ((struct worker *)arg)->n_up++;
}

static void channel_down(const char *reason, void *arg)
{
    (void)reason;
    ((struct worker *)arg)->n_down++;
}

static void noted(const char *text, bool warning, void *arg)
{
    struct worker *w = arg;
    (void)warning;
    w->n_notes++;
    snprintf(w->last_note, sizeof w->last_note, "%s", text);
}

static inline struct worker *worker_open(const char *url_text, struct channel_options o)
{
    static const char *const usual[] = {"q", NULL};
    struct worker *w = mem_zalloc(sizeof *w);
    struct channel_handlers h = {message_came, message_lost, NULL, channel_up, channel_down, noted, w};
    struct redis_url url;
    struct error err = {0};
    assert_int_equal(redis_url_parse(url_text, &url, &err), 0);
    o.node = o.node ? o.node : "celery@test host";
    o.queues = o.queues ? o.queues : usual;
    w->c = channel_open(base, &url, &o, &h, &err);
    if (!w->c)
        fail_msg("%s", err.text);
    redis_url_done(&url);
    WAIT_FOR(w->n_up);
    return w;
}

static inline void worker_close(struct worker *w)
{
    channel_close(w->c);
    for (size_t i = 0; i < w->n; i++)
        free(w->items[i].text);
    free(w);
}

static inline void push(const char *key, const char *text)
{
    TELL("LPUSH %b %s", key, strlen(key), text);
}

static inline long long inflight_count(struct worker *w)
{
    long long n = 0;
    for (struct lane *lane = lane_first(w->c); lane; lane = lane_after(lane))
        n += NUMBER("LLEN %b", lane->inflight.at, lane->inflight.size);
    return n;
}

static inline void expect_element(const char *key, int index, const char *text)
{
    redisReply *reply = ask("LINDEX %s %d", key, index);
    assert_int_equal(reply->type, REDIS_REPLY_STRING);
    assert_string_equal(reply->str, text);
    freeReplyObject(reply);
}

static inline void settle_all(struct worker *w)
{
    for (size_t i = 0; i < w->n; i++)
        if (w->items[i].d.held)
            channel_settle(w->c, &w->items[i].d, NULL, 0, settled, w);
    WAIT_FOR(channel_is_quiet(w->c));
}

#endif
