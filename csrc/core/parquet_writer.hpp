// Arrow record batches to one Parquet file, on a thread of its own.
#pragma once

#include <arrow/c/abi.h>

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <stdexcept>
#include <string>

namespace recap {

// The file cannot be written; the message names it.
class WriteError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

using ParquetMetadata = std::map<std::string, std::string>;

// A row group is closed before it would exceed either.
struct RowGroupLimits {
  std::int64_t rows;
  std::int64_t bytes;  // in Arrow's layout; a single row may have more
};

class ParquetWriter {
 public:
  // Creates or empties the file. Takes over what the schema struct holds. Throws WriteError, and std::invalid_argument
  // where row groups would have no rows.
  ParquetWriter(const std::filesystem::path& path, ArrowSchema* schema, RowGroupLimits limits,
                const ParquetMetadata& metadata);
  // Aborts a writer that is still open.
  ~ParquetWriter();
  ParquetWriter(const ParquetWriter&) = delete;
  ParquetWriter& operator=(const ParquetWriter&) = delete;

  // Hands a batch over without a copy; waits while the queue is full. Throws WriteError as soon as the thread has
  // failed, std::invalid_argument where the batch is not valid or has another schema than the file, or the writer is
  // closed.
  void write(ArrowArray* array, ArrowSchema* schema);
  // Writes what is queued and the footer, brings the file to the disk and ends the thread. Again and again gives the
  // same answer.
  void close();
  // Drops what is queued and ends the thread. The file stays without a footer: not a Parquet file.
  void abort() noexcept;
  // Aborts every writer of the process: for its end, when batches can no longer be freed.
  static void abort_all() noexcept;

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace recap
