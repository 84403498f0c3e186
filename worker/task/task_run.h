/* SPDX-License-Identifier: Apache-2.0 */
#ifndef WORKER_TASK_RUN_H
#define WORKER_TASK_RUN_H

/* Runs one task in the calling thread: checks the arguments, calls the handler, makes the outcome.
 * The child side of the task API (tasks/cworker.h) lives behind it. Used by pool children and by -P
 * solo. */

#include "worker/pool/frame.h"
#include "worker/pool/slot.h"

/* Where a running task reports states; called from the task's thread. */
struct task_port {
    void (*on_state)(const struct state_frame *f, void *arg);
    void *arg;
    bool alone; /* nothing else runs in this process meanwhile: its limits may be moved */
};

struct settings;

/* What all tasks of this process share; set once before the first task_run. */
struct task_process {
    const char *hostname;
    const char *default_queue;
    const struct settings *settings; /* for cw_result, cw_mongo */
};
void task_process_init(const struct task_process *p);

/* The outcome's slices stay valid until task_run_done(token). */
void *task_run(const struct task_frame *f, struct slot *slot, const struct task_port *port,
               struct outcome_frame *ret_outcome);
void task_run_done(void *token);
void task_process_done(void); /* closes what tables opened, pools of clients */

#endif
