/* SPDX-License-Identifier: Apache-2.0 */
#ifndef WORKER_AUTOSCALE_H
#define WORKER_AUTOSCALE_H

/* --autoscale=max,min: the pool grows while tasks have to wait for a lane, and shrinks when it has
 * been larger than needed for a while (environment AUTOSCALE_KEEPALIVE, 30 s). */

#include <stdbool.h>

struct worker;

struct autoscale_range {
    int max, min;
};

/* "10,3", "3,10" or "10" (then the other is 0), as Celery reads it. */
bool autoscale_parse(const char *text, struct autoscale_range *ret);

void autoscale_open(struct worker *w, struct autoscale_range range);
void autoscale_close(struct worker *w);
/* and the pool brought within it */
void autoscale_set(struct worker *w, struct autoscale_range range);
struct autoscale_range autoscale_get(const struct worker *w);       /* {0, 0}: off */

/* At the end of a turn: does anything wait that no lane takes? */
void autoscale_look(struct worker *w);

#endif
