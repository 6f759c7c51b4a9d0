#pragma once
// TLS for a FaultServer, by OpenSSL, with a certificate made on the spot. Where OpenSSL is not there to be compiled with
// (WEIR_TEST_OPENSSL), the tests that need it are left out.

#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>

#include <cstdio>
#include <memory>
#include <stdexcept>
#include <string>

#include "support/fault_server.hpp"

namespace weir::testing {

/// A certificate that nobody but itself has signed.
class Certificate {
 public:
  /// `names`: as in a certificate, "IP:127.0.0.1,DNS:localhost". `days`: until it expires; below 0: since.
  explicit Certificate(const std::string& names = "IP:127.0.0.1", int days = 1)
      : key_(EVP_EC_gen("P-256"), EVP_PKEY_free), x509_(X509_new(), X509_free) {
    constexpr long day = 24 * 60 * 60;
    X509_set_version(x509_.get(), 2);
    ASN1_INTEGER_set(X509_get_serialNumber(x509_.get()), 1);
    X509_gmtime_adj(X509_getm_notBefore(x509_.get()), -10 * day);
    X509_gmtime_adj(X509_getm_notAfter(x509_.get()), days * day);
    X509_set_pubkey(x509_.get(), key_.get());
    X509_NAME* name = X509_get_subject_name(x509_.get());
    X509_NAME_add_entry_by_txt(name, "CN", MBSTRING_ASC, reinterpret_cast<const unsigned char*>("test"), -1, -1, 0);
    X509_set_issuer_name(x509_.get(), name);
    for (const auto& [id, value] : {std::pair<int, std::string>{NID_subject_alt_name, names}, {NID_basic_constraints, "CA:TRUE"}}) {
      X509_EXTENSION* extension = X509V3_EXT_conf_nid(nullptr, nullptr, id, value.c_str());
      X509_add_ext(x509_.get(), extension, -1);
      X509_EXTENSION_free(extension);
    }
    if (X509_sign(x509_.get(), key_.get(), EVP_sha256()) == 0) throw std::runtime_error("no certificate");
  }
  void write(const std::string& path) const {
    std::FILE* file = std::fopen(path.c_str(), "w");
    if (file == nullptr || PEM_write_X509(file, x509_.get()) == 0) throw std::runtime_error("no " + path);
    std::fclose(file);
  }
  EVP_PKEY* key() const { return key_.get(); }
  X509* x509() const { return x509_.get(); }

 private:
  std::unique_ptr<EVP_PKEY, decltype(&EVP_PKEY_free)> key_;
  std::unique_ptr<X509, decltype(&X509_free)> x509_;
};

class TlsChannel final : public Channel {
 public:
  TlsChannel(int fd, SSL_CTX* context) : Channel(fd), ssl_(SSL_new(context), SSL_free) { SSL_set_fd(ssl_.get(), fd); }
  bool handshake() override { return SSL_accept(ssl_.get()) == 1; }
  ssize_t receive(char* data, std::size_t size) override { return SSL_read(ssl_.get(), data, static_cast<int>(size)); }
  ssize_t send(const char* data, std::size_t size) override { return SSL_write(ssl_.get(), data, static_cast<int>(size)); }

 private:
  std::unique_ptr<SSL, decltype(&SSL_free)> ssl_;
};

/// For FaultServer: TLS with this certificate.
inline FaultServer::Options tls_with(const Certificate& certificate) {
  const std::shared_ptr<SSL_CTX> context(SSL_CTX_new(TLS_server_method()), SSL_CTX_free);
  SSL_CTX_use_certificate(context.get(), certificate.x509());
  SSL_CTX_use_PrivateKey(context.get(), certificate.key());
  FaultServer::Options options;
  options.scheme = "https";
  options.channel = [context](int fd) { return std::make_unique<TlsChannel>(fd, context.get()); };
  return options;
}

}  // namespace weir::testing
