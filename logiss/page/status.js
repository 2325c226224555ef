// Shows what logiss tells: each second a "status" and, in turn, one of the "plots".
// What it tells is only ever set as text or as an attribute. Nothing is touched that
// has not changed, so that focus, selection and screen readers stay where they are.
"use strict";

// Without a word for so long, or so long after the stream broke, it is said.
const SILENCE_MS = 3000;
const BROKEN_MS = 1000;
// A stream that says nothing is given up after this and opened anew; so is one that
// the browser has given up, but sooner.
const HANGING_MS = 6000;
const REOPEN_MS = 1000;
const LOOK_MS = 250;

const STATES = {
  good: { word: "OK", sign: "✓" },
  warn: { word: "WARN", sign: "!" },
  bad: { word: "BAD", sign: "✕" },
};
const SEVERITIES = { critical: "bad", warning: "warn", info: "info" };
const LINKS = { up: "good", waiting: "warn", down: "bad" };
const WORKERS = { serving: "good", fallen: "bad" };

const byId = (id) => document.getElementById(id);

// words, as logiss.words has them

function duration(seconds) {
  if (seconds < 0.01) return `${(seconds * 1000).toFixed(1)} ms`;
  if (seconds < 1) return `${(seconds * 1000).toFixed(0)} ms`;
  if (seconds < 10) return `${seconds.toFixed(1)} s`;
  return whole(seconds);
}

function whole(seconds) {
  for (const [unitSeconds, unit] of [[86400, "d"], [3600, "h"], [60, "min"]]) {
    if (seconds >= 2 * unitSeconds) return `${Math.round(seconds / unitSeconds)} ${unit}`;
  }
  return `${Math.round(seconds)} s`;
}

function size(bytes) {
  if (bytes < 1024) return `${bytes} B`;
  for (const unit of ["KiB", "MiB", "GiB"]) {
    bytes /= 1024;
    if (bytes < 1024) return `${bytes.toFixed(1)} ${unit}`;
  }
  return `${(bytes / 1024).toFixed(1)} TiB`;
}

const count = (number) => number.toLocaleString("en");

const perhaps = (value, words) => (value === null ? "none" : words(value));

const two = (number) => String(number).padStart(2, "0");

// Of the clock on the wall; with the day when that is not plain.
function clockTime(at, now) {
  const date = new Date(at * 1000);
  const time = [date.getHours(), date.getMinutes(), date.getSeconds()].map(two).join(":");
  if (Math.abs(now - at) < 12 * 3600) return time;
  return `${date.getFullYear()}-${two(date.getMonth() + 1)}-${two(date.getDate())} ${time}`;
}

const ago = (at, now) => `${whole(Math.max(0, now - at))} ago`;

// elements

function made(name, attributes = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.append(...children);
  return element;
}

