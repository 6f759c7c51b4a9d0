#pragma once
// What process_events.bpf.c and ebpf_source.cpp say to each other. C for the kernel, C++ for us. (private to src)

enum {
  weir_path_size = 4096,  // of a path with its NUL: longer ones the kernel takes from nobody
  weir_path_words = weir_path_size / 8,
};

enum weir_event_type {
  weir_event_exec = 1,
  weir_event_fork,
  weir_event_open,
};

// A record of the ring buffer.
struct weir_event {
  unsigned int type;
  int pid;             // of the process, in the pid namespace of who loaded us
  int parent;          // of weir_event_fork, likewise; 0: it cannot be seen from there
  unsigned int index;  // of weir_event_open: of the path
};

// One path: its text, filled up with zeros.
struct weir_path {
  unsigned long long words[weir_path_words];
};

// Where the path with a certain hash is.
struct weir_path_entry {
  unsigned int index;
  unsigned int length;  // without the NUL
};

#define WEIR_HASH_STEP 0x9e3779b97f4a7c15ull

// One step of the hash of a path, over its words. Starts from a seed.
static inline unsigned long long weir_hash_word(unsigned long long hash, unsigned long long word) {
  hash = (hash ^ word) * WEIR_HASH_STEP;
  return hash ^ (hash >> 32);
}
