// A process to be watched: does what each line of its input says, and answers with a line. Ends when its input does.
//
//   fork                a child that lives as long as we do; answers its pid
//   storm N M           N children that end at once, each M-th after executing M
//   threads N           so many threads, one after the other
//   exec PATH           with our arguments: by the first thread; exec-in-thread PATH: by another
//   execveat PATH, fexecve PATH
//   exec-fails PATH     an exec that cannot be
//   leader-exits        the first thread ends, another goes on
//   user UID
//   open PATH

#include <fcntl.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <iostream>
#include <sstream>
#include <string>
#include <thread>

namespace {

char** arguments;

[[noreturn]] void become(const std::string& how, const std::string& path) {
  if (how == "execveat") {
    const int fd = ::open(path.c_str(), O_PATH | O_CLOEXEC);
    ::syscall(SYS_execveat, fd, "", arguments, environ, AT_EMPTY_PATH);
  } else if (how == "fexecve") {
    ::fexecve(::open(path.c_str(), O_RDONLY | O_CLOEXEC), arguments, environ);
  } else {
    ::execv(path.c_str(), arguments);
  }
  std::abort();
}

void storm(int count, int exec_each) {
  static char name[] = "/bin/true";
  char* const nothing[] = {name, nullptr};
  int running = 0;
  for (int i = 1; i <= count; ++i) {
    const pid_t child = ::fork();
    if (child == 0) {
      if (exec_each != 0 && i % exec_each == 0) ::execv(name, nothing);
      ::_exit(0);
    }
    if (child > 0) ++running;
    for (; running > 8; --running) ::waitpid(-1, nullptr, 0);
  }
  for (; running > 0; --running) ::waitpid(-1, nullptr, 0);
}

void obey();

std::string done(const std::string& line) {
  std::istringstream words(line);
  std::string verb, path;
  words >> verb;
  if (verb == "fork") {
    const pid_t parent = ::getpid(), child = ::fork();
    if (child == 0) {
      ::prctl(PR_SET_PDEATHSIG, SIGKILL);
      if (::getppid() != parent) ::_exit(0);  // it has ended before
      for (;;) ::pause();
    }
    return std::to_string(child);
  }
  if (verb == "storm") {
    int count = 0, exec_each = 0;
    words >> count >> exec_each;
    storm(count, exec_each);
  } else if (verb == "threads") {
    int count = 0;
    words >> count;
    while (count-- > 0) std::thread([] {}).join();
  } else if (verb == "exec" || verb == "execveat" || verb == "fexecve") {
    words >> path;
    become(verb, path);
  } else if (verb == "exec-in-thread") {
    words >> path;
    std::thread([&] { become("exec", path); }).join();
  } else if (verb == "exec-fails") {
    words >> path;
    ::execv(path.c_str(), arguments);
  } else if (verb == "leader-exits") {
    std::thread([leader = ::getpid()] {
      // It is gone when its state says so.
      const std::string stat = "/proc/" + std::to_string(leader) + "/task/" + std::to_string(leader) + "/stat";
      for (char text[512] = {};;) {
        const int fd = ::open(stat.c_str(), O_RDONLY | O_CLOEXEC);
        const ssize_t size = ::read(fd, text, sizeof text - 1);
        ::close(fd);
        if (size > 0 && std::string(text, static_cast<std::size_t>(size)).find(") Z") != std::string::npos) break;
        ::usleep(1000);
      }
      std::cout << "done" << std::endl;
      obey();
      ::_exit(0);
    }).detach();
    ::syscall(SYS_exit, 0);
  } else if (verb == "user") {
    uid_t uid = 0;
    words >> uid;
    if (::setuid(uid) != 0) return "not permitted";
  } else if (verb == "open") {
    words >> path;
    ::close(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  }
  return "done";
}

void obey() {
  for (std::string line; std::getline(std::cin, line);) std::cout << done(line) << std::endl;
}

}  // namespace

int main(int, char** argv) {
  arguments = argv;
  std::cout << "ready " << ::getpid() << std::endl;
  obey();
}
