/* SPDX-License-Identifier: Apache-2.0 */
#include "tasks/discovery/k8s_config.h"

#include "tasks/lib/check.h"
#include "tasks/lib/doc.h"
#include "tasks/lib/targets.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

/* Where a cluster is and what proves who we are. A document names secrets, it does not hold them: a
 * kubeconfig lies in the folder that the operator set, a token in the environment or a file. Only
 * https that is verified is spoken, and with no address at which a cloud tells its machines their
 * secrets; but a document with an authority of its own chooses who gets its token. */

enum { FILE_MAX_BYTES = 1 << 20 };
static const char service_account[] = "/var/run/secrets/kubernetes.io/serviceaccount";

struct kept {
    char *text;
    size_t size;
};

static void forget(void *arg)
{
    struct kept *k = arg;
    OPENSSL_cleanse(k->text, k->size);
    free(k->text);
}

/* Memory that is wiped with the delivery: it holds keys. */
static char *secret_alloc(cw_task *t, size_t size)
{
    struct kept *k = cw_alloc(t, sizeof *k);
    k->size = size + 1;
    k->text = calloc(1, k->size);
    if (k->text)
        cw_defer(t, forget, k);
    return k->text;
}

static char *file_read(cw_task *t, const char *path, const char *what)
{
    struct stat info;
    char *text = NULL;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0 || fstat(fd, &info) < 0 || !S_ISREG(info.st_mode)) {
        cw_problem(t, false, errno == EACCES ? "PermissionError" : "FileNotFoundError",
                   "%s: %s cannot be read: %s", what, path,
                   fd < 0 ? strerror(errno) : "it is not a file");
    } else if (info.st_size > FILE_MAX_BYTES) {
        cw_problem(t, false, "ValueError", "%s: %s is larger than a megabyte", what, path);
    } else if (!(text = secret_alloc(t, (size_t)info.st_size)) ||
               read(fd, text, (size_t)info.st_size) != info.st_size) {
        cw_problem(t, true, "OSError", "%s: %s cannot be read", what, path);
        text = NULL;
    }
    if (fd >= 0)
        close(fd);
    return text;
}

static const char *trimmed(char *text)
{
    for (size_t size = strlen(text); size && strchr(" \t\r\n", text[size - 1]); size--)
        text[size - 1] = '\0';
    return text;
}

/* A header's value: a line feed in it would be another header. */
static int check_token(cw_task *t, const char *token)
{
    for (const char *at = token; *at; at++)
        if ((unsigned char)*at <= ' ' || (unsigned char)*at >= 0x7F)
            return cw_problem(t, false, "ValueError", "the cluster's token has blanks in it");
    return *token ? 0 : cw_problem(t, false, "ValueError", "the cluster's token is empty");
}

static int check_server(cw_task *t, struct k8s_config *c)
{
    if (!c->server || !check_url(c->server) || strncasecmp(c->server, "https://", 8) != 0)
        return cw_problem(t, false, "ValueError", "the cluster's API server must be an https URL");
    if (strpbrk(c->server, "?#"))
        return cw_problem(t, false, "ValueError",
                          "the cluster's API server has a query in its URL");
    size_t size = strlen(c->server);
    while (size && c->server[size - 1] == '/')
        size--;
    c->server = cw_printf(t, "%.*s", (int)size, c->server);
    return c->token ? check_token(t, c->token) : 0;
}

/* --- kubeconfig --- */

/* The `inner` of the element of a list that has that name. */
static const cJSON *named(const cJSON *config, const char *list, const char *name,
                          const char *inner)
{
    const cJSON *at;
    cJSON_ArrayForEach(at, cJSON_GetObjectItemCaseSensitive(config, list))
    {
        const char *own = tree_text(at, "name");
        if (own && name && strcmp(own, name) == 0)
            return cJSON_GetObjectItemCaseSensitive(at, inner);
    }
    return NULL;
}

static char *decoded(cw_task *t, const char *base64, const char *what)
{
    size_t size = strlen(base64);
    char *text = secret_alloc(t, size / 4 * 3 + 4);
    int n = text && size % 4 == 0
                ? EVP_DecodeBlock((unsigned char *)text, (const unsigned char *)base64, (int)size)
                : -1;
    if (n >= 0)
        return text;
    cw_problem(t, false, "ValueError", "kubeconfig: %s is not base64", what);
    return NULL;
}

