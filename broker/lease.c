/* SPDX-License-Identifier: Apache-2.0 */
#include "broker/channel_private.h"

#include "proto/base/mem.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Who we are, and the lease that says we live. The one idea: a node's name identifies nobody; one
 * life of one worker is host, boot, pid namespace, pid, the pid's start time and a random number,
 * so two workers never share a list and a death can be proved where all of these are known.
 *
 * The lease is renewed by PEXPIRE, which a Redis out of memory still grants. A kill -9 at any time
 * only stops the renewals. */

static void file_read(const char *path, char *out, size_t size)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t n = fd < 0 ? -1 : read(fd, out, size - 1);
    if (fd >= 0)
        close(fd);
    out[n > 0 ? n : 0] = '\0';
    out[strcspn(out, "\n")] = '\0';
}

/* Fields 3 (state) and 22 (start time in ticks after boot) of a process; 0 when there is none. The
 * name in field 2 may hold anything, so counting starts behind its last parenthesis. */
static int64_t process_start(int64_t pid, char *ret_state)
{
    char path[64], text[1024];
    snprintf(path, sizeof path, "/proc/%lld/stat", (long long)pid);
    file_read(path, text, sizeof text);
    const char *at = strrchr(text, ')');
    if (!at || at[1] != ' ')
        return 0;
    *ret_state = at[2];
    at += 2;
    for (int field = 3; field < 22 && at; field++) {
        at = strchr(at, ' ');
        at += at != NULL;
    }
    return at ? strtoll(at, NULL, 10) : 0;
}

/* A boot and a pid namespace of it: in another container, a missing pid proves nothing. */
static void boot_read(char *out, size_t size)
{
    char boot[64], space[64];
    file_read("/proc/sys/kernel/random/boot_id", boot, sizeof boot);
    ssize_t n = readlink("/proc/self/ns/pid", space, sizeof space - 1);
    space[n > 0 ? n : 0] = '\0';
    snprintf(out, size, "%s %s", boot, space);
}

bool lease_host_is_ours(const char *host, const char *boot)
{
    char our_host[256] = "", our_boot[160];
    gethostname(our_host, sizeof our_host - 1);
    boot_read(our_boot, sizeof our_boot);
    /* Where /proc is hidden there is no boot id to compare, and so no proof. */
    return *our_boot != ' ' && strcmp(host, our_host) == 0 && strcmp(boot, our_boot) == 0;
}

bool process_is_gone(int64_t pid, int64_t start)
{
    char state = 0, ignored = 0;
    if (pid <= 0 || start <= 0 || !process_start(getpid(), &ignored))
        return false;
    int64_t found = process_start(pid, &state);
    if (!found)
        return kill((pid_t)pid, 0) != 0 && errno == ESRCH; /* /proc may hide other users' */
    return found != start || state == 'Z' || state == 'X';
}

static cJSON *lists_describe(struct channel *c)
{
    cJSON *lists = cJSON_CreateArray();
    for (struct lane *lane = lane_first(c); lane; lane = lane_after(lane)) {
        cJSON *pair = cJSON_CreateArray();
        cJSON_AddItemToArray(pair, cJSON_CreateString(lane->inflight.at));
        cJSON_AddItemToArray(pair, cJSON_CreateString(lane->key.at));
        cJSON_AddItemToArray(lists, pair);
    }
    return lists;
}

void lease_identify(struct channel *c)
{
    char host[256] = "", boot[160];
    gethostname(host, sizeof host - 1);
    boot_read(boot, sizeof boot);
    uint64_t random;
    evutil_secure_rng_get_bytes(&random, sizeof random);
    c->incarnation = mem_printf("%s.%s.%.8s.%d.%016llx", c->node, host, boot, (int)getpid(),
                                (unsigned long long)random);
    c->lease_key = mem_printf("%scworker.lease.%s", c->prefix, c->incarnation);
    c->registry_key = mem_printf("%scworker.incarnations", c->prefix);
}

void lease_describe(struct channel *c)
{
    char host[256] = "", boot[160], state;
    gethostname(host, sizeof host - 1);
    boot_read(boot, sizeof boot);
    cJSON *about = cJSON_CreateObject();
    cJSON_AddItemToObject(about, "v", json_int(1));
    cJSON_AddStringToObject(about, "node", c->node);
    cJSON_AddStringToObject(about, "host", host);
    cJSON_AddStringToObject(about, "boot", boot);
    cJSON_AddItemToObject(about, "pid", json_int(getpid()));
    cJSON_AddItemToObject(about, "start", json_int(process_start(getpid(), &state)));
    cJSON_AddItemToObject(about, "lease_ms", json_int((int64_t)(c->lease * 1000)));
    cJSON_AddItemToObject(about, "lists", lists_describe(c));
    free(c->description);
    c->description = json_text(about);
    cJSON_Delete(about);
}

/* Counted from when the renewal was sent: Redis' clock for it started later than that. */
void lease_confirmed(struct channel *c)
{
    c->lease_until = c->lease_asked + (int64_t)(c->lease * 1e6);
    if (c->handlers.on_lease)
        c->handlers.on_lease(c->lease_until, c->handlers.arg);
}

static void lease_lost(struct channel *c)
{
    c->lease_until = 0;
    if (c->handlers.on_lease)
        c->handlers.on_lease(0, c->handlers.arg);
}

static void renewal_answered(const redisReply *reply, void *arg)
{
    struct channel *c = arg;
    c->renewing = false;
    if (!reply)
        return;
    if (reply->type != REDIS_REPLY_INTEGER) {
        note_error(c, "renewing the lease", reply);
    } else if (reply->integer == 1) {
        lease_confirmed(c);
        fetch_pump(c);
    } else {
        /* Nothing may be started until the comparison has shown what is still ours. */
        lease_lost(c);
        recover_start(c);
    }
}

/* The read arms a note for the lease key, which the renewal then causes: watch.c waits for it. */
void lease_renew(struct channel *c)
{
    if (!c->ready || c->renewing)
        return;
    c->lease_asked = time_boot();
    char ms[24];
    snprintf(ms, sizeof ms, "%.0f", c->lease * 1000);
    redis_send(c->redis, NULL, NULL, 2, (struct slice[]){slice_of("GET"), slice_of(c->lease_key)});
    c->renewing = redis_send(c->redis, renewal_answered, c, 3,
                             (struct slice[]){slice_of("PEXPIRE"), slice_of(c->lease_key),
                                              slice_of(ms)}) == 0;
    c->probing = c->armed;
}

static void list_counted(const redisReply *reply, void *arg)
{
    struct lane *lane = arg;
    struct channel *c = lane->c;
    if (!reply || reply->type != REDIS_REPLY_INTEGER || !c->ready || c->awaiting_replicas)
        return;
    if ((size_t)reply->integer != lane->n_held + lane->n_settling)
        recover_start(c);
}

/* A list that has changed behind our back (an old connection's last command, an operator) shows in
 * its length; then everything is compared. */
void lease_tick(evutil_socket_t fd, short what, void *arg)
{
    (void)fd, (void)what;
    struct channel *c = arg;
    timer_arm(c->lease_timer, c->lease / 3);
    watch_check(c);
    lease_renew(c);
    if (!c->ready)
        return;
    for (struct lane *lane = lane_first(c); lane; lane = lane_after(lane))
        redis_send(c->redis, list_counted, lane, 2,
                   (struct slice[]){slice_of("LLEN"), lane->inflight});
    rescue_look(c);
}
