// Runs the GPU's kernels on the CPU, for tests. Each thread of a block is a fibre. Fibres are switched at barriers, shuffles and
// products of tiles, in a new random order after every barrier, so that a missing barrier shows as a wrong value. Shared memory
// begins as NaN, and a barrier that not all threads reach ends the process. It shows nothing about speed or asynchronous copies.
#pragma once

#include <ucontext.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <map>
#include <memory>
#include <numeric>
#include <string>
#include <vector>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __restrict__

struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};
inline thread_local constinit dim3 threadIdx, blockIdx, blockDim, gridDim;

namespace on_host {

using Body = void (*)(const void*);

enum class State : unsigned char { Ready, WaitsForBlock, WaitsForWarp, Done };

constexpr size_t STACK = 256 << 10;
// The words that a thread shows to the other threads of its warp.
constexpr size_t WORDS = 16;

// The copies that each thread has begun. They are done when the thread waits for them, so that a missing wait shows as NaN.
struct Copy {
  void* to;
  const void* from;
  bool inside;
};
struct Copies {
  std::vector<Copy> begun;
  std::vector<size_t> groups;  // where each group ends
};

// Where a stack goes on.
#if defined(__x86_64__) && defined(__linux__)
// The stack's lowest address, where the registers lie that a called function must keep. This costs no system call, unlike
// `swapcontext`, and AddressSanitizer takes no jump for the end of a function.
using Context = char*;
extern "C" void polyrank_change(Context* from, Context to);
asm(R"(
    .text
    .p2align 4
    .globl polyrank_change
    .type polyrank_change, @function
polyrank_change:
    push %rbp
    push %rbx
    push %r12
    push %r13
    push %r14
    push %r15
    mov %rsp, (%rdi)
    mov %rsi, %rsp
    pop %r15
    pop %r14
    pop %r13
    pop %r12
    pop %rbx
    pop %rbp
    ret
    .size polyrank_change, . - polyrank_change
)");
inline void change(Context& from, Context& to) { polyrank_change(&from, to); }
inline void prepare(Context& context, char* stack, size_t size, void (*begin)()) {
  // A function begins 8 bytes below a multiple of 16, as if it had been called.
  char* const top = stack + size - reinterpret_cast<uintptr_t>(stack + size) % 16;
  std::memset(top - 64, 0, 64);
  std::memcpy(top - 16, &begin, sizeof begin);
  context = top - 64;
}
#else
using Context = ucontext_t;
inline void change(Context& from, Context& to) { swapcontext(&from, &to); }
inline void prepare(Context& context, char* stack, size_t size, void (*begin)()) {
  getcontext(&context);
  context.uc_stack.ss_sp = stack;
  context.uc_stack.ss_size = size;
  context.uc_link = nullptr;
  makecontext(&context, begin, 0);
}
#endif

// A fibre lives as long as its `Machine`, and runs one thread of each block.
struct Fibre {
  Context context;
  std::unique_ptr<char[]> stack;
};

// What runs blocks: one for each thread of the process that launches kernels.
struct Machine {
  std::deque<Fibre> fibres;  // whose contexts must not move
  std::vector<State> states;
  // What the threads of a warp show to each other, twice: what is shown next must not cover what others have still to read.
  std::vector<uint64_t> words;
  // Which of the two each thread has used last.
  std::vector<unsigned char> side;
  std::vector<unsigned char> shared;
  std::vector<Copies> copies;
  Context main;
  Body body = nullptr;
  const void* params = nullptr;
  // The thread that runs, and the way through the others in this round: `left` more, each `step` after the one before.
  size_t now = 0, threads = 0, left = 0, step = 0, next = 0;
  uint64_t random = 0;
};
// A pointer, because each use of an object that has a destructor would ask first whether it was made.
inline thread_local constinit Machine* machine = nullptr;

// The next fibre of the round that waits for nothing, or where the round ends.
inline Context& following() {
  Machine& m = *machine;
  while (m.left > 0) {
    const size_t i = m.next;
    m.left--;
    m.next += m.step;
    if (m.next >= m.threads) m.next -= m.threads;
    if (m.states[i] != State::Ready) continue;
    m.now = i;
    threadIdx.x = i;
    return m.fibres[i].context;
  }
  return m.main;
}
// Lets others run until this fibre is ready again.
inline void wait(State state) {
  Machine& m = *machine;
  m.states[m.now] = state;
  Context& mine = m.fibres[m.now].context;
  change(mine, following());
}
inline void live() {
  for (;;) {
    machine->body(machine->params);
    wait(State::Done);
  }
}

inline void make_fibre() {
  // Tops of stacks at like addresses would push each other out of the caches.
  const size_t size = STACK + machine->fibres.size() % 256 * 576;
  Fibre& fibre = machine->fibres.emplace_back();
  fibre.stack.reset(new char[size]);
  prepare(fibre.context, fibre.stack.get(), size, live);
}

// Lets every fibre go on that waits for a barrier which all threads of its block or warp have reached. Returns whether one may run, or
// all are done.
inline bool release() {
  Machine& m = *machine;
  const auto reached = [&](size_t begin, size_t end, State state) {
    bool all = true, any = false;
    for (size_t i = begin; i < end; i++) {
      all &= m.states[i] == state || m.states[i] == State::Done;
      any |= m.states[i] == state;
    }
    if (!all || !any) return false;
    for (size_t i = begin; i < end; i++)
      if (m.states[i] == state) m.states[i] = State::Ready;
    return true;
  };
  bool any = false;
  for (size_t warp = 0; warp < m.threads; warp += 32)
    any |= reached(warp, std::min(m.threads, warp + 32), State::WaitsForWarp);
  return any || reached(0, m.threads, State::WaitsForBlock);
}

// The next random number (Marsaglia's xorshift).
inline uint64_t random_number() {
  uint64_t& x = machine->random;
  x ^= x << 13, x ^= x >> 7, x ^= x << 17;
  return x;
}

// Runs all fibres that are ready up to their next barrier or their end, in a random order.
inline void run_round() {
  Machine& m = *machine;
  m.next = random_number() % m.threads;
  do m.step = random_number() % m.threads;
  while (std::gcd(m.step, m.threads) != 1);
  m.left = m.threads;
  change(m.main, following());
}

inline void run_block(size_t bytes) {
  Machine& m = *machine;
  m.shared.assign(bytes, 0xff);
  m.words.assign(2 * m.threads * WORDS, ~0ull);
  m.side.assign(m.threads, 0);
  for (Copies& copies : m.copies) copies.begun.clear(), copies.groups.clear();
  m.states.assign(m.threads, State::Ready);
  do run_round();
  while (release());
  for (size_t i = 0; i < m.threads; i++)
    if (m.states[i] != State::Done) {
      fprintf(stderr, "kernel: a barrier that not all threads reach\n");
      abort();
    }
}

inline std::map<std::string, Body>& kernels() {
  static std::map<std::string, Body> all;
  return all;
}
struct Registered {
  Registered(const char* name, Body body) { kernels()[name] = body; }
};

// Runs a kernel. False if there is no kernel of this name.
inline bool launch(const char* name, const unsigned (&grid)[3], unsigned threads, size_t bytes, const void* params) {
  auto found = kernels().find(name);
  if (found == kernels().end()) return false;
  thread_local Machine mine;
  machine = &mine;
  mine.body = found->second;
  mine.params = params;
  mine.threads = threads;
  mine.random = (grid[0] + 31ull * threads) * 0x9e3779b97f4a7c15;
  gridDim = dim3(grid[0], grid[1], grid[2]);
  blockDim = dim3(threads);
  threadIdx = dim3(0, 0, 0);
  if (mine.copies.size() < threads) mine.copies.resize(threads);
  while (mine.fibres.size() < threads) make_fibre();
  for (unsigned z = 0; z < grid[2]; z++)
    for (unsigned y = 0; y < grid[1]; y++)
      for (unsigned x = 0; x < grid[0]; x++) {
        blockIdx = dim3(x, y, z);
        run_block(bytes);
      }
  return true;
}

inline unsigned lane() { return machine->now % 32; }
// What a lane of this warp has shown.
inline unsigned char* words(unsigned lane) {
  const size_t thread = machine->now / 32 * 32 + lane, side = machine->side[machine->now];
  return reinterpret_cast<unsigned char*>(&machine->words[(2 * thread + side) * WORDS]);
}
// Shows something to the other lanes of the warp, and waits until they have shown theirs.
template <class T> void show(const T& mine) {
  static_assert(sizeof mine <= WORDS * sizeof(uint64_t));
  machine->side[machine->now] ^= 1;
  std::memcpy(words(lane()), &mine, sizeof mine);
  wait(State::WaitsForWarp);
}

}  // namespace on_host

