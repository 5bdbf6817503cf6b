// The page: asks the server for its counts every second and shows what happened between readings.
import { bar, lines } from "./charts.js";
import { age, between, bytes, count, duration, percent, percentile, powersOfTwo, rate, total } from "./counts.js";

const INTERVAL_MS = 1000;
const RECENT_S = 10;    // of the figures
const SPAN_S = 180;     // of the lines
const SPOKEN_MS = 30000;  // between summaries for screen readers

const at = (id) => document.getElementById(id);
const readings = [];    // of the chosen model, oldest first: {time, model}
let chosen = null;      // name of the model
let paused = false;
let token = sessionStorage.getItem("token");
let tablesOf = null;    // which model and loading the table of tables shows
let spokenAt = 0;
let timer = null;

async function ask(path) {
  const headers = token ? { Authorization: `Bearer ${token}` } : {};
  const answer = await fetch(path, { headers, cache: "no-store" });
  if (answer.status === 401) throw Object.assign(new Error("The token is missing or wrong."), { signIn: true });
  if (!answer.ok) throw new Error(`The server answers ${answer.status}.`);
  return answer.json();
}

async function refresh() {
  clearTimeout(timer);
  try {
    const data = await ask("dashboard/data");
    at("sign-in").hidden = true;
    show(data);
    await showTables();
    trouble(data.models.length ? null : "No model is loaded.");
    state(data.ready ? "live" : "down", data.ready ? "Live" : "Not ready");
  } catch (error) {
    if (error.signIn) {
      at("sign-in").hidden = false;
      state("down", "Token needed");
      trouble(token ? error.message : null);
      return;
    }
    state("down", "No answer");
    trouble(`The server does not answer; the figures are of ${new Date(lastTime() * 1000).toLocaleTimeString()}.`);
  }
  if (!paused) timer = setTimeout(refresh, INTERVAL_MS);
}

const lastTime = () => (readings.length ? readings[readings.length - 1].time : Date.now() / 1000);

function state(kind, text) {
  const element = at("state");
  element.className = `state ${kind}`;
  write(element, paused && kind === "live" ? "Paused" : text);
}

function trouble(text) {
  const element = at("trouble");
  element.hidden = text === null;
  write(element, text ?? "");
}

