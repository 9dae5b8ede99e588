// Sections: the one that a link leads to opens, and all of them for print.
(() => {
  "use strict";
  const reveal = () => {
    const id = decodeURIComponent(location.hash.slice(1));
    const section = document.getElementById(id);
    const part = section?.querySelector("details.part");
    if (!part || part.open) return;
    part.open = true;
    section.scrollIntoView();
  };
  let closed = [];
  window.addEventListener("hashchange", reveal);
  window.addEventListener("beforeprint", () => {
    closed = [...document.querySelectorAll("details.part:not([open])")];
    closed.forEach((part) => (part.open = true));
  });
  window.addEventListener("afterprint", () => closed.forEach((part) => (part.open = false)));
  // A link to the section in the address that is there already changes no hash.
  document.querySelector("nav").addEventListener("click", () => setTimeout(reveal));
  reveal();
})();

// The questions browser. Every text enters the page through textContent: nothing in the data can become markup.
(async () => {
  "use strict";
  const byId = (id) => document.getElementById(id);
  const holder = byId("question-data");
  if (!holder) {
    performance.mark("questions-ready");
    return;
  }
  const [search, which, domain, order] = ["search", "which", "domain", "order"].map(byId);
  const [found, matches, more] = ["found", "matches", "more"].map(byId);
  const PAGE = 20;

  // Base64 of deflated JSON, unpacked by the browser itself.
  const unpack = async (text) => {
    const bytes = Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
    return JSON.parse(await new Response(stream).text());
  };

  let data;
  try {
    data = await unpack(holder.textContent);
  } catch {
    matches.textContent =
      "This browser cannot unpack the questions (it needs DecompressionStream: Chrome 80, Firefox 113, Safari 16.4 or later). The run folder has every record.";
    return;
  }
  const questions = data.questions;
  const places = new Map(questions.map((q, index) => [q.id, index]));

  const make = (name, text, className) => {
    const element = document.createElement(name);
    if (text !== undefined) element.textContent = text;
    if (className) element.className = className;
    return element;
  };
  const number = (value) => (value === null || value === undefined ? "–" : String(Math.round(value * 1000) / 1000));
  const shorten = (text) => (text.length > 140 ? `${text.slice(0, 139)}…` : text);
  const whole = (text, cut) => (cut ? `${text}… (${cut} more characters)` : text);
  const plural = (count, word) => `${count} ${word}${count === 1 ? "" : "s"}`;

  // A body that is made when first opened.
  const fold = (label, fill, className) => {
    const details = make("details", undefined, className);
    details.append(typeof label === "string" ? make("summary", label) : label);
    details.addEventListener("toggle", () => {
      if (!details.open || details.childElementCount > 1) return;
      const body = make("div");
      fill(body);
      details.append(body);
    });
    return details;
  };

  const turn = (body, role, text) => {
    const shown = make("pre", text);
    shown.tabIndex = 0;
    shown.setAttribute("aria-label", `Turn of the ${role}`);
    body.append(make("p", role, "role"), shown);
  };

  const studentTurns = (body, q) => {
    const system = q.system || data.system;
    if (system) turn(body, "system", system);
    turn(body, "user", q.prompt);
  };

  const teacherTurns = (body, q) => {
    const system = q.system || data.system;
    if (system) turn(body, "system", system);
    const shown = data.nearestFirst ? q.neighbours : [...q.neighbours].reverse();
    shown.forEach(([id, , asked, reply, cut]) => {
      const other = questions[places.get(id)];
      if (asked === undefined && !other) {
        turn(body, "user", `(${id} is not among the questions of this report)`);
        return;
      }
      const own = other && (other.shown || other.replies[0] || ["", 0]);
      turn(body, "user", asked === undefined ? other.prompt : asked);
      turn(body, "assistant", asked === undefined ? whole(own[0], own[1]) : whole(reply, cut));
    });
    turn(body, "user", q.prompt);
  };

  const neighbours = (body, q) => {
    body.append(make("h3", "Its neighbours, which the teacher reads as demonstrations"));
    const list = make("ul", undefined, "chips");
    q.neighbours.forEach(([id, distance]) => {
      const chip = make("button", `${id} (distance ${number(distance)})`, "chip");
      chip.type = "button";
      chip.addEventListener("click", () => go(id));
      const entry = make("li");
      entry.append(chip);
      list.append(entry);
    });
    body.append(list);
  };

  const outcome = ([answer, share, correct]) => {
    const right = correct === null ? "" : `, ${Math.round(correct * 100)} % of samples right`;
    return `${answer === null ? "no readable answer" : answer} (vote share ${number(share)}${right})`;
  };

  const fill = (body, q) => {
    body.append(make("p", q.text, "question"));
    if (q.choices) {
      const list = make("ol", undefined, "choices");
      q.choices.forEach((choice) => list.append(make("li", choice)));
      body.append(list);
    }
    if (q.outcome) {
      body.append(make("h3", "Majority answer"));
      body.append(make("p", `before: ${outcome(q.outcome[0])}\nafter: ${outcome(q.outcome[1])}`));
    }
    q.replies.forEach(([reply, cut, answer], index) => {
      const read = answer === null ? "no readable answer" : `read as ${answer}`;
      body.append(make("h3", `Zero-shot reply ${index + 1}, ${read}`), make("pre", whole(reply, cut)));
    });
    if (q.neighbours && q.neighbours.length) neighbours(body, q);
    const [student, teacher] = (q.promptTokens || []).map((count) => `, ${plural(count, "token")}`);
    body.append(fold(`What the student reads${student || ""}`, (inner) => studentTurns(inner, q)));
    if (!q.neighbours) return;
    const label = `What the teacher reads${teacher}, ${plural(q.neighbours.length, "demonstration")}, ${q.dropped} dropped to fit`;
    body.append(fold(label, (inner) => teacherTurns(inner, q)));
  };

  const meta = (q) => {
    const parts = [q.id, q.domain, q.split === "test" ? "held out" : "pool"];
    if (q.selected !== undefined) parts.push(q.selected ? "selected" : "not selected");
    if (q.score !== undefined) parts.push(`s(x) ${number(q.score)}`, `rank ${q.rank}`, plural(q.tokens, "token"));
    const line = make("span", undefined, "meta");
    parts.forEach((part, index) => line.append(index ? " · " : "", make("bdi", part)));
    return line;
  };

  const item = (index) => {
    const q = questions[index];
    const summary = make("summary", shorten(q.text));
    summary.append(meta(q));
    const entry = make("li");
    entry.append(fold(summary, (body) => fill(body, q)));
    return entry;
  };

  // Searching: every word must occur in the id, the domain, the prompt, a choice or a reply.
  const haystacks = new Array(questions.length);
  const haystack = (index) => {
    if (haystacks[index] === undefined) {
      const q = questions[index];
      const replies = q.replies.map((reply) => reply[0]);
      haystacks[index] = [q.id, q.domain, q.text, q.prompt, ...(q.choices || []), ...replies].join("\n").toLowerCase();
    }
    return haystacks[index];
  };

  const accuracy = (q, role) => (q.outcome && q.outcome[role][2] !== null ? q.outcome[role][2] : undefined);
  const FILTERS = {
    all: () => true,
    selected: (q) => q.selected === true,
    rest: (q) => q.split !== "test" && q.selected !== true,
    test: (q) => q.split === "test",
    flipped: (q) => q.outcome !== undefined && q.outcome[0][0] !== q.outcome[1][0],
    better: (q) => accuracy(q, 1) > accuracy(q, 0),
    worse: (q) => accuracy(q, 1) < accuracy(q, 0),
    unread: (q) => q.replies.some((reply) => reply[2] === null) || (q.outcome || []).some((one) => one[0] === null),
  };
  const share = (q) => (q.outcome ? q.outcome[0][1] : undefined);
  const ORDERS = {
    listed: null,
    lowest: (q) => q.score,
    highest: (q) => (q.score === undefined ? undefined : -q.score),
    shortest: (q) => q.tokens,
    longest: (q) => (q.tokens === undefined ? undefined : -q.tokens),
    unsure: share,
  };

  const sorted = (indices, key) => {
    if (!key) return indices;
    const value = (index) => key(questions[index]) ?? Infinity; // without a value: last
    return indices.sort((a, b) => (value(a) === value(b) ? a - b : value(a) - value(b)));
  };

  let hits = [];
  let shown = 0;
  const show = () => {
    const added = hits.slice(shown, shown + PAGE).map(item);
    found.append(...added);
    shown += added.length;
    more.hidden = shown >= hits.length;
    return added[0];
  };

  const update = () => {
    const text = search.value.trim();
    const exact = places.get(text);
    const words = text.toLowerCase().split(/\s+/).filter(Boolean);
    const keep = FILTERS[which.value];
    const fits = (q, index) =>
      keep(q) && (!domain.value || q.domain === domain.value) && words.every((word) => haystack(index).includes(word));
    hits = exact === undefined ? questions.map((_, index) => index).filter((index) => fits(questions[index], index)) : [exact];
    hits = sorted(hits, ORDERS[order.value]);
    found.replaceChildren();
    shown = 0;
    const everything = hits.length === questions.length;
    matches.textContent = everything ? `${plural(hits.length, "question")}.` : `${hits.length} of ${plural(questions.length, "question")} match.`;
    show();
  };

  // Follow a neighbour: search its id without filters, open it, and put the focus there.
  const go = (id) => {
    search.value = id;
    which.value = "all";
    domain.value = "";
    update();
    const first = found.querySelector("details");
    if (!first) return;
    first.open = true;
    first.firstElementChild.focus();
  };

  let waiting = 0;
  search.addEventListener("input", () => {
    clearTimeout(waiting);
    waiting = setTimeout(update, 120);
  });
  [which, domain, order].forEach((field) => field.addEventListener("change", update));
  more.addEventListener("click", () => {
    const first = show();
    if (first) first.querySelector("summary").focus();
  });
  update();
  performance.mark("questions-ready");
})();