#define KERNEL(name, threads, Params, ...)                                                            \
  static const on_host::Registered name##_registered(#name, [](const void* p) {                       \
    __VA_ARGS__(*static_cast<const Params*>(p));                                                      \
  });
#define KERNEL_OF_MANY(name, threads, blocks, Params, ...) KERNEL(name, threads, Params, __VA_ARGS__)
#define SHARED_MEMORY(name) unsigned char* const name = on_host::machine->shared.data()

inline void __syncthreads() { on_host::wait(on_host::State::WaitsForBlock); }
inline void __syncwarp(unsigned = ~0u) { on_host::wait(on_host::State::WaitsForWarp); }
template <class T> T shuffle(T x, unsigned from) {
  on_host::show(x);
  T result;
  std::memcpy(&result, on_host::words(from % 32), sizeof result);
  return result;
}
template <class T> T __shfl_xor_sync(unsigned, T x, int mask) { return shuffle(x, on_host::lane() ^ mask); }
template <class T> T __shfl_sync(unsigned, T x, int from) { return shuffle(x, from); }
template <class T> T __shfl_down_sync(unsigned, T x, int by) {
  return shuffle(x, on_host::lane() + by < 32 ? on_host::lane() + by : on_host::lane());
}
inline float atomicAdd(float* to, float x) {
  const float before = *to;
  *to += x;
  return before;
}
inline int atomicAdd(int* to, int x) {
  const int before = *to;
  *to += x;
  return before;
}
template <class T> T __ldg(const T* from) { return *from; }
inline float __expf(float x) { return std::exp(x); }
inline float __fdividef(float x, float y) { return x / y; }
inline float reciprocal(float x) { return 1.f / x; }
using std::max;
using std::min;
inline float rsqrtf(float x) { return 1.f / std::sqrt(x); }

