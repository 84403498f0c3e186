/* SPDX-License-Identifier: Apache-2.0 */
#ifndef WORKER_REPORT_H
#define WORKER_REPORT_H

#include "worker/config/options.h"

/* What a bug report needs, as `cworker report` and `inspect report` show it. Caller frees. */
char *report_text(const struct options *o);

#endif
