/* SPDX-License-Identifier: Apache-2.0 */
#include "worker/command/progress.h"

#include "proto/base/clock.h"
#include "worker/command/command.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

/* Drawn ten times a second at most, and first when the work has lasted that long: what is done at
 * once shows nothing. */

enum { PERIOD_US = 100000, BAR_MOST = 50, TEXT_COLUMNS = 50 };

static int bar_columns(void)
{
    struct winsize size = {0};
    int columns = ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col ? size.ws_col : 80;
    int bar = columns - TEXT_COLUMNS;
    return bar < 0 ? 0 : bar < BAR_MOST ? bar : BAR_MOST;
}

static void draw(struct progress *p)
{
    int columns = bar_columns();
    int64_t total = p->total > p->done ? p->total : p->done;
    int full = (int)((double)columns * (double)p->done / (double)(total ? total : 1));
    fprintf(stderr, "\r%s [", p->what);
    for (int i = 0; i < columns; i++)
        fputc(i < full ? '#' : '.', stderr);
    fprintf(stderr, "] %3d%% %lld of %lld\x1b[K", (int)(100 * p->done / (total ? total : 1)),
            (long long)p->done, (long long)total);
    fflush(stderr);
    p->shown = true;
}

void progress_begin(struct progress *p, const struct options *o, const char *what, int64_t total)
{
    const char *terminal = getenv("TERM");
    *p = (struct progress){.what = what, .total = total, .drawn_at = clock_us(CLOCK_MONOTONIC)};
    p->wanted = isatty(STDERR_FILENO) && terminal && strcmp(terminal, "dumb") != 0 && !o->quiet &&
                !command_flag(o, "json");
}

void progress_add(struct progress *p, int64_t n)
{
    p->done += n;
    if (!p->wanted)
        return;
    int64_t now = clock_us(CLOCK_MONOTONIC);
    if (now - p->drawn_at < PERIOD_US)
        return;
    p->drawn_at = now;
    draw(p);
}

void progress_end(struct progress *p)
{
    if (p->shown)
        fputs("\r\x1b[K", stderr);
    p->shown = false;
}
