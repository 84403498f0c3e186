/* SPDX-License-Identifier: Apache-2.0 */
/* The command line: Celery's words in, the right options out, and what is said of wrong ones. */

#include "proto/base/mem.h"
#include "worker/command/command.h"
#include "worker/config/options.h"
#include "worker/config/options_table.h"
#include "worker/pidfile.h"

#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>
#include <cmocka.h>

enum { MOST_WORDS = 32 };

static char said[8192]; /* stdout and stderr of the last parse */

/* Parses words, separated by single spaces, as if typed after `cworker`. */
static int parse(struct options *o, const char *line)
{
    char *words = mem_dup(line), *argv[MOST_WORDS] = {"cworker"};
    int argc = 1;
    for (char *at = strtok(words, " "); at; at = strtok(NULL, " "))
        argv[argc++] = at;
    FILE *file = tmpfile();
    assert_non_null(file);
    fflush(stdout);
    int out = dup(1), err = dup(2);
    dup2(fileno(file), 1);
    dup2(fileno(file), 2);
    int code = options_parse(o, argc, argv);
    fflush(stdout);
    dup2(out, 1);
    dup2(err, 2);
    close(out);
    close(err);
    rewind(file);
    said[fread(said, 1, sizeof said - 1, file)] = '\0';
    fclose(file);
    free(words);
    return code;
}

static void accepted(struct options *o, const char *line)
{
    int code = parse(o, line);
    if (code != 0)
        fail_msg("%s: %d %s", line, code, said);
}

static void refused(const char *line, const char *words)
{
    struct options o;
    int code = parse(&o, line);
    if (code != 1002 || !strstr(said, words))
        fail_msg("%s: %d, \"%s\" lacks \"%s\"", line, code, said, words);
}

static void test_celery_word_order(void **state)
{
    (void)state;
    static const char *const lines[] = {
        "-b redis://h/3 worker -c 3 -Q a,b -l INFO",
        "worker -b redis://h/3 -c 3 -Q a -Q b -l info",
        "-c3 -Qa,b --loglevel=Info --broker=redis://h/3",
        "-Q a,b -c 3 worker --broker redis://h/3 -l InFo",
    };
    for (size_t i = 0; i < sizeof lines / sizeof *lines; i++) {
        struct options o;
        accepted(&o, lines[i]);
        assert_string_equal(o.command, "worker");
        assert_string_equal(o.settings.broker_url, "redis://h/3");
        assert_int_equal(o.settings.worker_concurrency, 3);
        assert_string_equal(o.queues[0], "a");
        assert_string_equal(o.queues[1], "b");
        assert_null(o.queues[2]);
        assert_int_equal(o.loglevel, LOG_INFO);
        options_done(&o);
    }
}

static void test_defaults(void **state)
{
    (void)state;
    struct options o;
    accepted(&o, "");
    assert_string_equal(o.command, "worker");
    assert_string_equal(o.queues[0], "celery");
    assert_null(o.queues[1]);
    assert_null(o.apps);
    assert_int_equal(o.loglevel, LOG_WARNING);
    assert_true(o.settings.worker_concurrency >= 1); /* 0 became the number of CPUs */
    char host[256], node[300];
    gethostname(host, sizeof host);
    snprintf(node, sizeof node, "celery@%s", host);
    assert_string_equal(o.hostname, node);
    options_done(&o);
}

/* Everything Celery's worker takes and that means something, or nothing, here. */
static void test_all_of_celery(void **state)
{
    (void)state;
    struct options o;
    accepted(
        &o,
        "worker -E -P threads -n w1@host -S /tmp/%n.state --time-limit 60 --soft-time-limit 50.5 "
        "--max-tasks-per-child 9 --max-memory-per-child 200000 --prefetch-multiplier 0");
    assert_true(o.settings.worker_send_task_events);
    assert_string_equal(o.settings.worker_pool, "threads");
    assert_string_equal(o.hostname, "w1@host");
    assert_string_equal(o.settings.worker_state_db, "/tmp/w1.state");
    assert_true(o.settings.task_soft_time_limit == 50.5);
    assert_int_equal(o.settings.worker_max_memory_per_child, 200000);
    assert_int_equal(o.settings.worker_prefetch_multiplier, 4);
    options_done(&o);
    accepted(
        &o,
        "worker -f /tmp/%n-%h-%d-%p%I-%i.log --pidfile /tmp/%n.none.pid --discard -X b -Q a,b,a -D "
        "-n w1@a.b -I x,y -O fair --without-gossip --without-mingle --without-heartbeat");
    assert_string_equal(o.logfile, "/tmp/w1-a.b-b-w1@a.b-0.log");
    assert_string_equal(o.pidfile, "/tmp/w1.none.pid");
    assert_true(o.purge && o.detach);
    assert_string_equal(o.queues[0], "a");
    assert_null(o.queues[1]);
    options_done(&o);
    accepted(&o, "-P solo -c 4"); /* one task at a time, as in Celery */
    options_done(&o);
    accepted(
        &o,
        "-A ./a.so,b/c.so -A d.so -q -C worker --heartbeat-interval 5 --events --disable-prefetch "
        "--umask 022 --no-alias --skip-checks --loader x --executable x");
    assert_string_equal(o.apps[0], "./a.so");
    assert_string_equal(o.apps[2], "d.so");
    assert_null(o.apps[3]);
    assert_true(o.quiet && o.no_alias && o.settings.worker_send_task_events);
    assert_string_equal(o.settings.worker_log_color, "false");
    assert_int_equal(o.settings.worker_prefetch_multiplier, 1);
    options_done(&o);
}

