// Loops on the OpenMP threads that torch already runs: a second pool would fight with them for the
// processor, as idle OpenMP threads spin for a while.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>

namespace recap {

// The entry point of GCC's OpenMP runtime, which LLVM's and Intel's have as well: runs the function
// on a team of that many threads, the calling one among them, and waits for all of them.
using ParallelEntry = void (*)(void (*function)(void*), void* data, unsigned num_threads,
                               unsigned flags);

// Of the runtime that is to be used; null, as at the start, for one thread.
inline ParallelEntry parallel_entry = nullptr;

// Calls action(begin, end) for ranges of at most `chunk` that together are [0, count), on up to
// `num_threads` threads. Each takes the next range when it is done with one, so that ranges may
// differ in cost. The action must not throw.
template <typename Action>
void parallel_for(std::int64_t count, std::int64_t chunk, int num_threads, const Action& action) {
  const std::int64_t num_chunks = (count + chunk - 1) / chunk;
  const auto team = static_cast<unsigned>(std::min<std::int64_t>(num_threads, num_chunks));
  if (team <= 1 || parallel_entry == nullptr) {
    if (count > 0) action(std::int64_t{0}, count);
    return;
  }
  struct Shared {
    const Action& action;
    std::int64_t count;
    std::int64_t chunk;
    std::atomic<std::int64_t> next{0};
  } shared{action, count, chunk};
  const auto work = [](void* data) {
    auto& loop = *static_cast<Shared*>(data);
    for (;;) {
      const std::int64_t begin = loop.next.fetch_add(loop.chunk, std::memory_order_relaxed);
      if (begin >= loop.count) return;
      loop.action(begin, std::min(begin + loop.chunk, loop.count));
    }
  };
  parallel_entry(work, &shared, team, 0);
}

}  // namespace recap
