/* SPDX-License-Identifier: Apache-2.0 */
#ifndef WORKER_TASK_PRIVATE_H
#define WORKER_TASK_PRIVATE_H

/* What is behind a cw_task, shared by the files that implement tasks/cworker.h. One exists per run
 * and is touched by the thread that runs it only; whatever is lazily made (headers, info, clients)
 * is NULL until it is asked for, so that an empty task costs next to nothing. */

#include "tasks/cworker.h"
#include "worker/registry.h"
#include "worker/task/result_kind.h"
#include "worker/task/task_run.h"

enum { TASK_RESULT_MAX = 256 << 20 };

/* What the last failed helper reported, for cw_fail. */
struct problem {
    char *type, *text;
    char *detail; /* further lines of the traceback, NULL: none */
    bool transient, stopped;
    double retry_after;
};

struct deferred {
    struct deferred *next;
    void (*fn)(void *);
    void *arg;
};

struct memory {
    struct memory *next;
    max_align_t bytes[];
};

struct cw_task {
    const struct task_frame *frame;
    const struct registry_entry *entry;
    struct slot *slot; /* may be NULL: nobody can ask it to stop */
    const struct task_port *port;
    int64_t started_us;

    cJSON *body, *headers, *properties;
    cJSON *args, *kwargs; /* inside body */
    int n_args;
    const cJSON **values; /* by the place in def->args; NULL: not given */
    struct cw_info info;
    bool has_info;

    struct memory *memory;
    struct deferred *deferred;
    struct problem problem;
    const char *misuse; /* the handler used the API wrongly: replaces whatever its verdict was */
    const char *misuse_type;

    enum result_kind verdict;
    bool requeue;
    double countdown;
    struct buf result, traceback, repr;
    cJSON *sends;
    bool replaced; /* what it sends leaves though it is ignored */

    struct _mongoc_client_t *mongo;
    struct kept_collection *collections;
    struct secret *secrets; /* that it asked for */
    const char *tmpdir;
    int64_t tools_cpu_us; /* of the programs it ran */
};

/* One place in the source, for tracebacks. */
struct place {
    const char *file, *function;
    int line;
};

extern struct task_process task_process;

int task_max_retries(const struct cw_task *t); /* < 0: without end */

/* Binds args and kwargs to the table's names; false after having given the TypeError as verdict. */
bool task_bind(struct cw_task *t);
/* The first misuse counts. */
void task_misuse(struct cw_task *t, const char *type, const char *fmt, ...)
    __attribute__((format(printf, 3, 4), cold));

/* The verdict of a bad call; never retried. */
cw_outcome task_type_error(struct cw_task *t, const char *fmt, ...)
    __attribute__((format(printf, 2, 3), cold));
cw_outcome task_error(struct cw_task *t, const char *type, const char *text);
cw_outcome task_fail(struct cw_task *t, const struct place *place, const char *type, cJSON *args,
                     const char *detail);
cw_outcome task_retry(struct cw_task *t, const struct place *place, double countdown,
                      const char *type, cJSON *args, const char *detail);

/* Remembers why a helper failed; returns -1, so that `return helper_failed(…)` is the whole path.
 */
int helper_failed(struct cw_task *t, bool transient, const char *type, const char *fmt, ...)
    __attribute__((format(printf, 4, 5), cold));
int helper_stopped(struct cw_task *t);

/* A finished C text that lives as long as the delivery. */
char *task_text(struct cw_task *t, const char *text, size_t size);

/* `text` lives until the delivery ends, and secrets_blot takes it out of texts. */
void secret_keep(struct cw_task *t, const char *name, const char *text);
void secrets_blot(const struct cw_task *t, char *text);

void *table_data(struct cw_task *t, bool *ret_ok);
void http_close(void);
void mongo_close(void);

/* A row of the `tasks` setting as an entry of the registry; `number` names it in errors, from 1. */
int command_task_read(const cJSON *row, int number, struct registry_entry *ret, struct error *err);
void command_task_free(struct registry_entry *entry);

#endif
