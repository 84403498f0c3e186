/* SPDX-License-Identifier: Apache-2.0 */
#include "tasks/discovery/identity.h"
#include "tasks/discovery/k8s_checks.h"
#include "tasks/discovery/k8s_config.h"
#include "tasks/discovery/k8s_kinds.h"
#include "tasks/lib/doc.h"

/* cmocka wants these before it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <stdio.h>
#include <string.h>

/* What discovery makes of a cluster's objects, without a cluster. */

static char seen[4096];

static void on_finding(const struct k8s_finding *f, void *arg)
{
    size_t used = strlen(seen);
    (void)arg;
    snprintf(seen + used, sizeof seen - used, "%s:%s:%s(%s);", f->check_id, f->severity,
             f->container, f->message);
}

static const char *check(const char *kind, const char *text)
{
    cJSON *object = cJSON_Parse(text);
    assert_non_null(object);
    seen[0] = '\0';
    k8s_check(kind, object, on_finding, NULL);
    cJSON_Delete(object);
    return seen;
}

/* A container without faults, but for `more`. */
static const char *check_container(const char *more)
{
    char text[2048];
    snprintf(text, sizeof text,
             "{\"spec\":{\"securityContext\":{\"runAsNonRoot\":true},\"containers\":[{\"name\":"
             "\"c\",\"image\":\"a/b:1\",\"resources\":{\"limits\":{\"cpu\":\"1\",\"memory\":\"1\"}}"
             "%s}]}}",
             more);
    return check("Pod", text);
}

static void test_containers(void **state)
{
    (void)state;
    assert_string_equal(check_container(""), "");
    assert_non_null(strstr(check_container(",\"securityContext\":{\"privileged\":true}"),
                           "privileged_container:HIGH:c("));
    assert_string_equal(check_container(",\"securityContext\":{\"runAsUser\":0}"),
                        "runs_as_root:HIGH:c(runAsUser is 0);");
    assert_string_equal(
        check_container(",\"securityContext\":{\"capabilities\":{\"add\":[\"CAP_SYS_ADMIN\","
                        "\"net_raw\",\"CHOWN\",7]}}"),
        "dangerous_capabilities:HIGH:c(SYS_ADMIN, NET_RAW);");
    assert_string_equal(
        check_container(",\"env\":[{\"name\":\"DB_PASSWORD\",\"value\":\"hunter2\"},"
                        "{\"name\":\"TOKEN\",\"valueFrom\":{}},{\"name\":\"TOKEN_FILE\","
                        "\"value\":\"/x\"},{\"name\":\"A_TOKEN\",\"value\":\"$(B)\"},"
                        "{\"name\":\"DSN\",\"value\":\"pg://u:p@h/d\"},"
                        "{\"name\":\"WEB\",\"value\":\"http://h:1/a@b\"}]"),
        "secret_in_environment:HIGH:c(DB_PASSWORD, DSN);");
    assert_non_null(strstr(check("Pod", "{\"spec\":{\"containers\":[{\"name\":\"c\"}]}}"),
                           "no_resource_limits:LOW:c(no limit of cpu, no limit of memory)"));
}

static void test_images(void **state)
{
    static const char *const mutable[] = {"nginx", "nginx:latest", "h:5000/nginx", "a/b:"};
    static const char *const fixed[] = {"nginx:1.25", "nginx@sha256:00", "h:5000/nginx:1",
                                        "nginx:latest@sha256:00"};
    (void)state;
    for (int i = 0; i < 4; i++) {
        assert_true(k8s_image_is_mutable(mutable[i]));
        assert_false(k8s_image_is_mutable(fixed[i]));
    }
}

static void test_pods(void **state)
{
    static const char pod[] = "{\"metadata\":{\"ownerReferences\":[{\"kind\":\"%s\","
                              "\"controller\":true}]},\"spec\":{\"hostPID\":true,\"volumes\":"
                              "[{\"hostPath\":{\"path\":\"/\"}}]}}";
    char text[512];
    (void)state;
    snprintf(text, sizeof text, pod, "Rollout");
    assert_string_equal(check("Pod", text), "host_namespaces:HIGH:(hostPID);host_path:MEDIUM:(/);");
    snprintf(text, sizeof text, pod, "ReplicaSet");
    assert_string_equal(check("Pod", text), "");
    assert_string_equal(
        check("CronJob", "{\"spec\":{\"jobTemplate\":{\"spec\":{\"template\":{\"spec\":"
                         "{\"hostIPC\":true}}}}}}"),
        "host_namespaces:HIGH:(hostIPC);");
}

