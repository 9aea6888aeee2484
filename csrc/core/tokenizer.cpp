#include "core/tokenizer.hpp"

#include <algorithm>
#include <limits>
#include <queue>
#include <stdexcept>
#include <utility>

#include "core/pretokenizer.hpp"

namespace recap {
namespace {

// More than any model has; ids of special tokens beyond it would be memory for nothing.
constexpr std::size_t kMaxTokens = 1 << 22;

std::uint64_t pair_key(std::int32_t left, std::int32_t right) {
  return (static_cast<std::uint64_t>(left) << 32) | static_cast<std::uint32_t>(right);
}

[[noreturn]] void fail(const std::string& message) { throw std::invalid_argument(message); }

}  // namespace

// Merges the bytes of one word, always the pair of lowest rank, of equal ones the leftmost: a heap of candidate pairs
// over a linked list of pieces, so n bytes take O(n log n). Reused from word to word for the sake of its buffers.
class Tokenizer::WordMerger {
 public:
  explicit WordMerger(const Tokenizer& tokenizer) : tokenizer_(tokenizer) {}

  void merge(std::string_view word, std::vector<std::int32_t>& ids) {
    start(word);
    while (!candidates_.empty()) {
      const Candidate best = candidates_.top();
      candidates_.pop();
      if (is_current(best)) join(best);
    }
    for (std::int32_t i = 0; i != kNone; i = pieces_[i].next) ids.push_back(pieces_[i].id);
  }

 private:
  static constexpr std::int32_t kNone = -1;

  struct Piece {
    std::int32_t id;
    std::int32_t size;  // bytes; 0 once it has become part of the piece on its left
    std::int32_t previous;
    std::int32_t next;
  };
  struct Candidate {
    std::int32_t rank;
    std::int32_t left;  // index of the left piece, which is also the offset of its first byte
    std::int32_t id;
    std::int32_t size;  // of both pieces, when the candidate was found

    bool operator>(const Candidate& other) const { return std::pair(rank, left) > std::pair(other.rank, other.left); }
  };

  void start(std::string_view word) {
    word_ = word;
    pieces_.clear();
    const auto size = static_cast<std::int32_t>(word.size());
    for (std::int32_t i = 0; i < size; ++i) {
      const std::int32_t id = tokenizer_.byte_ids_[static_cast<unsigned char>(word[i])];
      pieces_.push_back({id, 1, i - 1, i + 1 < size ? i + 1 : kNone});
    }
    for (std::int32_t i = 0; i + 1 < size; ++i) add_candidate(i);
  }

  void add_candidate(std::int32_t left) {
    const Piece& piece = pieces_[left];
    const Piece& next = pieces_[piece.next];
    const std::int32_t size = piece.size + next.size;
    const auto rank = tokenizer_.find_rank(piece.id, next.id, word_.substr(left, size));
    if (rank) candidates_.push({rank->rank, left, rank->id, size});
  }

  // Pieces only grow, so the pair is still the one that was found if its size is.
  bool is_current(const Candidate& candidate) const {
    const Piece& piece = pieces_[candidate.left];
    return piece.size > 0 && piece.next != kNone && piece.size + pieces_[piece.next].size == candidate.size;
  }

  void join(const Candidate& best) {
    Piece& piece = pieces_[best.left];
    Piece& absorbed = pieces_[piece.next];
    piece.id = best.id;
    piece.size = best.size;
    piece.next = absorbed.next;
    absorbed.size = 0;
    if (piece.next != kNone) {
      pieces_[piece.next].previous = best.left;
      add_candidate(best.left);
    }
    if (piece.previous != kNone) add_candidate(piece.previous);
  }

