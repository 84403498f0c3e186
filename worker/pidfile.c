/* SPDX-License-Identifier: Apache-2.0 */
#include "worker/pidfile.h"

#include "proto/base/mem.h"
#include "worker/command/command.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* The pid file, as service scripts expect it. It comes into being complete (a link from a file that
 * is written first) and only where none is, so that of two workers started at once one gets it. */

static pid_t file_pid(const char *path)
{
    char text[32] = "";
    int fd = open(path, O_RDONLY | O_CLOEXEC);
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

int pidfile_claim(const char *path)
{
    char *own = mem_printf("%s.%d", path, (int)getpid());
    int status = pid_write(own) == 0 ? EXIT_PIDFILE : 1;
    /* The second round is for a stale file removed in the first. */
    for (int round = 0; status == EXIT_PIDFILE && round < 2 && pidfile_owner(path) == 0; round++) {
        if (link(own, path) == 0)
            status = 0;
        else if (errno == EEXIST)
            unlink(path);
        else
            status = 1;
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
