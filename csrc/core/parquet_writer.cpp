#include "core/parquet_writer.hpp"

#include <arrow/c/bridge.h>
#include <arrow/io/file.h>
#include <arrow/record_batch.h>
#include <arrow/result.h>
#include <arrow/type.h>
#include <arrow/util/byte_size.h>
#include <arrow/util/compression.h>
#include <arrow/util/key_value_metadata.h>
#include <fcntl.h>
#include <parquet/arrow/writer.h>
#include <parquet/file_writer.h>
#include <parquet/properties.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <condition_variable>
#include <cstring>
#include <deque>
#include <exception>
#include <mutex>
#include <optional>
#include <set>
#include <thread>
#include <utility>

namespace recap {
namespace {

using Batch = std::shared_ptr<arrow::RecordBatch>;

constexpr int kCompressionLevel = 3;   // of zstd
constexpr std::size_t kQueueSize = 4;  // batches that may wait for the thread

void check(const arrow::Status& status) {
  if (status.ok()) return;
  const auto detail = status.detail();  // the operating system's error
  throw WriteError(status.message() + (detail ? ": " + detail->ToString() : ""));
}

template <typename T>
T take(arrow::Result<T> result) {
  check(result.status());
  return std::move(result).ValueUnsafe();
}

[[noreturn]] void fail_with_errno(const char* action) {
  throw WriteError(std::string(action) + ": " + std::strerror(errno));
}

// One Parquet file being written; not thread-safe. Its errors do not name the file.
class ParquetFile {
 public:
  ParquetFile(const std::filesystem::path& path, const arrow::Schema& schema, RowGroupLimits limits,
              const ParquetMetadata& metadata)
      : limits_(limits) {
    const int descriptor = ::open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    if (descriptor < 0) fail_with_errno("open");
    sink_ = take(arrow::io::FileOutputStream::Open(descriptor));
    const auto properties = parquet::WriterProperties::Builder()
                                .compression(arrow::Compression::ZSTD)
                                ->compression_level(kCompressionLevel)
                                ->max_row_group_length(limits.rows)
                                ->enable_statistics()
                                ->build();
    const auto arrow_properties = parquet::ArrowWriterProperties::Builder().store_schema()->build();
    writer_ = take(
        parquet::arrow::FileWriter::Open(schema, arrow::default_memory_pool(), sink_, properties, arrow_properties));
    const auto key_values = std::make_shared<arrow::KeyValueMetadata>();
    for (const auto& [key, value] : metadata) key_values->Append(key, value);
    check(writer_->AddKeyValueMetadata(key_values));
  }

  // Without its sink the Parquet library cannot end an unfinished file with a footer, which would make it look whole.
  ~ParquetFile() {
    if (sink_) static_cast<void>(sink_->Close());
  }
  ParquetFile(const ParquetFile&) = delete;
  ParquetFile& operator=(const ParquetFile&) = delete;

  void write(const arrow::RecordBatch& batch) {
    for (std::int64_t start = 0; start < batch.num_rows();) {
      const std::int64_t most = std::min(batch.num_rows() - start, limits_.rows - rows_);
      const std::int64_t count = rows_that_fit(*batch.Slice(start, most));
      if (count == 0) {
        check(writer_->NewBufferedRowGroup());
        rows_ = bytes_ = 0;
        continue;
      }
      const Batch part = batch.Slice(start, count);
      check(writer_->WriteRecordBatch(*part));
      rows_ += count;
      bytes_ += size_of(*part);
      start += count;
    }
  }

  void close() {
    check(writer_->Close());
    if (::fsync(sink_->file_descriptor()) != 0) fail_with_errno("fsync");
    check(sink_->Close());
  }

 private:
  static std::int64_t size_of(const arrow::RecordBatch& batch) {
    return take(arrow::util::ReferencedBufferSize(batch));
  }

  // How many of the first rows the open row group has room for; an empty one has room for a row of any size.
  std::int64_t rows_that_fit(const arrow::RecordBatch& batch) const {
    const std::int64_t room = limits_.bytes - bytes_;
    if (size_of(batch) <= room) return batch.num_rows();
    std::int64_t fits = 0, too_many = batch.num_rows();
    while (too_many - fits > 1) {
      const std::int64_t middle = fits + (too_many - fits) / 2;
      (size_of(*batch.Slice(0, middle)) <= room ? fits : too_many) = middle;
    }
    return rows_ == 0 ? std::max<std::int64_t>(fits, 1) : fits;
  }