// Only what changes, so that nothing is spoken twice.
function write(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

function show(data) {
  write(at("version"), data.version);
  chooseModel(data.models.map((model) => model.name));
  const model = data.models.find(({ name }) => name === chosen);
  if (!model) return;
  const last = readings[readings.length - 1];
  if (last && last.model.loaded_at !== model.loaded_at) readings.length = 0;
  readings.push({ time: data.time, model });
  while (readings.length > 2 && data.time - readings[1].time > SPAN_S) readings.shift();
  const now = readings[readings.length - 1];
  const since = readings.find(({ time }) => now.time - time <= RECENT_S + 0.5);
  const recent = since === now ? null : between(since, now);
  const precisions = model.precisions.join(" + ");
  const uptime = age(data.time - model.loaded_at);
  write(at("facts"), `${model.name}, version ${model.version}, loaded ${uptime} ago; ${model.threads} threads, ` +
    `${model.isa}, layers in ${precisions}, SSD by ${model.io_backend}`);
  showFigures(model, recent);
  showLines(now);
  showLookups(model, recent);
  showBatches(model, recent);
  showUpdates(model);
}

function chooseModel(names) {
  const select = at("model");
  if (!names.includes(chosen)) {
    chosen = names[0] ?? null;
    readings.length = 0;
  }
  if ([...select.options].map(({ value }) => value).join("\n") !== names.join("\n")) {
    select.replaceChildren(...names.map((name) => new Option(name, name)));
  }
  select.value = chosen;
  at("model-choice").hidden = names.length < 2;
}

const unanswered = (queries) => queries.failed + queries.expired + queries.refused;

function showFigures(model, recent) {
  write(at("queued"), count(model.queued_samples));
  if (!recent) {
    for (const id of ["requests-rate", "samples-rate", "p50", "p95", "p99", "unanswered"]) write(at(id), "–");
    write(at("unanswered-share"), "");
    return;
  }
  const { queries, seconds } = recent;
  const lost = unanswered(queries), all = queries.done + lost;
  write(at("requests-rate"), rate(queries.done / seconds));
  write(at("samples-rate"), rate(recent.samples / seconds));
  for (const [id, share] of [["p50", 0.5], ["p95", 0.95], ["p99", 0.99]]) {
    write(at(id), duration(percentile(recent.request, share)));
  }
  write(at("unanswered"), count(lost));
  write(at("unanswered-share"), lost ? percent(lost / all) : "");
  at("unanswered").classList.toggle("bad", lost > 0);
  speak(`${rate(queries.done / seconds)} requests per second, latency ` +
    `${duration(percentile(recent.request, 0.95))} at 95 %, ${count(lost)} not answered.`);
}

function speak(text) {
  if (paused || Date.now() - spokenAt < SPOKEN_MS) return;
  spokenAt = Date.now();
  write(at("summary"), text);
}

function showLines(now) {
  const times = [], answered = [], lost = [], shares = [[], [], []];
  for (let i = 1; i < readings.length; i++) {
    const step = between(readings[i - 1], readings[i]);
    times.push(readings[i].time - now.time);
    answered.push(step && step.queries.done / step.seconds);
    lost.push(step && unanswered(step.queries) / step.seconds);
    [0.5, 0.95, 0.99].forEach((share, k) => shares[k].push(step && percentile(step.request, share)));
  }
  lines(at("throughput"), times, [{ values: answered }, { values: lost }], SPAN_S, count);
  lines(at("latency"), times, shares.map((values) => ({ values })), SPAN_S, duration);
  describe(at("throughput"), "Requests answered per second", answered, rate);
  describe(at("latency"), "Latency at 95 %", shares[1], duration);
}

function describe(svg, what, values, text) {
  const present = values.filter((value) => value !== null);
  const label = present.length
    ? `${what} over the last ${SPAN_S / 60} minutes: from ${text(Math.min(...present))} to ` +
      `${text(Math.max(...present))}, now ${text(present[present.length - 1])}`
    : `${what}: no figures yet`;
  if (svg.getAttribute("aria-label") !== label) svg.setAttribute("aria-label", label);
}

function cell(text, className = "", tag = "td") {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (tag === "th") made.scope = "row";
  made.textContent = text;
  return made;
}

function shareRow(name, share, amount, kind) {
  const row = document.createElement("tr"), middle = cell("", "share"), inner = document.createElement("div");
  const label = document.createElement("span");
  label.textContent = percent(share);
  inner.className = "share-row";
  inner.append(bar([{ kind, share }]), label);
  middle.append(inner);
  row.append(cell(name, "", "th"), middle, cell(count(amount), "number"));
  return row;
}

function facts(list, entries) {
  const parts = entries.map(([name, value]) => {
    const group = document.createElement("div");
    const term = document.createElement("dt"), data = document.createElement("dd");
    term.textContent = name;
    data.textContent = value;
    group.append(term, data);
    return group;
  });
  list.replaceChildren(...parts);
}

function showLookups(model, recent) {
  const some = recent && Object.values(recent.lookups).some((n) => n > 0);
  const lookups = some ? recent.lookups : model.lookups;
  const all = Object.values(lookups).reduce((sum, n) => sum + n, 0) || 1;
  const names = { dram: "Rows in DRAM", tt: "Tensor trains", ssd: "Rows on SSD" };
  at("lookups").tBodies[0].replaceChildren(
    ...Object.entries(names).map(([key, name]) => shareRow(name, lookups[key] / all, lookups[key], key)));
  const hits = some ? recent.cacheHits : model.cache_hits, misses = some ? recent.cacheMisses : model.cache_misses;
  facts(at("memory-facts"), [
    ["Tables in DRAM", bytes(model.dram_bytes)],
    ...(model.cache_bytes ? [["Row cache", bytes(model.cache_bytes)]] : []),
    ...(model.cache_bytes && hits + misses ? [["Row cache hits", percent(hits / (hits + misses))]] : []),
    ...(model.io_backend !== "none" && recent
      ? [["Pages read per second", rate(recent.pagesRead / recent.seconds)]] : []),
  ]);
}

function showBatches(model, recent) {
  const histogram = recent && recent.batches > 0 ? recent.batchSamples : model.batch_samples;
  const all = total(histogram) || 1;
  at("batches").tBodies[0].replaceChildren(
    ...powersOfTwo(histogram).map((one) => shareRow(one.label, one.count / all, one.count, "batch")));
}

function showUpdates(model) {
  at("updates").hidden = model.updates === null;
  if (model.updates === null) return;
  const updates = model.updates;
  facts(at("updates-facts"), [
    ["Updates", count(updates.updates)],
    ["Rows of these", count(updates.rows)],
    ["Rows held in memory", `${count(model.held_rows)}, ${bytes(model.held_bytes)}`],
    ["Log", bytes(updates.log_bytes)],
    ["Compactions", count(updates.compactions)],
    ["Generation of the artifact", count(updates.generation)],
    ...(updates.last_error ? [["Last compaction failed", updates.last_error]] : []),
  ]);
}

async function showTables() {
  const now = readings[readings.length - 1];
  const wanted = now ? `${now.model.name} ${now.model.loaded_at}` : null;
  if (!now || wanted === tablesOf) return;
  const { tables } = await ask(`dashboard/tables?model=${encodeURIComponent(now.model.name)}`);
  tablesOf = wanted;
  at("tables").tBodies[0].replaceChildren(...tables.map((table) => {
    const row = document.createElement("tr"), places = cell("", "places");
    places.append(bar(table.bands.map((band) => ({ kind: band.memory, share: band.rows / table.rows }))));
    const text = table.bands.map((band) => {
      const place = { dram: `${band.format} in DRAM`, tt: "tensor train", ssd: `${band.format} on SSD` };
      return `${count(band.rows)} ${place[band.memory] ?? band.memory}`;
    });
    row.append(cell(table.name, "", "th"), cell(count(table.rows), "number"), cell(String(table.dim), "number"),
      places, cell(text.join(", ")), cell(bytes(table.dram_bytes), "number"),
      cell(table.ssd_bytes ? bytes(table.ssd_bytes) : "–", "number"));
    return row;
  }));
}

at("pause").addEventListener("click", () => {
  paused = !paused;
  at("pause").setAttribute("aria-pressed", String(paused));
  if (paused) {
    clearTimeout(timer);
    state("live", "Paused");
  } else {
    refresh();
  }
});
at("model").addEventListener("change", (event) => {
  chosen = event.target.value;
  readings.length = 0;
  refresh();
});
at("sign-in").addEventListener("submit", (event) => {
  event.preventDefault();
  token = at("token").value;
  sessionStorage.setItem("token", token);
  refresh();
});
refresh();
