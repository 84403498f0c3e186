/* SPDX-License-Identifier: Apache-2.0 */
#ifndef WORKER_REVOKE_H
#define WORKER_REVOKE_H

/* The revoked set's life within a worker; the commands are flow_revoke and flow_revoke_stamped
 * (worker.h). */

#include "worker/worker.h"

/* --- revoke.c --- */
int revoke_open(struct worker *w, struct error *err); /* reads the state file */
void revoke_close(struct worker *w);                  /* writes it */

/* --- revoked_keep.c --- */
void revoked_share_ids(struct worker *w, const char *const *ids, size_t n);
void revoked_share_stamps(struct worker *w, const cJSON *headers);
void revoked_forget_stamps(struct worker *w); /* here and for workers that start later */
void revoked_read_fleet(struct worker *w); /* with each new connection, before it fetches */
int revoked_load(struct worker *w, struct error *err);
/* what has changed; else not before its time has come */
void revoked_save(struct worker *w, bool now);

#endif
