// A table as the store holds it: bands in the order in which an id is looked up.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "base/aligned_buffer.h"
#include "io/page_file.h"
#include "kernels/row_format.h"
#include "kernels/tt_cores.h"
#include "store/index.h"
#include "store/page.h"
#include "store/strategy.h"
#include "store/updated_rows.h"

namespace screc {

// The pages of a sparse band (docs/format.md, "Sparse tables"): those that were written, and what stands for
// the rows of all others.
struct WrittenPages {
  NumberSet groups;           // page groups: slot / rows_per_page
  AlignedBuffer default_row;  // as the band holds its rows

  // Copies the arrays of the set, which are somebody else's until then.
  void own();

 private:
  AlignedBuffer first_, second_;
};

struct Band {
  enum class Kind { kDram, kTt, kSsd };
  Kind kind;
  BandIndex index;             // IdentityIndex or OrderIndex: the last band
  std::int64_t num_rows;       // slots
  RowCodec codec;              // of the rows that are held or, from cores, rebuilt
  const std::byte* rows = {};  // kDram: [num_rows, codec.row_bytes()], owned by whoever added the band
  std::byte* writable = {};    // the same where updates may write them
  std::unique_ptr<const TtCores> cores = {};  // kTt
  std::uint64_t number = 0;                   // kTt, kSsd: among the bands of this kind in the store

  // kSsd
  std::shared_ptr<const PageFile> file = {};
  PageGeometry geometry = {};
  PageOwner owner = {};
  std::shared_ptr<const WrittenPages> written = {};  // null: all pages were

  // kTt, kSsd: rows that take the place of these; null until there are some.
  std::unique_ptr<UpdatedRows> updated = {};

  const std::byte* updated_row(std::int64_t slot) const {
    return updated == nullptr ? nullptr : updated->find(slot);
  }

  // The row of a slot whose page was never written; null where it was.
  const std::byte* default_row(std::int64_t slot) const {
    if (written == nullptr) return nullptr;
    const std::int64_t group = slot / geometry.rows_per_page;
    const bool held = std::visit([=](const auto& set) { return set.find(group) >= 0; }, written->groups);
    return held ? nullptr : written->default_row.as<std::byte>();
  }
};

// Reads and checks the size, and the first and the last page that an SSD band has. Throws IoError.
void check_pages_of(const Band& band);

struct Table {
  std::int64_t num_embeddings;
  std::int64_t dim;
  bool mean;
  std::vector<Band> bands;
  bool closed = false;  // has its last band: every id is found
  bool has_tt = false, has_ssd = false;
  // What pooling reads: the codec of the bands where they agree. Else rows of other codecs, as those of
  // cores, are first made fp32 in working memory: `staged`.
  RowCodec codec = {};
  bool staged = false;
  // Cost of a look-up, in look-ups of a DRAM row.
  std::int64_t weight = 1;

  // How its rows are fetched where the table is one array.
  TableStrategy strategy = {};

  // The rows of a table that is one array addressed by the id, else null.
  const std::byte* whole() const {
    const bool one = bands.size() == 1 && bands[0].kind == Band::Kind::kDram;
    return one && std::holds_alternative<IdentityIndex>(bands[0].index) ? bands[0].rows : nullptr;
  }
  // The same with its rows' codec; `rows` is null where it is not one array.
  RowArray array() const { return {whole(), num_embeddings, codec}; }
  // To be called when a band was added.
  void choose_codec() {
    codec = bands[0].codec;
    staged = false;
    for (const Band& band : bands) {
      staged = staged || band.kind == Band::Kind::kTt;
      if (band.codec != codec) codec = {RowFormat::kFp32, dim};
    }
    for (const Band& band : bands) staged = staged || band.codec != codec;
  }
};

}  // namespace screc
