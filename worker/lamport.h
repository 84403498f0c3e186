/* SPDX-License-Identifier: Apache-2.0 */
#ifndef WORKER_LAMPORT_H
#define WORKER_LAMPORT_H

/* The logical clock that Celery's workers keep (Lamport's): control messages, their replies and
 * events carry it, so that what one caused in another can be put in order. Loop thread only. */

#include <stdint.h>

struct lamport {
    int64_t value;
};

/* Before something is sent: the value to send with it. */
static inline int64_t lamport_forward(struct lamport *clock)
{
    return ++clock->value;
}

/* After something was received with `other`. */
static inline int64_t lamport_adjust(struct lamport *clock, int64_t other)
{
    if (other > clock->value && other < INT64_MAX / 2) /* whatever a stranger sends, it can go on */
        clock->value = other;
    clock->value++;
    return clock->value;
}

#endif
