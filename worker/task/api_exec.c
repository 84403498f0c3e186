/* SPDX-License-Identifier: Apache-2.0 */
#include "worker/task/task_private.h"

#include "proto/base/clock.h"
#include "proto/base/mem.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/pidfd.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

/* Programs that tasks run: argv without a shell, an environment without our secrets, everything
 * they write capped, and an end in every case. They stay in the child's process group, so that
 * whoever kills the child kills them; what they started themselves is found below them in /proc, and
 * remembered: once the program is gone it is below nobody. */

enum { TREE_MAX = 64 };
enum { SLICE_MS = 100, GRACE_US = 2000000, ERRORS_KEPT = 16 << 10, LINE_MAX_SIZE = 16 << 20 };

struct program {
    cw_task *t;
    const struct cw_command *command;
    pid_t pid;
    int pidfd, out, err; /* -1: closed or absent */
    bool ended;
    int status;
    size_t max_output, seen;
    size_t looked; /* so much of the unfinished line holds no newline */
    struct buf output, errors;
    int64_t deadline_us;         /* 0: none */
    int64_t kill_at_us;          /* asked to end; killed for good at this time; 0: not asked */
    int tree[TREE_MAX], n_tree;  /* what it had started by then: descriptors of processes */
    int64_t started_us, tick_us; /* when on_tick is due */
    enum { RAN, STOPPED, TIMED_OUT, TOO_MUCH, TOO_LONG, UNWANTED } why;
};

/* --- starting --- */

static bool names(const char *setting, const char *name)
{
    size_t size = strlen(name);
    return strncmp(setting, name, size) == 0 && setting[size] == '=';
}

static bool given(const struct cw_command *command, const char *name)
{
    for (const char *const *e = command->environment; e && *e; e++)
        if (names(*e, name))
            return true;
    return false;
}

static char **environment_make(cw_task *t, const struct cw_command *command, const char *tmpdir)
{
    size_t n = 0, count = 0;
    while (command->environment && command->environment[count])
        count++;
    char **list = cw_alloc(t, (count + 5) * sizeof *list);
    const char *path = getenv("PATH"), *home = getenv("HOME");
    if (!given(command, "PATH"))
        list[n++] = cw_printf(t, "PATH=%s", path ? path : "/usr/local/bin:/usr/bin:/bin");
    if (!given(command, "HOME"))
        list[n++] = cw_printf(t, "HOME=%s", home ? home : tmpdir);
    if (!given(command, "TMPDIR"))
        list[n++] = cw_printf(t, "TMPDIR=%s", tmpdir);
    if (!given(command, "LANG"))
        list[n++] = cw_printf(t, "LANG=C.UTF-8");
    for (size_t i = 0; i < count; i++)
        list[n++] = task_text(t, command->environment[i], strlen(command->environment[i]));
    return list;
}

/* The whole input lies in memory already, so it becomes a file that the program reads at its own
 * pace: no pipe to feed, no SIGPIPE when it does not read. */
static int input_open(const struct cw_command *command)
{
    if (!command->input)
        return open("/dev/null", O_RDONLY | O_CLOEXEC);
    int fd = memfd_create("input", MFD_CLOEXEC);
    size_t size = command->input_size ? command->input_size : strlen(command->input);
    for (size_t at = 0; fd >= 0 && at < size;) {
        ssize_t n = write(fd, command->input + at, size - at);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0) {
            close(fd);
            return -1;
        }
        at += (size_t)n;
    }
    if (fd >= 0)
        lseek(fd, 0, SEEK_SET);
    return fd;
}

