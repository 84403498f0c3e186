/* SPDX-License-Identifier: Apache-2.0 */
#include "tasks/compliance/prowler.h"

#include "tasks/lib/tool.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>
#include <unistd.h>

/* Prowler writes its files at the very end, so "no file" means either no finding (exit 0) or a run
 * that did not end; the exit status decides: 0 nothing failed, 3 something failed (a good run for
 * us), 2 wrong usage, 1 anything else, which only its own words tell apart. */

enum { MAX_FRAMEWORKS = 60, WORDS = 4096 };

/* The end of what it said: it logs to standard output as much as to standard error. */
struct talk {
    char last[WORDS];
    size_t size;
    const struct prowler_run *run;
};

static void on_line(cw_task *t, const char *line, size_t size, void *arg)
{
    struct talk *talk = arg;
    (void)t;
    if (size > 600)
        size = 600;
    if (talk->size + size + 2 > WORDS) {
        size_t drop = WORDS / 2 < talk->size ? talk->size - WORDS / 2 : 0;
        memmove(talk->last, talk->last + drop, talk->size - drop);
        talk->size -= drop;
    }
    memcpy(talk->last + talk->size, line, size);
    talk->size += size;
    talk->last[talk->size++] = '\n';
    talk->last[talk->size] = '\0';
}

static int on_tick(cw_task *t, double seconds, void *arg)
{
    struct talk *talk = arg;
    return talk->run->on_tick ? talk->run->on_tick(t, seconds, talk->run->arg) : 0;
}

const char *const prowler_providers[] = {"aws", "azure", "gcp", "kubernetes", NULL};

/* What a provider's clients read; anything else of our environment is none of prowler's
 * business. */
static const struct passed {
    const char *provider, *name;
} passed[] = {
    {"aws", "AWS_ACCESS_KEY_ID"},
    {"aws", "AWS_SECRET_ACCESS_KEY"},
    {"aws", "AWS_SESSION_TOKEN"},
    {"aws", "AWS_ENDPOINT_URL"},
    {"aws", "AWS_CA_BUNDLE"},
    {"aws", "AWS_PROFILE"},
    {"aws", "AWS_CONFIG_FILE"},
    {"aws", "AWS_SHARED_CREDENTIALS_FILE"},
    {"aws", "AWS_ROLE_ARN"},
    {"aws", "AWS_WEB_IDENTITY_TOKEN_FILE"},
    {"aws", "AWS_DEFAULT_REGION"},
    {"aws", "AWS_CONTAINER_CREDENTIALS_FULL_URI"},
    {"aws", "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI"},
    {"azure", "AZURE_CLIENT_ID"},
    {"azure", "AZURE_CLIENT_SECRET"},
    {"azure", "AZURE_TENANT_ID"},
    {"gcp", "GOOGLE_APPLICATION_CREDENTIALS"},
};
enum { N_PASSED = sizeof passed / sizeof *passed };

static const char *const *environment_make(cw_task *t, const struct prowler_run *run,
                                           const char *folder)
{
    const char **list = cw_alloc(t, (N_PASSED + 4) * sizeof *list);
    size_t n = 0;
    for (size_t i = 0; i < N_PASSED; i++) {
        bool own = strcmp(passed[i].provider, run->provider) == 0;
        const char *value = own ? cw_secret(t, passed[i].name) : NULL;
        if (value)
            list[n++] = cw_printf(t, "%s=%s", passed[i].name, value);
    }
    const char *metadata = getenv("AWS_EC2_METADATA_DISABLED");
    list[n++] = cw_printf(t, "AWS_EC2_METADATA_DISABLED=%s", metadata ? metadata : "true");
    list[n++] = cw_printf(t, "HOME=%s", folder);
    return list;
}

/* Which account, in each provider's own words; values have passed a check or are ours. */
static size_t put_account(const struct prowler_run *run, const char *kubeconfig, const char **argv,
                          size_t n)
{
    if (strcmp(run->provider, "aws") == 0) {
        argv[n++] = "--region";
        argv[n++] = run->region;
        return n;
    }
    if (strcmp(run->provider, "azure") == 0)
        argv[n++] = "--sp-env-auth";
    if (kubeconfig) {
        argv[n++] = "--kubeconfig-file";
        argv[n++] = kubeconfig;
    }
    argv[n++] = strcmp(run->provider, "azure") == 0 ? "--subscription-id"
                : strcmp(run->provider, "gcp") == 0 ? "--project-id"
                                                    : "--context";
    argv[n++] = run->account;
    return n;
}

/* Prowler does not look at KUBECONFIG, and where it finds no kubeconfig, or no such context in it,
 * it takes the cluster that it runs in for the one that was asked for. So the file is named, and
 * must be there; the variables by which a pod finds its own cluster are kept from it. */
static int kubeconfig_find(cw_task *t, const struct prowler_run *run, const char **ret)
{
    *ret = NULL;
    if (strcmp(run->provider, "kubernetes") != 0)
        return 0;
    const char *path = cw_secret(t, "KUBECONFIG");
    if (!path || *path != '/')
        return cw_problem(
            t, false, "ValueError",
            "a scan of kubernetes needs KUBECONFIG: the path of a kubeconfig, from /");
    if (access(path, R_OK) < 0)
        return cw_problem(t, false,
                          errno == EACCES ? "PermissionError" : "FileNotFoundError",
                          "the kubeconfig %s: %s", path, strerror(errno));
    *ret = path;
    return 0;
}