static void test_node_names(void **state)
{
    (void)state;
    struct options o;
    char host[256], *want;
    gethostname(host, sizeof host);
    accepted(&o, "-n w1");
    assert_string_equal(o.hostname, "celery@w1");
    options_done(&o);
    accepted(&o, "-n w1@");
    want = mem_printf("w1@%s", host);
    assert_string_equal(o.hostname, want);
    free(want);
    options_done(&o);
    accepted(&o, "-n @w1");
    assert_string_equal(o.hostname, "celery@w1");
    options_done(&o);
    accepted(&o, "-n w%%@%n.%d!");
    size_t first = strcspn(host, ".");
    want = mem_printf("w%%@%.*s.%s!", (int)first, host, host[first] ? host + first + 1 : "");
    assert_string_equal(o.hostname, want);
    free(want);
    options_done(&o);
    refused("-n w\x01", "--hostname");
}

static void test_refusals(void **state)
{
    (void)state;
    refused("--concurency 3", "did you mean --concurrency?");
    refused("worker --conc 3", "did you mean --concurrency?");
    refused("--task-acks-late=1", "did you mean --set task_acks_late");
    refused("-Z", "unknown option -Z");
    refused("-c", "-c needs a value");
    refused("--queues", "--queues needs a value");
    refused("--quiet=1", "takes no value");
    refused("wroker", "did you mean worker?");
    refused("frobnicate", "unknown command");
    refused("revoke", "did you mean control revoke?");
    refused("worker extra", "unexpected argument");
    refused("purge -c 2", "is an option of `cworker worker`");
    refused("-c 2 purge", "is an option of `cworker worker`");
    refused("-c -3", "too small");
    refused("-l loud", "debug info warning");
    refused("-P eventlet", "threads");
    refused("-b amqp://h", "speaks Redis only");
    refused("--set task_ack_late=1", "did you mean task_acks_late?");
    refused("--set nothing", "NAME=VALUE");
    refused("--config /nonexistent.json", "No such file");
    refused("--workdir /nonexistent", "No such file");
    refused("--autoscale 8,x", "MAX,MIN");
    refused("--autoscale 0", "MAX,MIN");
    refused("--autoscale 8,2 -P solo", "solo");
    refused("-B", "celery beat");
    refused("-O slow", "fair");
    refused("-A proj.celery", "shared objects");
    refused("-Q a -X a", "no queue");
    refused("--disable-prefetch --prefetch-multiplier 4", "contradict");
    refused("--soft-time-limit 5 --time-limit 2", "task_soft_time_limit");
    refused("--uid nosuchuser", "start it as");
    refused("--umask 9", "octal");
    refused("help nothing", "unknown command");
}

static void test_secrets_are_not_repeated(void **state)
{
    (void)state;
    refused("--brokr=redis://:hunter2@h", "--broker");
    assert_null(strstr(said, "hunter2"));
    refused("-b redis://:hunter2@h:port", "broker_url");
    assert_null(strstr(said, "hunter2"));
    refused("--quiet=hunter2", "takes no value");
    assert_null(strstr(said, "hunter2"));
}