static int spawn(struct program *p, char **environment, int in, int out, int err)
{
    posix_spawn_file_actions_t files;
    posix_spawnattr_t how;
    sigset_t all, none;
    sigfillset(&all);
    sigemptyset(&none);
    posix_spawn_file_actions_init(&files);
    posix_spawn_file_actions_adddup2(&files, in, 0);
    posix_spawn_file_actions_adddup2(&files, out, 1);
    posix_spawn_file_actions_adddup2(&files, err, 2);
    posix_spawn_file_actions_addclosefrom_np(&files, 3);
    if (p->command->folder)
        posix_spawn_file_actions_addchdir_np(&files, p->command->folder);
    posix_spawnattr_init(&how);
    posix_spawnattr_setflags(&how, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF);
    posix_spawnattr_setsigmask(&how, &none);
    posix_spawnattr_setsigdefault(&how, &all);
    char *const *argv = (char *const *)(uintptr_t)p->command->argv;
    int code = posix_spawnp(&p->pid, argv[0], &files, &how, argv, environment);
    posix_spawn_file_actions_destroy(&files);
    posix_spawnattr_destroy(&how);
    return code;
}

static void close_all(const int *fds, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (fds[i] >= 0)
            close(fds[i]);
}

static int start_failed(struct program *p, int code)
{
    const char *name = p->command->argv[0];
    if (code == ENOENT)
        return helper_failed(
            p->t, false, "FileNotFoundError", "program %s is not installed or not in PATH%s%s",
            name, p->command->hint ? ": " : "", p->command->hint ? p->command->hint : "");
    if (code == EACCES || code == ENOEXEC)
        return helper_failed(p->t, false, "PermissionError", "program %s cannot be run: %s", name,
                             strerror(code));
    return helper_failed(p->t, true, "OSError", "program %s: %s", name, strerror(code));
}

/* posix_spawn() cannot set limits, and what the program starts at once would escape one that is set
 * after it. So this process takes the soft limit for that moment; the program cannot raise it. */
static int spawn_limited(struct program *p, char **environment, int in, int out, int err)
{
    static pthread_mutex_t moment = PTHREAD_MUTEX_INITIALIZER;
    struct rlimit none = {0, 0}, file = {p->command->max_file, p->command->max_file}, own, soft;
    pthread_mutex_lock(&moment);
    getrlimit(RLIMIT_FSIZE, &own);
    soft = own;
    if (file.rlim_max && file.rlim_max < own.rlim_cur)
        soft.rlim_cur = file.rlim_max;
    setrlimit(RLIMIT_FSIZE, &soft);
    int code = spawn(p, environment, in, out, err);
    setrlimit(RLIMIT_FSIZE, &own);
    pthread_mutex_unlock(&moment);
    if (code == 0) {
        prlimit(p->pid, RLIMIT_CORE, &none, NULL);
        if (file.rlim_max)
            prlimit(p->pid, RLIMIT_FSIZE, &file, NULL);
    }
    return code;
}

static int program_start(struct program *p)
{
    const char *tmpdir = cw_tmpdir(p->t);
    if (!tmpdir)
        return -1;
    /* Above the standard three: dup2 of a number onto itself would keep it close-on-exec. */
    int fds[5] = {-1, -1, -1, -1, -1};
    fds[0] = input_open(p->command);
    int code =
        fds[0] < 0 || pipe2(fds + 1, O_CLOEXEC) < 0 || pipe2(fds + 3, O_CLOEXEC) < 0 ? errno : 0;
    for (int i = 0; !code && i < 5; i++) {
        int high = fcntl(fds[i], F_DUPFD_CLOEXEC, 3);
        code = high < 0 ? errno : 0;
        close(fds[i]);
        fds[i] = high;
    }
    if (!code)
        code = spawn_limited(p, environment_make(p->t, p->command, tmpdir), fds[0], fds[2], fds[4]);
    if (code) {
        close_all(fds, 5);
        return start_failed(p, code);
    }
    close(fds[0]);
    close(fds[2]);
    close(fds[4]);
    p->out = fds[1];
    p->err = fds[3];
    fcntl(p->out, F_SETFL, O_NONBLOCK);
    fcntl(p->err, F_SETFL, O_NONBLOCK);
    p->pidfd = pidfd_open(p->pid, 0);
    return 0;
}

/* --- ending --- */

/* The leaves first; a parent that is still there keeps the numbers of its children from being
 * reused. */
