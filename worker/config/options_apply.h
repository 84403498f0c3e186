/* SPDX-License-Identifier: Apache-2.0 */
#ifndef WORKER_OPTIONS_APPLY_H
#define WORKER_OPTIONS_APPLY_H

#include "worker/config/options.h"
#include "worker/config/options_read.h"

/* What is gathered over several options before it means something: texts with commas, malloc'd. */
struct options_gathered {
    char *queues, *excluded, *apps, *hostname;
};

/* Applies file, environment, --set and command line, the strongest last. 0, or as options_parse. */
int options_apply(struct options *o, struct options_gathered *g, const struct options_line *p);

/* `origin` is what a message calls the place the value comes from. */
int options_apply_setting(struct options *o, const char *setting, const char *value,
                          const char *origin);

#endif
