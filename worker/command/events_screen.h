/* SPDX-License-Identifier: Apache-2.0 */
#ifndef WORKER_EVENTS_SCREEN_H
#define WORKER_EVENTS_SCREEN_H

/* The screen of `cworker events`: what the events so far add up to. */

#include "proto/json.h"

struct screen;

struct screen *screen_new(void);
void screen_free(struct screen *s);
void screen_event(struct screen *s, const cJSON *event);

/* Takes the terminal over, and gives it back as it was. */
void screen_enter(struct screen *s);
void screen_leave(struct screen *s);
void screen_draw(const struct screen *s, bool connected); /* the whole of it, to stdout */

#endif
