/* SPDX-License-Identifier: Apache-2.0 */
#include "broker/url.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

/* Redis URLs: what Celery accepts, what is refused, and that no log shows a password. */

static struct redis_url parse(const char *text)
{
    struct redis_url url;
    struct error err = {0};
    int code = redis_url_parse(text, &url, &err);
    if (code)
        fail_msg("%s: %s", text, err.text);
    return url;
}

static void tcp(void **state)
{
    (void)state;
    struct redis_url url = parse("redis://");
    assert_string_equal(url.host, "127.0.0.1");
    assert_int_equal(url.port, 6379);
    assert_int_equal(url.db, 0);
    assert_null(url.password);
    assert_false(url.tls);
    redis_url_done(&url);

    url = parse("redis://us%40er:p%2Fw%3A@broker.example:6380/12");
    assert_string_equal(url.user, "us@er");
    assert_string_equal(url.password, "p/w:");
    assert_string_equal(url.host, "broker.example");
    assert_int_equal(url.port, 6380);
    assert_int_equal(url.db, 12);
    redis_url_done(&url);

    url = parse("redis://:secret@[::1]:7000/1");
    assert_null(url.user);
    assert_string_equal(url.password, "secret");
    assert_string_equal(url.host, "::1");
    assert_int_equal(url.port, 7000);
    redis_url_done(&url);
}

static void tls(void **state)
{
    (void)state;
    struct redis_url url = parse("rediss://h");
    assert_true(url.tls);
    assert_int_equal(url.verify, REDIS_VERIFY_REQUIRED);
    assert_true(url.check_hostname);
    redis_url_done(&url);

    url = parse("rediss://h/2?ssl_cert_reqs=CERT_NONE&ssl_ca_certs=%2Fca.pem&ssl_certfile=/c"
                "&ssl_keyfile=/k&ssl_check_hostname=false");
    assert_int_equal(url.verify, REDIS_VERIFY_NONE);
    assert_string_equal(url.ca_file, "/ca.pem");
    assert_string_equal(url.cert_file, "/c");
    assert_string_equal(url.key_file, "/k");
    assert_false(url.check_hostname);
    assert_int_equal(url.db, 2);
    redis_url_done(&url);
}

static void sockets(void **state)
{
    (void)state;
    struct redis_url url = parse("redis+socket:///run/redis%20x.sock?virtual_host=3");
    assert_string_equal(url.socket_path, "/run/redis x.sock");
    assert_null(url.host);
    assert_int_equal(url.db, 3);
    redis_url_done(&url);
    url = parse("unix://:pw@/run/r.sock");
    assert_string_equal(url.password, "pw");
    assert_string_equal(url.socket_path, "/run/r.sock");
    redis_url_done(&url);
}

static const char KWARGS[] = "{\"password\": \"secret\", \"ssl\": true, \"ssl_cert_reqs\": "
                             "\"none\", \"socket_timeout\": 5}";

static void refused(void **state)
{
    (void)state;
    static const char *const bad[] = {
        "",
        "localhost",
        "http://h",
        "amqp://h//",
        "redis://h/zero",
        "redis://h:port",
        "redis://h:99999",
        "redis://[::1",
        "redis://h?ssl_cert_reqs=perhaps",
        "redis://h?no_such=1",
        "redis+socket://",
        "sentinel://a;redis://b",
        "sentinel://a:26379;b:26379",
        "sentinel://a;sentinel://b:port",
        "sentinel://a/zero",
        "redis://a;redis://b",
        "redis://h/-1",
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct redis_url url;
        struct error err = {0};
        assert_int_not_equal(redis_url_parse(bad[i], &url, &err), 0);
        assert_true(*err.text);
        assert_null(url.host);
    }
    struct redis_url url;
    struct error err = {0};
    assert_int_not_equal(redis_url_parse("redis://:hush@h:x/y?z=hush", &url, &err), 0);
    assert_null(strstr(err.text, "hush"));
}

static void sentinels(void **state)
{
    (void)state;
    struct redis_url url = parse("sentinel://us%40er:p%3Bw@h1;sentinel://h2:5000/3;sentinel://[::1]:1/");
    assert_int_equal(url.n_sentinels, 3);
    assert_string_equal(url.sentinels[0].host, "h1");
    assert_int_equal(url.sentinels[0].port, 26379);
    assert_string_equal(url.sentinels[1].host, "h2");
    assert_int_equal(url.sentinels[1].port, 5000);
    assert_string_equal(url.sentinels[2].host, "::1");
    assert_string_equal(url.user, "us@er");
    assert_string_equal(url.password, "p;w");
    assert_null(url.sentinels[0].password);
    assert_int_equal(url.db, 3);
    assert_false(url.tls);
    struct error err = {0};
    assert_int_equal(redis_url_set_master(&url, NULL, NULL, &err), ERROR_INVALID);
    cJSON *kwargs = json_parse(KWARGS, strlen(KWARGS), NULL);
    assert_int_equal(redis_url_set_master(&url, "main", kwargs, &err), 0);
    struct redis_url copy = redis_url_copy(&url);
    redis_url_done(&url);
    assert_string_equal(copy.master, "main");
    assert_string_equal(copy.sentinels[2].password, "secret");
    assert_true(copy.sentinels[0].tls);
    assert_int_equal(copy.sentinels[0].verify, REDIS_VERIFY_NONE);
    redis_url_done(&copy);
    cJSON_Delete(kwargs);
    url = parse("redis://h");
    assert_int_equal(redis_url_set_master(&url, NULL, NULL, &err), 0);
    redis_url_done(&url);
    url = parse("sentinel://h?ssl_ca_certs=/ca.pem");
    assert_true(url.tls);
    assert_string_equal(url.ca_file, "/ca.pem");
    redis_url_done(&url);
}

static void masks(void **state)
{
    (void)state;
    static const char *const pairs[][2] = {
        {"redis://h:1/0", "redis://h:1/0"},
        {"redis://user:pw@h/0", "redis://user:**@h/0"},
        {"redis://:pw@h", "redis://:**@h"},
        {"redis://:p/w@h", "redis://:**@h"},
        {"redis://:p@w;x@h", "redis://:**@h"},
        {"sentinel://:a@h1:1;sentinel://:b@h2:2", "sentinel://:**@h1:1;sentinel://:**@h2:2"},
        {"mongodb://u:p@a,b/db?tlsCertificateKeyFilePassword=x&w=1",
         "mongodb://u:**@a,b/db?tlsCertificateKeyFilePassword=**&w=1"},
        {"no url", "no url"},
    };
    for (size_t i = 0; i < sizeof pairs / sizeof *pairs; i++) {
        char *masked = url_mask(pairs[i][0]);
        assert_string_equal(masked, pairs[i][1]);
        free(masked);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(tcp),     cmocka_unit_test(tls),   cmocka_unit_test(sockets),
        cmocka_unit_test(refused), cmocka_unit_test(sentinels), cmocka_unit_test(masks),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
