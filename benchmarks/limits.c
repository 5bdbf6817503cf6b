/* The loops that limits.py times: built for the machine they run on (-march=native), called from one thread
   per core. */
#define _GNU_SOURCE
#include <immintrin.h>
#include <sched.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

/* Reads `bytes` (a multiple of 256) in sequence and returns a sum that depends on all of them. */
double read_all(const void* memory, long bytes) {
  typedef long long Words __attribute__((vector_size(64)));
  const Words* words = memory;
  Words sums[4] = {0};
  for (long i = 0; i < bytes / 64; i += 4)
    for (int k = 0; k < 4; k++) sums[k] ^= words[i + k];
  return (double)(sums[0] ^ sums[1] ^ sums[2] ^ sums[3])[0];
}

/* Register-only loops: what the cores multiply and add when nothing has to be loaded. Each makes `rounds`
   rounds and returns how many multiplications and additions that were, 0 where the processor has no such
   instruction. */

/* Enough independent sums to hide the latency of the multiply-add units. Variables of their own, since an array
   would be kept in memory. */
#define SUMS 12
#define EACH_SUM(X) X(0) X(1) X(2) X(3) X(4) X(5) X(6) X(7) X(8) X(9) X(10) X(11)

/* The sum stays in its register and the compiler cannot see through the loop. */
#define KEEP(sum) __asm__ volatile("" : "+v"(sum))

double peak_fp32(long rounds) {
#if defined(__AVX512F__)
  __m512 a = _mm512_set1_ps(0.5f), b = _mm512_set1_ps(0.25f);
#define DECLARE(i) __m512 s##i = _mm512_set1_ps((float)i);
#define STEP(i) s##i = _mm512_fmadd_ps(s##i, a, b); KEEP(s##i);
  EACH_SUM(DECLARE)
  for (long r = 0; r < rounds; r++) { EACH_SUM(STEP) }
#undef DECLARE
#undef STEP
  return 32.0 * SUMS * (double)rounds;
#elif defined(__FMA__)
  __m256 a = _mm256_set1_ps(0.5f), b = _mm256_set1_ps(0.25f);
#define DECLARE(i) __m256 s##i = _mm256_set1_ps((float)i);
#define STEP(i) s##i = _mm256_fmadd_ps(s##i, a, b); KEEP(s##i);
  EACH_SUM(DECLARE)
  for (long r = 0; r < rounds; r++) { EACH_SUM(STEP) }
#undef DECLARE
#undef STEP
  return 16.0 * SUMS * (double)rounds;
#else
  (void)rounds;
  return 0.0;
#endif
}

#if defined(__AMX_TILE__)
/* Asks the kernel for the tile registers and sets all eight to 16 rows of 64 bytes. */
static int use_tiles(void) {
  struct {
    unsigned char palette, start_row, reserved[14];
    unsigned short row_bytes[16];
    unsigned char rows[16];
  } config = {0};
  if (syscall(SYS_arch_prctl, 0x1023 /* ARCH_REQ_XCOMP_PERM */, 18)) return 0;
  config.palette = 1;
  for (int i = 0; i < 8; i++) config.row_bytes[i] = 64, config.rows[i] = 16;
  __asm__ volatile("ldtilecfg %0" : : "m"(config)); /* also clears the tiles; GCC's intrinsic sees 8 bytes only */
  return 1;
}
#endif

double peak_bf16(long rounds) {
#if defined(__AMX_BF16__)
  if (use_tiles()) {
    for (long r = 0; r < rounds; r++) {
      _tile_dpbf16ps(0, 4, 6);
      _tile_dpbf16ps(1, 4, 7);
      _tile_dpbf16ps(2, 5, 6);
      _tile_dpbf16ps(3, 5, 7);
    }
    _tile_release();
    return 4.0 * 2 * 16 * 16 * 32 * (double)rounds;
  }
#endif
#if defined(__AVX512BF16__)
  __m512bh a = (__m512bh)_mm512_set1_epi16(0x3c00), b = a; /* 2^-7 */
#define DECLARE(i) __m512 s##i = _mm512_set1_ps((float)i);
#define STEP(i) s##i = _mm512_dpbf16_ps(s##i, a, b); KEEP(s##i);
  EACH_SUM(DECLARE)
  for (long r = 0; r < rounds; r++) { EACH_SUM(STEP) }
#undef DECLARE
#undef STEP
  return 64.0 * SUMS * (double)rounds;
#else
  (void)rounds;
  return 0.0;
#endif
}

double peak_int8(long rounds) {
#if defined(__AMX_INT8__)
  if (use_tiles()) {
    for (long r = 0; r < rounds; r++) {
      _tile_dpbusd(0, 4, 6);
      _tile_dpbusd(1, 4, 7);
      _tile_dpbusd(2, 5, 6);
      _tile_dpbusd(3, 5, 7);
    }
    _tile_release();
    return 4.0 * 2 * 16 * 16 * 64 * (double)rounds;
  }
#endif
#if defined(__AVX512VNNI__)
  __m512i a = _mm512_set1_epi8(1), b = a;
#define DECLARE(i) __m512i s##i = _mm512_set1_epi32(i);
#define STEP(i) s##i = _mm512_dpbusd_epi32(s##i, a, b); KEEP(s##i);
  EACH_SUM(DECLARE)
  for (long r = 0; r < rounds; r++) { EACH_SUM(STEP) }
#undef DECLARE
#undef STEP
  return 128.0 * SUMS * (double)rounds;
#else
  (void)rounds;
  return 0.0;
#endif
}

/* Does nothing on one core but read the clock, and writes down when it was away for longer than `shortest`
   seconds: `begins` and `lengths`, seconds from the start, `most` at most. Returns how many there were. */
long pauses(int core, double seconds, double shortest, double* begins, double* lengths, long most) {
  cpu_set_t cores;
  CPU_ZERO(&cores);
  CPU_SET(core, &cores);
  sched_setaffinity(0, sizeof cores, &cores);
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  const double start = (double)time.tv_sec + 1e-9 * (double)time.tv_nsec;
  double last = 0;
  long count = 0;
  while (last < seconds && count < most) {
    clock_gettime(CLOCK_MONOTONIC, &time);
    const double now = (double)time.tv_sec + 1e-9 * (double)time.tv_nsec - start;
    if (now - last > shortest) begins[count] = last, lengths[count++] = now - last;
    last = now;
  }
  return count;
}
