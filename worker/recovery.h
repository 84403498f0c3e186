/* SPDX-License-Identifier: Apache-2.0 */
#ifndef WORKER_RECOVERY_H
#define WORKER_RECOVERY_H

/* What dead workers left half done, brought to its end by a worker that runs nothing: for `cworker
 * recover`, before what they held goes back to Kombu. */

#include "broker/channel.h"
#include "worker/config/options.h"

struct recovery_count {
    size_t given_back, settled; /* settled: had ended, and what they caused is published now */
};

/* Looks up the result of every message in these lists. Those that have one are settled, the others
 * go back to their queues. Without a result store it does nothing. 0, or an exit status, having
 * said why; what was not looked at is where it was or in a list that the next call finds. */
int recovery_settle(struct options *o, const struct adoption *lists, size_t n,
                    struct recovery_count *ret_count);

#endif
