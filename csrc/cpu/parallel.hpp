// Loops on the OpenMP threads that torch already runs: a second pool would fight with them for the processor, as idle
// OpenMP threads spin for a while.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>

namespace recap {

// The entry point of GCC's OpenMP runtime, which LLVM's and Intel's have as well: runs the function on a team of that
// many threads, the calling one among them, and waits for all of them.
using ParallelEntry = void (*)(void (*function)(void*), void* data, unsigned num_threads, unsigned flags);

// Of the runtime that is to be used; null, as at the start, for one thread.
inline ParallelEntry parallel_entry = nullptr;

// omp_get_num_threads of the same runtime: how many threads a team got, which may be fewer than asked.
inline int (*parallel_team_size)() = nullptr;

// A thread's view of the team that it is part of, for loops one after another without starting threads for each. All
// threads of a team call the same functions in the same order.
class Team {
 public:
  // What the threads of a team share.
  struct Shared {
    std::atomic<std::int64_t> next{0};
    std::atomic<int> arrived{0};
    std::atomic<unsigned> phase{0};
  };

  Team(Shared& shared, int size) : shared_(shared), size_(size) {}

  int size() const { return size_; }

  // Calls action(begin, end) for ranges of at most `chunk`, which with those of the other threads are [0, count). Each
  // thread takes the next range when it is done with one, so that ranges may differ in cost. Once a team.
  template <typename Action>
  void share(std::int64_t count, std::int64_t chunk, const Action& action) {
    for (;;) {
      const std::int64_t begin = shared_.next.fetch_add(chunk, std::memory_order_relaxed);
      if (begin >= count) return;
      action(begin, std::min(begin + chunk, count));
    }
  }

  // Again and again: returns when all of it is done.
  template <typename Action>
  void run(std::int64_t count, std::int64_t chunk, const Action& action) {
    share(count, chunk, action);
    wait();
  }

 private:
  // The last one to arrive lets the others go on. They spin, as the rest of a loop takes microseconds, but not for
  // long: a thread that is late may be waiting for this very processor.
  void wait() {
    const unsigned phase = phase_++;
    if (shared_.arrived.fetch_add(1, std::memory_order_acq_rel) + 1 == size_) {
      shared_.next.store(0, std::memory_order_relaxed);
      shared_.arrived.store(0, std::memory_order_relaxed);
      // sequentially consistent: libstdc++ looks for waiters without a fence of its own
      shared_.phase.store(phase + 1, std::memory_order_seq_cst);
      shared_.phase.notify_all();
      return;
    }
    for (int spins = 0; spins < kSpins; ++spins) {
      if (shared_.phase.load(std::memory_order_acquire) != phase) return;
      pause();
    }
    shared_.phase.wait(phase, std::memory_order_acquire);
  }

  static void pause() {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#endif
  }

  static constexpr int kSpins = 8000;  // 0.1 to 0.5 ms on x86

  Shared& shared_;
  int size_;
  unsigned phase_ = 0;
};

// Calls body(team) on each thread of a team of up to `num_threads`, which must not throw.
template <typename Body>
void run_team(int num_threads, const Body& body) {
  struct Job {
    const Body& body;
    Team::Shared shared;
  } job{body, {}};
  if (num_threads <= 1 || parallel_entry == nullptr || parallel_team_size == nullptr) {
    Team team(job.shared, 1);
    body(team);
    return;
  }
  const auto work = [](void* data) noexcept {
    auto& shared = *static_cast<Job*>(data);
    Team team(shared.shared, parallel_team_size());
    shared.body(team);
  };
  parallel_entry(work, &job, static_cast<unsigned>(num_threads), 0);
}

// Calls action(begin, end) for ranges of at most `chunk` that together are [0, count), on up to `num_threads` threads.
// The action must not throw.
template <typename Action>
void parallel_for(std::int64_t count, std::int64_t chunk, int num_threads, const Action& action) {
  const std::int64_t num_chunks = (count + chunk - 1) / chunk;
  run_team(static_cast<int>(std::min<std::int64_t>(num_threads, num_chunks)),
           [&](Team& team) { team.share(count, chunk, action); });
}

}  // namespace recap
