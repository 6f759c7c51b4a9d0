#include "instrument/process_filters.hpp"

#include <string>
#include <vector>

#include "support/catch.hpp"

using namespace weir;
using instrument::FilterSet;
using instrument::matches_glob;

namespace {

FilterSet filters(ProcessFilters filters, std::vector<std::string> environment = {}) {
  DetectorOptions options;
  options.filters = std::move(filters);
  options.environment = std::move(environment);
  Result<FilterSet> set = FilterSet::create(options);
  if (!set) FAIL(set.error().message);
  return *std::move(set);
}

/// Why the options are wrong.
std::string refusal(const DetectorOptions& options) {
  const Result<FilterSet> set = FilterSet::create(options);
  if (set) return "";
  CHECK(set.error().code == std::errc::invalid_argument);
  for (const auto make :
       {&ProcessDetector::kernel_events, &ProcessDetector::ebpf, &ProcessDetector::proc_scan, &ProcessDetector::best_available}) {
    const auto detector = make(options);
    REQUIRE_FALSE(detector);
    CHECK(detector.error().message == set.error().message);
  }
  return set.error().message;
}

bool contains(const std::string& text, std::string_view part) { return text.find(part) != text.npos; }

ProcessFilters with_executables(std::vector<std::string> globs) {
  ProcessFilters filters;
  filters.executables = std::move(globs);
  return filters;
}

}  // namespace

TEST_CASE("a glob is all of the text: stars are any text, question marks one byte") {
  CHECK(matches_glob("/usr/bin/python3", "/usr/bin/python3"));
  CHECK_FALSE(matches_glob("/usr/bin/python3", "/usr/bin/python3.11"));
  CHECK_FALSE(matches_glob("/usr/bin/python3", "/usr/bin/python"));
  CHECK(matches_glob("*", ""));
  CHECK(matches_glob("", ""));
  CHECK_FALSE(matches_glob("", "a"));
  CHECK_FALSE(matches_glob("?", ""));
  CHECK(matches_glob("*/java", "/opt/jdk/bin/java"));  // slashes too
  CHECK_FALSE(matches_glob("*/java", "/opt/jdk/bin/javac"));
  CHECK(matches_glob("/usr/*/python?", "/usr/local/bin/python3"));
  CHECK_FALSE(matches_glob("/usr/*/python?", "/usr/local/bin/python"));
  CHECK(matches_glob("*a*b*c", "xaxbxbxcc"));
  CHECK(matches_glob("*ab", "aab"));
  CHECK(matches_glob("**", "a"));
  CHECK(matches_glob("a*", "a"));
  CHECK_FALSE(matches_glob("*a*b*c", "xaxcxb"));
  CHECK(matches_glob("[a]", "[a]"));  // nothing else is special
}

TEST_CASE("a glob of many stars takes no time to fail") {
  std::string glob;
  for (int i = 0; i < 2000; ++i) glob += "*a";
  CHECK_FALSE(matches_glob(glob + "b", std::string(4096, 'a')));
}

TEST_CASE("without filters everything passes but the excluded paths") {
  const FilterSet set = filters({});
  CHECK(set.passes_executable("/usr/bin/sleep"));
  CHECK_FALSE(set.passes_executable("/pause"));
  CHECK_FALSE(set.passes_executable("/pause (deleted)"));
  CHECK(set.passes_executable("/pause2"));
  CHECK(set.passes_executable("/usr/pause"));
  CHECK(set.passes_uid(0));
  CHECK(set.passes_cgroup(""));
  CHECK(set.passes_environment({}));
  ProcessFilters nothing_excluded;
  nothing_excluded.excluded_paths.clear();
  CHECK(filters(nothing_excluded).passes_executable("/pause"));
}

TEST_CASE("one of the executables must match, also one that was removed since") {
  const FilterSet set = filters(with_executables({"/usr/bin/ruby", "*/node"}));
  CHECK(set.passes_executable("/usr/bin/ruby"));
  CHECK(set.passes_executable("/opt/node"));
  CHECK(set.passes_executable("/opt/node (deleted)"));
  CHECK_FALSE(set.passes_executable("/usr/bin/rub"));
  CHECK_FALSE(set.passes_executable(""));
}

TEST_CASE("one of the users must be it") {
  ProcessFilters some;
  some.uids = {0, 1000};
  CHECK(filters(some).passes_uid(0));
  CHECK(filters(some).passes_uid(1000));
  CHECK_FALSE(filters(some).passes_uid(1));
}

TEST_CASE("a cgroup is a prefix of whole components") {
  ProcessFilters some;
  some.cgroups = {"/kubepods", "/system.slice/app.service/"};
  const FilterSet set = filters(some);
  CHECK(set.passes_cgroup("/kubepods"));
  CHECK(set.passes_cgroup("/kubepods/burstable/pod1"));
  CHECK_FALSE(set.passes_cgroup("/kubepods2"));
  CHECK_FALSE(set.passes_cgroup("/kube"));
  CHECK_FALSE(set.passes_cgroup("/a/kubepods"));
  CHECK(set.passes_cgroup("/system.slice/app.service"));
  CHECK(set.passes_cgroup("/system.slice/app.service/x"));
  CHECK_FALSE(set.passes_cgroup(""));
  some.cgroups = {"/"};
  CHECK(filters(some).passes_cgroup("/anything"));
  CHECK(filters(some).passes_cgroup("/"));
  CHECK_FALSE(filters(some).passes_cgroup(""));  // it is in none
}

