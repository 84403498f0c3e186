/* SPDX-License-Identifier: Apache-2.0 */
#ifndef WORKER_OPTIONS_TABLE_H
#define WORKER_OPTIONS_TABLE_H

/* Every option of every command as a row: options_read.c reads the command line by them,
 * options_apply.c does what they say, help.c prints them. */

#include "worker/command/command.h"

enum command_index {
    COMMAND_worker,
#define COMMAND_INDEX(name, help) COMMAND_##name,
    COMMANDS(COMMAND_INDEX)
#undef COMMAND_INDEX
    N_COMMANDS,
};

enum option_scope {
    IN_worker = 1,
#define COMMAND_SCOPE(name, help) IN_##name = 1 << COMMAND_##name,
    COMMANDS(COMMAND_SCOPE)
#undef COMMAND_SCOPE
    IN_ALL = -1, /* before and after any command */
};

enum option_kind {
    OPTION_SETTING, /* the setting named by `target`; a flag sets it true */
    OPTION_REST,    /* the command reads it itself */
    OPTION_NOTHING, /* Celery's, without meaning in C */
    OPTION_REFUSED, /* Celery's; `help` says why it cannot be had */
    OPTION_APP,
    OPTION_AUTOSCALE,
    OPTION_CONFIG,
    OPTION_DETACH,
    OPTION_EXCLUDE,
    OPTION_GROUP,
    OPTION_HEARTBEAT,
    OPTION_HELP,
    OPTION_HOSTNAME,
    OPTION_LOGFILE,
    OPTION_LOGLEVEL,
    OPTION_NO_ALIAS,
    OPTION_NO_COLOR,
    OPTION_NO_HEARTBEAT,
    OPTION_NO_MINGLE,
    OPTION_NO_GOSSIP,
    OPTION_NO_PREFETCH,
    OPTION_OPTIMIZATION,
    OPTION_PIDFILE,
    OPTION_PREFETCH,
    OPTION_PURGE,
    OPTION_QUEUES,
    OPTION_QUIET,
    OPTION_SET,
    OPTION_UMASK,
    OPTION_USER,
    OPTION_VERSION,
    OPTION_WORKDIR,
};

struct option_row {
    const char *name;
    char letter;          /* 0: none */
    const char *argument; /* how help calls it; NULL: takes none */
    int scope;            /* enum option_scope, or-ed */
    enum option_kind kind;
    const char *target;   /* OPTION_SETTING: the setting */
    const char *help;     /* NULL: another spelling of the row before it, not shown */
};

enum { OPTION_ROWS_MOST = 128 };
extern const struct option_row option_rows[];
extern const int n_option_rows;

extern const char *const command_names[N_COMMANDS];
int command_find(const char *name); /* enum command_index, or -1 */

/* Prints help for a command, or the overview for -1. */
void help_print(int command);
void help_print_settings(void);

#endif
