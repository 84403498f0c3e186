/* SPDX-License-Identifier: Apache-2.0 */
#include "worker/log.h"

#include "proto/base/buf.h"
#include "proto/base/clock.h"
#include "proto/base/error.h"
#include "proto/base/mem.h"
#include "proto/json.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

/* One line is composed in memory and leaves in one write to a descriptor opened with O_APPEND: that
 * alone lets main, the zygote, children and threads share a file without a lock that a fork could
 * leave held. Like Python's WatchedFileHandler every process notices by itself that the file was
 * rotated away; the new file takes the old one's descriptor number (dup2), so that no other thread
 * sees it closed.
 *
 * Texts come partly from strangers (task names, exceptions): control characters are printed as
 * escapes, so that nobody writes into an operator's terminal or forges the start of a line's task
 * name. */

enum { LONGEST_LINE = 1 << 20, RECHECK_MS = 1000, AGAIN_US = 60000000 };

enum log_level log_threshold = LOG_WARNING;

static struct {
    int fd;
    char *path; /* NULL: stderr */
    bool json, color;
    char process[64];
    _Atomic int64_t checked_ms; /* when the file was last compared with its path */
} out = {.fd = STDERR_FILENO, .process = "MainProcess"};

static const struct level {
    enum log_level level;
    const char *name, *color;
} levels[] = {
    {LOG_DEBUG, "DEBUG", "\033[34m"},     {LOG_INFO, "INFO", ""},
    {LOG_WARNING, "WARNING", "\033[33m"}, {LOG_ERROR, "ERROR", "\033[31m"},
    {LOG_CRITICAL, "CRITICAL", "\033[35m"}, {LOG_CRITICAL, "FATAL", ""},
};

int log_level_parse(const char *text, enum log_level *ret_level)
{
    for (size_t i = 0; i < sizeof levels / sizeof *levels; i++)
        if (strcasecmp(text, levels[i].name) == 0) {
            *ret_level = levels[i].level;
            return 0;
        }
    return ERROR_INVALID;
}

static const struct level *level_of(enum log_level level)
{
    for (size_t i = 0; i < sizeof levels / sizeof *levels; i++)
        if (levels[i].level == level)
            return &levels[i];
    return &levels[1];
}

bool log_again(int64_t *said_at)
{
    int64_t now = clock_us(CLOCK_MONOTONIC);
    if (*said_at && now - *said_at < AGAIN_US)
        return false;
    *said_at = now;
    return true;
}

/* --- where it goes ---------------------------------------------------------------------------- */

static int file_open(const char *path)
{
    return open(path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0644);
}

static bool wants_color(const char *color)
{
    if (out.path || (color && strcasecmp(color, "false") == 0))
        return false;
    if (color && strcasecmp(color, "true") == 0)
        return true;
    const char *never = getenv("NO_COLOR");
    return isatty(STDERR_FILENO) && !(never && *never);
}

int log_open(const char *path, enum log_level threshold, bool json, const char *color)
{
    int fd = path ? file_open(path) : STDERR_FILENO;
    if (fd < 0)
        return ERROR_SYSTEM;
    if (out.path)
        close(out.fd);
    char *copy = mem_dup(path); /* before the old one goes: a caller may pass it again */
    free(out.path);
    out.path = copy;
    out.fd = mem_last_words = fd;
    out.json = json;
    out.color = !json && wants_color(color);
    log_threshold = threshold;
    return 0;
}

int log_reopen(void)
{
    if (!out.path)
        return 0;
    int fd = file_open(out.path);
    if (fd < 0)
        return ERROR_SYSTEM; /* the old file is better than none */
    dup3(fd, out.fd, O_CLOEXEC);
    close(fd);
    return 0;
}

static void reopen_if_rotated(void)
{
    if (!out.path)
        return;
    int64_t ms = clock_us(CLOCK_MONOTONIC_COARSE) / 1000;
    int64_t before = atomic_load(&out.checked_ms);
    if (ms - before < RECHECK_MS || !atomic_compare_exchange_strong(&out.checked_ms, &before, ms))
        return;
    struct stat held, named;
    if (fstat(out.fd, &held) == 0 && stat(out.path, &named) == 0 && held.st_ino == named.st_ino &&
        held.st_dev == named.st_dev)
        return;
    log_reopen();
}

