// Requests of many clients at given times, as a server of native threads gets them: how long the engine takes
// to answer under load, without the interpreter's lock in between.
#pragma once

#include <cstdint>
#include <vector>

#include "engine/engine.h"

namespace screc {

struct ReplayBatch {
  const float* dense;  // [batch_size, num_dense]
  LookupRequest request;
};

// Sends request i, batches[i % batches.size()], arrivals[i] seconds after the start, and writes to
// latencies[i] the seconds from then until it is answered. Of num_clients threads, whichever is free takes
// the next request; one that comes while all are busy waits, and its wait counts. Arrivals that are all 0
// keep every client busy: the peak rate.
//
// Throws std::invalid_argument for arrivals that decrease or are not from 0 to a day, for a number of clients
// that is not from 1 to kMaxClients, and without batches. What predict throws for a request, with the
// number of its batch, is thrown once all clients have stopped, each after the request that it was at;
// latencies are then unspecified.
constexpr int kMaxClients = 256;
void replay(Engine& engine, const std::vector<ReplayBatch>& batches, const std::vector<double>& arrivals,
            int num_clients, double* latencies);

}  // namespace screc
