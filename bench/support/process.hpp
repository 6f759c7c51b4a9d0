#pragma once
// What every benchmark process has in common with a server, and what it must not have in common with a desktop.

namespace bench {

/// Starts a thread that sleeps until the end: glibc and libstdc++ leave out the lock prefixes of atomics and mutexes while a
/// process has one thread, which flatters whatever locks two to four times.
void start_parked_thread();

/// Pins the calling thread to the nth of the processors that this process may use, counted so that 0 and 1 are two cores
/// where there are two (and not two threads of one). False when there is no such processor.
bool pin(int n);

}  // namespace bench
