#pragma once
// What the tests of activities share: a tracker that writes down what it hears.

#include <mutex>
#include <set>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "weir/activity/tracker.hpp"

namespace weir::testing {

inline std::string text_of(AttributeValue value) {
  switch (value.type()) {
    case AttributeValue::Type::string: return std::string(value.text());
    case AttributeValue::Type::integer: return std::to_string(value.integer());
    case AttributeValue::Type::real: return std::to_string(value.real());
    case AttributeValue::Type::boolean: return value.boolean() ? "true" : "false";
  }
  return "?";
}

/// Lines in the order in which they were heard, by whatever thread.
class Heard {
 public:
  using Lines = std::vector<std::string>;

  void add(std::string line) {
    std::lock_guard lock(mutex_);
    lines_.push_back(std::move(line));
  }
  /// And forgets them.
  Lines take() {
    std::lock_guard lock(mutex_);
    return std::exchange(lines_, {});
  }

 private:
  std::mutex mutex_;
  Lines lines_;  // guarded by mutex_
};

/// How a Recorder differs from others.
struct Recording {
  std::set<std::string> throws_in{};  // started, after following; failed, changed, ended, inside
  bool wants_data = true;
};

/// "NAME started OPERATION SUBJECT KEY=VALUE", "NAME failed TEXT", "NAME changed ID: DATA", "NAME ended", "NAME gone".
class Recorder : public ActivityTracker {
 public:
  Recorder(Heard& heard, std::string name, Recording does = {}) : heard_(&heard), name_(std::move(name)), does_(std::move(does)) {}

 private:
  struct Following : Tracking {
    explicit Following(const Recorder& of) : recorder(of) {}
    ~Following() override { recorder.note("gone"); }

    void failed(const ActivityError& error) override {
      recorder.note("failed " + std::string(error.text));
      recorder.throw_in("failed");
    }
    void changed(ActivityChange& change) override {
      std::string line = "changed " + text_of(change.id());
      if (recorder.does_.wants_data && change.has_data()) {
        line += ": ";
        if (change.value() != nullptr)
          line += text_of(*change.value());
        else
          line += change.json() ? *change.json() : "error: " + change.json().error().message;
      }
      recorder.note(line);
      recorder.throw_in("changed");
    }
    void ended() override {
      recorder.note("ended");
      recorder.throw_in("ended");
    }
    Context inside(Context outer) const override {
      recorder.throw_in("inside");
      return outer.with_request_id(std::string(outer.request_id()) + recorder.name_);
    }

    const Recorder& recorder;
  };

  void started(ActivityStart& start) override {
    std::string line = "started " + std::string(start.operation()) + ' ' + std::string(start.subject());
    for (const Attribute& attribute : start.attributes()) line += ' ' + std::string(attribute.key.view()) + '=' + text_of(attribute.value);
    note(line);
    start.follow<Following>(*this);
    throw_in("started");
  }
  void note(const std::string& what) const { heard_->add(name_ + ' ' + what); }
  void throw_in(const std::string& place) const {
    if (does_.throws_in.contains(place)) throw std::runtime_error(name_ + " throws in " + place);
  }

  Heard* const heard_;
  const std::string name_;
  const Recording does_;
};

}  // namespace weir::testing