void log_process_name(const char *name)
{
    snprintf(out.process, sizeof out.process, "%s", name);
}

/* A reader that is slow for a moment (stderr may be a non-blocking pipe) is waited for, briefly; a
 * full disk or a closed pipe loses the line and nothing else. */
static void write_all(const char *text, size_t size)
{
    int patience = 20;
    while (size > 0) {
        ssize_t n = write(out.fd, text, size);
        if (n >= 0) {
            text += n;
            size -= (size_t)n;
        } else if (errno == EAGAIN && patience-- > 0) {
            poll(&(struct pollfd){.fd = out.fd, .events = POLLOUT}, 1, 10);
        } else if (errno != EINTR) {
            return;
        }
    }
}

/* --- what a line looks like ------------------------------------------------------------------- */

static void put_clean(struct buf *b, const char *text, bool one_line)
{
    for (const char *at = text; *at; at++) {
        unsigned char c = (unsigned char)*at;
        if ((c < ' ' && c != '\t' && (c != '\n' || one_line)) || c == 127)
            buf_printf(b, "\\x%02x", c);
        else
            buf_char(b, *at);
    }
}

static void put_field(struct buf *b, const char *name, const char *value)
{
    buf_printf(b, ", \"%s\": ", name);
    json_print_string(value, strlen(value), b);
}

static void line_json(struct buf *b, const struct level *level, const struct timespec *now,
                      const char *name, const char *id, const char *text)
{
    struct tm tm;
    char when[32];
    gmtime_r(&now->tv_sec, &tm);
    strftime(when, sizeof when, "%Y-%m-%dT%H:%M:%S", &tm);
    buf_printf(b, "{\"time\": \"%s.%03ldZ\"", when, now->tv_nsec / 1000000);
    put_field(b, "level", level->name);
    put_field(b, "process", out.process);
    buf_printf(b, ", \"pid\": %d", (int)getpid());
    if (name)
        put_field(b, "task_name", name);
    if (id)
        put_field(b, "task_id", id);
    put_field(b, "message", text);
    buf_str(b, "}\n");
}

static void line_text(struct buf *b, const struct level *level, const struct timespec *now,
                      const char *name, const char *id, const char *text)
{
    struct tm tm;
    char when[32];
    localtime_r(&now->tv_sec, &tm);
    strftime(when, sizeof when, "%Y-%m-%d %H:%M:%S", &tm);
    buf_printf(b, "[%s,%03ld: %s/%s] ", when, now->tv_nsec / 1000000, level->name, out.process);
    const char *color = out.color ? level->color : "";
    buf_str(b, color);
    if (name) {
        put_clean(b, name, true);
        buf_char(b, '[');
        put_clean(b, id ? id : "", true);
        buf_str(b, "]: ");
    }
    put_clean(b, text, false);
    buf_str(b, *color ? "\033[0m\n" : "\n");
}

static void line_write(enum log_level level, const char *name, const char *id, const char *fmt,
                       va_list args)
{
    int saved = errno;
    char shorter[512], *longer = NULL;
    va_list again;
    va_copy(again, args);
    int size = vsnprintf(shorter, sizeof shorter, fmt, args);
    if (size >= (int)sizeof shorter) {
        longer = mem_alloc((size_t)size + 1);
        vsnprintf(longer, (size_t)size + 1, fmt, again);
    }
    va_end(again);
    const char *text = longer ? longer : shorter;
    if (size > LONGEST_LINE / 8) /* every byte may grow to an escape of six */
        longer[LONGEST_LINE / 8] = '\0';

    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    struct buf line = BUF_INIT(LONGEST_LINE);
    (out.json ? line_json : line_text)(&line, level_of(level), &now, name, id, text);
    reopen_if_rotated();
    write_all(line.data ? line.data : "", line.size);
    buf_done(&line);
    free(longer);
    errno = saved;
}

void log_line(enum log_level level, const char *fmt, ...)
{
    if (level < log_threshold)
        return;
    va_list args;
    va_start(args, fmt);
    line_write(level, NULL, NULL, fmt, args);
    va_end(args);
}

void log_task(enum log_level level, const char *name, const char *id, const char *fmt, ...)
{
    if (level < log_threshold)
        return;
    va_list args;
    va_start(args, fmt);
    line_write(level, name, id, fmt, args);
    va_end(args);
}
