/* SPDX-License-Identifier: Apache-2.0 */

/* The task API towards the outside: programs, HTTP, MongoDB; and the registry with its plugins and
 * programs as tasks. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "tasks/lib/targets.h"
#include "test/unit/api_harness.h"
#include "worker/task/net_guard.h"

#include <arpa/inet.h>
#include <signal.h>
#include <sys/wait.h>

/* --- handlers under test --- */

static int trail;

static cw_outcome sum(cw_task *t)
{
    return cw_return_int(t, cw_int(t, "x") + cw_int(t, "y"));
}

static cw_outcome shell(cw_task *t)
{
    const char *argv[] = {"sh", "-c", cw_str(t, "x"), NULL};
    const char *environment[] = {"MINE=yes", NULL};
    struct cw_command command = {.argv = argv,
                                 .environment = environment,
                                 .input = "in put",
                                 .timeout = cw_num(t, "seconds"),
                                 .max_output = 100000};
    struct cw_exit e;
    if (cw_exec(t, &command, &e) < 0)
        return cw_fail(t);
    return cw_return_str(t, cw_printf(t, "%d %d %s|%s", e.status, e.signal, e.output, e.errors));
}

static cw_outcome missing(cw_task *t)
{
    const char *argv[] = {"no-such-program", NULL};
    struct cw_exit e;
    return cw_exec(t, &(struct cw_command){.argv = argv}, &e) < 0 ? cw_fail(t) : cw_return(t, NULL);
}

static void count_line(cw_task *t, const char *line, size_t size, void *arg)
{
    (void)t;
    (void)line;
    *(size_t *)arg += size;
}

static cw_outcome lines(cw_task *t)
{
    const char *argv[] = {"printf", "one\\ntwo\\n\\nlast", NULL};
    size_t seen = 0;
    struct cw_exit e;
    if (cw_exec(t, &(struct cw_command){.argv = argv, .on_line = count_line, .arg = &seen}, &e) < 0)
        return cw_fail(t);
    return cw_return_int(t, (int64_t)seen);
}

static cw_outcome http(cw_task *t)
{
    static const char *const headers[] = {"X-Key: secret", NULL};
    struct cw_reply reply;
    struct cw_http request = {.url = cw_str(t, "x"),
                              .headers = headers,
                              .timeout = 2,
                              .max_size = 1000,
                              .allow_private = cw_bool(t, "private")};
    if (cw_http(t, &request, &reply) < 0)
        return cw_fail(t);
    return cw_return_str(t, reply.body);
}

static int count_body(cw_task *t, const char *text, size_t size, void *arg)
{
    (void)t;
    *(size_t *)arg += size;
    return memchr(text, '!', size) ? -1 : 0;
}

static cw_outcome stream(cw_task *t)
{
    struct cw_reply reply;
    size_t seen = 0;
    struct cw_http request = {.url = cw_str(t, "x"),
                              .max_size = 6000,
                              .allow_any_status = true,
                              .allow_private = cw_bool(t, "private"),
                              .on_body = count_body,
                              .arg = &seen};
    bool transient = false;
    if (cw_http(t, &request, &reply) < 0)
        return cw_problem_text(t, &transient) && !transient ? cw_fail(t) : cw_return(t, NULL);
    const char *tag = cw_header(&reply, "etag");
    return cw_return_str(t, cw_printf(t, "%ld %zu %s %s", reply.status, seen, reply.body,
                                      tag ? tag : "none"));
}

/* tells(how): what a tool said, with a secret, the beginning of one that was cut, and an id. */
static cw_outcome tells(cw_task *t)
{
    int64_t how = cw_int(t, "how");
    const char *key = cw_secret(t, "TEST_KEY"), *short_one = cw_secret(t, "TEST_SHORT");
    const char *id = cw_secret(t, "TEST_CLIENT_ID");
    const char *said = cw_printf(t, "%s, %s, %s %s, %.8s", key, short_one, id, key, key);
    if (how == 0)
        return cw_raise(t, "ValueError", "%s", said);
    if (how == 1)
        return cw_retry(t, 1, "ValueError", "%s", said);
    cw_problem(t, false, "ValueError", "%s", said);
    return how == 2 ? cw_fail(t) : cw_return_str(t, cw_problem_text(t, NULL));
}
static const struct cw_arg tells_args[] = {{"how", CW_INT}, {0}};

