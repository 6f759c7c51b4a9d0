#include "weir/trace/socket_sender.hpp"

#include <new>
#include <utility>

#include "net/unix_socket.hpp"
#include "trace/pump.hpp"
#include "trace/socket_variable.hpp"
#include "weir/trace/detail/attach.hpp"

namespace weir::inline v0 {

struct SocketSender::Impl final : detail::ForkListener {
  Impl(std::string path, SocketSenderOptions options) : config{std::move(path), std::move(options), {}} {
    config.usable = !config.path.empty() && config.path.front() == '/' && config.path.size() <= net::max_socket_path &&
                    config.path.find('\0') == std::string::npos;
    if (config.path == default_path()) complaint = detail::socket_variable_complaint();
    ::new (&pump) detail::Pump(config);
    detail::process().add(*this);
  }
  ~Impl() {
    detail::process().remove(*this);
    pump.~Pump();
  }
  void in_child() noexcept override {
    pump.close_inherited();
    ::new (&pump) detail::Pump(config);  // the parent's, with its thread and rings, is abandoned
  }

  detail::SenderConfig config;
  std::string complaint;  // of the variable that the path would have come from; empty: none, or said
  union {
    detail::Pump pump;
  };
};

SocketSender::SocketSender(std::string path, SocketSenderOptions options)
    : impl_(std::make_unique<Impl>(std::move(path), std::move(options))) {}
SocketSender::~SocketSender() = default;
SocketSender::SocketSender(SocketSender&&) noexcept = default;
SocketSender& SocketSender::operator=(SocketSender&&) noexcept = default;

void SocketSender::start(const SenderSetup& setup) noexcept {
  impl_->config.setup = setup;
  if (!impl_->complaint.empty()) {
    impl_->config.logger().log(Logger::Level::warning, impl_->complaint);
    impl_->complaint.clear();
  }
  if (!impl_->config.usable) {
    const Attribute path{"path", impl_->config.path};
    impl_->config.logger().log(Logger::Level::error,
                               impl_->config.path.size() > net::max_socket_path
                                   ? "the collector's socket path is too long: use one of at most 107 bytes; spans are dropped"
                                   : "the collector's socket path must be absolute; spans are dropped",
                               {&path, 1});
    return;
  }
  (void)impl_->pump.start();
}

detail::ThreadRing* SocketSender::open_ring() noexcept { return impl_->config.usable ? impl_->pump.open_ring() : nullptr; }
void SocketSender::wake() noexcept { impl_->pump.wake(); }
FlushResult SocketSender::flush(Deadline deadline) noexcept { return impl_->pump.flush(deadline); }
FlushResult SocketSender::stop(Deadline deadline) noexcept { return impl_->pump.stop(deadline); }
TracerStats SocketSender::stats() const noexcept { return impl_->pump.stats(); }

}  // namespace weir::inline v0