function say(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

function set(element, key, value) {
  if (element.getAttribute(key) !== value) element.setAttribute(key, value);
}

// Makes the children of `parent` those of `things`, in their order: `make` gives a new
// one, with a function `show` that says what it is about. Those that stay are kept.
function keep(parent, things, keyOf, make) {
  const before = parent.shownByKey ?? new Map();
  const after = new Map();
  const seen = new Map();
  // The oldest are counted first: their names stay when others come above them.
  const keys = [...things].reverse().map((thing) => {
    const name = keyOf(thing);
    seen.set(name, (seen.get(name) ?? 0) + 1);
    return `${seen.get(name)} ${name}`;
  }).reverse();
  things.forEach((thing, i) => {
    const shown = before.get(keys[i]) ?? make(thing);
    before.delete(keys[i]);
    after.set(keys[i], shown);
  });
  for (const { element } of before.values()) element.remove();
  let next = parent.firstElementChild;
  things.forEach((thing, i) => {
    const { element, show } = after.get(keys[i]);
    if (element === next) next = next.nextElementSibling;
    else parent.insertBefore(element, next);
    show(thing);
  });
  parent.shownByKey = after;
}

// what stands in a cell: an element, and how it comes to show a row

const text = (get) => () => {
  const element = made("bdi");
  return { element, show: (row) => say(element, get(row) ?? "") };
};

const moment = (get) => () => {
  const time = made("time");
  const age = made("span", { class: "age" });
  return {
    element: made("span", {}, time, " ", age),
    show(row, now) {
      const at = get(row);
      say(time, at === null ? "" : clockTime(at, now));
      say(age, at === null ? "" : ago(at, now));
      if (at !== null) set(time, "datetime", new Date(at * 1000).toISOString());
    },
  };
};

const state = (get, looks) => () => {
  const element = made("span");
  return {
    element,
    show(row) {
      say(element, get(row));
      set(element, "class", `badge ${looks[get(row)] ?? "info"}`);
    },
  };
};

// The roles are said because a small screen shows rows as cards, and what is not laid
// out as a table is not told as one.
class Table {
  constructor(id, keyOf, none, columns) {
    this.keyOf = keyOf;
    this.columns = columns;
    this.table = byId(id);
    this.table.setAttribute("role", "table");
    const heads = columns.map(([label]) =>
      made("th", { scope: "col", role: "columnheader" }, label));
    this.body = made("tbody", { role: "rowgroup" });
    this.table.append(
      made("thead", { role: "rowgroup" }, made("tr", { role: "row" }, ...heads)),
      this.body,
    );
    this.none = made("p", { class: "none" }, none);
    this.table.after(this.none);
  }

  show(rows, now) {
    this.now = now;
    this.none.hidden = rows.length > 0;
    this.table.hidden = rows.length === 0;
    keep(this.body, rows, this.keyOf, () => this.row());
  }

  row() {
    const cells = this.columns.map(([label, make, width = ""], i) => {
      const inside = make();
      const cell = i === 0
        ? made("th", { scope: "row", role: "rowheader", "data-label": label })
        : made("td", { role: "cell", "data-label": label, class: width });
      cell.append(inside.element);
      return { cell, inside };
    });
    return {
      element: made("tr", { role: "row" }, ...cells.map(({ cell }) => cell)),
      show: (row) => {
        for (const { cell, inside } of cells) {
          inside.show(row, this.now);
          const isEmpty = inside.element.textContent.trim() === "";
          if (cell.classList.contains("empty") !== isEmpty) cell.classList.toggle("empty");
        }
      },
    };
  }
}

const workers = new Table(
  "workers",
  (worker) => JSON.stringify([worker.number, worker.pid]),
  "There are none.",
  [
    ["Worker", text((worker) => worker.number)],
    ["State", state((worker) => worker.state, WORKERS)],
    ["Since", moment((worker) => worker.since)],
    ["Process", text((worker) => worker.pid)],
    ["Clients", text((worker) => count(worker.clients))],
    ["Posts", text((worker) => count(worker.posts))],
    ["Fell", text((worker) => (worker.falls ? `${count(worker.falls)} ×` : ""))],
  ],
);

// Behind the number of its worker, if it has one, of which there may be two: an old one
// that leaves, or a new one that does not take posts yet.
const connectionName = (link) => (link.worker === null ? `${link.id}`
  : `${link.worker}/${link.id}${link.is_serving ? "" : " (not serving)"}`);

const connections = new Table(
  "connections",
  (link) => JSON.stringify([link.worker, link.is_serving, link.destination, link.id]),
  "There are none.",
  [
    ["Id", text(connectionName)],
    ["Destination", text((link) => link.destination)],
    ["State", state((link) => link.state, LINKS)],
    ["Since", moment((link) => link.since)],
    ["Delivered", text((link) => size(link.delivered_bytes))],
    ["Connected", text((link) => `${count(link.connects)} ×`)],
    ["Last error", text((link) => link.last_error), "wide"],
    ["When", moment((link) => link.last_error_at)],
  ],
);

const credentials = new Table(
  "credentials",
  (row) => JSON.stringify([row.user, row.stage]),
  "Nobody may post.",
  [
    ["User", text((row) => row.user)],
    ["Stage", text((row) => (row.is_deprecated ? `${row.stage} (deprecated)` : row.stage))],
    ["Accepted", text((row) => count(row.accepted))],
    ["Last use", moment((row) => row.last_used_at)],
    ["Refused", text((row) => (row.refused ? count(row.refused) : ""))],
    ["Last refusal", moment((row) => row.last_refused_at)],
  ],
);

const failures = new Table(
  "failures",
  (post) => JSON.stringify(post),
  "No post was refused or has failed since the start.",
  [
    ["Time", moment((post) => post.at)],
    ["Code", text((post) => post.code)],
    ["Cause", text((post) => post.cause), "wide"],
    ["Request id", text((post) => post.request_id), "name"],
    ["User", text((post) => post.user), "middling"],
    ["Drain token", text((post) => post.drain_token), "name"],
    ["Address", text((post) => post.remote_addr), "middling"],
  ],
);

// What is told again when it changes is the question and the answer; the details, which
// change each second, stand beside it.
function answerCard() {
  const question = made("h2");
  const answer = made("span", { class: "answer" });
  const sign = made("span", { "aria-hidden": "true" });
  const word = made("span");
  const detail = made("p", { class: "detail" });
  const element = made("section", {},
    made("div", { "aria-live": "polite", "aria-atomic": "true" },
      question,
      made("p", { class: "verdict" },
        answer, " ", made("span", { class: "badge" }, sign, " ", word))),
    detail);
  return {
    element,
    show(it) {
      set(element, "class", `card ${it.state}`);
      say(question, it.question);
      say(answer, it.answer);
      say(sign, STATES[it.state].sign);
      say(word, STATES[it.state].word);
      say(detail, it.detail);
    },
  };
}

function findingCard() {
  const severity = made("span", { class: "badge" });
  const alert = made("code");
  const what = made("bdi");
  const advice = made("bdi");
  const element = made("li", {},
    made("p", { class: "kind" }, severity, " ", alert),
    made("p", { class: "what" }, what),
    made("p", { class: "do" }, made("strong", {}, "What to do: "), advice));
  return {
    element,
    show(finding) {
      set(element, "class", `card ${SEVERITIES[finding.severity]}`);
      say(severity, finding.severity);
      say(alert, finding.alert);
      say(what, finding.what);
      say(advice, finding.do);
    },
  };
}

function plotCard() {
  const title = made("h3");
  const image = made("img", { alt: "", width: "380", height: "130" });
  const legend = made("ul");
  const element = made("figure", {}, made("figcaption", {}, title, legend), image);
  return {
    element,
    show([, plot]) {
      say(title, plot.title);
      if (plot.svg) {
        set(image, "src", `data:image/svg+xml,${encodeURIComponent(plot.svg)}`);
      }
      set(image, "alt", plot.words);
      keep(legend, plot.series, (series) => series.name, lineInLegend);
    },
  };
}

function lineInLegend() {
  const swatch = made("span", { "aria-hidden": "true" });
  const words = made("span");
  return {
    element: made("li", {}, swatch, " ", words),
    show(series) {
      set(swatch, "class", `swatch ${series.look}`);
      say(words, series.words ? `${series.name}: ${series.words}` : series.name);
    },
  };
}

function number() {
  const name = made("dt");
  const value = made("dd");
  return {
    element: made("div", {}, name, value),
    show([label, words]) {
      say(name, label);
      say(value, words);
    },
  };
}

const showNumbers = (id, numbers) => keep(byId(id), numbers, ([label]) => label, number);

function minuteNumbers(minute) {
  return [
    ["Posts delivered", count(minute.posts_delivered)],
    ["Posts refused (4xx)", count(minute.posts_refused)],
    ["Posts failed (5xx)", count(minute.posts_failed)],
    ["Requests that were none", count(minute.requests_refused)],
    ["Frames delivered", count(minute.frames_delivered)],
    ["Frames not delivered", count(minute.frames_failed)],
    ["Half of the deliveries took at most", perhaps(minute.delivery_p50_seconds, duration)],
    ["99 % of them took at most", perhaps(minute.delivery_p99_seconds, duration)],
    ["Lines dropped, as senders report", count(minute.reported_dropped)],
    ["Lines lost, as senders report", count(minute.reported_lost)],
  ];
}

function numbersNow({ queue, inflight, clients }) {
  return [
    ["Posts inside", count(inflight.posts)],
    ["Bodies in memory", `${size(inflight.bytes)} of ${size(inflight.limit_bytes)}`],
    ["Posts waiting for memory", count(inflight.waiting)],
    ["Waiting for the backend", `${count(queue.payloads)} (${size(queue.bytes)})`],
    ["Kept to be sent again", size(queue.replay_bytes)],
    ["Clients", `${count(clients.connected)} of ${count(clients.limit)}`],
  ];
}

function totalNumbers(totals) {
  return [
    ...Object.entries(totals.posts_by_code).map(
      ([code, posts]) => [`Posts answered ${code}`, count(posts)]),
    ["Frames received", count(totals.frames_received)],
    ["Frames delivered", count(totals.frames_delivered)],
    ["Frames not delivered", count(totals.frames_failed)],
    ["Posts that came twice", count(totals.duplicates)],
    ["Reconnects", count(totals.reconnects)],
    ["Payloads sent again", count(totals.payloads_replayed)],
    ["Lines of the log dropped", count(totals.log_lines_dropped)],
  ];
}

const worstOf = (answers) =>
  ["bad", "warn", "good"].find((it) => answers.some((answer) => answer.state === it));

let last = null;

function showStatus(status) {
  last = status;
  const now = status.at;
  say(byId("instance"), status.instance);
  say(byId("facts"), [
    `version ${status.version}`,
    `up ${whole(now - status.started_at)}`,
    `delivery ${status.delivery_level}`,
    ...(status.is_draining ? ["shutting down"] : []),
    `as of ${clockTime(now, now)}`,
  ].join(" · "));
  keep(byId("answers"), status.answers, (answer) => answer.question, answerCard);
  keep(byId("findings"), status.findings, (finding) => finding.alert, findingCard);
  say(byId("findings-none"), status.findings.length ? "" : "Nothing.");
  byId("workers-section").hidden = !status.workers.length;
  workers.show(status.workers, now);
  connections.show(status.connections, now);
  credentials.show(status.credentials, now);
  byId("credentials-more").hidden = !status.credentials_more;
  say(byId("credentials-more"),
    `${count(status.credentials_more)} more are not shown; /metrics has all.`);
  failures.show(status.failures, now);
  showNumbers("minute", minuteNumbers(status.last_minute));
  showNumbers("now", numbersNow(status));
  showNumbers("totals", totalNumbers(status.totals));
}

const plots = {};

function showPlots(some) {
  Object.assign(plots, some);
  keep(byId("plots"), Object.entries(plots), ([key]) => key, plotCard);
}

// the stream

const stream = { source: null, openedAt: 0, heardAt: performance.now(), brokeAt: null };

function open() {
  stream.source?.close();
  stream.source = new EventSource("events");
  stream.openedAt = performance.now();
  stream.source.addEventListener("status", (event) => {
    showStatus(JSON.parse(event.data));
    stream.heardAt = performance.now();
    stream.brokeAt = null;
    look();
  });
  stream.source.addEventListener("plots", (event) => showPlots(JSON.parse(event.data)));
  stream.source.addEventListener("error", () => {
    stream.brokeAt ??= performance.now();
  });
}

function look() {
  const now = performance.now();
  const isBroken = now - stream.heardAt > SILENCE_MS
    || (stream.brokeAt !== null && now - stream.brokeAt > BROKEN_MS);
  const broken = byId("broken");
  broken.hidden = !isBroken;
  if (isBroken) {
    say(broken, last === null
      ? "No answer from logiss. Nothing is known yet."
      : `No answer from logiss since ${clockTime(last.at, last.at)}. What is below is old.`);
  }
  document.body.classList.toggle("old", isBroken);
  const worst = last === null ? "" : STATES[worstOf(last.answers)].word;
  const title = `${isBroken ? "NO ANSWER" : worst} logiss ${last?.instance ?? ""}`.trim();
  if (document.title !== title) document.title = title;
  const patience =
    stream.source.readyState === EventSource.CLOSED ? REOPEN_MS : HANGING_MS;
  if (isBroken && now - Math.max(stream.openedAt, stream.heardAt) > patience) open();
}

open();
setInterval(look, LOOK_MS);
document.addEventListener("visibilitychange", look);