static cw_outcome mongo(cw_task *t)
{
    return cw_collection(t, "things") ? cw_return(t, NULL) : cw_fail(t);
}

/* A handle for each call would be kept until the delivery ends. */
static cw_outcome collections(cw_task *t)
{
    const void *a = cw_collection(t, "a.b"), *b = cw_collection(t, "b");
    return cw_return_bool(t, a && b && a != b && a == cw_collection(t, "a.b"));
}

static cw_outcome data(cw_task *t)
{
    return cw_return_int(t, *(int *)cw_data(t));
}

static int open_data(void **ret_data)
{
    *ret_data = &trail;
    trail++;
    return 0;
}

static void close_data(void *arg)
{
    *(int *)arg = -1;
}

static const struct cw_arg two_ints[] = {
    {.name = "x", .kind = CW_INT}, {.name = "y", .kind = CW_INT}, {0}};
static const struct cw_arg shell_args[] = {
    {.name = "x", .kind = CW_STR}, {.name = "seconds", .kind = CW_NUM, .fallback = "0"}, {0}};
static const struct cw_arg http_args[] = {
    {.name = "x", .kind = CW_STR}, {.name = "private", .kind = CW_BOOL, .fallback = "false"}, {0}};

static const struct cw_def defs[] = {
    {.name = "t.sum", .run = sum, .args = two_ints},
    {.name = "t.shell", .run = shell, .args = shell_args},
    {.name = "t.missing", .run = missing},
    {.name = "t.lines", .run = lines},
    {.name = "t.http", .run = http, .args = http_args, .default_retry_delay = 2},
    {.name = "t.stream", .run = stream, .args = http_args},
    {.name = "t.mongo", .run = mongo},
    {.name = "t.collections", .run = collections},
    {.name = "t.tells", .run = tells, .args = tells_args},
    {0},
};
static const struct cw_table table = {.api = CW_API, .queue = "tests", .defs = defs};
static const struct cw_def data_defs[] = {{.name = "data.read", .run = data}, {0}};
static const struct cw_table data_table = {
    .api = CW_API, .defs = data_defs, .open = open_data, .close = close_data};

/* --- programs --- */

static void test_exec(void **state)
{
    (void)state;
    expect("t.shell", "[\"cat; echo $MINE >&2; exit 3\"], {}", "\"3 0 in put|yes\\n\"", NULL);
    expect("t.shell", "[\"kill -9 $$\"], {}", "\"0 9 |\"", NULL);
    setenv("NOT_FOR_TOOLS", "secret", 1);
    expect("t.shell", "[\"echo .$NOT_FOR_TOOLS; test -d $TMPDIR; echo $?\"], {}",
           "\"0 0 .\\n0\\n|\"", NULL);
    expect("t.lines", "[], {}", "10", NULL);
    expect_failure("t.missing", "[], {}", "FileNotFoundError",
                   "program no-such-program is not installed or not in PATH");
}

static void test_exec_limits(void **state)
{
    (void)state;
    struct run *r = run_task("t.shell", "[\"sleep 20 & wait\", 0.2], {}");
    assert_int_equal(r->o.kind, RESULT_RETRY);
    assert_string_equal(r->repr, "TimeoutError('sh did not end within 0.2 s')");
    assert_true(r->o.run_us < 3000000);
    end(r);
    expect_failure("t.shell", "[\"yes\"], {}", "ValueError", "sh wrote more than 100000 bytes");
    r = run_stopped("t.shell", "[\"sleep 20\"], {}", CW_SOFT_LIMIT);
    assert_string_equal(r->repr, "SoftTimeLimitExceeded()");
    end(r);
}

/* The bill names the programs' time too. */
static void test_exec_is_billed(void **state)
{
    (void)state;
    struct run *r =
        run_task("t.shell", "[\"i=0; while [ $i -lt 100000 ]; do i=$((i+1)); done\"], {}");
    assert_true(r->o.cpu_us > 10000);
    assert_true(r->o.resident_kb > 100 && r->o.peak_kb >= r->o.resident_kb / 2);
    end(r);
}

/* --- HTTP --- */

static int http_port, other_port;