static void arguments_make(cw_task *t, const struct prowler_run *run, const char *folder,
                           const char *kubeconfig, const char *argv[MAX_FRAMEWORKS + 20])
{
    const char *program = cw_setting(t, "prowler");
    size_t n = 0;
    argv[n++] = program ? program : "prowler";
    argv[n++] = run->provider;
    n = put_account(run, kubeconfig, argv, n);
    if (*run->frameworks)
        argv[n++] = "--compliance";
    for (size_t i = 0; i < MAX_FRAMEWORKS && run->frameworks[i]; i++)
        argv[n++] = run->frameworks[i];
    if (run->role) {
        argv[n++] = "--role";
        argv[n++] = run->role;
    }
    argv[n++] = "-M";
    argv[n++] = "json-ocsf";
    argv[n++] = "-o";
    argv[n++] = folder;
    argv[n++] = "-F";
    argv[n++] = "findings";
    argv[n++] = "-b";
    argv[n++] = "--no-color";
    argv[n] = NULL;
}

static bool says(const struct talk *talk, const struct cw_exit *e, const char *const *words)
{
    for (; *words; words++)
        if (strcasestr(talk->last, *words) || strcasestr(e->errors, *words))
            return true;
    return false;
}

/* Words of prowler 5.46 and of its providers' clients. A login that fails because the network does
 * speaks of credentials too, so what is certainly the network comes first. */
static const char *const unreachable[] = {"Failed to resolve",   "Max retries exceeded",
                                          "Connection refused",  "Failed to establish",
                                          "Could not connect",   "Temporary failure in name",
                                          "timed out",           "throttl",
                                          "rate exceeded",       NULL};
static const char *const denied[] = {"credentials",      "AccessDenied",
                                     "ExpiredToken",     "InvalidClientTokenId",
                                     "PermissionDenied", "UnauthorizedOperation",
                                     "Unauthorized",     "needed to authenticate",
                                     "Forbidden",        NULL};
static const char *const perhaps_network[] = {"timeout", "endpoint", "connection", NULL};
static const char *const no_context[] = {"kube-config is invalid", NULL};

/* The end of what it said; of its usage, which lists thousands of names, only the error. */
static const char *last_words(const struct talk *talk, const struct cw_exit *e)
{
    const char *words = *e->errors ? e->errors : talk->last;
    const char *error = e->status == 2 ? strstr(words, "error: ") : NULL;
    size_t size = strlen(words);
    return error ? error : words + (size > 500 ? size - 500 : 0);
}

static int judge_failure(cw_task *t, const struct prowler_run *run, const struct talk *talk,
                         const struct cw_exit *e)
{
    const char *words = last_words(talk, e);
    if (e->signal)
        return cw_problem(t, true, "RuntimeError", "prowler (%s) was ended by signal %d",
                          run->region, e->signal);
    if (e->status == 2)
        return cw_problem(t, false, "ValueError", "prowler (%s) refused its arguments: %.300s",
                          run->region, words);
    if (says(talk, e, no_context))
        return cw_problem(t, false, "ValueError",
                          "prowler finds no context %.100s in the kubeconfig, or cannot read it",
                          run->account);
    bool network = says(talk, e, unreachable);
    if (!network && says(talk, e, denied))
        return cw_problem(t, false, "PermissionError", "prowler (%s) was refused access: %s",
                          run->region, words);
    network = network || says(talk, e, perhaps_network);
    return cw_problem(t, network, network ? "ConnectionError" : "RuntimeError",
                      "prowler (%s) ended with exit status %d: %s", run->region, e->status, words);
}

int prowler_run(cw_task *t, const struct prowler_run *run, const char **ret_path)
{
    const char *argv[MAX_FRAMEWORKS + 20], *folder = cw_tmpdir(t), *kubeconfig;
    struct talk talk = {.run = run};
    struct cw_exit end;
    if (!folder || kubeconfig_find(t, run, &kubeconfig) < 0)
        return -1;
    folder = cw_printf(t, "%s/%s", folder, run->region);
    if (mkdir(folder, 0700) < 0 && errno != EEXIST)
        return cw_problem(t, true, "OSError", "%s: %s", folder, strerror(errno));
    char *path = cw_printf(t, "%s/findings.ocsf.json", folder);
    unlink(path);
    arguments_make(t, run, folder, kubeconfig, argv);
    struct cw_command command = {
        .argv = argv,
        .environment = environment_make(t, run, folder),
        .on_line = on_line,
        .on_tick = on_tick,
        .arg = &talk,
        .max_output = (size_t)1 << 30, /* it tells of each check; none of it is kept */
        .hint = "install it (pip install prowler, in an environment of its own) or set "
                "CWORKER_PROWLER to its path",
    };
    if (tool_run(t, command, talk.last, &end) < 0)
        return -1;
    if (end.signal || (end.status != 0 && end.status != 3))
        return judge_failure(t, run, &talk, &end);
    bool there = access(path, R_OK) == 0;
    if (!there && end.status == 3)
        return cw_problem(t, true, "RuntimeError",
                          "prowler (%s) says that checks failed but wrote no findings",
                          run->region);
    *ret_path = there ? path : NULL;
    return 0;
}
