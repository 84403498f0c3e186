/* SPDX-License-Identifier: Apache-2.0 */
#include "worker/config/options_table.h"

#include "worker/config/settings.h"

#include <stdio.h>
#include <string.h>

/* Help is printed from the tables that the parser and the settings are made of, so it cannot tell
 * of an option that is not there. Only the sentences around them are written here. */

enum { WIDTH = 92, INDENT = 30 };

static const struct text {
    const char *usage, *about, *after;
} texts[N_COMMANDS] = {
    [COMMAND_worker] =
        {"cworker [OPTIONS] [worker] [OPTIONS]",
         "Takes tasks from Celery queues in Redis and runs them.",
         "Examples:\n"
         "  cworker -b redis://127.0.0.1:6379/0 --result-backend mongodb://127.0.0.1/jobs -Q "
         "scans\n"
         "  cworker -A ./libmytasks.so -Q reports -c 4 -l info\n"
         "  cworker --config worker.json --set worker_prefetch_multiplier=1\n"
         "\n"
         "Signals: TERM and INT finish the running tasks first, QUIT (or a second INT) gives them "
         "back.\n"
         "Every option but --config and --workdir can be set as CELERY_WORKER_<OPTION> in the\n"
         "environment, as in CELERY_WORKER_CONCURRENCY=4.\n"
         "Exit status: 0 stopped as asked, 1 error or INT, 2 bad option, 73 the pid file is in "
         "use.\n"},
    [COMMAND_call] =
        {"cworker [OPTIONS] call NAME [OPTIONS]", "Publishes one task and prints its id.",
         "Examples:\n"
         "  cworker call proj.tasks.add --args '[2, 3]' --wait --timeout 10\n"
         "  cworker call reports.make --kwargs '{\"day\": \"2026-11-21\"}' --queue reports "
         "--countdown 60\n"
         "\n"
         "Exit status: 0; with --wait 1 when the task failed; 69 when Redis does not answer or "
         "--timeout\npassed.\n"},
    [COMMAND_result] =
        {"cworker [OPTIONS] result ID [OPTIONS]",
         "Prints what a task returned, as JSON. Of a failed task the state and the traceback go to "
         "stderr.",
         "Exit status: 0 succeeded, 1 failed, 69 no result is stored (yet).\n"},
    [COMMAND_status] = {"cworker [OPTIONS] status [OPTIONS]",
                        "Shows the workers that are online, Celery's too.",
                        "Exit status: 0; 69 when no node replied or Redis does not answer.\n"},
    [COMMAND_inspect] =
        {"cworker [OPTIONS] inspect COMMAND [ARGUMENTS] [OPTIONS]",
         "Asks the workers, Celery's too; `cworker inspect --list` names the commands.",
         "Examples:\n"
         "  cworker inspect active\n"
         "  cworker inspect stats -d celery@host1 --json\n"
         "\n"
         "Exit status: 0; 69 when no node replied or Redis does not answer.\n"},
    [COMMAND_control] =
        {"cworker [OPTIONS] control COMMAND [ARGUMENTS] [OPTIONS]",
         "Tells the workers, Celery's too, what to do; `cworker control --list` names the "
         "commands.",
         "Examples:\n"
         "  cworker control rate_limit proj.tasks.add 10/m\n"
         "  cworker control shutdown -d celery@host1\n"
         "\n"
         "Exit status: 0; 69 when no node replied (`shutdown` has no reply) or Redis does not "
         "answer.\n"},
    [COMMAND_events] =
        {"cworker [OPTIONS] events [OPTIONS]",
         "Shows what happens: on a terminal a screen of workers and tasks, else a line for each "
         "event. Workers tell of tasks with -E, or after `cworker control enable_events`.",
         "Exit status: 0 after Ctrl-C (on the screen also q); 69 when Redis does not answer.\n"},
    [COMMAND_queues] =
        {"cworker [OPTIONS] queues [OPTIONS]",
         "Shows the queues: those of -Q, else task_default_queue and all that a worker consumes or "
         "died with. "
         "WAITING is what nobody has taken, with the parts of each priority step; IN-FLIGHT what "
         "cworkers hold, UNACKED what Python workers hold, DELAYED what waits for its time, DEAD "
         "what was set aside.",
         "Exit status: 0; 69 when Redis does not answer.\n"},
    [COMMAND_purge] = {"cworker [OPTIONS] purge [OPTIONS]",
                       "Throws all waiting messages of the queues away, of every priority. Running "
                       "tasks, and tasks "
                       "that wait for their time, stay.",
                       "Example:\n"
                       "  cworker purge -Q scans,maintenance -f\n"},
    [COMMAND_dead] =
        {"cworker [OPTIONS] dead [list|show|retry|purge] [NUMBER|ID]... [OPTIONS]",
         "Messages that were set aside: unreadable, for a task nobody knows, or started too often "
         "without an end. Without -Q those of all queues. retry puts a message back into its queue "
         "as it came.",
         "Examples:\n"
         "  cworker dead list\n"
         "  cworker dead show 1 -Q scans\n"
         "  cworker dead retry 5c3b0b57-52d1-4a37-8a3c-2a6b2ad0a2b4\n"
         "  cworker dead purge --all -Q scans -f\n"
         "\n"
         "Exit status: 0; 1 when there is no such letter; 69 when Redis does not answer.\n"},
    [COMMAND_recover] =
        {"cworker [OPTIONS] recover [OPTIONS]",
         "Gives every message that cworkers hold or delay back to its queue, as Celery's own "
         "workers "
         "would, for a fleet that goes on without cworker. With --result-backend, tasks that had "
         "ended "
         "do not go back: what they caused is published. Dead letters stay: see `cworker dead`.",
         "Exit status: 0; 1 when workers still live; 69 when Redis or the result store does not "
         "answer.\n"},
    [COMMAND_tasks] =
        {"cworker [OPTIONS] tasks [list | show NAME | init]",
         "Lists the tasks that are built in, loaded by -A or configured; shows the "
         "arguments and policy of one; makes the MongoDB indexes they count on (those "
         "that are there stay).",
         "Exit status: 0; 1 no such task, or an index that cannot be made; 69 MongoDB "
         "does not answer.\n"},
    [COMMAND_report] = {"cworker [OPTIONS] report",
                        "Prints versions, settings (passwords masked) and tasks.", ""},
};