static void signal_tree(struct program *p, pid_t pid, int signal, int depth)
{
    char path[64];
    int fd = depth && signal == SIGTERM && p->n_tree < TREE_MAX ? pidfd_open(pid, 0) : -1;
    if (fd >= 0)
        p->tree[p->n_tree++] = fd;
    snprintf(path, sizeof path, "/proc/%d/task/%d/children", (int)pid, (int)pid);
    FILE *file = depth < 32 ? fopen(path, "re") : NULL;
    int child;
    while (file && fscanf(file, "%d", &child) == 1)
        signal_tree(p, child, signal, depth + 1);
    if (file)
        fclose(file);
    kill(pid, signal);
}

static void ask_to_end(struct program *p, int why)
{
    if (p->kill_at_us)
        return;
    p->why = why;
    p->kill_at_us = clock_us(CLOCK_MONOTONIC) + GRACE_US;
    if (!p->ended)
        signal_tree(p, p->pid, SIGTERM, 0);
}

/* Those that outlive the program that was asked to end are killed when it would have been. */
static void end_tree(struct program *p)
{
    for (int i = 0; i < p->n_tree; i++) {
        struct pollfd one = {p->tree[i], POLLIN, 0};
        int64_t left_us = p->kill_at_us - clock_us(CLOCK_MONOTONIC);
        if (poll(&one, 1, left_us > 0 ? (int)(left_us / 1000) + 1 : 0) != 1)
            pidfd_send_signal(p->tree[i], SIGKILL, NULL, 0);
        close(p->tree[i]);
    }
}

static bool tick_refuses(struct program *p, int64_t now)
{
    if (!p->command->on_tick || p->kill_at_us || now < p->tick_us)
        return false;
    p->tick_us = now + 1000000;
    return p->command->on_tick(p->t, (double)(now - p->started_us) / 1e6, p->command->arg) < 0;
}

static void watch(struct program *p)
{
    int64_t now = clock_us(CLOCK_MONOTONIC);
    if (cw_stopping(p->t) != CW_GO)
        ask_to_end(p, STOPPED);
    else if (p->deadline_us && now >= p->deadline_us)
        ask_to_end(p, TIMED_OUT);
    else if (tick_refuses(p, now))
        ask_to_end(p, UNWANTED);
    if (p->kill_at_us && now >= p->kill_at_us)
        signal_tree(p, p->pid, SIGKILL, 0);
}

static void reap(struct program *p)
{
    struct rusage usage = {0};
    pid_t pid = wait4(p->pid, &p->status, WNOHANG, &usage);
    if (pid == 0 || (pid < 0 && errno == EINTR))
        return;
    p->ended = true;
    if (pid < 0)
        p->status = 0;
    p->t->tools_cpu_us += (usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) * 1000000 +
                          usage.ru_utime.tv_usec + usage.ru_stime.tv_usec;
}

/* --- reading --- */

/* A line that does not end is looked through once, not with each piece of it. */
static void give_lines(struct program *p, bool last)
{
    char *at = p->output.data;
    size_t left = p->output.size, looked = p->looked;
    for (char *end; left > looked && (end = memchr(at + looked, '\n', left - looked)); looked = 0) {
        *end = '\0';
        p->command->on_line(p->t, at, (size_t)(end - at), p->command->arg);
        left -= (size_t)(end - at) + 1;
        at = end + 1;
    }
    if (left && last) {
        p->command->on_line(p->t, at, left, p->command->arg);
        left = 0;
    }
    p->looked = left;
    buf_drop(&p->output, p->output.size - left);
}

/* What comes after it was asked to end is read, so that it can end, and thrown away. */
static void take_output(struct program *p, const char *data, size_t size)
{
    if (p->kill_at_us)
        return;
    p->seen += size;
    if (p->seen > p->max_output) {
        ask_to_end(p, TOO_MUCH);
        return;
    }
    buf_add(&p->output, data, size);
    if (!p->command->on_line)
        return;
    give_lines(p, false);
    if (p->output.size > LINE_MAX_SIZE)
        ask_to_end(p, TOO_LONG);
}

static void take_errors(struct program *p, const char *data, size_t size)
{
    buf_add(&p->errors, data, size);
    if (p->errors.size > 4 * ERRORS_KEPT)
        buf_drop(&p->errors, p->errors.size - ERRORS_KEPT);
}

