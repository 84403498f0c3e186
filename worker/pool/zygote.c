/* SPDX-License-Identifier: Apache-2.0 */

/* The zygote: a process with one thread, no connection and all plugins loaded, from which pool
 * children can be forked at any time. It is their parent and the subreaper of what they start, so
 * it is the one process that can end all of it: a dead child's group before its number may be used
 * again, and everything when main is gone. It waits for three things only: main's packets, SIGCHLD,
 * main's death. */

#include "worker/pool/zygote.h"

#include "proto/base/mem.h"
#include "worker/pool/child.h"
#include "worker/log.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

enum { END_WAIT_MS = 2000 };

/* The zygote's own view of itself. */
struct nursery {
    struct zygote *zygote;
    int main_fd, signal_fd;
    int count;
    struct {
        pid_t pid;
        uint32_t serial;
    } children[LANES_MAX];
};

static void sleep_ms(int ms)
{
    poll(NULL, 0, ms);
}

/* --- a child's first steps --- */

static void signal_set(int number, void (*handler)(int))
{
    struct sigaction act = {.sa_handler = handler};
    sigaction(number, &act, NULL);
}

/* Its delivery interrupts what the task waits in; that is all it is for. */
static void signal_noop(int number)
{
    (void)number;
}

static void signals_reset(void)
{
    sigset_t none;
    for (int i = 1; i < NSIG; i++)
        if (i != SIGKILL && i != SIGSTOP)
            signal_set(i, SIG_DFL);
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
}

/* In the new process. Own process group: a hard limit ends it with its tools, and Ctrl-C on the
 * terminal does not reach it. */
static void child_begin(const struct nursery *n, const struct zygote_request *r, int fd,
                        pid_t parent)
{
    close(n->main_fd);
    close(n->signal_fd);
    setpgid(0, 0);
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent)
        _exit(EXIT_FAILURE);
    signals_reset();
    signal_set(SIGINT, SIG_IGN);
    signal_set(SIGHUP, SIG_IGN); /* main reopens its log */
    signal_set(SIGPIPE, SIG_IGN);
    signal_set(SIGXFSZ, SIG_IGN);
    signal_set(SIGUSR1, signal_noop);
    prctl(PR_SET_NAME, "cworker: pool");
    char name[40];
    snprintf(name, sizeof name, "ForkPoolWorker-%u", r->serial);
    log_process_name(name);

    bool threads = n->zygote->options.kind == POOL_THREADS;
    prctl(PR_SET_CHILD_SUBREAPER, !threads);
    struct child_options options = {
        .fd = fd, .fence = &n->zygote->shared->fence,
        .lanes = n->zygote->shared->lanes + r->first, .count = (int)r->lanes, .threads = threads};
    child_serve(&options);
}

/* --- the zygote --- */

static void note_send(const struct nursery *n, const struct zygote_note *note)
{
    while (send(n->main_fd, note, sizeof *note, MSG_NOSIGNAL) < 0 && errno == EINTR)
        ;
}

static int child_index(const struct nursery *n, pid_t pid)
{
    for (int i = 0; i < n->count; i++)
        if (n->children[i].pid == pid)
            return i;
    return -1;
}

static void child_fork(struct nursery *n, const struct zygote_request *r, int fd)
{
    struct zygote_note note = {.kind = ZYGOTE_FORKED, .serial = r->serial};
    pid_t parent = getpid();
    pid_t pid = n->count < LANES_MAX ? fork() : (errno = EAGAIN, -1);
    if (pid == 0)
        child_begin(n, r, fd, parent);
    if (pid > 0) {
        setpgid(pid, pid);
        n->children[n->count].pid = pid;
        n->children[n->count++].serial = r->serial;
    }
    note.pid = pid > 0 ? pid : -errno;
    note_send(n, &note);
}

/* What is our child and was not forked by us was started by a child that is dead now. */
static void strays_kill(const struct nursery *n)
{
    char path[64];
    long pid;
    snprintf(path, sizeof path, "/proc/self/task/%d/children", (int)getpid());
    FILE *list = fopen(path, "re");
    if (!list)
        return;
    while (fscanf(list, "%ld", &pid) == 1)
        if (child_index(n, (pid_t)pid) < 0)
            kill((pid_t)pid, SIGKILL);
    fclose(list);
}

