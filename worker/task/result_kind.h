/* SPDX-License-Identifier: Apache-2.0 */
#ifndef WORKER_RESULT_KIND_H
#define WORKER_RESULT_KIND_H

/* How a run of a handler ended, as the handler's verdict says it (cw_outcome.kind). 0 is no
 * verdict: a handler that made its outcome itself. */
enum result_kind {
    RESULT_NONE,
    RESULT_SUCCESS,
    RESULT_FAILURE,
    RESULT_RETRY,
    RESULT_REJECT,
    RESULT_IGNORE,
};

#endif