static void test_services(void **state)
{
    (void)state;
    assert_non_null(
        strstr(check("Service", "{\"spec\":{\"type\":\"LoadBalancer\"}}"), "public_service:MEDIUM"));
    assert_string_equal(check("Service", "{\"metadata\":{\"annotations\":{\"service.beta.kubernetes."
                                         "io/aws-load-balancer-internal\":\"true\"}},\"spec\":{"
                                         "\"type\":\"LoadBalancer\"}}"),
                        "");
    assert_string_equal(check("Service", "{\"metadata\":{\"annotations\":{\"networking.gke.io/load-"
                                         "balancer-type\":\"Internal\"}},\"spec\":{"
                                         "\"type\":\"LoadBalancer\"}}"),
                        "");
    assert_string_equal(check("Service", "{\"spec\":{\"type\":\"LoadBalancer\","
                                         "\"loadBalancerSourceRanges\":[\"10.0.0.0/8\"]}}"),
                        "");
    assert_non_null(strstr(check("Service", "{\"spec\":{\"type\":\"LoadBalancer\","
                                            "\"loadBalancerSourceRanges\":[\"0.0.0.0/0\"]}}"),
                           "public_service"));
    assert_non_null(
        strstr(check("Service", "{\"spec\":{\"type\":\"NodePort\"}}"), "public_service:LOW"));
    assert_string_equal(check("Service", "{\"spec\":{\"type\":\"ClusterIP\"}}"), "");
}

static void test_rbac(void **state)
{
    (void)state;
    assert_non_null(strstr(check("ClusterRole", "{\"rules\":[{\"verbs\":[\"*\"],\"resources\":"
                                                "[\"*\"]}]}"),
                           "wildcard_rbac:CRITICAL"));
    assert_non_null(strstr(check("Role", "{\"rules\":[{\"verbs\":[\"get\"],\"resources\":[\"*\"]}]}"),
                           "wildcard_rbac:HIGH"));
    assert_string_equal(check("ClusterRole",
                              "{\"metadata\":{\"name\":\"cluster-admin\",\"labels\":{\"kubernetes.io/"
                              "bootstrapping\":\"rbac-defaults\"}},\"rules\":[{\"verbs\":[\"*\"],"
                              "\"resources\":[\"*\"]}]}"),
                        "");
    assert_string_equal(
        check("ClusterRoleBinding",
              "{\"metadata\":{\"name\":\"x\"},\"roleRef\":{\"name\":\"cluster-admin\"},\"subjects\":["
              "{\"name\":\"system:masters\"},{\"name\":\"bob\"},{\"name\":\"system:anonymous\"}]}"),
        "anonymous_rbac:CRITICAL:(system:anonymous);cluster_admin_binding:HIGH:(bob);");
}

/* Whatever the shape: nothing, and no crash. */
static void test_wrong_shapes(void **state)
{
    static const char *const texts[] = {
        "{}",
        "{\"spec\":7}",
        "{\"spec\":{\"containers\":{\"a\":1}}}",
        "{\"spec\":[[]],\"rules\":\"*\",\"subjects\":{\"name\":[]}}",
        "{\"metadata\":{\"labels\":[1],\"annotations\":\"x\",\"ownerReferences\":{}},\"rules\":[7],"
        "\"roleRef\":{\"name\":\"a\"},\"subjects\":[7,null,{}]}",
    };
    (void)state;
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++)
        for (const struct k8s_kind *k = k8s_kinds; k->kind; k++) {
            bson_t d = BSON_INITIALIZER;
            cJSON *object = cJSON_Parse(texts[i]);
            check(k->kind, texts[i]);
            k8s_describe(k, object, &d);
            assert_true(bson_validate(&d, BSON_VALIDATE_UTF8, NULL));
            cJSON_Delete(object);
            bson_destroy(&d);
        }
}

