// The questions browser. Every text enters the page through textContent: nothing in the data can become markup.
(() => {
  "use strict";
  const holder = document.getElementById("question-data");
  if (!holder) return;
  const questions = JSON.parse(holder.textContent);
  const search = document.getElementById("search");
  const found = document.getElementById("found");
  const matches = document.getElementById("matches");
  const more = document.getElementById("more");
  const PAGE = 20;
  let hits = [];
  let shown = 0;

  const haystacks = new Array(questions.length);
  const haystack = (index) => {
    if (haystacks[index] === undefined) {
      const q = questions[index];
      const replies = q.replies.map((reply) => reply[0]);
      haystacks[index] = [q.id, q.domain, q.text, ...(q.choices || []), ...replies].join("\n").toLowerCase();
    }
    return haystacks[index];
  };

  const make = (name, text, className) => {
    const element = document.createElement(name);
    if (text !== undefined) element.textContent = text;
    if (className) element.className = className;
    return element;
  };
  const number = (value) => (value === null || value === undefined ? "–" : String(Math.round(value * 1000) / 1000));
  const shorten = (text) => (text.length > 140 ? text.slice(0, 139) + "…" : text);

  const meta = (q) => {
    const parts = [q.id, q.domain, q.split === "test" ? "held out" : "pool"];
    if (q.selected !== undefined) parts.push(q.selected ? "selected" : "not selected");
    if (q.score !== undefined) parts.push(`s(x) ${number(q.score)}`, `rank ${q.rank}`, `${q.tokens} tokens`);
    return parts.join(" · ");
  };

  const outcome = ([answer, share, correct]) => {
    const right = correct === null ? "" : `, ${Math.round(correct * 100)} % of samples right`;
    return `${answer === null ? "no readable answer" : answer} (vote share ${number(share)}${right})`;
  };

  const fill = (body, q) => {
    body.append(make("p", q.text));
    if (q.choices) {
      const list = make("ol", undefined, "choices");
      q.choices.forEach((choice) => list.append(make("li", choice)));
      body.append(list);
    }
    if (q.outcome) {
      body.append(make("h4", "Majority answer"));
      body.append(make("p", `before: ${outcome(q.outcome[0])}\nafter: ${outcome(q.outcome[1])}`));
    }
    q.replies.forEach(([reply, cut, answer], index) => {
      const read = answer === null ? "no readable answer" : `read as ${answer}`;
      body.append(make("h4", `Zero-shot reply ${index + 1}, ${read}`));
      body.append(make("pre", cut ? `${reply}… (${cut} more characters)` : reply));
    });
    if (q.neighbours && q.neighbours.length) {
      body.append(make("h4", "The teacher also read"));
      q.neighbours.forEach(([id, distance]) => {
        const chip = make("button", `${id} (${number(distance)})`, "chip");
        chip.type = "button";
        chip.addEventListener("click", () => {
          search.value = id;
          update();
          search.focus();
        });
        body.append(chip);
      });
    }
  };

  const item = (q) => {
    const details = make("details");
    const summary = make("summary", shorten(q.text));
    summary.append(make("span", meta(q), "meta"));
    details.append(summary);
    details.addEventListener("toggle", () => {
      if (details.open && details.childElementCount === 1) {
        const body = make("div");
        fill(body, q);
        details.append(body);
      }
    });
    const entry = make("li");
    entry.append(details);
    return entry;
  };

  const show = () => {
    hits.slice(shown, shown + PAGE).forEach((index) => found.append(item(questions[index])));
    shown = Math.min(shown + PAGE, hits.length);
    more.hidden = shown >= hits.length;
  };

  const update = () => {
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    hits = [];
    for (let index = 0; index < questions.length; index += 1) {
      if (words.every((word) => haystack(index).includes(word))) hits.push(index);
    }
    found.replaceChildren();
    shown = 0;
    matches.textContent = words.length
      ? `${hits.length} of ${questions.length} questions match.`
      : `${questions.length} questions; selected ones first.`;
    show();
  };

  let waiting = 0;
  search.addEventListener("input", () => {
    clearTimeout(waiting);
    waiting = setTimeout(update, 120);
  });
  more.addEventListener("click", show);
  update();
})();
