/* SPDX-License-Identifier: Apache-2.0 */
/* The program: which command, and for the worker what has to happen in which order. The zygote is
 * forked while this process has one thread and no connection; everything after that may have
 * both. */

#include "proto/base/mem.h"
#include "worker/banner.h"
#include "worker/command/command.h"
#include "worker/log.h"
#include "worker/config/options.h"
#include "worker/pidfile.h"
#include "worker/registry.h"
#include "worker/task/task_run.h"
#include "worker/worker.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

/* libmongoc has made this file before main() began, for a tool that shows its counters. A kill -9
 * would leave it behind, and the next process with this pid would complain about it. */
static void mongoc_counters_unlink(void)
{
    char name[32];
    snprintf(name, sizeof name, "/mongoc-%d", (int)getpid());
    shm_unlink(name);
}

static int load_tasks(struct options *o, struct error *err)
{
    int code = registry_add_builtin();
    for (char **app = o->apps; app && *app && code == 0; app++)
        code = registry_load_plugin(*app, err);
    if (code == 0 && o->settings.tasks)
        code = registry_add_commands(o->settings.tasks, err);
    const char *lost = registry_set_aliases(o->settings.task_aliases, !o->no_alias);
    if (code == 0 && lost && strcmp(o->command, "worker") == 0)
        log_warning("task_aliases: \"%.60s\" leads to no task that is loaded", lost);
    return code;
}

static enum pool_kind pool_kind_of(const char *name)
{
    return strcmp(name, "threads") == 0 ? POOL_THREADS
           : strcmp(name, "solo") == 0  ? POOL_SOLO
                                        : POOL_PREFORK;
}

static int claim_pidfile(const struct options *o)
{
    int claimed = o->pidfile ? pidfile_claim(o->pidfile) : 0;
    if (claimed != 0)
        log_line(LOG_CRITICAL, "--pidfile: %s: %s", o->pidfile,
                 claimed == EXIT_PIDFILE ? "another worker has it" : strerror(errno));
    return claimed;
}

/* What is wrong with the pid file has been said by now: afterwards nobody would hear it. */
static int detach(const struct options *o)
{
    if (o->pidfile)
        pidfile_release(o->pidfile);
    if (daemon(1, 0) < 0) {
        perror("cworker: --detach");
        return 1;
    }
    return claim_pidfile(o);
}

/* A descriptor for each child, and some left for connections that come back: of the usual 1024 not
 * much remains beside a large pool. Only here, since a task's programs may not be made for it. */
static void raise_descriptors(void)
{
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) < 0)
        return;
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_NOFILE, &limit);
}

static int run_worker(struct options *o)
{
    struct settings *s = &o->settings;
    int prefetch = registry_prefetch(o->queues, s->task_default_queue);
    if (prefetch && !settings_given(s, "worker_prefetch_multiplier"))
        s->worker_prefetch_multiplier = prefetch;
    if (!settings_given(s, "worker_max_tasks_per_child"))
        s->worker_max_tasks_per_child = registry_tasks_per_child(o->queues);
    struct pool_options pool = {
        .kind = pool_kind_of(s->worker_pool),
        .concurrency = (int)s->worker_concurrency,
        .max_tasks_per_child = (int)s->worker_max_tasks_per_child,
        .max_memory_kb = s->worker_max_memory_per_child,
    };
    if (pool.kind == POOL_SOLO)
        pool.concurrency = 1;
    struct task_process process = {
        .hostname = o->hostname,
        .default_queue = s->task_default_queue,
        .settings = s,
    };
    task_process_init(&process);
    int claimed = claim_pidfile(o);
    if (claimed == 0 && o->detach)
        claimed = detach(o);
    if (claimed != 0)
        return claimed;
    struct zygote *zygote = zygote_start(&pool);
    if (pool.kind == POOL_PREFORK)
        raise_descriptors();
    worker_hold_signals();
    log_process_name("MainProcess");
    if (!o->quiet)
        banner_print(o, pool.concurrency);
    int status = o->purge && command_purge_now(o) != 0 ? 1 : worker_run(o, zygote, &pool);
    if (o->pidfile)
        pidfile_release(o->pidfile);
    return status;
}

/* What a full disk has not taken is missing in a file that the caller believes to be whole. */
static int check_output(const struct options *o, int status)
{
    errno = 0;
    if (fflush(stdout) == 0 && !ferror(stdout))
        return status;
    fprintf(stderr, "cworker %s: the output could not be written: %s\n", o->command,
            errno ? strerror(errno) : "an earlier part is missing");
    return status ? status : 1;
}

static int run_command(struct options *o)
{
    static const struct {
        const char *name;
        int (*run)(struct options *);
    } commands[] = {
        {"worker", run_worker},
#define COMMAND_ROW(name, help) {#name, command_##name},
        COMMANDS(COMMAND_ROW)
#undef COMMAND_ROW
    };
    for (size_t i = 0; i < sizeof commands / sizeof *commands; i++)
        if (strcmp(o->command, commands[i].name) == 0)
            return check_output(o, commands[i].run(o));
    fprintf(stderr, "cworker: no such command: %s (see cworker --help)\n", o->command);
    return 2;
}

/* Where the caller has closed one of the three, a socket would get its number, and be sent what is
 * printed or logged. */
static void open_standard_streams(void)
{
    int fd;
    do
        fd = open("/dev/null", O_RDWR);
    while (fd >= 0 && fd <= STDERR_FILENO);
    if (fd >= 0)
        close(fd);
}

int main(int argc, char **argv)
{
    struct options options;
    struct error err = {0};
    open_standard_streams();
    mongoc_counters_unlink();
    int code = options_parse(&options, argc, argv);
    if (code >= 1000)
        return code - 1000;
    if (log_open(options.logfile, options.loglevel, options.settings.worker_log_json,
                 options.settings.worker_log_color) < 0) {
        fprintf(stderr, "cworker: --logfile: %s: %s\n", options.logfile, strerror(errno));
        options_done(&options);
        return 1;
    }
    int status = 1;
    if (load_tasks(&options, &err) < 0)
        fprintf(stderr, "cworker: %s\n", err.text);
    else
        status = run_command(&options);
    options_done(&options);
    return status;
}
