/* SPDX-License-Identifier: Apache-2.0 */
#ifndef WORKER_LOG_H
#define WORKER_LOG_H

/* Celery's log lines: `[2026-11-21 09:22:26,939: INFO/MainProcess] text` on stderr or --logfile,
 * colours only on a terminal, JSON lines by worker_log_json. One write a line, O_APPEND, so that
 * main and children share one file. Thread-safe. */

#include <stdbool.h>
#include <stdint.h>

enum log_level {
    LOG_DEBUG = 10,
    LOG_INFO = 20,
    LOG_WARNING = 30,
    LOG_ERROR = 40,
    LOG_CRITICAL = 50
};

extern enum log_level log_threshold;

int log_open(const char *path /* NULL: stderr */, enum log_level threshold, bool json,
             const char *color);
int log_reopen(void);                   /* after rotation; < 0: the old file stays */
void log_process_name(const char *name); /* MainProcess, ForkPoolWorker-3 … copied */
void log_line(enum log_level level, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* With the task it belongs to: `name[id]: text` and fields of their own in JSON. */
void log_task(enum log_level level, const char *name, const char *id, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));

/* Of a line that would come again and again: true the first time, then once a minute. *said_at: 0 at
 * first. */
bool log_again(int64_t *said_at);

#define log_debug(...) (log_threshold <= LOG_DEBUG ? log_line(LOG_DEBUG, __VA_ARGS__) : (void)0)
#define log_info(...) (log_threshold <= LOG_INFO ? log_line(LOG_INFO, __VA_ARGS__) : (void)0)
#define log_warning(...) log_line(LOG_WARNING, __VA_ARGS__)
#define log_error(...) log_line(LOG_ERROR, __VA_ARGS__)

int log_level_parse(const char *text, enum log_level *ret_level);
#endif