static const char *const summaries[N_COMMANDS] = {
    "run tasks (the default)",
#define COMMAND_SUMMARY(name, help) help,
    COMMANDS(COMMAND_SUMMARY)
#undef COMMAND_SUMMARY
};

/* Prints `text` from column `at` on, broken between words, later lines indented. */
static void print_wrapped(const char *text, int at, int indent)
{
    while (*text) {
        int size = (int)strcspn(text, " ");
        if (at > indent && at + 1 + size > WIDTH) {
            printf("\n%*s", indent, "");
            at = indent;
        } else if (at > indent) {
            putchar(' ');
            at++;
        }
        printf("%.*s", size, text);
        at += size;
        text += size;
        text += strspn(text, " ");
    }
    putchar('\n');
}

static void print_option(const struct option_row *row)
{
    char head[64];
    const char *space = row->argument ? " " : "", *argument = row->argument ? row->argument : "";
    int size = row->letter
                   ? snprintf(head, sizeof head, "  -%c, --%s%s%s", row->letter, row->name, space,
                              argument)
                   : snprintf(head, sizeof head, "      --%s%s%s", row->name, space, argument);
    if (size < INDENT - 1)
        printf("%-*s", INDENT, head);
    else
        printf("%s\n%*s", head, INDENT, "");
    print_wrapped(row->help, INDENT, INDENT);
}

enum part { PART_OWN, PART_EVERYWHERE, PART_NO_EFFECT, PART_REFUSED };

static enum part part_of(const struct option_row *row)
{
    switch (row->kind) {
    case OPTION_REFUSED:
        return PART_REFUSED;
    case OPTION_NOTHING:
    case OPTION_OPTIMIZATION:
    case OPTION_USER:
    case OPTION_GROUP:
        return PART_NO_EFFECT;
    default:
        return row->scope == IN_ALL ? PART_EVERYWHERE : PART_OWN;
    }
}

static void print_part(int command, enum part part, const char *title)
{
    bool any = false;
    for (int i = 0; i < n_option_rows; i++) {
        const struct option_row *row = &option_rows[i];
        if (!row->help || !(row->scope & (1 << command)) || part_of(row) != part)
            continue;
        if (!any)
            printf("\n%s\n", title);
        any = true;
        print_option(row);
    }
}

static void print_commands(void)
{
    printf("\nCommands (cworker COMMAND --help tells more):\n");
    for (int i = 0; i < N_COMMANDS; i++)
        printf("  %-*s%s\n", INDENT - 2, command_names[i], summaries[i]);
    printf("  %-*s%s\n", INDENT - 2, "help settings", "all settings for --set and --config");
}

static void print_precedence(void)
{
    printf("\nSettings have Celery's lower-case names. What counts, first to last: options, --set, "
           "the\n"
           "environment (CELERY_BROKER_URL, CELERY_RESULT_BACKEND, CWORKER_<NAME> as in\n"
           "CWORKER_TASK_ACKS_LATE), the --config file (or CWORKER_CONFIG), the default.\n");
}

void help_print(int command)
{
    bool overview = command < 0;
    if (overview)
        command = COMMAND_worker;
    printf("Usage: %s\n\n",
           overview ? "cworker [OPTIONS] [COMMAND] [OPTIONS]" : texts[command].usage);
    print_wrapped(overview
                      ? "A task worker that speaks Celery's protocol. Without a command it is a "
                        "worker, with the options below."
                      : texts[command].about,
                  0, 0);
    if (overview)
        print_commands();
    print_part(command, PART_OWN, "Options:");
    print_part(command, PART_EVERYWHERE, "Options of every command, before or after it:");
    print_part(command, PART_NO_EFFECT, "Accepted for Celery's sake, without effect:");
    print_part(command, PART_REFUSED, "Celery's, but refused:");
    print_precedence();
    if (*texts[command].after)
        printf("\n%s", texts[command].after);
}

void help_print_settings(void)
{
    printf("Settings, for --set NAME=VALUE, the --config file and CWORKER_<NAME>:\n\n");
    settings_print_help(stdout);
    printf("\nOther settings of Celery's are accepted without effect, so that its configuration "
           "can be\n"
           "used as it is; a misspelt name is an error.\n");
}
