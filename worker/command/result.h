/* SPDX-License-Identifier: Apache-2.0 */
#ifndef WORKER_COMMAND_RESULT_H
#define WORKER_COMMAND_RESULT_H

#include "worker/config/options.h"

enum { RESULT_NOT_YET = -1 };

/* Reads the result of `id` and prints it: the value as JSON on stdout; of a failure state and
 * traceback on stderr. The exit status; RESULT_NOT_YET, with nothing printed, when there is none or
 * none that is final, and then ret_state (64 bytes) is its state or "". */
int result_print(const struct options *o, const char *id, bool traceback, char *ret_state);

#endif