/* Answers each connection once, by its path. */
static void serve(int server)
{
    for (;;) {
        int fd = accept(server, NULL, NULL);
        char in[4096];
        ssize_t size = fd < 0 ? -1 : read(fd, in, sizeof in - 1);
        if (size <= 0) {
            close(fd);
            continue;
        }
        in[size] = '\0';
        char out[8192] = "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nno key";
        if (strstr(in, "X-Key: secret"))
            snprintf(out, sizeof out, "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nkey");
        if (strncmp(in, "GET /503", 8) == 0)
            snprintf(out, sizeof out,
                     "HTTP/1.1 503 No\r\nRetry-After: 9\r\nConnection: close\r\n\r\n");
        if (strncmp(in, "GET /404", 8) == 0)
            snprintf(out, sizeof out, "HTTP/1.1 404 No\r\nConnection: close\r\n\r\n");
        if (strncmp(in, "GET /loop", 9) == 0 || strncmp(in, "GET /away", 9) == 0)
            snprintf(
                out, sizeof out,
                "HTTP/1.1 302 Go\r\nLocation: http://127.0.0.1:%d/%s\r\nConnection: close\r\n\r\n",
                in[5] == 'l' ? http_port : other_port, in[5] == 'l' ? "loop" : "");
        if (strncmp(in, "GET /file", 9) == 0)
            snprintf(
                out, sizeof out,
                "HTTP/1.1 302 Go\r\nLocation: file:///etc/passwd\r\nConnection: close\r\n\r\n");
        if (strncmp(in, "GET /big", 8) == 0)
            snprintf(out, sizeof out, "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n%5000d", 1);
        if (strncmp(in, "GET /tag", 8) == 0)
            snprintf(out, sizeof out,
                     "HTTP/1.1 299 OK\r\nETag: \"a\"\r\nETag: \"b\"\r\nConnection: close\r\n\r\n%s",
                     in[8] == '!' ? "oh!" : "text");
        if (strncmp(in, "GET /large", 10) == 0)
            snprintf(out, sizeof out, "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n%7000d", 1);
        if (strncmp(in, "GET /400", 8) == 0)
            snprintf(out, sizeof out, "HTTP/1.1 400 No\r\nConnection: close\r\n\r\nwhy");
        if (strncmp(in, "GET /206", 8) == 0)
            snprintf(out, sizeof out, "HTTP/1.1 206 No\r\nConnection: close\r\n\r\npart");
        if (strncmp(in, "GET /gzip", 9) == 0)
            snprintf(out, sizeof out,
                     "HTTP/1.1 %s\r\nContent-Encoding: gzip\r\nContent-Length: 10\r\n\r\n%s",
                     in[9] == '4' ? "404 No" : "200 OK", "\x1F\x8B\x08\x08name..");
        if (strncmp(in, "GET /hang", 9) == 0)
            continue;
        send(fd, out, strlen(out), MSG_NOSIGNAL);
        close(fd);
    }
}

static pid_t serve_start(int *ret_port)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof address;
    int server = socket(AF_INET, SOCK_STREAM, 0);
    assert_int_equal(bind(server, (struct sockaddr *)&address, size), 0);
    assert_int_equal(listen(server, 16), 0);
    getsockname(server, (struct sockaddr *)&address, &size);
    *ret_port = ntohs(address.sin_port);
    http_port = http_port ? http_port : *ret_port;
    pid_t pid = fork();
    if (pid == 0)
        serve(server);
    close(server);
    return pid;
}

static char *url_args(const char *path)
{
    static char args[200];
    snprintf(args, sizeof args, "[\"http://127.0.0.1:%d%s\", true], {}", http_port, path);
    return args;
}