/* The group goes before its leader is reaped: until then nobody else can get its number. */
static void child_reap(struct nursery *n, pid_t pid)
{
    struct rusage usage = {0};
    int status = 0;
    int i = child_index(n, pid);
    if (i >= 0)
        kill(-pid, SIGKILL);
    wait4(pid, &status, 0, &usage);
    if (i < 0)
        return;
    struct zygote_note note = {
        .kind = ZYGOTE_EXIT,
        .serial = n->children[i].serial,
        .pid = pid,
        .status = status,
        .peak_kb = usage.ru_maxrss,
        .cpu_us = (usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) * INT64_C(1000000) +
                  usage.ru_utime.tv_usec + usage.ru_stime.tv_usec,
    };
    n->children[i] = n->children[--n->count];
    note_send(n, &note);
}

static void children_reap(struct nursery *n)
{
    int before = n->count;
    bool stray = false;
    for (;;) {
        siginfo_t info = {0};
        if (waitid(P_ALL, 0, &info, WEXITED | WNOHANG | WNOWAIT) < 0 || info.si_pid == 0)
            break;
        stray |= child_index(n, info.si_pid) < 0;
        child_reap(n, info.si_pid);
    }
    /* A stray's own children come to us when it dies. With threads it may also be a program that a
     * living child let go of, which is no reason to end others. */
    if (n->count < before || (stray && n->zygote->options.kind == POOL_PREFORK))
        strays_kill(n);
}

static void end_all(struct nursery *n) __attribute__((noreturn));
static void end_all(struct nursery *n)
{
    for (int i = 0; i < n->count; i++)
        kill(-n->children[i].pid, SIGKILL);
    n->count = 0;
    for (int waited = 0; waited < END_WAIT_MS; waited += 2) {
        strays_kill(n);
        pid_t pid;
        while ((pid = waitpid(-1, NULL, WNOHANG)) > 0)
            ;
        if (pid < 0)
            break;
        sleep_ms(2);
    }
    _exit(EXIT_SUCCESS);
}

/* Takes one request; false when main has gone. */
static bool request_take(struct nursery *n)
{
    struct zygote_request r;
    union {
        struct cmsghdr head;
        char space[CMSG_SPACE(sizeof(int))];
    } control = {0};
    struct iovec part = {&r, sizeof r};
    struct msghdr m = {.msg_iov = &part,
                       .msg_iovlen = 1,
                       .msg_control = &control,
                       .msg_controllen = sizeof control};
    ssize_t size = recvmsg(n->main_fd, &m, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);
    if (size < 0)
        return errno == EAGAIN || errno == EINTR;
    if (size == 0)
        return false;

    int fd = -1;
    struct cmsghdr *c = CMSG_FIRSTHDR(&m);
    if (c && c->cmsg_type == SCM_RIGHTS)
        memcpy(&fd, CMSG_DATA(c), sizeof fd);
    if (size == sizeof r && fd >= 0 && r.lanes > 0 && r.lanes <= LANES_MAX &&
        r.first <= LANES_MAX - r.lanes) {
        child_fork(n, &r, fd);
    } else {
        struct zygote_note note = {.kind = ZYGOTE_FORKED, .serial = r.serial, .pid = -EINVAL};
        note_send(n, &note);
    }
    if (fd >= 0)
        close(fd);
    return true;
}

