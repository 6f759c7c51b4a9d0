// The kernel's side of ebpf_source.cpp: tells through a ring buffer which processes execute and fork, and which of those that are watched
// open one of some files.
//
// Offsets of the few fields that are read come from the BTF of the kernel that runs (CO-RE). Processes that the pid namespace of
// who loaded this cannot see are not told of.

#include <linux/bpf.h>

#include <bpf/bpf_core_read.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

#include "process_events.h"

typedef __u32 u32;
typedef __u64 u64;

struct ns_common {
  unsigned int inum;
} __attribute__((preserve_access_index));

struct pid_namespace {
  struct ns_common ns;
} __attribute__((preserve_access_index));

struct upid {
  int nr;
  struct pid_namespace *ns;
} __attribute__((preserve_access_index));

struct pid {
  unsigned int level;
  struct upid numbers[1];
} __attribute__((preserve_access_index));

struct task_struct {
  int pid;
  int tgid;
  struct pid *thread_pid;
  struct task_struct *group_leader;
} __attribute__((preserve_access_index));

// The registers as a process entered the kernel with them: those of its system call's arguments are kept.
struct pt_regs___weir {
#if defined(__TARGET_ARCH_x86)
  u64 si;
  u64 di;
  u64 orig_ax;
  u64 cs;
#elif defined(__TARGET_ARCH_arm64)
  u64 regs[31];
  u64 pstate;
  int syscallno;
#endif
} __attribute__((preserve_access_index));

// Of who loads this; set before.
const volatile __u32 own_pid_namespace = 0;
const volatile __u64 hash_seed = 0;

__u64 lost = 0;

struct {
  __uint(type, BPF_MAP_TYPE_RINGBUF);
  __uint(max_entries, 4096);
} events SEC(".maps");

struct {
  __uint(type, BPF_MAP_TYPE_HASH);
  __uint(map_flags, BPF_F_NO_PREALLOC);
  __uint(max_entries, 1);
  __type(key, int);
  __type(value, char);
} watched SEC(".maps");

struct {
  __uint(type, BPF_MAP_TYPE_HASH);
  __uint(max_entries, 1);
  __type(key, u64);
  __type(value, struct weir_path_entry);
} path_index SEC(".maps");

struct {
  __uint(type, BPF_MAP_TYPE_ARRAY);
  __uint(max_entries, 1);
  __type(key, u32);
  __type(value, struct weir_path);
} paths SEC(".maps");

// The path that is being looked at. A program never interrupts itself on a processor, so nobody else writes it.
struct scratch {
  struct weir_path path;
  u64 behind;  // zeros behind a path of full length end here
};

struct {
  __uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
  __uint(max_entries, 1);
  __type(key, u32);
  __type(value, struct scratch);
} scratches SEC(".maps");

// Namespaces nest up to 32 deep. Ours is mostly that of the task, or not far above.
enum { max_levels = 33 };

static __always_inline int pid_of(struct task_struct *leader) {
  struct pid *pid = BPF_CORE_READ(leader, thread_pid);
  if (!pid) return 0;
  int level = BPF_CORE_READ(pid, level);
  const char *numbers = (const char *)pid + bpf_core_field_offset(struct pid, numbers);
  for (int i = 0; i < max_levels; ++i, --level) {
    if (level < 0) break;
    struct upid *upid = (struct upid *)(numbers + level * bpf_core_type_size(struct upid));
    if (BPF_CORE_READ(upid, ns, ns.inum) == own_pid_namespace) return BPF_CORE_READ(upid, nr);
  }
  return 0;
}

static __always_inline void tell(u32 type, int pid, int parent, u32 index) {
  struct weir_event *event = bpf_ringbuf_reserve(&events, sizeof *event, 0);
  if (!event) {
    __sync_fetch_and_add(&lost, 1);
    return;
  }
  event->type = type;
  event->pid = pid;
  event->parent = parent;
  event->index = index;
  bpf_ringbuf_submit(event, 0);
}

// Comes when the new program is in place. A thread that executes has become its process's first one by then.
SEC("tp_btf/sched_process_exec")
int BPF_PROG(on_exec, struct task_struct *task) {
  const int pid = pid_of(task);
  if (pid) tell(weir_event_exec, pid, 0, 0);
  return 0;
}

