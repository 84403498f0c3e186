/* SPDX-License-Identifier: Apache-2.0 */
#ifndef WORKER_REVOKE_H
#define WORKER_REVOKE_H

/* The revoked set's life within a worker; the commands are flow_revoke and flow_revoke_stamped
 * (worker.h). */

#include "worker/worker.h"

int revoke_open(struct worker *w, struct error *err);
void revoke_close(struct worker *w);

#endif
