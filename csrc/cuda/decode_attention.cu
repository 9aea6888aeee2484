#include <cuda_runtime.h>

#include <stdexcept>
#include <string>

#include "cuda/decode_attention.cuh"

namespace recap::cuda {
namespace {

// Blocks that share the registers of a multiprocessor.
template <typename Number, int width>
constexpr int kBlocks = width * Number::kBytes > 128 ? 3 : 4;

template <typename Number, int width>
__global__ void __launch_bounds__(kThreads, (kBlocks<Number, width>))
    decode_attention_kernel(const __grid_constant__ DecodeAttention op) {
  __shared__ Joined<width> joined;
  decode_attention<Number, width>(op, static_cast<int>(blockIdx.x), static_cast<int>(blockIdx.y),
                                  static_cast<int>(threadIdx.x), joined);
}

template <typename Number>
auto kernel_of(int width) {
  return width == 64 ? &decode_attention_kernel<Number, 64> : &decode_attention_kernel<Number, 128>;
}

}  // namespace

void launch(const DecodeAttention& op, void* stream) {
  if (op.rows == 0) return;
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(static_cast<unsigned>(op.rows), static_cast<unsigned>(op.num_kv_heads));
  config.blockDim = dim3(kThreads);
  config.stream = static_cast<cudaStream_t>(stream);
  const auto kernel = op.in_8_bits ? kernel_of<E4M3>(op.head_width) : kernel_of<BFloat16>(op.head_width);
  const cudaError_t code = cudaLaunchKernelEx(&config, kernel, op);
  if (code != cudaSuccess) throw std::runtime_error(std::string("decode_attention: ") + cudaGetErrorString(code));
}

}  // namespace recap::cuda
