/* SPDX-License-Identifier: Apache-2.0 */
#ifndef WORKER_PIDFILE_H
#define WORKER_PIDFILE_H

#include <sys/types.h>

/* The process that a pid file names, when it lives and is not ourselves; 0: none, or no such file.
 */
pid_t pidfile_owner(const char *path);

/* Writes our pid, replacing a stale file; after the last fork of the start. 0; EXIT_PIDFILE when a
 * live process holds it; 1 when it cannot be written (errno). */
int pidfile_claim(const char *path);
void pidfile_release(const char *path); /* removes it, if it still names us */

#endif
