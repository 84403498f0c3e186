/* SPDX-License-Identifier: Apache-2.0 */
#ifndef PROTO_BASE_CLOCK_H
#define PROTO_BASE_CLOCK_H

/* The clocks of this host. For broker/ and worker/: what proto/ needs of the time it is told. */

#include <stdint.h>
#include <time.h>

/* Microseconds of CLOCK_MONOTONIC, CLOCK_REALTIME (since the epoch), CLOCK_BOOTTIME … */
static inline int64_t clock_us(clockid_t clock)
{
    struct timespec now;
    clock_gettime(clock, &now);
    return (int64_t)now.tv_sec * 1000000 + now.tv_nsec / 1000;
}

#endif
