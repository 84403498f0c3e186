/* SPDX-License-Identifier: Apache-2.0 */
#ifndef WORKER_LANE_H
#define WORKER_LANE_H

/* Private to the pool and its children: what both share of one lane, in memory that outlives the
 * child. It answers, whatever kills the child at whatever instant, which of the jobs it was sent
 * had begun and which had ended.
 *
 * Claims. main writes a job's number into a free place of the ring and then sends the frame, which
 * names the place. Whoever changes the place from that number to 0 has the job: the child, to run
 * it, or main, to take it back. The child skips frames whose claim it lost, and waits with the
 * others while it may not begin any (fence.h).
 *
 * Outcomes. They are gathered in `out` and sent together. What lies there when the child dies, or
 * when a long job holds up the sending, main reads here; the same outcome coming through the socket
 * later is of an unknown job and ignored. `out` only grows until it is sent; then `generation` is
 * raised before `out_size` goes back to 0, so that a reader of a living child's notices. */

#include "worker/pool/slot.h"

enum {
    LANES_MAX = 1024, /* of one worker, the lanes of children that are on their way out included */
    LANE_PLACES = 128,
    LANE_OUT = 64 << 10,
};

struct lane {
    struct slot slot;
    _Atomic int32_t pid,
        tid;                 /* of the child, and of the thread that works here; 0: not begun yet */
    _Atomic uint32_t guilty; /* this lane's task brought down the process (threads) */
    _Atomic uint32_t generation; /* of `out` */
    _Atomic uint32_t out_size;
    char pad[64 - 20];
    _Atomic uint64_t claims[LANE_PLACES];
    char out[LANE_OUT]; /* whole frames */
};

#endif
