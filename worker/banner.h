/* SPDX-License-Identifier: Apache-2.0 */
#ifndef WORKER_BANNER_H
#define WORKER_BANNER_H

#include "worker/config/options.h"

/* What a worker says of itself on stdout when it starts: node, configuration (passwords masked),
 * queues, and from level info on its tasks. Tasks are those of the registry. */
void banner_print(const struct options *o, int concurrency);

#endif
