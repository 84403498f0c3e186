/* SPDX-License-Identifier: Apache-2.0 */
#ifndef TASKS_LIB_POLICY_H
#define TASKS_LIB_POLICY_H

/* What every built-in task does unless its row says otherwise: one delivery is tried four times
 * with growing pauses, and is acked only when it ended, so that it comes back when its child is
 * killed. */
#define BUILTIN_POLICY BUILTIN_RETRIED(3)
/* For those that wait for others by coming back. */
#define BUILTIN_FOREVER BUILTIN_RETRIED(CW_FOREVER)

#define BUILTIN_RETRIED(times)                                                                     \
    .flags = CW_ACKS_LATE | CW_REJECT_ON_LOST, .max_retries = (times),                             \
    .backoff = {.base = 60, .max = 600}, .soft_limit = 3300, .hard_limit = 3600

#endif
