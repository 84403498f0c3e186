/* SPDX-License-Identifier: Apache-2.0 */
#ifndef WORKER_ZYGOTE_H
#define WORKER_ZYGOTE_H

/* Private to the pool: main's line to the zygote, the process that forks and reaps the pool's
 * children. Packets over a SOCK_SEQPACKET pair; either end's EOF tells the other of a death. */

#include "worker/pool/fence.h"
#include "worker/pool/lane.h"
#include "worker/pool/pool.h"

/* What main and all children share. */
struct pool_memory {
    struct fence fence __attribute__((aligned(64)));
    struct lane lanes[LANES_MAX] __attribute__((aligned(64)));
};

struct zygote {
    pid_t pid; /* 0: -P solo, nothing was forked */
    int fd;    /* non-blocking; -1 once it is gone */
    struct pool_memory *shared;
    struct pool_options options;
};

/* main → zygote, with the child's end of its socket */
struct zygote_request {
    uint32_t serial;       /* main's number for this child, in every note about it */
    uint32_t first, lanes; /* its part of `lanes` */
};

enum zygote_note_kind { ZYGOTE_FORKED = 1, ZYGOTE_EXIT };

/* zygote → main */
struct zygote_note {
    uint32_t kind, serial;
    int32_t pid;             /* FORKED: negative errno when the fork failed */
    int32_t status;          /* EXIT: as of wait() */
    int64_t peak_kb, cpu_us; /* EXIT */
};

int zygote_ask(struct zygote *z, const struct zygote_request *r, int fd); /* 0, or -1 and errno */
int zygote_read(struct zygote *z,
                struct zygote_note *ret); /* 1; 0: none now; -1: the zygote is gone */
void zygote_end(struct zygote *z);        /* ends it with all that it forked, and frees */

#endif
