/* SPDX-License-Identifier: Apache-2.0 */
#include "broker/redis_tls.h"

#include <arpa/inet.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>
#include <stdio.h>

/* TLS for rediss:// URLs. The one idea: a certificate is verified, name included, unless the URL
 * says otherwise in so many words. */

static int openssl_error(struct error *err, const char *what)
{
    char text[160];
    ERR_error_string_n(ERR_get_error(), text, sizeof text);
    ERR_clear_error();
    return error_set(err, ERROR_INVALID, "TLS: %s: %s", what, text);
}

static int context_load(SSL_CTX *context, const struct redis_url *url, struct error *err)
{
    SSL_CTX_set_min_proto_version(context, TLS1_2_VERSION);
    SSL_CTX_set_verify(context,
                       url->verify == REDIS_VERIFY_NONE ? SSL_VERIFY_NONE : SSL_VERIFY_PEER, NULL);
    if (url->verify != REDIS_VERIFY_NONE) {
        int ok = url->ca_file ? SSL_CTX_load_verify_locations(context, url->ca_file, NULL)
                              : SSL_CTX_set_default_verify_paths(context);
        if (!ok)
            return openssl_error(err, "the CA file cannot be read");
    }
    if (url->cert_file && !SSL_CTX_use_certificate_chain_file(context, url->cert_file))
        return openssl_error(err, "the certificate file cannot be read");
    const char *key = url->key_file ? url->key_file : url->cert_file;
    if (key && !SSL_CTX_use_PrivateKey_file(context, key, SSL_FILETYPE_PEM))
        return openssl_error(err, "the key file cannot be read");
    return 0;
}

static void name_expect(SSL *ssl, const struct redis_url *url)
{
    unsigned char address[sizeof(struct in6_addr)];
    bool numeric = inet_pton(AF_INET, url->host, address) == 1 ||
                   inet_pton(AF_INET6, url->host, address) == 1;
    bool check = url->check_hostname && url->verify != REDIS_VERIFY_NONE;
    if (numeric) {
        if (check)
            X509_VERIFY_PARAM_set1_ip_asc(SSL_get0_param(ssl), url->host);
        return;
    }
    SSL_set_tlsext_host_name(ssl, url->host);
    if (check)
        SSL_set1_host(ssl, url->host);
}

SSL *redis_tls_new(const struct redis_url *url, struct error *err)
{
    SSL_CTX *context = SSL_CTX_new(TLS_client_method());
    if (!context) {
        openssl_error(err, "no context");
        return NULL;
    }
    SSL *ssl = NULL;
    if (context_load(context, url, err) == 0) {
        ssl = SSL_new(context);
        if (ssl)
            name_expect(ssl, url);
        else
            openssl_error(err, "no session");
    }
    SSL_CTX_free(context);
    return ssl;
}

void redis_tls_explain(SSL *ssl, unsigned long code, char *out, size_t size)
{
    long verified = SSL_get_verify_result(ssl);
    if (verified != X509_V_OK && SSL_get_verify_mode(ssl) != SSL_VERIFY_NONE)
        snprintf(out, size, "TLS: the server's certificate is not accepted: %s",
                 X509_verify_cert_error_string(verified));
    else
        snprintf(out, size, "TLS: %s", ERR_reason_error_string(code) ? ERR_reason_error_string(code)
                                                                    : "the handshake failed");
}