TEST_CASE("each variable must hold: set, or of that value, which may be empty or contain '='") {
  ProcessFilters some;
  some.environment = {"A", "B=", "C=x=y"};
  const FilterSet set = filters(some);
  CHECK(set.passes_environment({{"A", "1"}, {"B", ""}, {"C", "x=y"}}));
  CHECK(set.passes_environment({{"A", ""}, {"B", ""}, {"C", "x=y"}}));
  CHECK_FALSE(set.passes_environment({{"B", ""}, {"C", "x=y"}}));
  CHECK_FALSE(set.passes_environment({{"A", "1"}, {"B", "1"}, {"C", "x=y"}}));
  CHECK_FALSE(set.passes_environment({{"A", "1"}, {"B", ""}, {"C", "x"}}));
}

TEST_CASE("variables of the filters and those asked for are kept, no others") {
  ProcessFilters some;
  some.environment = {"Z=1", "M"};
  const FilterSet set = filters(some, {"HOME", "A"});
  for (const std::string_view kept : {"Z", "M", "HOME", "A"}) CHECK(set.keeps(kept));
  for (const std::string_view other : {"Z=1", "", "B", "HOM", "HOMES"}) CHECK_FALSE(set.keeps(other));
  CHECK_FALSE(filters({}).keeps_any());
  CHECK(set.without_filters().keeps("M"));
  CHECK(set.without_filters().passes_environment({}));
}

TEST_CASE("filters beyond their limits are refused, by name") {
  DetectorOptions options;
  SECTION("too many entries") {
    const std::size_t many = ProcessFilters::max_entries + 1;
    options.filters.executables.assign(many, "/a");
    CHECK(contains(refusal(options), "filters.executables has 257 entries; the limit is 256"));
    options.filters.executables.pop_back();
    options.filters.environment.assign(many, "A");
    CHECK(contains(refusal(options), "filters.environment has 257"));
    options.filters.environment.pop_back();
    options.filters.uids.assign(many, 0);
    CHECK(contains(refusal(options), "filters.uids has 257"));
    options.filters.uids.pop_back();
    options.filters.cgroups.assign(many, "/a");
    CHECK(contains(refusal(options), "filters.cgroups has 257"));
    options.filters.cgroups.pop_back();
    options.filters.excluded_paths.assign(many, "/a");
    CHECK(contains(refusal(options), "filters.excluded_paths has 257"));
    options.filters.excluded_paths.pop_back();
    options.environment.assign(many, "A");
    CHECK(contains(refusal(options), ": environment has 257"));
    options.environment.pop_back();
    options.files.assign(many, "/a");
    CHECK(contains(refusal(options), "files has 257"));
    options.files.pop_back();
    CHECK(refusal(options) == "");
  }
  SECTION("too long a text") {
    options.filters.executables = {"/" + std::string(ProcessFilters::max_text, 'a')};
    CHECK(contains(refusal(options), "filters.executables has an entry of 4097 bytes; the limit is 4096"));
    options.filters.executables[0].pop_back();
    CHECK(refusal(options) == "");
  }
  SECTION("nothing, and what no process can have") {
    options.filters.executables = {""};
    CHECK(contains(refusal(options), "filters.executables has an empty entry"));
    options.filters.executables = {std::string("/a\0b", 4)};
    CHECK(contains(refusal(options), "NUL"));
    options.filters.executables = {"python3"};
    CHECK(contains(refusal(options), "write \"*/python3\""));
    options.filters.executables = {};
    options.filters.environment = {"=x"};
    CHECK(contains(refusal(options), "names no variable"));
    options.filters.environment = {};
    options.filters.cgroups = {"kubepods"};
    CHECK(contains(refusal(options), "begin it with '/'"));
    options.filters.cgroups = {};
    options.filters.excluded_paths = {"pause"};
    CHECK(contains(refusal(options), "filters.excluded_paths: \"pause\" is no absolute path"));
    options.filters.excluded_paths = {};
    options.environment = {"A=b"};
    CHECK(contains(refusal(options), "contains '='"));
    options.environment = {};
    options.files = {"relative"};
    CHECK(contains(refusal(options), "files: \"relative\""));
  }
  SECTION("times and sizes") {
    options.minimum_age = std::chrono::milliseconds{-1};
    CHECK(contains(refusal(options), "minimum_age"));
    options.minimum_age = std::chrono::milliseconds{0};
    options.scan_interval = std::chrono::milliseconds{0};
    CHECK(contains(refusal(options), "scan_interval"));
    options.scan_interval = std::chrono::milliseconds{1};
    options.receive_buffer = 0;
    CHECK(contains(refusal(options), "receive_buffer"));
    options.receive_buffer = 1;
    CHECK(refusal(options) == "");
  }
}
