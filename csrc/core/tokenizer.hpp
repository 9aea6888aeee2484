// Llama-3's byte-level BPE: text to token ids and back.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "core/pack.hpp"

namespace recap {

// Immutable after construction: any number of threads may use one.
class Tokenizer {
 public:
  // Left id, right id, id of the two joined; in the order of their ranks.
  using Merge = std::array<std::int32_t, 3>;

  // `tokens[i]` holds the bytes of ordinary token i, or nothing where the id is not one. Without `merges` the rank of a
  // pair is the id of its joined bytes, as in tiktoken's files. Throws std::invalid_argument where these do not make a
  // byte-level BPE. No text yields a token of `special`. It is printed as `words` has it, or not at all.
  Tokenizer(std::vector<std::string> tokens, const std::optional<std::vector<Merge>>& merges,
            const std::map<std::string, std::int32_t>& special, bool ignore_merges,
            const std::map<std::int32_t, std::string>& words);
  Tokenizer(const Tokenizer&) = delete;  // the vocabulary's keys point into `tokens_`
  Tokenizer& operator=(const Tokenizer&) = delete;

  // Ids of a text in UTF-8. Special tokens in it are text.
  std::vector<std::int32_t> encode(std::string_view text) const;
  // The bytes of each row of ids; they may be cut in the middle of a character. Throws
  // std::invalid_argument for an id that is out of range.
  std::vector<std::string> detokenize(std::span<const TokenRow> rows) const;

  // The largest id plus one.
  std::size_t vocab_size() const { return tokens_.size(); }

 private:
  struct Rank {
    std::int32_t rank;
    std::int32_t id;
  };
  class WordMerger;

  void add_special(const std::map<std::string, std::int32_t>& special);
  void add_vocabulary();
  void add_words(const std::map<std::int32_t, std::string>& words);
  void add_merges(const std::vector<Merge>& merges);
  std::optional<Rank> find_rank(std::int32_t left, std::int32_t right, std::string_view joined) const;

  std::vector<std::string> tokens_;
  std::vector<bool> is_special_;
  std::unordered_map<std::string_view, std::int32_t> vocabulary_;
  std::array<std::int32_t, 256> byte_ids_{};
  std::optional<std::unordered_map<std::uint64_t, Rank>> pair_ranks_;
  bool ignore_merges_;
};

}  // namespace recap