/* Everything that is there now. Once the program has ended its own children may still hold the pipe
 * and write: they are heard no longer than its cap allows. */
static void drain(struct program *p, int *fd, void (*take)(struct program *, const char *, size_t))
{
    char data[65536];
    while (*fd >= 0 && !(p->ended && p->kill_at_us)) {
        ssize_t n = read(*fd, data, sizeof data);
        if (n > 0) {
            take(p, data, (size_t)n);
            if (!p->ended && (size_t)n < sizeof data)
                return;
        } else if (n == 0 || (errno != EAGAIN && errno != EINTR)) {
            close(*fd);
            *fd = -1;
        } else if (errno == EAGAIN) {
            return;
        }
    }
}

static void program_run(struct program *p)
{
    while (!p->ended) {
        struct pollfd fds[] = {{p->out, POLLIN, 0}, {p->err, POLLIN, 0}, {p->pidfd, POLLIN, 0}};
        poll(fds, 3, SLICE_MS);
        drain(p, &p->out, take_output);
        drain(p, &p->err, take_errors);
        watch(p);
        reap(p);
    }
    drain(p, &p->out, take_output);
    drain(p, &p->err, take_errors);
    if (p->command->on_line && !p->kill_at_us)
        give_lines(p, true);
    close_all((int[]){p->out, p->err, p->pidfd}, 3);
    end_tree(p);
}

/* --- the whole --- */

static void report(struct program *p, struct cw_exit *ret)
{
    if (p->errors.size > ERRORS_KEPT)
        buf_drop(&p->errors, p->errors.size - ERRORS_KEPT);
    ret->status = WIFEXITED(p->status) ? WEXITSTATUS(p->status) : 0;
    ret->signal = WIFSIGNALED(p->status) ? WTERMSIG(p->status) : 0;
    ret->output_size = p->output.size;
    char *output = buf_take(&p->output), *errors = buf_take(&p->errors);
    cw_defer(p->t, free, output);
    cw_defer(p->t, free, errors);
    ret->output = output;
    ret->errors = errors;
}

static int judge(const struct program *p)
{
    const char *name = p->command->argv[0];
    switch (p->why) {
    case STOPPED:
        return helper_stopped(p->t);
    case TIMED_OUT:
        return helper_failed(p->t, true, "TimeoutError", "%s did not end within %.10g s", name,
                             p->command->timeout);
    case UNWANTED:
        return p->t->problem.type
                   ? -1
                   : helper_failed(p->t, false, "RuntimeError", "%s was ended", name);
    case TOO_LONG:
        return helper_failed(p->t, false, "ValueError", "%s wrote a line longer than %d bytes",
                             name, LINE_MAX_SIZE);
    case TOO_MUCH:
        return helper_failed(p->t, false, "ValueError", "%s wrote more than %zu bytes", name,
                             p->max_output);
    default:
        return 0;
    }
}

int cw_exec(cw_task *t, const struct cw_command *command, struct cw_exit *ret_exit)
{
    *ret_exit = (struct cw_exit){.output = "", .errors = ""};
    if (!command->argv || !command->argv[0])
        return helper_failed(t, false, "ValueError", "cw_exec() without a program");
    if (cw_stopping(t) != CW_GO)
        return helper_stopped(t);
    t->problem = (struct problem){0};
    struct program p = {
        .t = t,
        .command = command,
        .pidfd = -1,
        .out = -1,
        .err = -1,
        .max_output = command->max_output ? command->max_output : 64 << 20,
        .errors = BUF_INIT(1 << 20),
    };
    p.output = BUF_INIT(p.max_output);
    if (program_start(&p) < 0)
        return -1;
    p.started_us = clock_us(CLOCK_MONOTONIC);
    p.tick_us = p.started_us + 1000000;
    if (command->timeout > 0)
        p.deadline_us = p.started_us + (int64_t)(command->timeout * 1e6);
    program_run(&p);
    report(&p, ret_exit);
    return judge(&p);
}
