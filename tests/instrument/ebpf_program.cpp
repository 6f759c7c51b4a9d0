// A process to be watched: does what each line of its input says, and answers each with a line, "yes" or "no".
//
//   fork             a child that ends at once; its pid stands before the answer
//   threads          three, one after the other
//   exec             itself, by its first thread, exec-in-thread: by another one, execveat: by a descriptor. The answer is "ready"
//   exec-fails       a program that is not there
//   open PATH        by openat; also creat, openat2, legacy-open, open-in-thread

#include <fcntl.h>
#include <linux/openat2.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>
#include <algorithm>
#include <array>
#include <cstdlib>
#include <iostream>
#include <string>
#include <thread>

namespace {

void exec_self() {
  std::array<char, 2> name{'p', 0};
  std::array<char*, 2> arguments{name.data(), nullptr};
  ::execv("/proc/self/exe", arguments.data());
  std::abort();
}

void execveat_self() {
  std::array<char, 2> name{'p', 0};
  std::array<char*, 2> arguments{name.data(), nullptr};
  const int fd = ::open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
  ::syscall(SYS_execveat, fd, "", arguments.data(), environ, AT_EMPTY_PATH);
  std::abort();
}

bool opened(long fd) {
  if (fd >= 0) ::close(static_cast<int>(fd));
  return fd >= 0;
}

bool open_file(const std::string& how, const char* path) {
  if (how == "creat") return opened(::creat(path, 0600));
  if (how == "openat2") {
    open_how options{};
    options.flags = O_RDONLY;
    return opened(::syscall(SYS_openat2, AT_FDCWD, path, &options, sizeof options));
  }
#ifdef SYS_open
  if (how == "legacy-open") return opened(::syscall(SYS_open, path, O_RDONLY));
#endif
  return opened(::syscall(SYS_openat, AT_FDCWD, path, O_RDONLY));
}

}  // namespace

int main() {
  std::cout << "ready" << std::endl;
  for (std::string line; std::getline(std::cin, line);) {
    const std::string verb = line.substr(0, line.find(' '));
    const std::string path = line.substr(std::min(line.size(), verb.size() + 1));
    bool done = true;
    if (verb == "fork") {
      const pid_t child = ::fork();
      if (child == 0) ::_exit(0);
      std::cout << child << ' ';
      ::waitpid(child, nullptr, 0);
    } else if (verb == "threads") {
      for (int i = 0; i < 3; ++i) std::thread([] {}).join();
    } else if (verb == "exec") {
      exec_self();
    } else if (verb == "exec-in-thread") {
      std::thread(exec_self).join();
    } else if (verb == "execveat") {
      execveat_self();
    } else if (verb == "exec-fails") {
      std::array<char*, 1> nothing{nullptr};
      ::execv("/nowhere/at/all", nothing.data());
    } else if (verb == "open-in-thread") {
      std::thread([&] { done = open_file("open", path.c_str()); }).join();
    } else {
      done = open_file(verb, path.c_str());
    }
    std::cout << (done ? "yes" : "no") << std::endl;
  }
}
