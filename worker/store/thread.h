/* SPDX-License-Identifier: Apache-2.0 */
#ifndef WORKER_STORE_THREAD_H
#define WORKER_STORE_THREAD_H

/* A thread around a writer that blocks (MongoDB's driver, fsync). The writer's functions run in
 * that thread only, one at a time; whatever there is to tell comes out on the loop thread. */

#include "worker/store/backend.h"

struct store_thread;

struct store_writer {
    /* Writes entries of different ids. For each it sets code to 0 or refuses it; those it leaves
     * STORE_WAITING come again, in which case it returns a transient code and err says why. */
    int (*write)(void *state, struct store_thread *t, struct store_entry **entries, size_t n,
                 struct error *err);
    char *(*read)(void *state, const char *id, struct error *err);
    /* Housekeeping that is due; returns the seconds until the next. */
    double (*tidy)(void *state, struct store_thread *t);
    void (*close)(void *state);
    void (*cleanup)(void *state, struct store_thread *t); /* asked for by store_tidy; may be NULL */
};

/* Takes `state`, also on failure. */
struct store_thread *store_thread_open(const struct store_setup *setup,
                                       const struct store_writer *ops, void *state,
                                       struct error *err);
void store_thread_put(void *thread, struct store_entry *e);
void store_thread_get(void *thread, const char *id, store_read_fn *fn, void *arg);
void store_thread_cleanup(void *thread);
bool store_thread_is_down(void *thread); /* or hangs */
/* Waits at most `patience` seconds; what is not durable by then is never settled. */
void store_thread_close(void *thread, double patience);

/* For the writer: a line for the operator. t may be NULL. */
void store_thread_note(struct store_thread *t, bool warning, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

#endif
