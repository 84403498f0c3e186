/* SPDX-License-Identifier: Apache-2.0 */
#include "worker/pidfile.h"

#include "proto/base/mem.h"
#include "worker/command/command.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

/* The pid file, as service scripts expect it. It comes into being complete (a link from a file that
 * is written first) and only where none is, or in place of one whose worker is dead, by whoever has
 * locked that one: so of two workers started at once one gets it. */

enum { ROUNDS = 100, ROUND_MS = 10 };

static pid_t file_pid(const char *path)
{
    char text[32] = "";
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    if (fd < 0)
        return 0;
    ssize_t size = read(fd, text, sizeof text - 1);
    close(fd);
    long pid = size > 0 ? strtol(text, NULL, 10) : 0;
    return pid > 0 && pid <= INT32_MAX ? (pid_t)pid : 0;
}

pid_t pidfile_owner(const char *path)
{
    pid_t pid = file_pid(path);
    if (pid == 0 || pid == getpid())
        return 0;
    return kill(pid, 0) == 0 || errno == EPERM ? pid : 0;
}

static int pid_write(const char *path)
{
    FILE *file = fopen(path, "we");
    if (!file)
        return -1;
    fprintf(file, "%d\n", (int)getpid());
    return fclose(file);
}

/* Who comes late has locked a file that is not the one of this name any more. */
static bool is_named(int fd, const char *path)
{
    struct stat held, named;
    return fstat(fd, &held) == 0 && stat(path, &named) == 0 && held.st_ino == named.st_ino &&
           held.st_dev == named.st_dev;
}

/* Puts `own` in the place of a stale file. EXIT_PIDFILE: not now, look again. */
static int take_over(const char *own, const char *path)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return errno == ENOENT ? EXIT_PIDFILE : 1;
    int status = EXIT_PIDFILE;
    if (flock(fd, LOCK_EX | LOCK_NB) == 0 && is_named(fd, path) && pidfile_owner(path) == 0)
        status = rename(own, path) == 0 ? 0 : 1;
    int saved = errno;
    close(fd);
    errno = saved;
    return status;
}

/* `--pidfile /dev/null` wants none; a file put in its place would break the whole machine. */
static bool is_device(const char *path)
{
    struct stat at;
    return stat(path, &at) == 0 && S_ISCHR(at.st_mode);
}

int pidfile_claim(const char *path)
{
    if (is_device(path))
        return 0;
    char *own = mem_printf("%s.%d", path, (int)getpid());
    int status = pid_write(own) == 0 ? EXIT_PIDFILE : 1;
    for (int round = 0; status == EXIT_PIDFILE && round < ROUNDS && pidfile_owner(path) == 0;
         round++) {
        if (round > 0)
            poll(NULL, 0, ROUND_MS);
        if (link(own, path) == 0)
            status = 0;
        else
            status = errno == EEXIST ? take_over(own, path) : 1;
    }
    int saved = errno;
    unlink(own);
    free(own);
    errno = saved;
    return status;
}

void pidfile_release(const char *path)
{
    if (file_pid(path) == getpid())
        unlink(path);
}
