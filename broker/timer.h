/* SPDX-License-Identifier: Apache-2.0 */
#ifndef BROKER_TIMER_H
#define BROKER_TIMER_H

/* libevent's timers, in seconds. */

#include <event2/event.h>

static inline struct timeval timer_seconds(double seconds)
{
    time_t whole = (time_t)seconds;
    return (struct timeval){whole, (suseconds_t)((seconds - (double)whole) * 1e6)};
}

static inline void timer_arm(struct event *timer, double seconds)
{
    struct timeval wait = timer_seconds(seconds);
    evtimer_add(timer, &wait);
}

#endif