static void test_http(void **state)
{
    (void)state;
    pid_t other = serve_start(&other_port);
    http_port = 0;
    pid_t pid = serve_start(&http_port);
    expect("t.http", url_args("/"), "\"key\"", NULL);
    expect("t.http", url_args("/away"), "\"no key\"", NULL);
    expect_failure("t.http", url_args("/404?token=x"), "RuntimeError", "HTTP 404 from 127.0.0.1");
    expect_failure("t.http", url_args("/loop"), "ConnectionError",
                   "127.0.0.1: more than 5 redirects");
    expect_failure("t.http", url_args("/file"), "ValueError", "not a URL of http or https");
    expect_failure("t.http", url_args("/big"), "ValueError",
                   "the reply of 127.0.0.1 is larger than 1000 bytes");
    expect("t.stream", url_args("/big"), "\"200 5000  none\"", NULL);
    expect("t.stream", url_args("/tag"), "\"299 4  \\\"b\\\"\"", NULL);
    expect("t.stream", url_args("/400"), "\"400 0 why none\"", NULL);
    expect("t.stream", url_args("/206"), "\"206 0 part none\"", NULL); /* nobody asked for a part */
    expect("t.stream", url_args("/gzip"), "null", NULL);               /* transient: it is cut */
    expect("t.stream", url_args("/gzip404"), "\"404 0  none\"", NULL);
    expect_failure("t.stream", url_args("/tag!"), "ValueError",
                   "the reply of 127.0.0.1 was refused");
    expect_failure("t.stream", url_args("/large"), "ValueError",
                   "the reply of 127.0.0.1 is larger than 6000 bytes");
    struct run *r = run_task("t.http", url_args("/503"));
    assert_int_equal(r->o.kind, RESULT_RETRY);
    assert_true(r->o.countdown == 9);
    end(r);
    r = run_task("t.http", url_args("/hang"));
    assert_string_equal(r->repr, "TimeoutError('127.0.0.1 did not answer in time')");
    end(r);
    r = run_stopped("t.http", url_args("/hang"), CW_SOFT_LIMIT);
    assert_string_equal(r->repr, "SoftTimeLimitExceeded()");
    end(r);
    char args[200];
    snprintf(args, sizeof args, "[\"http://127.0.0.1:%d/\"], {}", http_port);
    expect_failure("t.http", args, "PermissionError",
                   "127.0.0.1 is a private, loopback or link-local address");
    kill(pid, SIGKILL);
    kill(other, SIGKILL);
    waitpid(pid, NULL, 0);
    waitpid(other, NULL, 0);
    r = run_task("t.http", url_args("/"));
    assert_int_equal(r->o.kind, RESULT_RETRY);
    assert_memory_equal(r->repr, "ConnectionError(\"127.0.0.1: ", 28);
    end(r);
    expect_failure("t.http", "[\"ftp://127.0.0.1/\"], {}", "ValueError",
                   "not a URL of http or https");
    expect_failure("t.http", "[\"\"], {}", "ValueError", "not a URL of http or https");
}

static void test_addresses(void **state)
{
    (void)state;
    static const struct row {
        const char *text;
        bool public;
    } rows[] = {
        {"8.8.8.8", true},          {"127.0.0.1", false},
        {"10.1.2.3", false},        {"172.16.0.1", false},
        {"172.32.0.1", true},       {"192.168.1.1", false},
        {"169.254.169.254", false}, {"100.64.0.1", false},
        {"0.0.0.0", false},         {"255.255.255.255", false},
        {"224.0.0.1", false},       {"::1", false},
        {"fe80::1", false},         {"fd00:ec2::254", false},
        {"2606:4700::1111", true},  {"::ffff:127.0.0.1", false},
        {"::ffff:8.8.8.8", true},   {"64:ff9b::a9fe:a9fe", false},
        {"2002:7f00:1::", false},   {"::", false},
        {"ff02::1", false},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct sockaddr_in6 six = {.sin6_family = AF_INET6};
        struct sockaddr_in four = {.sin_family = AF_INET};
        bool is_six = strchr(rows[i].text, ':');
        assert_int_equal(inet_pton(is_six ? AF_INET6 : AF_INET, rows[i].text,
                                   is_six ? (void *)&six.sin6_addr : (void *)&four.sin_addr),
                         1);
        assert_int_equal(
            address_is_public(is_six ? (struct sockaddr *)&six : (struct sockaddr *)&four),
            rows[i].public);
        assert_int_equal(cw_is_public_address(rows[i].text), rows[i].public);
    }
}

/* --- the registry --- */

static void test_registry(void **state)
{
    (void)state;
    cJSON *aliases = cJSON_Parse("{\"old.sum\": \"t.sum\", \"lost\": \"no.such\"}");
    assert_string_equal(registry_set_aliases(aliases, true), "lost");
    cJSON_Delete(aliases);
    assert_int_equal(registry_find("old.sum"), registry_find("t.sum"));
    assert_int_equal(registry_find("lost"), -1);
    assert_true(registry_find("app.workers.execute_network_scan") >= 0);
    assert_int_equal(registry_find("app.workers.execute_network_scan"),
                     registry_find("scans.execute_network_scan"));
    assert_int_equal(registry_find("x.sum"), -1);
    assert_int_equal(registry_find(""), -1);
    assert_null(registry_set_aliases(NULL, false));
    assert_int_equal(registry_find("app.workers.execute_network_scan"), -1);
}

