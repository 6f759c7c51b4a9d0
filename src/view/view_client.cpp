#include "weir/view/view_client.hpp"

#include <cxxabi.h>
#include <poll.h>
#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <exception>
#include <nlohmann/json.hpp>
#include <vector>

#include "net/line_splitter.hpp"
#include "net/unix_socket.hpp"
#include "view/view_line.hpp"

namespace weir::inline v0 {

namespace {

/// The n of ["dropped",n]; 0 for any other line.
std::uint64_t dropped_count(std::string_view line) {
  if (!line.starts_with("[\"dropped\",")) return 0;
  const auto json = nlohmann::json::parse(line, nullptr, false);
  if (!json.is_array() || json.size() != 2 || !json[1].is_number_unsigned()) return 0;
  return json[1].get<std::uint64_t>();
}

bool blank(std::string_view line) { return line.find_first_not_of(" \t\r") == std::string_view::npos; }

/// Waits until `fd` (-1: nothing) is readable or the wake-up comes.
void wait(int fd, const net::EventFd& wake, std::chrono::milliseconds limit) {
  std::array<pollfd, 2> entries{pollfd{wake.fd(), POLLIN, 0}, pollfd{fd, POLLIN, 0}};
  (void)::poll(entries.data(), entries.size(), static_cast<int>(limit.count()));  // EINTR: the caller looks and waits again
}

}  // namespace

ViewClient::ViewClient(std::string socket_path) : socket_path_(std::move(socket_path)) {}

void ViewClient::on_connected(std::function<void()> callback) { on_connected_ = std::move(callback); }
void ViewClient::on_dropped(std::function<void(std::uint64_t)> callback) { on_dropped_ = std::move(callback); }

void ViewClient::on_loss(std::function<void(std::string_view, std::uint64_t)> callback) { on_loss_ = std::move(callback); }

void ViewClient::take_line(std::string_view line, const std::function<void(std::string_view, const Span&)>& on_span) {
  if (blank(line)) return;
  if (const std::uint64_t count = dropped_count(line); count != 0) {
    dropped_ += count;
    if (on_dropped_) on_dropped_(count);
    return;
  }
  if (line.starts_with("[\"lost\",")) {
    const auto json = nlohmann::json::parse(line, nullptr, false);
    const bool good = json.is_array() && json.size() >= 2 && json[1].is_object() &&
                      json[1].value("service", nlohmann::json()).is_string() &&
                      json[1].value("spans", nlohmann::json()).is_number_unsigned();
    if (!good) return void(++skipped_);
    if (on_loss_) on_loss_(json[1]["service"].get<std::string>(), json[1]["spans"].get<std::uint64_t>());
    return;
  }
  const Result<Span> span = parse_span(line);
  if (!span) {
    ++skipped_;
  } else if (on_span) {
    on_span(span->trace_id, *span);
  }
}

Result<void> ViewClient::receive(const StopToken& stop, const std::function<void(std::string_view, const Span&)>& on_span) {
  Result<net::EventFd> wake = net::EventFd::create();
  if (!wake) return wake.error();
  StopCallback on_stop(stop, [&] { wake->wake(); });

  net::Fd fd;
  while (!fd) {
    Result<net::Fd> connected = net::connect_unix(socket_path_);
    if (connected) {
      fd = std::move(*connected);
    } else if (connected.error().code != std::errc::resource_unavailable_try_again) {
      return connected.error();
    } else {
      wait(-1, *wake, std::chrono::milliseconds{50});  // its backlog is full
    }
    if (stop.stop_requested()) return {};
  }
  if (replay_ > 0) {
    const std::string request = "[\"last\"," + std::to_string(replay_) + (once_ ? ",\"once\"]\n" : "]\n");
    (void)net::send_some(fd.get(), request.data(), request.size());  // an empty socket takes it; a closed one shows below
  }
  if (on_connected_) on_connected_();

  net::BufferBudget budget{2 * detail::max_view_line, 0};
  net::LineSplitter lines(detail::max_view_line, budget);
  std::string_view line;
  std::vector<char> buffer(64u << 10);
  while (!stop.stop_requested()) {
    const ssize_t size = net::receive_some(fd.get(), buffer.data(), buffer.size());
    if (size > 0) {
      for (std::string_view data(buffer.data(), static_cast<std::size_t>(size)); !data.empty() && !stop.stop_requested();) {
        const auto got = lines.next(data, line);
        if (got == net::LineSplitter::Got::line)
          take_line(line, on_span);
        else if (got != net::LineSplitter::Got::nothing)
          ++skipped_;
      }
    } else if (size == -EAGAIN) {
      wait(fd.get(), *wake, std::chrono::milliseconds{60'000});
    } else {
      if (lines.finish(line) == net::LineSplitter::Got::line) take_line(line, on_span);  // closed, or reset without closing
      return {};
    }
  }
  return {};
}

Result<void> ViewClient::run(const StopToken& stop, const std::function<void(std::string_view trace_id, const Span&)>& on_span) {
  const auto threw = [&](const std::string& what) {
    return Error{{}, "stopped viewing '" + socket_path_ + "': the callback threw: " + what};
  };
  try {
    return receive(stop, on_span);
#ifdef __GLIBCXX__
  } catch (const abi::__forced_unwind&) {  // a cancelled thread must unwind to its end
    throw;
#endif
  } catch (const std::exception& error) {
    return threw(error.what());
  } catch (...) {
    return threw("not a std::exception");
  }
}

}  // namespace weir::inline v0