struct bf16 { uint16_t bits; };
struct f16 { uint16_t bits; };
inline float to_float(float x) { return x; }
inline float to_float(bf16 x) {
  const uint32_t wide = static_cast<uint32_t>(x.bits) << 16;
  float result;
  std::memcpy(&result, &wide, 4);
  return result;
}
inline float to_float(f16 x) {
  const int exponent = x.bits >> 10 & 31, mantissa = x.bits & 1023;
  const float magnitude = exponent == 31 ? (mantissa ? NAN : INFINITY)
                          : exponent     ? std::ldexp(1024.f + mantissa, exponent - 25)
                                         : std::ldexp(static_cast<float>(mantissa), -24);
  return x.bits >> 15 ? -magnitude : magnitude;
}
template <class T> T from_float(float x);
template <> inline float from_float<float>(float x) { return x; }
template <> inline bf16 from_float<bf16>(float x) {
  uint32_t wide;
  std::memcpy(&wide, &x, 4);
  if (std::isnan(x)) return {0x7fff};
  return {static_cast<uint16_t>((wide + 0x7fff + (wide >> 16 & 1)) >> 16)};
}
template <> inline f16 from_float<f16>(float x) {
  const uint16_t sign = std::signbit(x) ? 0x8000 : 0;
  const float magnitude = std::fabs(x);
  if (std::isnan(x)) return {0x7fff};
  if (magnitude >= 65520.f) return {static_cast<uint16_t>(sign | 0x7c00)};
  int exponent;
  std::frexp(magnitude, &exponent);
  if (magnitude == 0.f) return {sign};
  // The distance of neighbouring numbers is 2^-24 below 2^-14, and 2^(exponent - 11) above.
  const int unit = std::max(exponent - 11, -24);
  const uint32_t steps = static_cast<uint32_t>(std::nearbyint(std::ldexp(magnitude, -unit)));
  return {static_cast<uint16_t>(sign | (unit == -24 ? steps : ((unit + 24) << 10) + steps))};
}
// A GPU stops at a vector that does not lie at a multiple of its size.
inline void demand_aligned(const void* address, size_t bytes, const char* what) {
  if (reinterpret_cast<uintptr_t>(address) % bytes == 0) return;
  fprintf(stderr, "kernel: %s at an address that is not aligned\n", what);
  abort();
}
template <int BYTES> void copy(void* to, const void* from) {
  demand_aligned(to, BYTES, "copy");
  demand_aligned(from, BYTES, "copy");
  std::memcpy(to, from, BYTES);
}