static void test_yaml(void **state)
{
    const char *why;
    (void)state;
    cJSON *tree = yaml_parse("{\"a\": [{\"b\": \"c\"}]}", 19, &why);
    assert_string_equal(tree_text(tree, "a.0.b"), "c");
    cJSON_Delete(tree);
    assert_null(yaml_parse("", 0, &why));
    assert_null(yaml_parse("a: [", 4, &why));
#ifdef HAVE_YAML
    static const char endless[] = "a: &x\n  b: *x\n";
    static const char laughs[] =
        "a: &a [x,x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a]\n"
        "c: &c [*b,*b,*b,*b,*b,*b,*b,*b,*b]\nd: &d [*c,*c,*c,*c,*c,*c,*c,*c,*c]\n"
        "e: &e [*d,*d,*d,*d,*d,*d,*d,*d,*d]\nf: &f [*e,*e,*e,*e,*e,*e,*e,*e,*e]\n";
    assert_null(yaml_parse(endless, strlen(endless), &why));
    assert_null(yaml_parse(laughs, strlen(laughs), &why));
    static const char good[] = "current-context: one\nusers:\n- name: u\n  user: {token: 'x'}\n";
    tree = yaml_parse(good, strlen(good), &why);
    assert_string_equal(tree_text(tree, "users.0.user.token"), "x");
    cJSON_Delete(tree);
#endif
}

/* "kind:text:record" items → the group of each record. */
static const char *join(const char *items, int records)
{
    static char groups[64];
    struct identity list[32];
    char text[32];
    int group[16];
    size_t n = 0;
    for (const char *at = items; *at; n++) {
        int kind, record, used;
        assert_int_equal(sscanf(at, "%d:%31[^:]:%d%n", &kind, text, &record, &used), 3);
        list[n] = identity_of((enum identity_kind)kind, text, record);
        at += used + (at[used] == ' ');
    }
    assert_true(identity_join(list, n, records, group));
    for (int i = 0; i < records; i++)
        groups[i] = (char)('0' + group[i]);
    groups[records] = '\0';
    return groups;
}

static void test_identities(void **state)
{
    (void)state;
    assert_int_equal(IDENTITY_INSTANCE, 0);
    assert_int_equal(IDENTITY_HOST, 5);
    assert_string_equal(join("0:i1:0 1:arn:0 0:i1:1 3:k:1 2:mac:2 2:mac:1", 3), "000");
    assert_string_equal(join("5:h:0 5:h:1 5:g:1 5:g:2", 3), "000");
    /* Two clusters, clouds or cards with the same address and name. */
    assert_string_equal(join("3:k1:0 5:h:0 3:k2:1 5:h:1", 2), "01");
    assert_string_equal(join("0:i1:0 5:h:0 0:i2:1 5:h:1 4:s:2 5:h:2", 3), "010");
    assert_string_equal(join("2:m1:0 5:h:0 2:m2:1 5:h:1", 2), "01");
    /* A cloud's card that two machines claim joins neither to the other. */
    assert_string_equal(join("0:i1:0 2:m:0 0:i2:1 2:m:1 2:m:2", 3), "010");
    assert_string_equal(join("0:i1:0 5:h:0 3:k:1 5:h:1", 2), "00");
}

static void test_canonical_forms(void **state)
{
    char room[254];
    (void)state;
    assert_true(mac_read("0A:1B:2c:00:00:01", room));
    assert_string_equal(room, "0a:1b:2c:00:00:01");
    assert_true(mac_read("0a-1b-2c-00-00-01", room));
    assert_false(mac_read("00:00:00:00:00:00", room) || mac_read("ff:ff:ff:ff:ff:ff", room) ||
                 mac_read("01:00:5e:00:00:01", room) || mac_read("0a:1b", room) ||
                 mac_read("0a:1b:2c:00:00:01:", room) || mac_read("", room));
    assert_true(hostname_read("Web.Example.COM.", room));
    assert_string_equal(room, "web.example.com");
    assert_false(hostname_read("", room) || hostname_read(".", room) || hostname_read("a|b", room) ||
                 hostname_read("\xC3\xA4", room));
    assert_true(ip_read("2001:DB8::1", room));
    assert_string_equal(room, "2001:db8::1");
    assert_false(ip_read("10.0.0.256", room) || ip_read("010.0.0.1", room) || ip_read("x", room));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_containers), cmocka_unit_test(test_images),
        cmocka_unit_test(test_pods),       cmocka_unit_test(test_services),
        cmocka_unit_test(test_rbac),       cmocka_unit_test(test_wrong_shapes),
        cmocka_unit_test(test_yaml),       cmocka_unit_test(test_identities),
        cmocka_unit_test(test_canonical_forms),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