/* 0 with *ret NULL when it is not given at all. */
static int pem_of(cw_task *t, const cJSON *from, const char *name, const char *folder,
                  const char **ret)
{
    const char *data = tree_text(from, cw_printf(t, "%s-data", name)),
               *path = tree_text(from, name);
    *ret = NULL;
    if (data)
        *ret = decoded(t, data, name);
    else if (path)
        *ret = file_read(t, *path == '/' ? path : cw_printf(t, "%s/%s", folder, path), name);
    else
        return 0;
    return *ret ? 0 : -1;
}

static int read_user(cw_task *t, const cJSON *user, const char *folder, struct k8s_config *c)
{
    const char *path = tree_text(user, "tokenFile");
    if (tree_at(user, "exec") || tree_at(user, "auth-provider"))
        return cw_problem(t, false, "ValueError",
                          "kubeconfig: the user's exec or auth-provider is not supported: give it "
                          "a token or a client certificate");
    if (tree_at(user, "username"))
        return cw_problem(t, false, "ValueError", "kubeconfig: passwords are not supported");
    if (pem_of(t, user, "client-certificate", folder, &c->client_cert) < 0 ||
        pem_of(t, user, "client-key", folder, &c->client_key) < 0)
        return -1;
    c->token = tree_text(user, "token") ? cw_printf(t, "%s", tree_text(user, "token")) : NULL;
    if (path) {
        char *text = file_read(t, *path == '/' ? path : cw_printf(t, "%s/%s", folder, path),
                               "tokenFile");
        if (!text)
            return -1;
        c->token = trimmed(text);
    }
    if (!c->client_cert != !c->client_key)
        return cw_problem(t, false, "ValueError",
                          "kubeconfig: a client certificate needs its key, and the reverse");
    return 0;
}

static int read_cluster(cw_task *t, const cJSON *cluster, const char *folder, struct k8s_config *c)
{
    const cJSON *insecure = tree_at(cluster, "insecure-skip-tls-verify");
    const char *text = cJSON_GetStringValue(insecure);
    if (cJSON_IsTrue(insecure) || (text && strcmp(text, "true") == 0))
        return cw_problem(t, false, "ValueError",
                          "kubeconfig: insecure-skip-tls-verify is refused: give the cluster's "
                          "certificate-authority");
    if (tree_at(cluster, "proxy-url") || tree_at(cluster, "tls-server-name"))
        return cw_problem(t, false, "ValueError",
                          "kubeconfig: proxy-url and tls-server-name are not supported");
    const char *server = tree_text(cluster, "server");
    c->server = server ? cw_printf(t, "%s", server) : NULL;
    return pem_of(t, cluster, "certificate-authority", folder, &c->ca);
}

static void delete_tree(void *tree)
{
    cJSON_Delete(tree);
}

/* From the text of a kubeconfig (YAML or JSON). Files that it names are relative to `folder`.
 * context NULL: its current one. */
static int read_kubeconfig(cw_task *t, const char *text, const char *folder, const char *context,
                           struct k8s_config *ret)
{
    const char *why;
    cJSON *config = yaml_parse(text, strlen(text), &why);
    *ret = (struct k8s_config){0};
    if (!config)
        return cw_problem(t, false, "ValueError", "kubeconfig: %s", why);
    cw_defer(t, delete_tree, config);
    context = context ? context : tree_text(config, "current-context");
    const cJSON *both = named(config, "contexts", context, "context");
    if (!both)
        return cw_problem(t, false, "LookupError", "kubeconfig: no context %.80s",
                          context ? context : "is current");
    const char *cluster_name = tree_text(both, "cluster"), *user_name = tree_text(both, "user");
    const cJSON *cluster = named(config, "clusters", cluster_name, "cluster");
    const cJSON *user = named(config, "users", user_name, "user");
    if (!cluster || !user)
        return cw_problem(t, false, "LookupError", "kubeconfig: no %s %.80s",
                          cluster ? "user" : "cluster",
                          cluster ? user_name ? user_name : "is named"
                          : cluster_name ? cluster_name
                                         : "is named");
    if (read_cluster(t, cluster, folder, ret) < 0 || read_user(t, user, folder, ret) < 0)
        return -1;
    return check_server(t, ret);
}