static void test_precedence(void **state)
{
    (void)state;
    char path[] = "/tmp/test_options_XXXXXX";
    int fd = mkstemp(path);
    static const char text[] =
        "{\"worker_concurrency\": 11, \"task_time_limit\": 11, "
        "\"task_default_queue\": \"file\", \"worker_prefetch_multiplier\": 11, "
        "\"task_routes\": {}}";
    assert_int_equal(write(fd, text, sizeof text - 1), sizeof text - 1);
    close(fd);
    setenv("CWORKER_WORKER_CONCURRENCY", "12", 1);
    setenv("CWORKER_TASK_TIME_LIMIT", "12", 1);
    setenv("CWORKER_WORKER_PREFETCH_MULTIPLIER", "12", 1);
    setenv("CELERY_WORKER_QUEUES", "env", 1);
    setenv("CELERY_WORKER_LOGLEVEL", "debug", 1);
    setenv("CELERY_WORKER_TASK_EVENTS", "true", 1);
    setenv("CELERY_WORKER_PURGE", "false", 1);
    char *line =
        mem_printf("-c 14 --set worker_concurrency=13 --set task_time_limit=13 --config %s", path);
    struct options o;
    accepted(&o, line);
    assert_int_equal(o.settings.worker_concurrency, 14);
    assert_true(o.settings.task_time_limit == 13);
    assert_int_equal(o.settings.worker_prefetch_multiplier, 12);
    assert_string_equal(o.settings.task_default_queue, "file");
    assert_string_equal(o.queues[0], "env");
    assert_int_equal(o.loglevel, LOG_DEBUG);
    assert_true(o.settings.worker_send_task_events);
    assert_false(o.purge);
    assert_non_null(strstr(said, "without effect here: task_routes"));
    options_done(&o);
    accepted(&o, "-Q line -l error");
    assert_string_equal(o.queues[0], "line");
    assert_null(o.queues[1]);
    assert_int_equal(o.loglevel, LOG_ERROR);
    options_done(&o);
    unsetenv("CWORKER_WORKER_CONCURRENCY");
    unsetenv("CWORKER_TASK_TIME_LIMIT");
    unsetenv("CWORKER_WORKER_PREFETCH_MULTIPLIER");
    unsetenv("CELERY_WORKER_QUEUES");
    unsetenv("CELERY_WORKER_LOGLEVEL");
    unsetenv("CELERY_WORKER_TASK_EVENTS");
    unsetenv("CELERY_WORKER_PURGE");
    unlink(path);
    free(line);
}

static void test_commands(void **state)
{
    (void)state;
    struct options o;
    accepted(&o,
             "-b redis://h/1 call my.task -a [1] --kwargs={} --wait -q --priority 3 --priority 4");
    assert_string_equal(o.command, "call");
    assert_string_equal(command_word(&o, 0), "my.task");
    assert_null(command_word(&o, 1));
    assert_string_equal(command_value(&o, "args"), "[1]");
    assert_string_equal(command_value(&o, "kwargs"), "{}");
    assert_string_equal(command_value(&o, "priority"), "4");
    assert_null(command_value(&o, "eta"));
    assert_true(command_flag(&o, "wait"));
    assert_false(command_flag(&o, "wai"));
    assert_true(o.quiet);
    options_done(&o);
    accepted(&o, "result -- --odd-id");
    assert_string_equal(command_word(&o, 0), "--odd-id");
    assert_false(command_flag(&o, "odd-id"));
    options_done(&o);
    accepted(&o, "-Q a purge -Q b -f");
    assert_true(command_flag(&o, "force"));
    assert_string_equal(o.queues[1], "b");
    assert_null(o.logfile);
    options_done(&o);
    accepted(&o, "report");
    options_done(&o);
}

static void test_help_and_version(void **state)
{
    (void)state;
    struct options o;
    assert_int_equal(parse(&o, "--version"), 1000);
    assert_non_null(strstr(said, "cworker 0."));
    assert_int_equal(parse(&o, "--help"), 1000);
    assert_non_null(strstr(said, "--concurrency"));
    assert_non_null(strstr(said, "Commands"));
    assert_int_equal(parse(&o, "help settings"), 1000);
    assert_non_null(strstr(said, "worker_prefetch_multiplier"));
    for (int i = 0; i < N_COMMANDS; i++) {
        char *line = mem_printf("%s --help", command_names[i]);
        char *usage = mem_printf("Usage: cworker [OPTIONS] %s%s", i ? "" : "[", command_names[i]);
        assert_int_equal(parse(&o, line), 1000);
        assert_non_null(strstr(said, usage));
        free(line);
        free(usage);
    }
}