static void test_plugin_errors(void **state)
{
    (void)state;
    struct error err = {0};
    assert_true(registry_load_plugin("no-such.so", &err) < 0);
    assert_non_null(strstr(err.text, "no-such.so cannot be loaded"));
    assert_true(registry_load_plugin("/dev/null", &err) < 0);
}

static void test_table_data(void **state)
{
    (void)state;
    expect("data.read", "[], {}", "1", NULL);
    expect("data.read", "[], {}", "1", NULL);
    task_process_done();
    assert_int_equal(trail, -1);
}

static void test_secrets_in_errors(void **state)
{
    static const char told[] = "********, abc, client-0 ********, ********";
    (void)state;
    setenv("TEST_KEY", "s3cr3t-value", 1);
    setenv("TEST_SHORT", "abc", 1);
    setenv("TEST_CLIENT_ID", "client-0", 1);
    expect_failure("t.tells", "[0], {}", "ValueError", told);
    expect_failure("t.tells", "[2], {}", "ValueError", told);
    for (int how = 0; how < 4; how++) {
        char args[20];
        snprintf(args, sizeof args, "[%d], {}", how);
        struct run *r = run_task("t.tells", args);
        assert_null(strstr(r->result, "s3cr3t"));
        assert_null(strstr(r->traceback, "s3cr3t"));
        assert_non_null(strstr(how == 1 ? r->traceback : r->result, told));
        end(r);
    }
    setenv("TEST_KEY", "********", 1); /* as it is in an example */
    expect_failure("t.tells", "[0], {}", "ValueError", told);
}

static void test_mongo_without_url(void **state)
{
    (void)state;
    expect_failure("t.mongo", "[], {}", "RuntimeError",
                   "no database for tasks: set app_database_url to a mongodb:// URL");
}

static void test_mongo_collections(void **state)
{
    static struct settings s = {.app_database_url = "mongodb://127.0.0.1:1/x"};
    struct task_process before = task_process, with = before;
    (void)state;
    with.settings = &s;
    task_process_init(&with);
    expect("t.collections", "[], {}", "true", NULL);
    task_process_done();
    task_process_init(&before);
}

/* --- programs as tasks --- */

static void add_command(const char *name, const char *script)
{
    struct error err = {0};
    cJSON *rows = cJSON_CreateArray(), *row = cJSON_CreateObject();
    const char *argv[] = {"sh", "-c", script};
    cJSON_AddStringToObject(row, "name", name);
    cJSON_AddItemToObject(row, "command", cJSON_CreateStringArray(argv, 3));
    cJSON_AddItemToObject(row, "env", cJSON_Parse("{\"WORD\": \"hi\"}"));
    cJSON_AddItemToArray(rows, row);
    assert_int_equal(registry_add_commands(rows, &err), 0);
    cJSON_Delete(rows);
}

static void test_commands(void **state)
{
    (void)state;
    add_command("c.echo", "cat");
    expect(
        "c.echo", "[1, \"a\"], {\"k\": 2.0}",
        "{\"id\": \"id-1\", \"name\": \"c.echo\", \"args\": [1, \"a\"], \"kwargs\": {\"k\": 2.0}, "
        "\"retries\": 0}",
        NULL);
    add_command("c.empty", "true");
    expect("c.empty", "[], {}", "null", "None");
    add_command("c.env", "echo \\\"$WORD\\\"");
    expect("c.env", "[], {}", "\"hi\"", NULL);
    add_command("c.progress",
                "echo '{\"progress\": {\"n\": 1}}'; echo '{\"progress\": 1, \"b\": 2}'");
    seen_states[0] = '\0';
    expect("c.progress", "[], {}", "{\"progress\": 1, \"b\": 2}", NULL);
    assert_string_equal(seen_states, "PROGRESS={\"n\": 1};");
}

