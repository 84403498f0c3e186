/* SPDX-License-Identifier: Apache-2.0 */
#ifndef WORKER_OPTIONS_H
#define WORKER_OPTIONS_H

/* The command line, in Celery's words: `cworker [global options] [command] [options]`. The command
 * is worker when none is named. */

#include "worker/autoscale.h"
#include "worker/log.h"
#include "worker/config/settings.h"

struct options {
    struct settings settings;
    const char *command;   /* worker, call, result, purge, report, … */
    char *hostname;        /* node name, expanded: celery@host */
    char **apps;           /* -A, NULL-ended, may be NULL */
    char **queues;         /* -Q minus -X, NULL-ended, never empty for the worker */
    char **excluded;       /* -X, for commands that find queues by themselves; may be NULL */
    struct autoscale_range autoscale; /* max 0: off */
    enum log_level loglevel;
    char *logfile, *pidfile;
    double heartbeat;      /* seconds between two worker-heartbeat */
    bool quiet, no_alias, purge, detach, without_heartbeat, without_mingle, without_gossip;
    int n_rest;            /* what the sub-command parses itself */
    char **rest;
};

/* Parses argv, the environment and --config. 0; or an exit status (2 usage, 0 after --help or
 * --version) + 1000 having printed what is wrong and what would be right. */
int options_parse(struct options *o, int argc, char **argv);
void options_done(struct options *o);

#endif