  const Tokenizer& tokenizer_;
  std::string_view word_;
  std::vector<Piece> pieces_;
  std::priority_queue<Candidate, std::vector<Candidate>, std::greater<>> candidates_;
};

Tokenizer::Tokenizer(std::vector<std::string> tokens, const std::optional<std::vector<Merge>>& merges,
                     const std::map<std::string, std::int32_t>& special, bool ignore_merges,
                     const std::map<std::int32_t, std::string>& words)
    : tokens_(std::move(tokens)), ignore_merges_(ignore_merges) {
  if (tokens_.size() > kMaxTokens) fail("too many tokens: " + std::to_string(tokens_.size()));
  add_special(special);
  add_vocabulary();
  if (merges) add_merges(*merges);
  add_words(words);
}

void Tokenizer::add_special(const std::map<std::string, std::int32_t>& special) {
  for (const auto& [text, id] : special) {
    if (text.empty()) fail("special token " + std::to_string(id) + " is empty");
    if (id < 0 || static_cast<std::size_t>(id) >= kMaxTokens) {
      fail("special token " + text + " has the id " + std::to_string(id));
    }
    tokens_.resize(std::max(tokens_.size(), static_cast<std::size_t>(id) + 1));
  }
  is_special_.resize(tokens_.size());
  for (const auto& [text, id] : special) is_special_[id] = true;
}

void Tokenizer::add_vocabulary() {
  vocabulary_.reserve(tokens_.size());
  for (std::size_t id = 0; id < tokens_.size(); ++id) {
    if (is_special_[id] || tokens_[id].empty()) continue;
    const auto [entry, added] = vocabulary_.emplace(tokens_[id], static_cast<std::int32_t>(id));
    if (!added) {
      fail("tokens " + std::to_string(entry->second) + " and " + std::to_string(id) + " have the same bytes");
    }
  }
  for (int byte = 0; byte < 256; ++byte) {
    const char character = static_cast<char>(byte);
    const auto entry = vocabulary_.find(std::string_view(&character, 1));
    if (entry == vocabulary_.end()) {
      fail("the vocabulary has no token for the single byte " + std::to_string(byte) +
           ": it is not one of a byte-level BPE");
    }
    byte_ids_[byte] = entry->second;
  }
}

void Tokenizer::add_merges(const std::vector<Merge>& merges) {
  pair_ranks_.emplace().reserve(merges.size());
  std::int32_t rank = 0;
  for (const auto& [left, right, id] : merges) {
    for (const std::int32_t part : {left, right, id}) {
      if (part < 0 || static_cast<std::size_t>(part) >= tokens_.size()) {
        fail("merge " + std::to_string(rank) + " names token " + std::to_string(part) + " of " +
             std::to_string(tokens_.size()));
      }
    }
    if (tokens_[id].empty() || tokens_[left] + tokens_[right] != tokens_[id]) {
      fail("merge " + std::to_string(rank) + ": token " + std::to_string(id) + " is not the bytes of " +
           std::to_string(left) + " and " + std::to_string(right));
    }
    pair_ranks_->insert_or_assign(pair_key(left, right), Rank{rank++, id});
  }
}

// Last: until here a special token may have bytes that merges lead to.
void Tokenizer::add_words(const std::map<std::int32_t, std::string>& words) {
  for (std::size_t id = 0; id < tokens_.size(); ++id) {
    if (is_special_[id]) tokens_[id].clear();
  }
  for (const auto& [id, word] : words) {
    if (id < 0 || static_cast<std::size_t>(id) >= tokens_.size() || !is_special_[id]) {
      fail("the word with the id " + std::to_string(id) + " is no special token");
    }
    tokens_[id] = word;
  }
}

std::optional<Tokenizer::Rank> Tokenizer::find_rank(std::int32_t left, std::int32_t right,
                                                    std::string_view joined) const {
  if (!pair_ranks_) {
    const auto entry = vocabulary_.find(joined);
    if (entry == vocabulary_.end()) return std::nullopt;
    return Rank{entry->second, entry->second};
  }
  const auto entry = pair_ranks_->find(pair_key(left, right));
  if (entry == pair_ranks_->end()) return std::nullopt;
  return entry->second;
}

std::vector<std::int32_t> Tokenizer::encode(std::string_view text) const {
  if (text.size() > std::numeric_limits<std::int32_t>::max()) {
    fail("a text of " + std::to_string(text.size()) + " bytes is too long to tokenize");
  }
  std::vector<std::int32_t> ids;
  WordMerger merger(*this);
  for (std::size_t begin = 0; begin < text.size();) {
    const std::size_t end = find_word_end(text, begin);
    const std::string_view word = text.substr(begin, end - begin);
    const auto entry = ignore_merges_ ? vocabulary_.find(word) : vocabulary_.end();
    if (entry != vocabulary_.end()) {
      ids.push_back(entry->second);
    } else {
      merger.merge(word, ids);
    }
    begin = end;
  }
  return ids;
}

std::vector<std::string> Tokenizer::detokenize(std::span<const TokenRow> rows) const {
  std::vector<std::string> texts(rows.size());
  for (std::size_t row = 0; row < rows.size(); ++row) {
    for (const std::int32_t id : rows[row]) {
      if (id < 0 || static_cast<std::size_t>(id) >= tokens_.size()) {
        fail("row " + std::to_string(row) + " has the token id " + std::to_string(id) + "; the vocabulary has " +
             std::to_string(tokens_.size()));
      }
      texts[row] += tokens_[id];
    }
  }
  return texts;
}

}  // namespace recap