template <class T> struct Pair;
// See `mma` in kernel.cuh. The products are those of f32.
template <class T> void mma(float (&d)[4], const Pair<T> (&a)[4], const Pair<T> (&b)[2]) {
  float mine[12];
  for (int i = 0; i < 4; i++) mine[2 * i] = to_float(a[i].x), mine[2 * i + 1] = to_float(a[i].y);
  for (int i = 0; i < 2; i++) mine[8 + 2 * i] = to_float(b[i].x), mine[8 + 2 * i + 1] = to_float(b[i].y);
  on_host::show(mine);
  const unsigned g = on_host::lane() / 4, t = on_host::lane() % 4;
  const auto shown = [](unsigned lane) { return reinterpret_cast<const float*>(on_host::words(lane)); };
  for (unsigned k = 0; k < 16; k++) {
    const unsigned owner = k % 8 / 2, half = k / 8;
    const float* const rows = shown(4 * g + owner) + 4 * half + k % 2;
    for (unsigned column = 0; column < 2; column++) {
      const float of_b = shown(4 * (2 * t + column) + owner)[8 + 2 * half + k % 2];
      d[column] += rows[0] * of_b;
      d[2 + column] += rows[2] * of_b;
    }
  }
}

// See `load_matrices` in kernel.cuh.
template <bool TRANSPOSED, class T> void load_matrices(Pair<T>& a, Pair<T>& b, Pair<T>& c, Pair<T>& d, const T* row) {
  on_host::show(row);
  const unsigned g = on_host::lane() / 4, t = on_host::lane() % 4;
  const auto element = [](unsigned matrix, unsigned row, unsigned column) {
    const T* address;
    std::memcpy(&address, on_host::words(8 * matrix + row), sizeof address);
    demand_aligned(address, 16, "load_matrices");
    return address[column];
  };
  Pair<T>* const pairs[4] = {&a, &b, &c, &d};
  for (unsigned matrix = 0; matrix < 4; matrix++) {
    if (TRANSPOSED)
      *pairs[matrix] = {element(matrix, 2 * t, g), element(matrix, 2 * t + 1, g)};
    else
      *pairs[matrix] = {element(matrix, g, 2 * t), element(matrix, g, 2 * t + 1)};
  }
  // On a GPU the warp reads as one.
  on_host::wait(on_host::State::WaitsForWarp);
}

// See `copy_async` in kernel.cuh.
inline void copy_async(void* to, const void* from, bool inside) {
  demand_aligned(to, 16, "copy_async");
  if (inside) demand_aligned(from, 16, "copy_async");
  on_host::machine->copies[on_host::machine->now].begun.push_back({to, from, inside});
}
inline void end_group_of_copies() {
  on_host::Copies& mine = on_host::machine->copies[on_host::machine->now];
  mine.groups.push_back(mine.begun.size());
}
// See `wait_for_all_groups_but` in kernel.cuh.
inline void wait_for_groups(size_t newest) {
  on_host::Copies& mine = on_host::machine->copies[on_host::machine->now];
  if (mine.groups.size() <= newest) return;
  const size_t count = mine.groups.size() - newest, end = mine.groups[count - 1];
  for (size_t i = 0; i < end; i++) {
    const on_host::Copy& copy = mine.begun[i];
    if (copy.inside)
      std::memcpy(copy.to, copy.from, 16);
    else
      std::memset(copy.to, 0, 16);
  }
  mine.begun.erase(mine.begun.begin(), mine.begun.begin() + end);
  mine.groups.erase(mine.groups.begin(), mine.groups.begin() + count);
  for (size_t& group : mine.groups) group -= end;
}
template <size_t N> void wait_for_all_groups_but() { wait_for_groups(N); }
inline void wait_for_copies() {
  end_group_of_copies();
  wait_for_groups(0);
}
inline float power_of_two(float x) { return std::exp2(x); }
