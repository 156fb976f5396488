#include "transfer/row_intake.h"

#include <cstring>

#include "kernels/op_table.h"

namespace causeway {
namespace {

void Scatter(const char* from, const std::vector<iovec>& pieces) {
  for (const iovec& piece : pieces) {
    std::memcpy(piece.iov_base, from, piece.iov_len);
    from += piece.iov_len;
  }
}

}  // namespace

std::vector<iovec> RowIntake::Place(const RunHeader& run, const TokenPages& pages) {
  const int64_t latent_bytes = run.count * from_.latent_bytes();
  rows_.resize(static_cast<size_t>(RunBytes(run.count) - (same_latents() ? latent_bytes : 0)));
  latents_ = same_latents() ? LatentPieces(cache_, run.layer, pages, run.tokens())
                            : std::vector<iovec>{{rows_.data(), static_cast<size_t>(latent_bytes)}};
  std::vector<iovec> places = latents_;
  if (from_.index_bytes() > 0) {
    places.push_back({index_rows(run), static_cast<size_t>(run.count * from_.index_bytes())});
  }
  return places;
}

Status RowIntake::Finish(const RunHeader& run, const TokenPages& pages, uint64_t checksum) {
  const char* index = index_rows(run);
  if (checks_) {
    const uint64_t found =
        ChecksumOf(latents_, from_.latent_bytes(), index, from_.index_bytes(), run.count);
    if (found != checksum) {
      return InternalError(Text("keys of layer ", run.layer, ", tokens [", run.first, ", ",
                                run.tokens().end, ") came damaged: their checksum is ", found,
                                ", expected ", checksum));
    }
  }
  const KvShape& to = cache_.shape();
  if (!same_latents()) {
    converted_.resize(static_cast<size_t>(run.count * to.latent_bytes()));
    conversions_.latents(rows_.data(), run.count, converted_.data());
    Scatter(converted_.data(), LatentPieces(cache_, run.layer, pages, run.tokens()));
  }
  if (from_.index_bytes() > 0 && from_.index_type() != to.index_type()) {
    converted_.resize(static_cast<size_t>(run.count * to.index_bytes()));
    conversions_.index_keys(index, run.count, converted_.data());
    index = converted_.data();
  }
  StoreIndexRows(cache_, run.layer, pages, run.tokens(), index);
  return Status();
}

Status RowIntake::Copy(const RunHeader& run, const RemoteMemory::Rows& source,
                       const TokenPages& pages, uint64_t checksum) {
  const auto& [memory, layer, from] = source;
  if (from_ == cache_.shape() && !checks_) {
    CopyRun(memory, layer, from, cache_, run.layer, pages, run.tokens());
    return Status();
  }
  // What is checked or converted is a copy: the other process may write to its pages meanwhile.
  const std::vector<iovec> places = Place(run, pages);
  const std::vector<iovec> theirs = LatentPieces(memory, layer, from, run.tokens());
  if (same_latents()) {  // piece by piece: pages have the same borders
    for (size_t i = 0; i < theirs.size(); ++i) {
      std::memcpy(places[i].iov_base, theirs[i].iov_base, theirs[i].iov_len);
    }
  } else {
    char* to = rows_.data();
    for (const iovec& piece : theirs) {
      std::memcpy(to, piece.iov_base, piece.iov_len);
      to += piece.iov_len;
    }
  }
  LoadIndexRows(memory, layer, from, run.tokens(), index_rows(run));
  return Finish(run, pages, checksum);
}

}  // namespace causeway