static void test_pidfile(void **state)
{
    (void)state;
    char *path = mem_printf("/tmp/test_options_%d.pid", (int)getpid());
    assert_int_equal(pidfile_claim(path), 0);
    assert_int_equal(pidfile_owner(path), 0); /* ourselves */
    pidfile_release(path);
    assert_int_equal(access(path, F_OK), -1);

    FILE *file = fopen(path, "w");
    fprintf(file, "%d\n", (int)getppid());
    fclose(file);
    assert_int_equal(pidfile_owner(path), getppid());
    assert_int_equal(pidfile_claim(path), EXIT_PIDFILE);
    char *line = mem_printf("--pidfile %s", path);
    struct options o;
    assert_int_equal(parse(&o, line), 1000 + EXIT_PIDFILE);
    free(line);
    pidfile_release(path); /* another's stays */
    assert_int_equal(access(path, F_OK), 0);

    file = fopen(path, "w");
    fputs("rubbish", file);
    fclose(file);
    assert_int_equal(pidfile_claim(path), 0); /* a stale one is replaced */
    pidfile_release(path);
    assert_int_equal(pidfile_claim("/nonexistent/x.pid"), 1);
    free(path);
}

/* Reads what was logged, and empties the file. */
static char *logged(const char *path)
{
    static char text[4096];
    FILE *file = fopen(path, "r+");
    assert_non_null(file);
    text[fread(text, 1, sizeof text - 1, file)] = '\0';
    assert_int_equal(ftruncate(fileno(file), 0), 0);
    fclose(file);
    return text;
}

static void test_log(void **state)
{
    (void)state;
    char *path = mem_printf("/tmp/test_options_%d.log", (int)getpid());
    assert_int_equal(log_open(path, LOG_INFO, false, "auto"), 0);
    log_debug("hidden");
    log_info("two\nlines \033[31m %s", "x");
    char *text = logged(path);
    assert_non_null(strstr(text, ": INFO/MainProcess] two\nlines \\x1b[31m x\n"));
    assert_int_equal(text[0], '[');
    log_process_name("ForkPoolWorker-3");
    log_task(LOG_ERROR, "a\nb", "id-1", "%s", "failed");
    assert_non_null(strstr(logged(path), ": ERROR/ForkPoolWorker-3] a\\x0ab[id-1]: failed\n"));
    unlink(path); /* rotated away */
    log_reopen();
    log_warning("after");
    assert_non_null(strstr(logged(path), "after"));
    assert_int_equal(log_open(path, LOG_INFO, true, "true"), 0);
    log_task(LOG_INFO, "t", "i", "say \"%s\"\n", "hi");
    text = logged(path);
    cJSON *line = json_parse(text, strlen(text), NULL);
    assert_string_equal(json_get_string(line, "message"), "say \"hi\"\n");
    assert_string_equal(json_get_string(line, "task_id"), "i");
    assert_string_equal(json_get_string(line, "level"), "INFO");
    cJSON_Delete(line);
    char *longer = mem_alloc(3000000);
    memset(longer, 1, 2999999);
    longer[2999999] = '\0';
    log_info("%s", longer); /* cut, not lost */
    free(longer);
    struct stat status;
    assert_int_equal(stat(path, &status), 0);
    assert_true(status.st_size > 500000 && status.st_size <= 1 << 20);
    assert_true(log_open("/nonexistent/x.log", LOG_INFO, false, NULL) < 0);
    assert_int_equal(log_open(NULL, LOG_WARNING, false, NULL), 0);
    unlink(path);
    free(path);
    enum log_level level;
    assert_int_equal(log_level_parse("wArNiNg", &level), 0);
    assert_int_equal(level, LOG_WARNING);
    assert_int_equal(log_level_parse("fatal", &level), 0);
    assert_int_equal(level, LOG_CRITICAL);
    assert_true(log_level_parse("", &level) < 0);
}

/* Whoever looks into the log for why a worker has gone finds it there. */
static void test_out_of_memory_is_logged(void **state)
{
    (void)state;
    char *path = mem_printf("/tmp/test_options_%d.log", (int)getpid());
    pid_t pid = fork();
    if (pid == 0) {
        signal(SIGABRT, SIG_DFL);
        log_open(path, LOG_INFO, false, "auto");
        mem_exhausted();
    }
    int status;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT);
    assert_string_equal(logged(path), "cworker: out of memory\n");
    unlink(path);
    free(path);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_celery_word_order),
        cmocka_unit_test(test_defaults),
        cmocka_unit_test(test_all_of_celery),
        cmocka_unit_test(test_node_names),
        cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_secrets_are_not_repeated),
        cmocka_unit_test(test_precedence),
        cmocka_unit_test(test_commands),
        cmocka_unit_test(test_help_and_version),
        cmocka_unit_test(test_pidfile),
        cmocka_unit_test(test_log),
        cmocka_unit_test(test_out_of_memory_is_logged),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
