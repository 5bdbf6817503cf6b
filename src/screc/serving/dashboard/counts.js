// Rates and percentiles from counts that only grow: pure functions, no page.

// What happened between two readings of a model's counts; null where it was loaded anew between them.
export function between(before, after) {
  const seconds = after.time - before.time;
  const a = before.model, b = after.model;
  if (seconds <= 0 || a.loaded_at !== b.loaded_at || b.queries.done < a.queries.done) return null;
  const minus = (key) => b[key] - a[key];
  const queries = {};
  for (const key of Object.keys(b.queries)) queries[key] = b.queries[key] - a.queries[key];
  const lookups = {};
  for (const key of Object.keys(b.lookups)) lookups[key] = b.lookups[key] - a.lookups[key];
  return {
    seconds,
    queries,
    lookups,
    samples: minus("samples"),
    batches: minus("batches"),
    cacheHits: minus("cache_hits"),
    cacheMisses: minus("cache_misses"),
    pagesRead: minus("pages_read"),
    request: histogramBetween(a.request_seconds, b.request_seconds),
    queue: histogramBetween(a.queue_seconds, b.queue_seconds),
    compute: histogramBetween(a.compute_seconds, b.compute_seconds),
    batchSamples: histogramBetween(a.batch_samples, b.batch_samples),
  };
}

function histogramBetween(before, after) {
  return {
    bounds: after.bounds,
    counts: after.counts.map((count, i) => count - before.counts[i]),
    sum: after.sum - before.sum,
  };
}

export function total(histogram) {
  return histogram.counts.reduce((sum, count) => sum + count, 0);
}

// The value that a share of all values is at most, or null where there are none. Within a bucket, values are taken
// to be spread evenly; beyond the last bound nothing is known but that bound.
export function percentile(histogram, share) {
  const all = total(histogram);
  if (all === 0) return null;
  const wanted = share * all;
  let below = 0;
  for (let i = 0; i < histogram.counts.length; i++) {
    const count = histogram.counts[i];
    if (count > 0 && below + count >= wanted) {
      if (i === histogram.bounds.length) return histogram.bounds[i - 1];
      const low = i === 0 ? 0 : histogram.bounds[i - 1];
      return low + (histogram.bounds[i] - low) * Math.max(0, wanted - below) / count;
    }
    below += count;
  }
  return histogram.bounds[histogram.bounds.length - 1];
}

// Buckets joined to powers of two up to the last that has something: [{label, count}].
export function powersOfTwo(histogram) {
  const joined = [];
  histogram.counts.forEach((count, i) => {
    const bound = i < histogram.bounds.length ? histogram.bounds[i] : Infinity;
    const power = bound === Infinity ? Infinity : Math.max(0, Math.ceil(Math.log2(bound) - 1e-9));
    const last = joined[joined.length - 1];
    if (last && last.power === power) last.count += count;
    else joined.push({ power, count });
  });
  while (joined.length > 1 && joined[joined.length - 1].count === 0) joined.pop();
  return joined.map(({ power, count }) => {
    if (power === Infinity) return { label: "more", count };
    const high = 2 ** power, low = power === 0 ? 1 : 2 ** (power - 1) + 1;
    return { label: low >= high ? String(high) : `${low}–${high}`, count };
  });
}

// ---------------------------------------------------------------------------------------- text

const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const short = new Intl.NumberFormat("en", { notation: "compact", maximumSignificantDigits: 3 });

export function count(value) {
  return value < 10000 ? whole.format(value) : short.format(value);
}

export function rate(value) {
  return value > 0 && value < 10 ? value.toFixed(1) : count(value);
}

export function duration(seconds) {
  if (seconds === null) return "–";
  if (seconds < 1e-3) return `${(1e6 * seconds).toPrecision(3)} µs`;
  if (seconds < 1) return `${(1e3 * seconds).toPrecision(3)} ms`;
  return `${seconds.toPrecision(3)} s`;
}

export function age(seconds) {
  const units = [[86400, "days"], [3600, "hours"], [60, "minutes"]];
  for (const [size, name] of units) if (seconds >= 2 * size) return `${Math.floor(seconds / size)} ${name}`;
  return `${Math.max(0, Math.round(seconds))} seconds`;
}

export function bytes(value) {
  const units = ["B", "kB", "MB", "GB", "TB"];
  let unit = 0;
  while (value >= 1000 && unit < units.length - 1) {
    value /= 1000;
    unit++;
  }
  return `${unit === 0 || value >= 100 ? value.toFixed(0) : value.toPrecision(3)} ${units[unit]}`;
}

export function percent(share) {
  return share > 0 && share < 0.001 ? "< 0.1 %" : `${(100 * share).toFixed(share < 0.1 ? 1 : 0)} %`;
}
