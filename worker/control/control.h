/* SPDX-License-Identifier: Apache-2.0 */
#ifndef WORKER_CONTROL_H
#define WORKER_CONTROL_H

/* Remote control, as Celery's pidbox: commands of operators and of other workers come over a fanout
 * exchange and are answered to whoever asked. All of it happens on the loop, between tasks. */

#include "proto/json.h"

struct control;
struct worker;

struct control *control_open(struct worker *w); /* w->fanout is there */
void control_close(struct control *c);
void control_up(struct control *c); /* the broker is there (again); looks for other workers once */

/* The commands this worker knows, for help texts. */
enum control_kind { CONTROL_INSPECT, CONTROL_CONTROL };

struct call;
struct control_command {
    const char *name, *alias;
    enum control_kind kind;
    const char *arguments; /* names in Python's order; ! after a required one; * takes any others */
    cJSON *(*run)(struct call *call);
    const char *help;
};
extern const struct control_command control_commands[];
extern const int control_n_commands;

#endif