SEC("tp_btf/sched_process_fork")
int BPF_PROG(on_fork, struct task_struct *parent, struct task_struct *child) {
  if (BPF_CORE_READ(child, pid) != BPF_CORE_READ(child, tgid)) return 0;  // a thread
  const int pid = pid_of(child);
  if (pid) tell(weir_event_fork, pid, pid_of(BPF_CORE_READ(parent, group_leader)), 0);
  return 0;
}

// Functions that are not static are verified by themselves: what follows their loops is not looked at once for each turn.
__noinline u64 hash_of_scratch(u32 words) {
  const u32 zero = 0;
  const struct scratch *scratch = bpf_map_lookup_elem(&scratches, &zero);
  if (!scratch) return 0;
  u64 hash = hash_seed;
  for (u32 i = 0; i < weir_path_words; ++i) {
    if (i >= words) break;
    hash = weir_hash_word(hash, scratch->path.words[i]);
  }
  return hash;
}

__noinline int scratch_is(u32 index, u32 words) {
  const u32 zero = 0;
  const struct scratch *scratch = bpf_map_lookup_elem(&scratches, &zero);
  const struct weir_path *path = bpf_map_lookup_elem(&paths, &index);
  if (!scratch || !path) return 0;
  for (u32 i = 0; i < weir_path_words; ++i) {
    if (i >= words) break;
    if (scratch->path.words[i] != path->words[i]) return 0;
  }
  return 1;
}

// Called after the system call: the kernel has read the path then, so its page is there.
static __always_inline void look_at_open(const char *path) {
  const int pid = pid_of(BPF_CORE_READ((struct task_struct *)bpf_get_current_task(), group_leader));
  if (!pid || !bpf_map_lookup_elem(&watched, &pid)) return;
  const u32 zero = 0;
  struct scratch *scratch = bpf_map_lookup_elem(&scratches, &zero);
  if (!scratch) return;
  char *text = (char *)scratch;
  const long size = bpf_probe_read_user_str(text, weir_path_size, path);
  if (size <= 1 || size > weir_path_size) return;
  const u32 length = size - 1;
  for (u32 i = 0; i < 8; ++i) text[size + i] = 0;
  const u32 words = (length + 7) / 8;
  const u64 hash = hash_of_scratch(words);
  const struct weir_path_entry *entry = bpf_map_lookup_elem(&path_index, &hash);
  if (!entry || entry->length != length) return;
  const u32 index = entry->index;
  if (scratch_is(index, words)) tell(weir_event_open, pid, 0, index);
}

// What open, openat, openat2 and creat come down to. Costs nothing but openings; not every kernel lets programs return from functions.
SEC("fexit/do_sys_openat2")
int BPF_PROG(on_open, int directory, const char *path, void *how, long result) {
  if (result >= 0) look_at_open(path);
  return 0;
}

// The same where that is not to be had. All system calls of the machine pass here.
SEC("tp_btf/sys_exit")
int BPF_PROG(on_system_call, struct pt_regs___weir *registers, long result) {
  if (result < 0) return 0;
#if defined(__TARGET_ARCH_x86)
  const u64 call = BPF_CORE_READ(registers, orig_ax);
  const int at_directory = call == 257 || call == 437;  // openat, openat2
  if (!at_directory && call != 2 && call != 85) return 0;  // open, creat
  if ((BPF_CORE_READ(registers, cs) & 0xffff) == 0x23) return 0;  // a 32-bit program: other numbers
  look_at_open((const char *)(at_directory ? BPF_CORE_READ(registers, si) : BPF_CORE_READ(registers, di)));
#elif defined(__TARGET_ARCH_arm64)
  const int call = BPF_CORE_READ(registers, syscallno);
  if (call != 56 && call != 437) return 0;  // openat, openat2
  if (BPF_CORE_READ(registers, pstate) & 0x10) return 0;  // a 32-bit program: other numbers
  look_at_open((const char *)BPF_CORE_READ(registers, regs[1]));
#endif
  return 0;
}

char LICENSE[] SEC("license") = "Dual MIT/GPL";