static int load_kubeconfig(cw_task *t, const char *name, const char *context,
                           struct k8s_config *ret)
{
    const char *folder = cw_setting(t, "KUBECONFIGS");
    if (!folder)
        return cw_problem(t, false, "ValueError",
                          "the cluster names a kubeconfig: set CWORKER_KUBECONFIGS to the folder "
                          "that they are in");
    if (!check_name(name))
        return cw_problem(t, false, "ValueError", "kubeconfig must be the name of a file");
    const char *text = file_read(t, cw_printf(t, "%s/%s", folder, name), "kubeconfig");
    return text ? read_kubeconfig(t, text, folder, context, ret) : -1;
}

/* --- in a pod, and by the document itself --- */

/* Read for each run: the kubelet replaces the token every hour. */
static int load_in_cluster(cw_task *t, struct k8s_config *ret)
{
    const char *host = getenv("KUBERNETES_SERVICE_HOST");
    const char *port = getenv("KUBERNETES_SERVICE_PORT");
    const char *set = cw_setting(t, "K8S_SERVICE_ACCOUNT");
    const char *folder = set ? set : service_account;
    if (!host || !port)
        return cw_problem(t, false, "ValueError",
                          "in_cluster: this worker does not run in a pod (KUBERNETES_SERVICE_HOST "
                          "is not set)");
    char *token = file_read(t, cw_printf(t, "%s/token", folder), "in_cluster");
    ret->ca = token ? file_read(t, cw_printf(t, "%s/ca.crt", folder), "in_cluster") : NULL;
    if (!ret->ca)
        return -1;
    ret->token = trimmed(token);
    ret->server = cw_printf(t, strchr(host, ':') ? "https://[%s]:%s" : "https://%s:%s", host, port);
    return check_server(t, ret);
}

static bool is_metadata(const struct addrinfo *at)
{
    char text[INET6_ADDRSTRLEN];
    if (getnameinfo(at->ai_addr, at->ai_addrlen, text, sizeof text, NULL, 0, NI_NUMERICHOST) != 0)
        return false;
    text[strcspn(text, "%")] = '\0';
    return target_is_metadata(text);
}

/* However it is written: what cannot be resolved now is left to the request. */
static int check_addresses(cw_task *t, const char *host)
{
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM}, *list = NULL;
    bool refused = false;
    if (getaddrinfo(host, NULL, &hints, &list) != 0)
        return 0;
    for (const struct addrinfo *at = list; at; at = at->ai_next)
        refused = refused || is_metadata(at);
    freeaddrinfo(list);
    return refused ? cw_problem(t, false, "PermissionError",
                                "api_server: %.200s is a link-local or metadata address", host)
                   : 0;
}

static int load_direct(cw_task *t, const bson_t *cluster, struct k8s_config *ret)
{
    const char *secret = doc_text(cluster, "token_secret");
    ret->server = doc_text(cluster, "api_server");
    ret->ca = doc_text(cluster, "ca");
    if (!ret->server)
        return cw_problem(t, false, "ValueError",
                          "the cluster needs in_cluster, kubeconfig or api_server");
    /* Not any variable: the document would choose what is sent where. */
    if (!secret || strncmp(secret, "K8S_TOKEN_", 10) != 0 || !check_name(secret))
        return cw_problem(t, false, "ValueError",
                          "token_secret must name a secret that begins with K8S_TOKEN_");
    ret->token = cw_secret(t, secret);
    if (!ret->token)
        return cw_problem(t, false, "LookupError", "the secret %s (or %s_FILE) is not set", secret,
                          secret);
    return check_server(t, ret) < 0 ? -1 : check_addresses(t, url_host(t, ret->server));
}

int k8s_config_load(cw_task *t, const bson_t *cluster, struct k8s_config *ret)
{
    const char *name = doc_text(cluster, "kubeconfig");
    *ret = (struct k8s_config){0};
    if (doc_bool(cluster, "in_cluster", false))
        return load_in_cluster(t, ret);
    return name ? load_kubeconfig(t, name, doc_text(cluster, "context"), ret)
                : load_direct(t, cluster, ret);
}
