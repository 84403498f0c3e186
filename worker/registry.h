/* SPDX-License-Identifier: Apache-2.0 */
#ifndef WORKER_REGISTRY_H
#define WORKER_REGISTRY_H

/* All tasks this worker can run: the built-in tables, the plugins' (-A), the programs of the config
 * file. Filled before the zygote is forked, read-only from then on, so that main and children name
 * a task by the same index. A name is looked up exactly, then in the alias table, then, for the
 * built-in tables only, by its last part. */

#include "tasks/cworker.h"
#include "worker/config/settings.h"

struct request;

struct registry_entry {
    const struct cw_table *table;
    const struct cw_def *def;
    bool builtin;
    void (*native)(struct request *r); /* runs in main (native.h); NULL: in a child */
    const cJSON *command; /* a program's row of the `tasks` setting, NULL for a C task */
    /* The definition's until remote control sets others, in main. */
    double soft_limit, hard_limit; /* seconds */
    char *rate_limit;              /* owned, by rate.c; NULL: none */
};

extern struct registry_entry *registry;
extern int registry_size;

int registry_add_builtin(void);
int registry_add_table(const struct cw_table *table, struct error *err);
/* Loads a shared object; err names the file and what is wrong (missing symbol, other API version, a
 * task name that is taken, threads started while loading). */
int registry_load_plugin(const char *path, struct error *err);
int registry_add_commands(const cJSON *rows, struct error *err);
/* Answers one that leads to no task, borrowed; NULL: there is none. */
const char *registry_set_aliases(const cJSON *aliases, bool by_last_part);

/* How many messages to hold for each task that can run, where no setting says: what the tables of
 * these queues ask for at most, or 0. */
int registry_prefetch(char *const *queues, const char *default_queue);
/* After how many tasks a child is replaced, where no setting says: 100 on the queues of built-in
 * tables, whose tasks hold much for a while, else 0. */
int registry_tasks_per_child(char *const *queues);

int registry_find(const char *name); /* index, or -1 */

/* One argument of a call: given by its name, by its place, or its fallback; null where there is
 * none of these. The caller frees. */
cJSON *registry_argument(const struct cw_def *def, const char *name, const cJSON *args,
                         const cJSON *kwargs);

#endif
