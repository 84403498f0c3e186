/* SPDX-License-Identifier: Apache-2.0 */
#ifndef WORKER_STORE_SPOOL_H
#define WORKER_STORE_SPOOL_H

/* Records that wait for a store that is down, in a file once there are many. Loop thread only. */

#include "worker/store/backend.h"

struct spool;

struct spool *spool_open(const char *folder, int64_t max_size); /* makes no file yet */
void spool_close(struct spool *s);
bool spool_is_empty(const struct spool *s);

/* Takes the entry when it returns 0; FULL or SYSTEM: it is still the caller's, err says why. */
int spool_push(struct spool *s, struct store_entry *e, struct error *err);
/* The oldest; NULL: empty. With ERROR_LOST as its code nothing of it could be read back but who
 * waits. */
struct store_entry *spool_pop(struct spool *s);

#endif
