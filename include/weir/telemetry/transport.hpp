#pragma once
// Transport: the seam between an Emitter and whatever takes an update to a telemetry endpoint. Here are the interface and the
// transports that need no network; http_transport.hpp has HTTP.
//
//   Emitter ─Update─▶ Transport ─▶ endpoint
//           ◀─Delivery─
//
// A transport makes one try and says what came of it. Schedule, tries and what an answer means are the emitter's.

#include <chrono>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <vector>

#include "weir/core/result.hpp"
#include "weir/core/stop.hpp"

namespace weir::inline v0 {

/// What is sent. Borrowed for the call.
struct Update {
  std::string_view instance_id;
  std::string_view update_id;  ///< of this payload, the same for every try
  std::string_view body;       ///< JSON
};

/// What an endpoint said. Nothing in it is to be trusted.
struct Answer {
  int status = 0;            ///< of HTTP
  std::string content_type;  ///< the header's value
  std::string retry_after;   ///< the header's value; empty: none
  std::string body;          ///< at most max_answer_bytes of it
};

inline constexpr std::size_t max_answer_bytes = 64 * 1024;

/// What came of one try.
struct Delivery {
  enum class Outcome : std::uint8_t {
    answered,  ///< see `answer`
    not_sent,  ///< the endpoint cannot have taken it: no connection, no name, no trust; see `error`
    unknown,   ///< it may have taken it: no answer, half an answer, too long an answer; see `error`
  };
  Outcome outcome = Outcome::not_sent;
  Answer answer;
  Error error;

  static Delivery answered(Answer answer) { return {Outcome::answered, std::move(answer), {}}; }
  static Delivery not_sent(Error error) { return {Outcome::not_sent, {}, std::move(error)}; }
  static Delivery unknown(Error error) { return {Outcome::unknown, {}, std::move(error)}; }
};

/// Implementations are called by one thread at a time, and must not throw.
class Transport {
 public:
  virtual ~Transport() = default;
  /// One try. Returns soon (within 100 ms) after `stop` is requested, whatever it is waiting for, and within ten seconds in any
  /// case.
  virtual Delivery send(const Update& update, const StopToken& stop) noexcept = 0;
  /// Where it sends to, for messages.
  virtual std::string endpoint() const = 0;
};

/// Appends each update as one line of JSON to a file, which is made with mode 0600 if it is not there. A line is written whole or
/// not at all; it answers 200 and no wish. Thread-safety: Distinct objects: safe, also on one file. Shared: unsafe.
class FileTransport final : public Transport {
 public:
  explicit FileTransport(std::string path) : path_(std::move(path)) {}
  Delivery send(const Update& update, const StopToken& stop) noexcept override;
  std::string endpoint() const override { return path_; }

 private:
  std::string path_;
};

/// Keeps what is sent, for tests and for programs that are their own endpoint. Thread-safety: shared: safe.
class InMemoryTransport final : public Transport {
 public:
  /// Answers each update; without one, 200 and no wish. Runs on the emitter's thread.
  using Respond = std::function<Delivery(const Update&)>;

  explicit InMemoryTransport(Respond respond = {}) : state_(std::make_shared<State>()) { state_->respond = std::move(respond); }
  Delivery send(const Update& update, const StopToken& stop) noexcept override;
  std::string endpoint() const override { return "memory"; }

  /// The bodies sent so far, the oldest first. Copies of a transport share them.
  std::vector<std::string> bodies() const;

 private:
  struct State {
    mutable std::mutex mutex;
    std::vector<std::string> bodies;  // guarded by mutex
    Respond respond;
  };
  std::shared_ptr<State> state_;
};

/// An answer of type application/json.
Answer json_answer(int status, std::string body);

}  // namespace weir::inline v0