static void test_command_failures(void **state)
{
    (void)state;
    add_command("c.exit", "echo oh no >&2; exit 4");
    expect_failure("c.exit", "[], {}", "RuntimeError", "sh ended with exit status 4: oh no");
    add_command("c.killed", "kill -9 $$");
    expect_failure("c.killed", "[], {}", "RuntimeError", "sh was ended by signal 9 (Killed)");
    add_command("c.text", "echo plain text");
    struct run *r = run_task("c.text", "[], {}");
    assert_non_null(
        strstr(r->result, "\"ValueError\", \"exc_message\": [\"the result of sh is not JSON"));
    end(r);
    add_command("c.told",
                "echo log; printf %s '{\"error\": {\"type\": \"KeyError\", \"message\": \"k\", "
                "\"traceback\": \"line 1\\nline 2\"}}'; exit 1");
    r = run_task("c.told", "[], {}");
    assert_string_equal(r->repr, "KeyError('k')");
    assert_non_null(strstr(r->traceback, "KeyError: 'k'\nline 1\nline 2\n"));
    end(r);
    add_command("c.later", "exit 75");
    r = run_task("c.later", "[], {}");
    assert_int_equal(r->o.kind, RESULT_RETRY);
    assert_true(r->o.countdown == 180);
    end(r);
}

static void test_command_rows(void **state)
{
    (void)state;
    static const struct row {
        const char *json, *text;
    } rows[] = {
        {"{}", "setting tasks must be a list of programs"},
        {"[1]", "setting tasks, row 1 (no name): must be an object"},
        {"[{\"command\": [\"a\"]}]", "setting tasks, row 1 (no name): name is missing"},
        {"[{\"name\": \"n\"}]",
         "setting tasks, row 1 (n): command is missing: a list of strings, the program first"},
        {"[{\"name\": \"n\", \"command\": \"a b\"}]",
         "setting tasks, row 1 (n), field command: must be a list of strings, the program first"},
        {"[{\"name\": \"n\", \"command\": [\"a\"], \"timeout\": -1}]",
         "setting tasks, row 1 (n), field timeout: must be a number of seconds, above 0"},
        {"[{\"name\": \"n\", \"command\": [\"a\"], \"time\": 1}]",
         "setting tasks, row 1 (n), field time: there are only name, queue, command, timeout, "
         "soft_timeout, max_retries, default_retry_delay, env, unique_for and unique_key"},
        {"[{\"name\": \"t.sum\", \"command\": [\"a\"]}]", "task t.sum exists already"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct error err = {0};
        cJSON *json = cJSON_Parse(rows[i].json);
        assert_true(registry_add_commands(json, &err) < 0);
        assert_string_equal(err.text, rows[i].text);
        cJSON_Delete(json);
    }
}

/* --- what the built-in scans lean on --- */

static void test_targets(void **state)
{
    (void)state;
    static const char *const bad[] = {"",           "-oN",       "a b",         "host/8",
                                      "1.2.3.4/33", "a;b",       "10.0.0.1-20", "1.2.3",
                                      "$(x)",       "10.0.0.0/", "--"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        assert_false(target_is_valid(bad[i]));
    assert_true(target_is_valid("10.0.0.0/8"));
    assert_true(target_is_valid("a-b.example"));
    assert_true(target_is_valid("2001:db8::/32"));
    assert_true(target_is_covered("10.1.2.3", "10.0.0.0/8"));
    assert_true(target_is_covered("10.1.0.0/16", "10.0.0.0/8"));
    assert_false(target_is_covered("10.0.0.0/7", "10.0.0.0/8"));
    assert_false(target_is_covered("11.0.0.1", "10.0.0.0/8"));
    assert_true(target_is_covered("2001:db8:0::1", "2001:db8::1"));
    assert_false(target_is_covered("::1", "0.0.0.0/0"));
    assert_true(target_is_covered("Host.Example", "host.example"));
    assert_false(target_is_covered("sub.host.example", "host.example"));
}

static int add_tables(void **state)
{
    static const struct cw_table *const own[] = {&table, &data_table, NULL};
    (void)state;
    return add_own_tables(own);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_exec),
        cmocka_unit_test(test_exec_limits),
        cmocka_unit_test(test_exec_is_billed),
        cmocka_unit_test(test_http),
        cmocka_unit_test(test_addresses),
        cmocka_unit_test(test_registry),
        cmocka_unit_test(test_plugin_errors),
        cmocka_unit_test(test_table_data),
        cmocka_unit_test(test_mongo_without_url),
        cmocka_unit_test(test_mongo_collections),
        cmocka_unit_test(test_secrets_in_errors),
        cmocka_unit_test(test_commands),
        cmocka_unit_test(test_command_failures),
        cmocka_unit_test(test_command_rows),
        cmocka_unit_test(test_targets),
    };
    return cmocka_run_group_tests(tests, add_tables, NULL);
}
