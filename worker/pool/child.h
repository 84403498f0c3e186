/* SPDX-License-Identifier: Apache-2.0 */
#ifndef WORKER_CHILD_H
#define WORKER_CHILD_H

/* Private to the zygote: the life of a pool child after its fork. */

#include "worker/pool/fence.h"
#include "worker/pool/lane.h"

#include <stdbool.h>

struct child_options {
    int fd;             /* its socket to main */
    const struct fence *fence;
    struct lane *lanes; /* its own */
    int count;
    bool threads; /* a thread for each lane */
};

void child_serve(const struct child_options *options) __attribute__((noreturn));

#endif