  const RowGroupLimits limits_;
  std::int64_t rows_ = 0;  // of the open row group
  std::int64_t bytes_ = 0;
  std::shared_ptr<arrow::io::FileOutputStream> sink_;
  std::unique_ptr<parquet::arrow::FileWriter> writer_;
};

// All writers of the process.
std::mutex registry_mutex;
std::set<ParquetWriter*> registry;

}  // namespace

class ParquetWriter::Impl {
 public:
  Impl(const std::filesystem::path& path, ArrowSchema* schema, RowGroupLimits limits, const ParquetMetadata& metadata)
      : path_(path.string()) {
    if (limits.rows < 1) throw std::invalid_argument("max_row_group_rows is below 1");
    if (limits.bytes < 1) throw std::invalid_argument("max_row_group_bytes is below 1");
    named([&] {
      schema_ = take(arrow::ImportSchema(schema));
      file_.emplace(path, *schema_, limits, metadata);
    });
    thread_ = std::thread([this] { run(); });
  }

  ~Impl() { abort(); }

  void write(ArrowArray* array, ArrowSchema* schema) {
    Batch batch = import_batch(array, schema);  // before the lock: to free it may need the GIL
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [this] { return queue_.size() < kQueueSize || state_ != State::kOpen || error_; });
    if (error_) std::rethrow_exception(error_);
    if (state_ != State::kOpen) throw std::invalid_argument("the writer of " + path_ + " is closed");
    queue_.push_back(std::move(batch));
    changed_.notify_all();
  }

  void close() {
    end(State::kClosing);
    if (error_) std::rethrow_exception(error_);
    if (state_ == State::kAborted) throw std::invalid_argument("the writer of " + path_ + " was aborted");
  }

  void abort() noexcept { end(State::kAborted); }

 private:
  enum class State { kOpen, kClosing, kAborted };

  // Runs it so that whatever goes wrong is a WriteError that names the file.
  template <typename Action>
  void named(Action action) const {
    try {
      action();
    } catch (const std::exception& error) {
      throw WriteError("cannot write " + path_ + ": " + error.what());
    }
  }

  Batch import_batch(ArrowArray* array, ArrowSchema* schema) const {
    auto imported = arrow::ImportRecordBatch(array, schema);
    if (!imported.ok()) throw std::invalid_argument(imported.status().message());
    if (!(*imported)->schema()->Equals(*schema_, /*check_metadata=*/false)) {
      throw std::invalid_argument("a batch for " + path_ + " has the schema\n" + (*imported)->schema()->ToString() +
                                  "\nwhere the file has\n" + schema_->ToString());
    }
    const arrow::Status valid = (*imported)->ValidateFull();  // offsets that lead anywhere
    if (!valid.ok()) throw std::invalid_argument(valid.message());
    return *imported;
  }

  // Sets the state if it is still open, and waits for the thread.
  void end(State state) {
    {
      const std::lock_guard lock(mutex_);
      if (state_ == State::kOpen) state_ = state;
      changed_.notify_all();
    }
    const std::lock_guard lock(join_mutex_);
    if (thread_.joinable()) thread_.join();
  }

  // The thread. Batches are freed here, outside the lock: that may need Python's GIL.
  void run() noexcept {
    try {
      named([this] {
        while (const Batch batch = next_batch()) file_->write(*batch);
        if (state_ == State::kClosing) file_->close();
      });
    } catch (const WriteError&) {
      const std::lock_guard lock(mutex_);
      error_ = std::current_exception();
      changed_.notify_all();
    }
    std::deque<Batch> dropped;
    {
      const std::lock_guard lock(mutex_);
      dropped.swap(queue_);
    }
    file_.reset();
  }

  // The next batch; none once the writer has ended.
  Batch next_batch() {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [this] { return !queue_.empty() || state_ != State::kOpen; });
    if (state_ == State::kAborted || queue_.empty()) return nullptr;
    Batch batch = std::move(queue_.front());
    queue_.pop_front();
    changed_.notify_all();
    return batch;
  }

  const std::string path_;
  std::shared_ptr<arrow::Schema> schema_;
  std::optional<ParquetFile> file_;  // the thread's alone once it runs

  std::mutex mutex_;  // guards the three below
  std::condition_variable changed_;
  State state_ = State::kOpen;
  std::deque<Batch> queue_;
  std::exception_ptr error_;

  std::mutex join_mutex_;
  std::thread thread_;
};

ParquetWriter::ParquetWriter(const std::filesystem::path& path, ArrowSchema* schema, RowGroupLimits limits,
                             const ParquetMetadata& metadata)
    : impl_(std::make_unique<Impl>(path, schema, limits, metadata)) {
  const std::lock_guard lock(registry_mutex);
  registry.insert(this);
}

ParquetWriter::~ParquetWriter() {
  const std::lock_guard lock(registry_mutex);
  registry.erase(this);
}

void ParquetWriter::abort_all() noexcept {
  const std::lock_guard lock(registry_mutex);
  for (ParquetWriter* writer : registry) writer->abort();
}

void ParquetWriter::write(ArrowArray* array, ArrowSchema* schema) { impl_->write(array, schema); }

void ParquetWriter::close() { impl_->close(); }

void ParquetWriter::abort() noexcept { impl_->abort(); }

}  // namespace recap