static void zygote_live(struct zygote *z, int main_fd, pid_t main_pid) __attribute__((noreturn));
static void zygote_live(struct zygote *z, int main_fd, pid_t main_pid)
{
    static struct nursery n;
    sigset_t watched;
    int null = open("/dev/null", O_RDONLY | O_CLOEXEC);
    if (null >= 0)
        dup2(null, STDIN_FILENO);
    setpgid(0, 0);
    prctl(PR_SET_NAME, "cworker: zygote");
    prctl(PR_SET_CHILD_SUBREAPER, 1);
    signals_reset();
    static const int ignored[] = {SIGINT, SIGTERM, SIGQUIT, SIGHUP, SIGPIPE, SIGUSR1, SIGUSR2};
    for (size_t i = 0; i < sizeof ignored / sizeof *ignored; i++)
        signal_set(ignored[i], SIG_IGN);
    sigemptyset(&watched);
    sigaddset(&watched, SIGCHLD);
    sigprocmask(SIG_BLOCK, &watched, NULL);

    fence_hold(&z->shared->fence, FENCE_ZYGOTE);
    n.zygote = z;
    n.main_fd = main_fd;
    n.signal_fd = signalfd(-1, &watched, SFD_CLOEXEC | SFD_NONBLOCK);
    /* The EOF alone would not do: another process of main's may hold main's end open. */
    int death = (int)syscall(SYS_pidfd_open, main_pid, 0);
    if (n.signal_fd < 0 || getppid() != main_pid)
        _exit(EXIT_FAILURE);
    struct pollfd waits[] = {{main_fd, POLLIN, 0}, {n.signal_fd, POLLIN, 0}, {death, POLLIN, 0}};
    for (;;) {
        struct signalfd_siginfo info;
        if (poll(waits, 3, -1) < 0)
            continue;
        if (waits[2].revents || (waits[0].revents && !request_take(&n)))
            end_all(&n);
        if (read(n.signal_fd, &info, sizeof info) > 0)
            children_reap(&n);
    }
}

/* --- main's side --- */

static struct pool_memory *memory_map(void)
{
    struct pool_memory *m = mmap(NULL, sizeof *m, PROT_READ | PROT_WRITE,
                                 MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (m == MAP_FAILED)
        return NULL;
    fence_init(&m->fence);
    return m;
}

static void zygote_free(struct zygote *z)
{
    int saved = errno;
    if (z->shared) {
        fence_drop(&z->shared->fence);
        munmap(z->shared, sizeof *z->shared);
    }
    if (z->fd >= 0)
        close(z->fd);
    free(z);
    errno = saved;
}

struct zygote *zygote_start(const struct pool_options *options)
{
    int pair[2];
    struct zygote *z = mem_zalloc(sizeof *z);
    z->options = *options;
    z->fd = -1;
    if (options->kind == POOL_SOLO)
        return z;
    z->shared = memory_map();
    if (!z->shared || socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0) {
        zygote_free(z);
        return NULL;
    }
    z->fd = pair[0];
    fflush(NULL);
    pid_t main_pid = getpid();
    z->pid = fork();
    if (z->pid == 0) {
        close(pair[0]);
        zygote_live(z, pair[1], main_pid);
    }
    close(pair[1]);
    if (z->pid < 0) {
        zygote_free(z);
        return NULL;
    }
    fence_hold(&z->shared->fence, FENCE_MAIN);
    fcntl(z->fd, F_SETFL, O_NONBLOCK);
    return z;
}

int zygote_ask(struct zygote *z, const struct zygote_request *r, int fd)
{
    union {
        struct cmsghdr head;
        char space[CMSG_SPACE(sizeof(int))];
    } control = {0};
    struct iovec part = {(void *)r, sizeof *r};
    struct msghdr m = {.msg_iov = &part,
                       .msg_iovlen = 1,
                       .msg_control = &control,
                       .msg_controllen = sizeof control};
    struct cmsghdr *c = CMSG_FIRSTHDR(&m);
    c->cmsg_level = SOL_SOCKET;
    c->cmsg_type = SCM_RIGHTS;
    c->cmsg_len = CMSG_LEN(sizeof fd);
    memcpy(CMSG_DATA(c), &fd, sizeof fd);
    return sendmsg(z->fd, &m, MSG_NOSIGNAL) < 0 ? -1 : 0;
}

int zygote_read(struct zygote *z, struct zygote_note *ret)
{
    ssize_t n;
    do
        n = recv(z->fd, ret, sizeof *ret, 0);
    while (n < 0 && errno == EINTR);
    if (n < 0 && errno == EAGAIN)
        return 0;
    return n == sizeof *ret ? 1 : -1;
}

void zygote_end(struct zygote *z)
{
    if (z->fd >= 0)
        close(z->fd);
    z->fd = -1;
    for (int waited = 0; z->pid > 0; waited++) {
        pid_t pid = waitpid(z->pid, NULL, WNOHANG);
        if (pid == z->pid || (pid < 0 && errno != EINTR))
            break;
        if (waited == END_WAIT_MS + 500)
            kill(z->pid, SIGKILL);
        sleep_ms(1);
    }
    zygote_free(z);
}
